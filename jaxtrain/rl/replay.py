"""Keep what was experienced, to learn from it again.

In: rows of `Transition`s, T steps of B environments for each update, and the loop's clock. Out: batches
drawn from the newest of them, with n-step returns.

A `Replay` is a ring of n blocks, one for the rollout of one update. The clock says which block an update
writes, so there is no counter here, and under `vmap` the place is one scalar for all seeds. The rows are
`tree.InPlace`: an update that the loop drops leaves its rows in the ring and takes its stamp in `written`
back, whereby the block no longer holds what its stamp says and is not read until it is written again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtrain.tree import InPlace
from jaxtrain.types import Clock, Key, PyTree


class Transition(NamedTuple):
    """One step of one environment, or many with the same leading axes on every leaf.

    `next_obs` is where the action led, before any reset. It doubles the memory, as the next row has the same
    unless an episode was cut there, or a block ends; but a rollout may be cut at every step, so that a side
    store for those that differ has no smaller bound that is exact.
    """

    obs: PyTree
    action: PyTree
    reward: jax.Array  # f32
    terminated: jax.Array  # bool
    truncated: jax.Array  # bool
    next_obs: PyTree
    extras: PyTree = ()  # what else an algorithm wants back: log-probabilities, a recurrent state


class Replay(NamedTuple):
    """Transitions of the last n updates, of one seed."""

    rows: InPlace  # of a `Transition`, leaves [n * T, B, ...]
    written: jax.Array  # i32[n], the clock at which a block was written; -1: never


class Place(NamedTuple):
    """Where transitions stand in the ring."""

    row: jax.Array  # i32[N], in 0 .. n * T - 1
    env: jax.Array  # i32[N], in 0 .. B - 1


class Batch(NamedTuple):
    """N transitions of k steps each, k at most `n_step`; leaves [N, ...].

    The target of Q(obs, action) is `reward + discount * V(next_obs)`. Where `weight` is 0 every other leaf is
    0 or False and means nothing: a mean over the batch is `sum(weight * x) / max(sum(weight), 1)`.
    """

    obs: PyTree
    action: PyTree
    reward: jax.Array  # f32[N], the k rewards, discounted to the first step
    discount: jax.Array  # f32[N], gamma^k; 0 where the last of the k steps terminated
    next_obs: PyTree  # where the last of the k steps led, before any reset
    extras: PyTree
    weight: jax.Array  # f32[N], 1 or 0
    place: Place  # of the first step


def init(example: PyTree, num_blocks: int, rollout_length: int, num_envs: int) -> Replay:
    """An empty ring.

    Args:
      example: a `Transition` of one step, arrays or `jax.ShapeDtypeStruct`s, without leading axes.
      num_blocks: n. A capacity in transitions is rounded down: `capacity // (rollout_length * num_envs)`.
      rollout_length: T.
      num_envs: B.

    Raises:
      ValueError: there is no block, or more rows than an i32 can count.
    """
    if num_blocks < 1 or num_blocks * rollout_length * num_envs > jnp.iinfo(jnp.int32).max:
        raise ValueError(
            f"num_blocks = {num_blocks}: needs at least 1, and at most 2^31 - 1 transitions in blocks of "
            f"{rollout_length} steps x {num_envs} environments"
        )

    def empty(x: Any) -> jax.Array:
        return jnp.zeros((num_blocks * rollout_length, num_envs, *x.shape), x.dtype)

    return Replay(InPlace(jax.tree.map(empty, example)), jnp.full(num_blocks, -1, jnp.int32))


def add(replay: Replay, clock: Clock, running: jax.Array, rows: PyTree) -> Replay:
    """Write the rollout of one update over the oldest.

    Args:
      replay: of one seed.
      clock: updates done before this one; each value at most once, in order.
      running: bool[]; a seed that has stopped keeps every bit.
      rows: a `Transition` like the example of `init`, leaves [T, B, ...].

    Raises:
      ValueError: while tracing, naming the first leaf of another shape than a block has.
    """
    num_blocks, num_rows = len(replay.written), len(replay.rows.value.reward)
    length, block = num_rows // num_blocks, clock % num_blocks  # never clock * T, which overflows
    # Out of bounds and dropped, not a select: that reads the old rows, whereupon XLA copies the ring. And not
    # one block at a scalar index, of which XLA makes that select itself.
    row = jnp.where(running, block * length + jnp.arange(length, dtype=jnp.int32), num_rows)

    def write(path: Any, ring: jax.Array, new: jax.Array) -> jax.Array:
        if new.shape != (length, *ring.shape[1:]):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"rows{name}: has shape {new.shape}, needs {(length, *ring.shape[1:])}")
        new = new.astype(ring.dtype)
        return ring.at[row].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)

    ring = jax.tree.map_with_path(write, replay.rows.value, rows)
    block = jnp.where(running, block, num_blocks)
    return Replay(InPlace(ring), replay.written.at[block].set(clock, mode="drop"))


def sample(replay: Replay, clock: Clock, key: Key, batch_size: int, *, gamma: Any, n_step: int = 1) -> Batch:
    """Draw transitions uniformly, with replacement, from those that the ring holds.

    Args:
      replay: after `add` at this clock.
      clock: as in `add`.
      key: used up here.
      batch_size: N; as many draws, of which those that meet a dropped block have weight 0.
      gamma: discount per step.
      n_step: most steps of a transition. There are fewer where the episode ends (no bootstrap where it
        terminated, that of the true last observation where it was truncated), before a dropped block, and
        before the end of the newest one.

    Source:
      Sutton 1988, "Learning to Predict by the Methods of Temporal Differences": n-step returns, in Q-learning
      without correction for the policy that acted, as in Hessel et al. 2018, "Rainbow". Pardo et al. 2018,
      "Time Limits in Reinforcement Learning": why two end flags.
    """
    return read(replay, clock, draw(replay, clock, key, batch_size), gamma=gamma, n_step=n_step)


def draw(replay: Replay, clock: Clock, key: Key, batch_size: int) -> Place:
    """Places, uniform over what has been written by this clock, dropped blocks among them.

    Drawing from these too, and weighing them 0 in `read`, costs the same however many were dropped, and those
    that remain are uniform. Priorities would be a third member of `Replay`, `InPlace` [n * T, B], and another
    function like this one.
    """
    (num_blocks,), (num_rows, num_envs) = replay.written.shape, replay.rows.value.reward.shape
    filled = jnp.minimum(clock, num_blocks - 1) + 1  # blocks
    end = filled * (num_rows // num_blocks * num_envs)
    flat = jax.random.randint(key, (batch_size,), 0, end, jnp.int32)
    return Place(flat // num_envs, flat % num_envs)


def read(replay: Replay, clock: Clock, place: Place, *, gamma: Any, n_step: int = 1) -> Batch:
    """The transitions that begin at `place`; see `sample`.

    A row near the end of the newest block has fewer steps rather than none: its target is exact as well,
    since `next_obs` is kept, and leaving such rows out would hold back what is newest, all of it where
    T < n_step.
    Rows of an update continue those of the one before: whoever moves the environments in between, or the ring
    to another seed, has n - 1 steps at that seam that mix two episodes.
    """
    ring, (num_blocks,) = replay.rows.value, replay.written.shape
    length = len(ring.reward) // num_blocks
    first, env = place.row // length, place.env[:, None]
    stamp = replay.written[first]
    # A block whose update was dropped has the stamp of a lap ago, or -1.
    valid = (stamp >= 0) & (stamp > clock - num_blocks)

    ahead = jnp.arange(n_step, dtype=jnp.int32)[None]
    step = place.row[:, None] % length + ahead  # [N, n_step], from its block on
    block = (first[:, None] + step // length) % num_blocks
    row = block * length + step % length
    follows = replay.written[block] == stamp[:, None] + step // length
    terminated, truncated = ring.terminated[row, env], ring.truncated[row, env]
    goes_on = follows[:, 1:] & ~(terminated | truncated)[:, :-1]
    taken = jnp.cumprod(jnp.concatenate([valid[:, None], goes_on], axis=1), axis=1, dtype=jnp.int32)

    num_steps = taken.sum(axis=1)
    last = jnp.maximum(num_steps - 1, 0)[:, None]
    powers = gamma ** jnp.arange(n_step + 1)
    reward = jnp.sum(jnp.where(taken > 0, ring.reward[row, env], 0) * powers[None, :-1], axis=1)
    over = jnp.take_along_axis(terminated, last, axis=1)[:, 0]

    def get(leaves: PyTree, row: jax.Array) -> PyTree:
        def one(leaf: jax.Array) -> jax.Array:
            x = leaf[row, place.env]  # what is dropped may be NaN, of which a weight of 0 makes a NaN
            return jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

        return jax.tree.map(one, leaves)

    return Batch(
        obs=get(ring.obs, place.row),
        action=get(ring.action, place.row),
        reward=reward,
        discount=jnp.where(valid & ~over, powers[num_steps], 0),
        next_obs=get(ring.next_obs, jnp.take_along_axis(row, last, axis=1)[:, 0]),
        extras=get(ring.extras, place.row),
        weight=valid.astype(ring.reward.dtype),
        place=place,
    )
