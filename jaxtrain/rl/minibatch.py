"""Minibatches: the samples or the sequences of a rollout, in a new order for each pass over it.

In: a rollout, leaves [T, B, ...], and a function of one minibatch. Out: what a scan over all of them gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.errors import Problem
from jaxtrain.types import Carry, Key, Metrics, PyTree

State = TypeVar("State")

ROUNDS = 8
SMALLEST_SIDE = 8  # with fewer values on a side, too few different round functions exist


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Murmur3's 32-bit finalizer, u32 to u32."""
    x = (x ^ key) * jnp.uint32(0x9E3779B1)  # spreads neighbors before the first shift
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def permutation(key: Key, t: int, b: int) -> jax.Array:
    """A pseudo-random order of `t * b` samples.

    A Feistel network on Z_t × Z_b: each round adds a hash of one coordinate to the other, which can
    be undone, so the whole is one-to-one for any sizes. It is elementwise, a fraction of a sort. Not
    for secrets, and not every one of the (t·b)! orders can occur. Where a side is shorter than
    `SMALLEST_SIDE` the order comes from `jax.random.permutation`.

    Args:
      key: used up here.
      t, b: time steps and environments of the rollout; `t * b` below 2^31.

    Returns:
      i32[t * b], indices into samples flattened from [t, b].

    Source:
      Luby and Rackoff 1988, "How to Construct Pseudorandom Permutations from Pseudorandom
      Functions"; Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 5.
    """
    if min(t, b) < SMALLEST_SIDE:
        return jax.random.permutation(key, t * b).astype(jnp.int32)
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    index = jnp.arange(t * b, dtype=jnp.uint32)
    x, y, size_x, size_y = index // b, index % b, t, b
    for i in range(ROUNDS):
        x = x + _hash(y, keys[i]) % size_x
        x = jnp.where(x < size_x, x, x - size_x)
        x, y, size_x, size_y = y, x, size_y, size_x
    return (x * b + y).astype(jnp.int32)  # an even number of rounds: x is the time again


def check(num_minibatches: int, t: int, b: int, *, whole_sequences: bool = False) -> list[Problem]:
    """Whether so many minibatches divide a rollout of `t` steps and `b` environments; a fault, or none."""
    size = b if whole_sequences else t * b
    if size % num_minibatches == 0:
        return []
    low = next(d for d in range(min(num_minibatches, size), 0, -1) if size % d == 0)
    high = next((d for d in range(num_minibatches, size + 1) if size % d == 0), low)
    what = (
        f"the {b} environments, as a recurrent policy keeps whole sequences"
        if whole_sequences
        else f"the {size} samples of a rollout ({b} environments x {t} steps)"
    )
    rule = f"needs to divide {what}; the nearest: {f'{low} and {high}' if low < high else low}"
    return [Problem("num_minibatches", num_minibatches, rule)]


def epochs(
    step: Callable[[State, PyTree, Carry, Key], tuple[State, Metrics]],
    state: State,
    batch: PyTree,
    carry: Carry,
    key: Key,
    *,
    num_epochs: int,
    num_minibatches: int,
    whole_sequences: bool = False,
) -> tuple[State, Metrics]:
    """Pass over a rollout several times, one minibatch after the other; each sample is in one of a pass.

    Args:
      step: `(state, samples, carry, key) -> (state, metrics)`, of one minibatch.
      state: what the first `step` is given, such as parameters and the optimizer's state.
      batch: leaves [T, B, ...].
      carry: before the first step, leaves [B, ...]; () for none.
      key: used up here.
      num_epochs: passes.
      num_minibatches: of a pass; divides T * B, or B for whole sequences.
      whole_sequences: minibatches of environments, `samples` are [T, N, ...] and `carry` [N, ...]; otherwise
        samples of any step and environment, [N, ...], and no carry.

    Returns:
      The state after the last minibatch, and all metrics, leaves [num_epochs, num_minibatches, ...].

    Raises:
      ValueError: there is a carry, and sequences are not kept whole.
    """
    if jax.tree.leaves(carry) and not whole_sequences:
        raise ValueError("carry: needs whole_sequences = True, as single samples have none")
    time, envs = jax.tree.leaves(batch)[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(time * envs, *x.shape[2:]), batch)

    def take(index: jax.Array) -> tuple[PyTree, Carry]:
        if not whole_sequences:
            return jax.tree.map(lambda x: jnp.take(x, index, axis=0), flat), carry
        samples = jax.tree.map(lambda x: jnp.take(x, index, axis=1), batch)
        return samples, jax.tree.map(lambda x: jnp.take(x, index, axis=0), carry)

    def minibatch(state: State, x: tuple[jax.Array, Key]) -> tuple[State, Metrics]:
        return step(state, *take(x[0]), x[1])

    def epoch(state: State, key: Key) -> tuple[State, Metrics]:
        key_shuffle, key_step = jax.random.split(key)
        order = permutation(key_shuffle, 1 if whole_sequences else time, envs).reshape(num_minibatches, -1)
        return lax.scan(minibatch, state, (order, jax.random.split(key_step, num_minibatches)))

    return lax.scan(epoch, state, jax.random.split(key, num_epochs))
