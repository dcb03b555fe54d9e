"""Bring big arrays from the device to the host, a piece after the other.

In: arrays. Out: NumPy arrays with memory of their own. Knows nothing of states or checkpoints.

A copy on the device would take as much again there as all of them, and a transfer of one in a single go may
take as much again on the host, where the runtime stages what it moves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

UNDER_WAY = 6  # pieces at a time


class _Cut(NamedTuple):
    """How arrays of one shape are cut: into one index of the axes before `axis`, and all of those after."""

    axis: int
    length: int  # of a piece along `axis`
    piece: Any  # compiled: (array, i32[axis + 1]) -> the piece that begins there


class Transfer:
    """To the host, for arrays like these; what it needs is compiled here.

    Args:
      like: anything with a shape and a dtype.
      most: bytes of a piece; an array that is no larger goes in one, without a program. None: as all do.
    """

    def __init__(self, like: Sequence[Any], most: int | None) -> None:
        self._cuts: dict[Any, _Cut] = {}
        for x in like:
            if most is not None and _bytes(x.shape, x.dtype) > most and _kind(x) not in self._cuts:
                self._cuts[_kind(x)] = _cut(x, most)

    def to_host(self, arrays: Sequence[jax.Array]) -> list[np.ndarray]:
        """What they hold now, in memory that nothing else writes to; returns when all of it is there."""
        found = [np.empty(x.shape, x.dtype) for x in arrays]
        under_way: deque[Future[None]] = deque()
        # Memory that nothing was in yet is slow to write: one thread stores less than the device sends.
        with ThreadPoolExecutor(UNDER_WAY, "jaxtrain-transfer") as pool:
            for x, whole in zip(arrays, found, strict=True):
                for target, piece in self._pieces(x, whole):
                    if piece is not x:  # jax 0.11 would hold `x`, and training take other memory
                        piece.copy_to_host_async()
                    under_way.append(pool.submit(_store, target, piece))
                    if len(under_way) == UNDER_WAY:
                        under_way.popleft().result()
            for job in under_way:
                job.result()
        return found

    def _pieces(self, x: jax.Array, whole: np.ndarray) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Where each piece belongs in `whole`, and the piece."""
        cut = self._cuts.get(_kind(x))
        if cut is None:
            yield whole, x
            return
        size = x.shape[cut.axis]
        for before in np.ndindex(x.shape[: cut.axis]):
            for begin in range(0, size, cut.length):
                begin = min(begin, size - cut.length)  # pieces are alike: the last goes over some rows again
                piece = cut.piece(x, np.array([*before, begin], np.int32))
                yield whole[before][begin : begin + cut.length], piece


def piece_bytes() -> int | None:
    """Of a piece, a few of which are on the device at a time; None: arrays need not be cut."""
    return None if jax.default_backend() == "cpu" else 2**22  # a CPU's arrays are in the host's memory


def _store(target: np.ndarray, piece: jax.Array) -> None:
    target[...] = np.asarray(piece).reshape(target.shape)


def _cut(like: Any, most: int) -> _Cut:
    shape: tuple[int, ...] = tuple(like.shape)
    axis = next(i for i in range(len(shape)) if _bytes(shape[i + 1 :], like.dtype) <= most)
    fits = most // _bytes(shape[axis + 1 :], like.dtype)
    length = -(-shape[axis] // -(-shape[axis] // fits))  # as even as may be, so that little goes twice
    sizes = (*[1] * axis, length, *shape[axis + 1 :])

    def piece(x: jax.Array, begin: jax.Array) -> jax.Array:
        # An index of each axis: one of all entries would overflow.
        starts = [begin[i] if i <= axis else 0 for i in range(len(shape))]
        return lax.dynamic_slice(x, starts, sizes)

    start = jax.ShapeDtypeStruct((axis + 1,), np.int32)
    return _Cut(axis, length, jax.jit(piece).lower(like, start).compile())


def _bytes(shape: Sequence[int], dtype: Any) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _kind(x: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(x.shape), np.dtype(x.dtype)
