"""Arrays that went to the host in pieces are those of the device, in memory of their own."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.runs.transfer import Transfer

shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


def numbered(shape, dtype, first=0):
    return jnp.asarray(np.arange(first, first + math.prod(shape)).reshape(shape) % 251, dtype)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(shapes, st.sampled_from(["float32", "bfloat16", "int8", "bool"])), max_size=3),
    st.sampled_from([4, 12, 64, 1000, None]),
)
def test_whatever_the_shapes_and_the_pieces_every_bit_arrives(kinds, most):
    given = [numbered(shape, dtype, first=i) for i, (shape, dtype) in enumerate(kinds)]
    found = Transfer(given, most).to_host(given)
    assert [(x.shape, x.dtype, x.tobytes()) for x in found] == [
        (x.shape, x.dtype, np.asarray(x).tobytes()) for x in given
    ]


@pytest.mark.parametrize("most", [64, None])
@pytest.mark.parametrize("shape", [(3,), (64,), (65, 2), (4, 33, 2), (3, 2, 40)])
def test_what_arrived_shares_no_memory_with_the_device(shape, most):
    """On a CPU `np.asarray` is a view, of memory that the next update writes to."""
    x = numbered(shape, jnp.float32)
    (found,) = Transfer([x], most).to_host([x])
    assert not np.shares_memory(found, np.asarray(x))


@pytest.mark.parametrize(
    ("shape", "pieces"),
    [
        ((16,), 1),  # as large as a piece
        ((17,), 2),
        ((64,), 4),
        ((65, 2), 9),
        ((3, 8, 2), 3),  # a row of the first axis fits
        ((3, 9, 2), 6),  # and here it does not
        ((2, 3, 2, 17), 24),
    ],
)
def test_pieces_are_alike_as_few_as_may_be_and_no_larger_than_is_said(shape, pieces, monkeypatch):
    x, sizes = numbered(shape, jnp.float32), []
    transfer = Transfer([x], 64)
    for cut in transfer._cuts.values():
        run = cut.piece

        def note(*given, run=run):
            piece = run(*given)
            sizes.append(piece.nbytes)
            return piece

        monkeypatch.setitem(transfer._cuts, next(iter(transfer._cuts)), cut._replace(piece=note))
    (found,) = transfer.to_host([x])
    np.testing.assert_array_equal(found, x)
    assert len(sizes) == (pieces if pieces > 1 else 0)
    assert len(set(sizes)) <= 1 and all(size <= 64 for size in sizes)


def test_arrays_that_are_alike_share_a_program_which_holds_no_more_than_a_piece():
    given = [numbered((1000, 3), jnp.float32, first=i) for i in range(3)]
    (cut,) = Transfer(given, 2400)._cuts.values()
    memory = cut.piece.memory_analysis()
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes <= 2400
