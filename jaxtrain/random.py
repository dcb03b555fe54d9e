"""Sources of randomness by name.

In: a key. Out: keys; adding a consumer moves no other's draws.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.types import Key


def stream(key: Key, name: str) -> Key:
    """The named source of randomness of a seed: adding a consumer moves no other's draws."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def as_key(key: Any) -> Key:
    """A typed key from either kind; u32[..., 2] is the old one.

    Raises:
      ValueError: it is neither.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    try:
        if dtype != jnp.uint32:
            raise TypeError
        return jax.random.wrap_key_data(jnp.asarray(key))
    except TypeError:  # of another dtype, or not the two words of a key
        raise ValueError(f"key = {key!r}: needs jax.random.key(seed) or jax.random.PRNGKey(seed)") from None
