"""What stands around an environment and is one itself.

In: an `Env`. Out: an `Env` that gives the same in other dtypes, or with the mask of valid actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.types import Key, PyTree, Space, Step


@dataclass(frozen=True)
class Wrapper:
    """`env`, whose spaces and parameters are those of the whole."""

    env: Any

    @property
    def observation_space(self) -> Space:
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def default_params(self) -> PyTree:
        return self.env.default_params

    @property
    def derived_params(self) -> Mapping[str, Any]:
        return getattr(self.env, "derived_params", {})


@dataclass(frozen=True)
class Masked(Wrapper):
    """`env`, its observations joined by the mask of the actions that are valid there.

    Args:
      source: has `action_mask(state, params) -> bool[n]`.
    """

    source: Any

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = self.env.reset(key, params)
        return self._mask(obs, state, params), state

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        step = Step(*self.env.step(key, state, action, params))
        return step._replace(obs=self._mask(step.obs, step.state, params))

    def _mask(self, obs: PyTree, state: PyTree, params: PyTree) -> PyTree:
        if is_masked(obs):
            return obs
        return {"observation": obs, "action_mask": self.source.action_mask(state, params)}


@dataclass(frozen=True)
class Cast(Wrapper):
    """`env`, what it gives in these dtypes."""

    dtypes: tuple[PyTree, PyTree, Any] = field(compare=False, repr=False)  # of obs, state and reward

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        return cast(tuple(self.env.reset(key, params)), self.dtypes[:2])

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        obs, state, reward, terminated, truncated, info = self.env.step(key, state, action, params)
        obs, state, reward = cast((obs, state, reward), self.dtypes)
        return Step(obs, state, reward, jnp.asarray(terminated), jnp.asarray(truncated), info)


def is_masked(obs: PyTree) -> bool:
    """Whether an observation comes with a mask."""
    return isinstance(obs, Mapping) and {*obs} == {"observation", "action_mask"}


def cast(tree: PyTree, dtypes: PyTree) -> PyTree:
    """Leaves as arrays of these dtypes, none of them weak."""

    def one(leaf: Any, dtype: Any) -> jax.Array:
        is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        return leaf if is_key else jnp.asarray(leaf, dtype)

    return jax.tree.map(one, tree, dtypes)
