"""Action distributions: from what a policy network gives to actions, log-probabilities, entropies.

In: parameters [..., P] and keys or actions. Out: actions and f32[...].
Knows nothing of networks, environments or losses.

A distribution holds what is fixed by the action space; its parameters are one array with any leading
axes, so that a rollout can keep them and work on all of it at once afterwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtrain.tree import lead
from jaxtrain.types import Box, Discrete, Key, MultiDiscrete, Space

MASKED = -1e9  # finite: -inf times a probability of zero is NaN, in the entropy and in gradients


def mask_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Give actions where `mask` is False a probability of exactly 0.

    Args:
      logits: f32[..., n].
      mask: bool[..., n], True marks a valid action. Where none is, results are finite but mean nothing.

    Source:
      Huang and Ontañón 2022, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms".
    """
    return jnp.where(mask, logits, MASKED)


class Distribution(ABC):
    """What the algorithms ask of an action distribution.

    An action here is what `log_prob` takes and a rollout keeps; `to_env` makes of it what the
    environment takes.
    """

    @property
    @abstractmethod
    def num_params(self) -> int:
        """Outputs that a policy network needs."""

    @property
    def num_extra(self) -> int:
        """Parameters after those that do not depend on the observation (log standard deviations).

        A network may give these too: P = num_params + num_extra.
        """
        return 0

    @abstractmethod
    def noise(self, key: Key, batch: tuple[int, ...]) -> jax.Array:
        """f32[*batch, ...], all the randomness of that many samples; may be drawn before a rollout."""

    @abstractmethod
    def from_noise(self, params: jax.Array, noise: jax.Array) -> jax.Array:
        """The sample that `noise` stands for."""

    def sample(self, params: jax.Array, key: Key) -> jax.Array:
        """One independent action for each of `params`' leading axes."""
        return self.from_noise(params, self.noise(key, params.shape[:-1]))

    @abstractmethod
    def mode(self, params: jax.Array) -> jax.Array:
        """The greedy action."""

    @abstractmethod
    def log_prob(self, params: jax.Array, action: jax.Array) -> jax.Array:
        """f32[...], nats."""

    @abstractmethod
    def entropy(self, params: jax.Array, key: Key | None = None) -> jax.Array:
        """f32[...], nats. Only where there is no closed form, in `TanhGaussian`, is a key needed."""

    def to_env(self, action: jax.Array) -> jax.Array:
        """The action as the environment takes it."""
        return action


def _argmax(logits: jax.Array) -> jax.Array:
    return lax.argmax(logits, logits.ndim - 1, jnp.int32)


def _log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    # A select and a sum fuse with the softmax, forwards and backwards; a gather is differentiated
    # to a scatter.
    chosen = jax.nn.one_hot(action, logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits), 0.0), axis=-1)


def _entropy(logits: jax.Array) -> jax.Array:
    log_prob = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_prob) * log_prob, axis=-1)


@dataclass(frozen=True)
class Categorical(Distribution):
    """One of n; parameters are logits f32[..., n], actions i32[...]."""

    n: int

    @property
    def num_params(self) -> int:
        return self.n

    def noise(self, key: Key, batch: tuple[int, ...]) -> jax.Array:
        return jax.random.gumbel(key, (*batch, self.n))

    def from_noise(self, params: jax.Array, noise: jax.Array) -> jax.Array:
        # Adding Gumbel noise can never choose a masked action; inverting a rounded sum could.
        return _argmax(params + noise)

    def mode(self, params: jax.Array) -> jax.Array:
        return _argmax(params)

    def log_prob(self, params: jax.Array, action: jax.Array) -> jax.Array:
        return _log_prob(params, action)

    def entropy(self, params: jax.Array, key: Key | None = None) -> jax.Array:
        return _entropy(params)


@dataclass(frozen=True)
class MultiCategorical(Distribution):
    """One of n for each n in `nvec`, independent; logits f32[..., sum(nvec)], actions i32[..., k]."""

    nvec: tuple[int, ...]

    @property
    def num_params(self) -> int:
        return sum(self.nvec)

    def _table(self, params: jax.Array) -> jax.Array:
        """f32[..., k, max(nvec)], each row's logits filled up with masked ones."""
        ends = np.cumsum(self.nvec)
        rows = jnp.split(params, ends[:-1], axis=-1)
        fill = [(0, 0)] * (params.ndim - 1)
        rows = [
            jnp.pad(row, [*fill, (0, max(self.nvec) - n)], constant_values=MASKED)
            for row, n in zip(rows, self.nvec, strict=True)
        ]
        return jnp.stack(rows, axis=-2)

    def noise(self, key: Key, batch: tuple[int, ...]) -> jax.Array:
        return jax.random.gumbel(key, (*batch, len(self.nvec), max(self.nvec)))

    def from_noise(self, params: jax.Array, noise: jax.Array) -> jax.Array:
        return _argmax(self._table(params) + noise)

    def mode(self, params: jax.Array) -> jax.Array:
        return _argmax(self._table(params))

    def log_prob(self, params: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.sum(_log_prob(self._table(params), action), axis=-1)

    def entropy(self, params: jax.Array, key: Key | None = None) -> jax.Array:
        return jnp.sum(_entropy(self._table(params)), axis=-1)


@dataclass(frozen=True)
class DiagonalGaussian(Distribution):
    """Independent normals; parameters are mean and log standard deviation end to end, f32[..., 2A].

    Actions are f32[..., *space.shape] and unbounded; `to_env` clips them, which leaves `log_prob`
    that of the action drawn.
    """

    space: Box

    @property
    def num_params(self) -> int:
        return math.prod(self.space.shape)

    @property
    def num_extra(self) -> int:
        return self.num_params

    def _bounds(self, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        low, high = (np.asarray(bound, np.float32) for bound in (self.space.low, self.space.high))
        shape = self.space.shape
        return lead(np.broadcast_to(low, shape), action), lead(np.broadcast_to(high, shape), action)

    def _action(self, flat: jax.Array) -> jax.Array:
        return flat.reshape(flat.shape[:-1] + self.space.shape)

    def noise(self, key: Key, batch: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, (*batch, self.num_params))

    def from_noise(self, params: jax.Array, noise: jax.Array) -> jax.Array:
        mean, log_std = jnp.split(params, 2, axis=-1)
        return self._action(mean + jnp.exp(log_std) * noise)

    def mode(self, params: jax.Array) -> jax.Array:
        return self._action(jnp.split(params, 2, axis=-1)[0])

    def log_prob(self, params: jax.Array, action: jax.Array) -> jax.Array:
        mean, log_std = jnp.split(params, 2, axis=-1)
        z = (action.reshape(mean.shape) - mean) * jnp.exp(-log_std)
        return -jnp.sum(0.5 * jnp.square(z) + log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self, params: jax.Array, key: Key | None = None) -> jax.Array:
        _, log_std = jnp.split(params, 2, axis=-1)
        return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def to_env(self, action: jax.Array) -> jax.Array:
        return jnp.clip(action, *self._bounds(action))


@dataclass(frozen=True)
class TanhGaussian(DiagonalGaussian):
    """A diagonal Gaussian squashed to (-1, 1) by tanh, then scaled to the bounds of `space`.

    Actions are the numbers before the tanh, so that nothing is lost in inverting it. `log_prob` and
    `entropy` are of the numbers after it, before scaling to the bounds. The greedy action is the
    median. `entropy` has no closed form: it is the Gaussian's plus the correction at one sample, an
    unbiased estimate with a gradient.

    Raises:
      ValueError: if a bound of `space` is infinite.

    Source:
      Haarnoja et al. 2018, "Soft Actor-Critic", appendix C.
    """

    def __post_init__(self) -> None:
        if not self.space.bounded:
            raise ValueError(f"squash: needs finite bounds on both sides, not those of {self.space}")

    def _log_slope(self, action: jax.Array) -> jax.Array:
        """Log of the derivative of tanh, stable for large actions; summed over the action."""
        u = action.reshape(*action.shape[: action.ndim - len(self.space.shape)], self.num_params)
        return jnp.sum(2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)

    def log_prob(self, params: jax.Array, action: jax.Array) -> jax.Array:
        return super().log_prob(params, action) - self._log_slope(action)

    def entropy(self, params: jax.Array, key: Key | None = None) -> jax.Array:
        if key is None:
            raise ValueError("entropy of a TanhGaussian has no closed form: needs a key, to draw a sample")
        return super().entropy(params) + self._log_slope(self.sample(params, key))

    def to_env(self, action: jax.Array) -> jax.Array:
        low, high = self._bounds(action)
        return jnp.clip(low + (high - low) * (0.5 * jnp.tanh(action) + 0.5), low, high)


def distribution(space: Space, *, squash: bool = False) -> Distribution:
    """The distribution for an action space.

    Args:
      space: Discrete, MultiDiscrete or Box.
      squash: for a Box, keep actions within its bounds by a tanh instead of clipping them.

    Raises:
      ValueError: if `squash` does not fit the space.
    """
    if isinstance(space, Box):
        return TanhGaussian(space) if squash else DiagonalGaussian(space)
    if squash:
        raise ValueError(f"squash: needs a Box as action space, not {space}")
    if isinstance(space, Discrete):
        return Categorical(space.n)
    if isinstance(space, MultiDiscrete):
        return MultiCategorical(space.nvec)
    raise ValueError(f"actions need a Discrete, MultiDiscrete or Box, not {space}")
