"""Shuffle a rollout's samples without sorting.

In: a key and the sizes of a rollout. Out: a permutation of its T × B samples.
Knows nothing of what is shuffled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtrain.types import Key

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
