"""Running statistics: observations to mean 0 and variance 1, rewards to returns of variance 1.

In: observations and rewards of whole rollouts. Out: new statistics and normalized arrays. When statistics are
updated is up to the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp

from jaxtrain import tree
from jaxtrain.rl.networks import split_mask
from jaxtrain.rl.returns import discounted_returns
from jaxtrain.types import Box, Dict, PyTree, Space


class Stats(NamedTuple):
    """Mean and variance of all batches so far; the identity before the first."""

    mean: PyTree  # f32[...], or a dict of them: of those entries of an observation that are normalized
    var: PyTree  # like `mean`
    updates: jax.Array  # i32[]; exact, where a float count of samples stops at 2^24


def init(shape: PyTree) -> Stats:
    """Statistics of nothing yet, for samples of this shape, or of a dict of shapes."""

    def zeros() -> PyTree:
        return jax.tree.map(jnp.zeros, shape, is_leaf=lambda x: isinstance(x, tuple))

    return Stats(zeros(), zeros(), jnp.zeros((), jnp.int32))


def normalized_shapes(space: Space, observation: PyTree) -> PyTree:
    """What `init` needs for observations of this space; None where there is nothing to normalize.

    A Box alone is normalized whatever its dtype; of a Dict, each Box of floating numbers.

    Args:
      space: of an observation, without its action mask.
      observation: one, or its `jax.ShapeDtypeStruct`s; with or without a mask.
    """
    observation, _ = split_mask(observation)
    if isinstance(space, Box):
        return space.shape
    if not isinstance(space, Dict):
        return None
    shapes = {name: _entry_shapes(part, observation[name]) for name, part in space.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None} or None


def _entry_shapes(space: Space, entry: PyTree) -> PyTree:
    return None if isinstance(space, Box) and not tree.inexact(entry) else normalized_shapes(space, entry)


def std(stats: Stats) -> PyTree:
    """Like `mean`; 1 where nothing varies beyond rounding, so that dividing by it is always safe."""
    return jax.tree.map(_std, stats.mean, stats.var)


def _std(mean: jax.Array, var: jax.Array) -> jax.Array:
    value = jnp.sqrt(var)
    return jnp.where(value > 1e-6 * jnp.abs(mean), value, 1.0)


@overload
def update(stats: Stats, batch: PyTree) -> Stats: ...
@overload
def update(stats: None, batch: PyTree) -> None: ...
def update(stats: Stats | None, batch: PyTree) -> Stats | None:
    """Take in one more batch; all batches have to be of one size.

    Args:
      stats: of samples [...]; None does nothing, for observations that are not normalized.
      batch: [T, B, ...] or any leading axes; of a dict the entries that `stats` has, of
        `{"observation": …, "action_mask": …}` only the first.

    Source:
      Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance", equation 2.1.
    """
    if stats is None:
        return None
    weight = 1.0 / (stats.updates + 1.0)

    def moments(x: jax.Array, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.asarray(x, mean.dtype).reshape(-1, *mean.shape)
        # Sums are taken around a point near the data: float32 sums of a large offset lose the rest.
        origin = jnp.where(stats.updates == 0, x[0], mean)
        shift = jnp.mean(x - origin[None], axis=0)
        new = jnp.mean(jnp.square(x - origin[None] - shift[None]), axis=0)
        return origin + weight * shift, var + weight * (new - var + (1.0 - weight) * jnp.square(shift))

    made = _each(moments, split_mask(batch)[0], stats.mean, stats.var)
    both = jax.tree.transpose(jax.tree.structure(stats.mean), jax.tree.structure((0, 0)), made)
    return Stats(*both, updates=stats.updates + 1)


def apply(stats: Stats | None, obs: PyTree, clip: float = 10.0) -> PyTree:
    """Subtract the mean, divide by the standard deviation, and clip.

    Args:
      stats: of samples [...]; None gives `obs` back.
      obs: [...] with any leading axes; of a dict the entries that `stats` has, where they are there; of
        `{"observation": …, "action_mask": …}` only the first.
      clip: largest absolute value of the result, in standard deviations.
    """
    if stats is None:
        return obs

    def normal(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        x = jnp.asarray(x, mean.dtype)
        mean, std = tree.lead(mean, x), tree.lead(_std(mean, var), x)
        return jnp.where(stats.updates == 0, x, jnp.clip((x - mean) / std, -clip, clip))

    observation, mask = split_mask(obs)
    made = _each(normal, observation, stats.mean, stats.var)
    if isinstance(made, Mapping):
        made = _merge(observation, made)
    return made if mask is None else {**obs, "observation": made}


def _each(f: Callable[..., PyTree], x: PyTree, mean: PyTree, var: PyTree) -> PyTree:
    """`f` of an array, or of each entry of a dict that has statistics and is there."""
    if not isinstance(mean, Mapping):
        return f(x, mean, var)
    return {name: _each(f, x[name], mean[name], var[name]) for name in mean if name in x}


def _merge(x: PyTree, new: PyTree) -> PyTree:
    """`x` with the entries of `new` in place of its own."""
    return {**x, **{k: _merge(x[k], v) if isinstance(v, Mapping) else v for k, v in new.items()}}


class RewardScale(NamedTuple):
    """What reward scaling remembers between rollouts."""

    running: jax.Array  # f32[B], discounted return so far of the episodes under way
    stats: Stats  # of every running return seen, f32[]

    begins_anew = ("running",)  # in a run that begins from another's agent: its episodes are others


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
