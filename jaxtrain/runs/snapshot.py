"""A state and its history as named arrays, and back; of all seeds or of some.

In: pytrees. Out: name -> array, in which a typed key is its words. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.known import filled, parted
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.trainer import History
from jaxtrain.tree import is_in_place
from jaxtrain.types import PyTree

Timetable = Mapping[str, Sequence[int]]


class Mismatch(Exception):
    """Arrays that do not fit the program; has a line for each."""


def names(tree: PyTree, root: str) -> list[tuple[str, Any]]:
    """Every leaf by its path, which says how Python would reach it."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(root + jax.tree_util.keystr(path), leaf) for path, leaf in found]


def to_arrays(state: TrainState, history: History) -> dict[str, jax.Array]:
    """Every leaf by its name."""
    return {name: jax.random.key_data(x) if _is_key(x) else x for name, x in _named(state, history)}


def _named(state: TrainState, history: History) -> list[tuple[str, Any]]:
    """Every leaf by its name, what is unknown in an array of its value."""
    state, history = filled((state, history))
    return [*names(state, "state"), *names(history, "history")]


def in_place(state: TrainState, history: History) -> list[str]:
    """The names of what is in a `tree.InPlace`."""
    given = jax.eval_shape(filled, (state, history))
    found = zip(_named(*given), is_in_place(given), strict=True)
    return [name for (name, _), big in found if big]


def from_arrays(
    held: Mapping[str, np.ndarray],
    state: TrainState,
    history: History,
    *,
    marks: Timetable,
    old_marks: Timetable,
) -> tuple[TrainState, History]:
    """The state and the history that `held` are, in the shapes of this program.

    Args:
      held: what `to_arrays` gave, or `of_seeds`.
      state, history: of the program, `jax.ShapeDtypeStruct`s will do.
      marks, old_marks: event -> its updates in this program, and in the one that `held` is of. Rows of
        marks that are in both are carried over; others of this program say nothing yet.

    Raises:
      Mismatch: a line for every array that is of another shape or dtype, missing (but for metrics, which are
        unknown then), or too many.
    """
    like, (state, history) = (state, history), jax.eval_shape(filled, (state, history))
    wanted = {name: words(x) for name, x in names(state, "state")}
    given = {name: x for name, x in held.items() if name.startswith("state")}
    lines: list[str] = []
    # A metric is unknown until it is told: an earlier version may have had fewer of them.
    later = [name for name in wanted.keys() - given.keys() if name.startswith("state.metrics[")]
    given |= {name: _nothing(wanted[name]) for name in later}
    for name in sorted(wanted.keys() | given.keys()):
        old = described(given[name]) if name in given else "nothing"
        new = described(wanted[name]) if name in wanted else "nothing"
        if old != new:
            lines.append(f"{name}: the checkpoint has {old}, the config makes {new}")
    if lines:
        raise Mismatch("\n".join(lines))

    def leaf(path: Any, x: Any) -> np.ndarray:
        return given["state" + jax.tree_util.keystr(path)]

    def rows(path: Any, x: Any) -> np.ndarray:
        name, event = "history" + jax.tree_util.keystr(path), path[0].key
        made = _nothing(x)
        old = held.get(name)
        if old is not None and old.shape[1:] == x.shape[1:]:
            _, here, there = np.intersect1d(marks[event], old_marks.get(event, ()), return_indices=True)
            made[here] = old[there]
        return made

    arrays = jax.tree_util.tree_map_with_path(leaf, state), jax.tree_util.tree_map_with_path(rows, history)
    return jax.tree.map(_typed, parted(like, arrays), like)


def _nothing(x: Any) -> np.ndarray:
    """What is saved of an array of which nothing is known yet."""
    return np.full(x.shape, np.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)


def of_seeds(held: Mapping[str, np.ndarray], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Some seeds of arrays of many; a single one has no seed axis."""

    def pick(name: str, x: np.ndarray) -> np.ndarray:
        if name == "state.clock":
            return x
        axis = 1 if name.startswith("history") else 0  # rows come first
        return np.take(x, seeds[0] if len(seeds) == 1 else list(seeds), axis)

    return {name: pick(name, x) for name, x in held.items()}


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def words(x: Any) -> Any:
    """The shape of what is saved for a leaf: of a typed key that of its words."""
    return jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x


def _typed(x: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(jnp.empty((), like.dtype)))
    return jnp.asarray(x)


def described(x: Any) -> str:
    """Its dtype and shape."""
    return f"{x.dtype}{list(x.shape)}"
