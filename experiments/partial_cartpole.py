"""CartPole-v1 without its velocities, so that a policy has to remember.

In: gymnax's environment. Out: an `Env` whose observation is (position, angle), for
`env.id: partial_cartpole:PartialCartPole` of a config beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxtrain import envs
from jaxtrain.envs.wrappers import Wrapper
from jaxtrain.types import Box, Env, Key, PyTree, Space, Step

SHOWN = np.array([0, 2])  # of (position, velocity, angle, angular velocity)


@dataclass(frozen=True)
class PartialCartPole(Wrapper):
    """The same task and parameters; only the observation is cut."""

    env: Env = field(default_factory=lambda: envs.make("CartPole-v1"))

    @property
    def observation_space(self) -> Space:
        space: Any = self.env.observation_space
        return Box(space.low[SHOWN], space.high[SHOWN], SHOWN.shape)

    def reset(self, key: Key, params: PyTree) -> tuple[jax.Array, PyTree]:
        obs, state = self.env.reset(key, params)
        return obs[SHOWN], state

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        out = Step(*self.env.step(key, state, action, params))
        return out._replace(obs=out.obs[SHOWN])
