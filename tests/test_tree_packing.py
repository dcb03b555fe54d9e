"""Arrays that travel end to end arrive as they left, bit for bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.tree import Packing

MIXED = [
    np.float32([[np.nan, -0.0], [np.inf, 1e-45]]),
    np.array(True),
    np.int32([-(2**31), 2**31 - 1]),
    np.zeros((3, 0), np.float32),
    np.uint32(2**32 - 1),
    np.float16([1.5, np.nan]),
    np.asarray(jnp.bfloat16([1.5, 3.0])),
    np.array([True, False]),
    np.complex64([1 + 2j]),
    np.arange(12, dtype=np.int8).reshape(3, 4),
    np.arange(50, dtype=np.float32),
]


@pytest.mark.parametrize("largest", [0, 10, 1000])
def test_what_is_packed_comes_back_bit_for_bit(largest):
    packing = Packing(MIXED, largest)
    back = packing.unpack(jax.jit(packing.pack)([jnp.asarray(x) for x in MIXED]))
    for x, y in zip(MIXED, back, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


def test_small_arrays_leave_as_one_for_each_width_and_large_ones_by_themselves():
    scalars = [jnp.float32(1), jnp.int32(2), jnp.uint32(3), jnp.bool_(True), jnp.zeros(11)]
    assert [x.shape for x in Packing(scalars, 10).pack(scalars)] == [(3,), (1,), (11,)]


def test_what_is_packed_stays_when_the_memory_it_came_from_is_used_again():
    given = [jnp.arange(3.0), jnp.arange(100.0)]
    packing = Packing(given, 10)
    packed = jax.jit(packing.pack)(given)
    jax.jit(lambda xs: [x + 1 for x in xs], donate_argnums=0)(given)
    assert [x.tolist() for x in packing.unpack(packed)] == [[0, 1, 2], list(range(100))]
