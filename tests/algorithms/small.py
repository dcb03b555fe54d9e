"""Small environments, of two numbers, masks, images and what only a critic sees, and a PPO of a few units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import PPO
from jaxtrain.types import Box, Dict, Discrete, MultiDiscrete, Step

ENVS = STEPS = 8
TWO, THREE, PAIR = Discrete(2), Discrete(3), MultiDiscrete((2, 3))
NARROW = Box(-0.5, 0.5, (2,))  # a fresh policy, of standard deviation 1, often leaves it


class DriftState(NamedTuple):
    position: jax.Array  # f[2]
    time: jax.Array  # i32[]


@dataclass(frozen=True)
class Drift:
    """A random walk that the action steers; it may fall off, run out of time, or both at once."""

    actions: Any = THREE

    @property
    def observation_space(self):
        return Box(-np.inf, np.inf, (2,))

    @property
    def action_space(self):
        return self.actions

    @property
    def default_params(self):
        return ()

    def reset(self, key, params):
        state = DriftState(jax.random.normal(key, (2,)), jnp.int32(0))
        return self._observe(state), state

    def step(self, key, state, action, params):
        push = action - 1 if isinstance(self.actions, Discrete) else action
        position = 0.8 * state.position + 0.5 * push + jax.random.normal(key, (2,))
        state = DriftState(position, state.time + 1)
        reward = 1.0 - jnp.square(position).sum()
        return Step(self._observe(state), state, reward, jnp.abs(position[0]) > 2, state.time >= 5, {})

    def _observe(self, state):
        return jnp.array([3.0, -2.0]) + jnp.array([5.0, 0.5]) * state.position


class Pair(NamedTuple):
    mask: jax.Array  # bool[5]


@dataclass(frozen=True)
class Masked(Drift):
    """Two choices, of 2 and of 3, some of them invalid; an invalid one ends the episode with -1000."""

    actions: Any = PAIR

    def reset(self, key, params):
        return self._start(key)

    def step(self, key, state, action, params):
        valid = state.mask[action[0]] & state.mask[2 + action[1]]
        reward = jnp.where(valid, action.sum(), -1000.0)
        obs, state = self._start(key)
        return Step(obs, state, reward, ~valid, jnp.zeros((), bool), {})

    def _start(self, key):
        one, two, drop, of = jax.random.split(key, 4)
        # At least one of each choice is valid.
        first = jnp.arange(2) != jnp.where(jax.random.bernoulli(of), jax.random.randint(one, (), 0, 2), -1)
        second = (jnp.arange(3) == jax.random.randint(two, (), 0, 3)) | jax.random.bernoulli(drop, 0.5, (3,))
        mask = jnp.concatenate([first, second])
        return {"observation": mask[:2].astype(jnp.float32), "action_mask": mask}, Pair(mask)


@dataclass(frozen=True)
class Image(Drift):
    """One step: a 4 x 4 image, bright on the left (action 0 earns 1) or on the right (action 1)."""

    actions: Any = TWO

    @property
    def observation_space(self):
        return Box(0.0, 1.0, (4, 4, 1))

    def images(self):
        left = jnp.arange(4) < 2
        return jnp.broadcast_to(jnp.stack([left, ~left])[:, None, :, None], (2, 4, 4, 1)).astype(jnp.float32)

    def reset(self, key, params):
        side = jax.random.randint(key, (), 0, 2)
        return self.images()[side], side

    def step(self, key, state, action, params):
        return Step(
            self.images()[state], state, (action == state) * 1.0, jnp.ones((), bool), jnp.zeros((), bool), {}
        )


@dataclass(frozen=True)
class Privileged(Drift):
    """One step: the reward is `truth`, +1 or -1, which has nothing to do with what is shown."""

    actions: Any = TWO

    @property
    def observation_space(self):
        return Dict({"shown": Box(-1.0, 1.0, (2,)), "truth": Box(-1.0, 1.0, (1,))})

    def reset(self, key, params):
        key_shown, key_truth = jax.random.split(key)
        truth = 2.0 * jax.random.bernoulli(key_truth, shape=(1,)) - 1.0
        return {"shown": jax.random.normal(key_shown, (2,)), "truth": truth}, truth

    def step(self, key, state, action, params):
        obs, _ = self.reset(key, params)
        return Step(obs, state, state[0], jnp.ones((), bool), jnp.zeros((), bool), {})


METRICS = {
    "loss",
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "explained_variance",
    "gradient_norm",
    "learning_rate",
}

COMMON = {
    "rollout_length": STEPS,
    "num_epochs": 2,
    "num_minibatches": 4,
    "learning_rate": 0.01,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip_range": 0.03,
    "network": {"hidden_sizes": (4, 3)},
}


def pick(network, **changes):
    return PPO(**{**COMMON, "network": {"hidden_sizes": (4,), **network}, **changes})
