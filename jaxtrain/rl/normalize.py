"""Running statistics: observations to mean 0 and variance 1, rewards to returns of variance 1.

In: observations and rewards of whole rollouts. Out: new statistics and normalized arrays.
Knows nothing of networks or losses; when statistics are updated is up to the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp

from jaxtrain.rl.returns import discounted_returns
from jaxtrain.types import PyTree


class Stats(NamedTuple):
    """Mean and variance of all batches so far; the identity before the first."""

    mean: jax.Array  # f32[...]
    var: jax.Array  # f32[...]
    updates: jax.Array  # i32[]; exact, where a float count of samples stops at 2^24


def init(shape: tuple[int, ...]) -> Stats:
    """Statistics of nothing yet, for samples of this shape."""
    return Stats(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32))


def std(stats: Stats) -> jax.Array:
    """f32[...]; 1 where nothing varies beyond rounding, so that dividing by it is always safe."""
    value = jnp.sqrt(stats.var)
    return jnp.where(value > 1e-6 * jnp.abs(stats.mean), value, 1.0)


@overload
def update(stats: Stats, batch: PyTree) -> Stats: ...


@overload
def update(stats: None, batch: PyTree) -> None: ...


def update(stats: Stats | None, batch: PyTree) -> Stats | None:
    """Take in one more batch; all batches have to be of one size.

    Args:
      stats: of samples [...]; None does nothing, for observations that are not normalized.
      batch: [T, B, ...] or any leading axes; of `{"observation": …, "action_mask": …}` only the first.

    Source:
      Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance", equation 2.1.
    """
    if stats is None:
        return None
    x = batch["observation"] if isinstance(batch, Mapping) else batch
    x = jnp.asarray(x, stats.mean.dtype).reshape(-1, *stats.mean.shape)
    # Sums are taken around a point near the data: float32 sums of a large offset lose the rest.
    origin = jnp.where(stats.updates == 0, x[0], stats.mean)
    shift = jnp.mean(x - origin, axis=0)
    var = jnp.mean(jnp.square(x - origin - shift), axis=0)
    weight = 1.0 / (stats.updates + 1.0)
    return Stats(
        mean=origin + weight * shift,
        var=stats.var + weight * (var - stats.var + (1.0 - weight) * jnp.square(shift)),
        updates=stats.updates + 1,
    )


def apply(stats: Stats | None, obs: PyTree, clip: float = 10.0) -> PyTree:
    """Subtract the mean, divide by the standard deviation, and clip.

    Args:
      stats: of samples [...]; None gives `obs` back.
      obs: [...] with any leading axes; of `{"observation": …, "action_mask": …}` only the first.
      clip: largest absolute value of the result, in standard deviations.
    """
    if stats is None:
        return obs
    if isinstance(obs, Mapping):
        return {**obs, "observation": apply(stats, obs["observation"], clip)}
    x = jnp.asarray(obs, stats.mean.dtype)
    return jnp.where(stats.updates == 0, x, jnp.clip((x - stats.mean) / std(stats), -clip, clip))


class RewardScale(NamedTuple):
    """What reward scaling remembers between rollouts."""

    running: jax.Array  # f32[B], discounted return so far of the episodes under way
    stats: Stats  # of every running return seen, f32[]


def init_reward_scale(num_envs: int) -> RewardScale:
    """Nothing seen yet: `scale` is 1."""
    return RewardScale(jnp.zeros(num_envs), init(()))


def update_and_scale(
    state: RewardScale, reward: jax.Array, done: jax.Array, gamma: jax.Array | float
) -> tuple[RewardScale, jax.Array]:
    """Divide rewards by the standard deviation of the running discounted return, theirs included.

    Args:
      state: after the rollout before.
      reward: f32[T, B], in the environment's unit.
      done: bool[T, B], whether the episode ended with this step, for either reason.
      gamma: discount per step.

    Returns:
      The new state, and f32[T, B]: `reward / scale(state)`, neither centered nor clipped, so that
      `scale(state)` brings a critic back to the environment's unit.

    Source:
      Engstrom et al. 2020, "Implementation Matters in Deep Policy Gradients", appendix A.2.
    """
    returns, running = discounted_returns(reward, done, gamma=gamma, initial=state.running)
    state = RewardScale(running, update(state.stats, returns))
    return state, reward / scale(state)


def scale(state: RewardScale) -> jax.Array:
    """f32[], environment's unit of reward per unit of scaled reward; 1 while returns do not vary."""
    return std(state.stats)
