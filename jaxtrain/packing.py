"""Many small arrays as a few: what leaves the device costs by how many arrays there are.

In: arrays of known shapes. Out: their words, end to end, one array for each width; and the way back, exact
to the bit. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Packing:
    """How arrays like these are laid end to end.

    Args:
      like: anything with a shape and a dtype.
      largest: entries of an array that is still worth it; a larger one travels by itself.
    """

    def __init__(self, like: Sequence[Any], largest: int) -> None:
        self._like = [(tuple(x.shape), np.dtype(x.dtype)) for x in like]
        groups: dict[Any, list[int]] = {}
        for i, (shape, dtype) in enumerate(self._like):
            alone = math.prod(shape) > largest or dtype.kind not in "biuf"
            groups.setdefault(("alone", i) if alone else dtype.itemsize, []).append(i)
        self._groups = groups

    def pack(self, values: Sequence[jax.Array]) -> list[jax.Array]:
        """Traced; what comes out shares no memory with what goes in."""
        return [
            jnp.copy(values[group[0]])
            if isinstance(width, tuple)
            else jnp.concatenate([_words(values[i], width).reshape(-1) for i in group])
            for width, group in self._groups.items()
        ]

    def unpack(self, packed: Sequence[Any]) -> list[np.ndarray]:
        """What `pack` was given, on the host."""
        found: dict[int, np.ndarray] = {}
        for array, (width, group) in zip(packed, self._groups.items(), strict=True):
            words = np.asarray(array)
            if isinstance(width, tuple):
                found[group[0]] = words
                continue
            begin = 0
            for i in group:
                shape, dtype = self._like[i]
                end = begin + math.prod(shape)
                found[i] = words[begin:end].view(dtype).reshape(shape)
                begin = end
        return [found[i] for i in range(len(self._like))]


def _words(x: jax.Array, width: int) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)  # which `bitcast_convert_type` does not take
    return lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[width])
