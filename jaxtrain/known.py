"""Values that may be unknown: a return before an episode has ended, a loss before the first gradient step.

In: arrays, and masks of which are known. Out: pytrees of both, in which what is unknown is 0; and at the
border of the programs the same with NaN there. So no program makes a NaN of the library's own, and whoever
looks for NaN, as `jax_debug_nans` does, finds the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.types import PyTree


class Known(NamedTuple):
    """A value that means nothing where `known` is False: a loss before the first gradient step, say."""

    value: Any
    known: Any  # bool, the first axes of the value's


@jax.tree_util.register_pytree_with_keys_class
class Readings(Mapping[str, jax.Array]):
    """Name -> value, each of which may be unknown; read by name, it is NaN then.

    A whole number has no NaN: it is always known, and 0 before it is anything. As leaves there are the
    values, with 0 for what is unknown, and one mask for all: on a GPU each output of a condition costs.

    Args:
      values: leaves [...], or with the same axes in front.
      known: bool[names], with those axes in front; names in alphabetical order.
    """

    def __init__(self, values: Mapping[str, Any], known: Any) -> None:
        self._values = {name: values[name] for name in sorted(values)}
        self.known = known

    @classmethod
    def of(cls, given: Mapping[str, Any], axes: tuple[int, ...] = ()) -> Readings:
        """From arrays and `Known`s.

        Args:
          axes: those that all of them have in front.
        """
        entries = {name: given[name] if isinstance(given[name], Known) else None for name in sorted(given)}
        values = {n: jnp.asarray(given[n]) if x is None else _or_zero(x) for n, x in entries.items()}
        known = [jnp.broadcast_to(True if x is None else x.known, axes) for x in entries.values()]
        return cls(values, jnp.stack(known, axis=-1) if known else np.zeros((*axes, 0), bool))

    @classmethod
    def unknown(cls, like: Readings, *axes: int) -> Readings:
        """Nothing is known yet.

        Args:
          like: readings, or their `jax.ShapeDtypeStruct`s.
          axes: more of them, in front.
        """
        values = {name: jnp.zeros((*axes, *x.shape), x.dtype) for name, x in like._values.items()}
        whole = np.array([not _has_nan(x) for x in values.values()], bool)
        return cls(values, jnp.broadcast_to(whole, (*axes, *like.known.shape)))

    def entry(self, name: str) -> Known:
        """One value and its mask."""
        return Known(self._values[name], self.known[..., list(self).index(name)])

    def entries(self) -> dict[str, Any]:
        """Each by its name, as `of` takes it: a whole number as it is, all else with its mask."""
        return {n: self.entry(n) if _has_nan(x) else x for n, x in self._values.items()}

    def updated(self, new: Readings) -> Readings:
        """These, with those of `new` in place of their own and besides."""
        return self._with({n: (new if n in new else self).entry(n) for n in sorted({*self, *new})})

    def scalars(self, prefix: str) -> Readings:
        """Those that are one number each, their names with `prefix` in front."""
        found = [name for name, x in self._values.items() if x.ndim == self.known.ndim - 1]
        return self._with({prefix + name: self.entry(name) for name in found})

    def where(self, wanted: jax.Array) -> Readings:
        """Those of the seeds wanted, bool[...] of all axes in front; of others nothing is known.

        All are floats then, as there has to be a NaN for each.
        """
        entries = {name: self.entry(name) for name in self}
        asked = {name: Known(x.value, x.known & wanted) for name, x in entries.items()}
        return Readings.of(asked, wanted.shape)

    def _with(self, entries: Mapping[str, Known]) -> Readings:
        masks = [entry.known for entry in entries.values()]
        known = jnp.stack(masks, axis=-1) if masks else self.known[..., :0]
        return Readings({name: entry.value for name, entry in entries.items()}, known)

    def __getitem__(self, name: str) -> jax.Array:
        return self._values[name] if isinstance(self.known, jax.ShapeDtypeStruct) else filled(self)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Readings({', '.join(self)})"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        keyed = [(jax.tree_util.DictKey(name), value) for name, value in self._values.items()]
        return [*keyed, (jax.tree_util.GetAttrKey("known"), self.known)], tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: Any) -> Readings:
        *values, known = leaves
        return cls(dict(zip(names, values, strict=True)), known)


def _has_nan(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _is_known(x: Any) -> bool:
    return isinstance(x, Known | Readings)


def _mask(entry: Known) -> Any:
    """The mask with the axes of the value."""
    return entry.known.reshape((*entry.known.shape, *[1] * (entry.value.ndim - entry.known.ndim)))


def _or_zero(entry: Known) -> jax.Array:
    """The value, 0 where it is unknown; of a whole number a float, which may be NaN."""
    value, known = map(jnp.asarray, entry)
    value = value if _has_nan(value) else value.astype(jnp.result_type(float))
    return jnp.where(_mask(Known(value, known)), value, jnp.zeros((), value.dtype))


def filled(tree: PyTree) -> PyTree:
    """The same with an array for each `Known` and a dict of arrays for each `Readings`, NaN for the unknown.

    It is for the host and for what users read: `jax_debug_nans` does not look at the NaNs made here.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_known)
    with jax.debug_nans(False):
        made = iter(_filled([x for x in leaves if _is_known(x)]))
    return jax.tree.unflatten(structure, [next(made) if _is_known(x) else x for x in leaves])


@partial(jax.jit, inline=True)
def _filled(found: list[Any]) -> list[Any]:
    def fill(x: Any) -> Any:
        if isinstance(x, Readings):
            return {name: fill(entry) for name, entry in x.entries().items()}
        if not isinstance(x, Known):
            return x
        return jnp.where(_mask(x), x.value, jnp.full((), jnp.nan, x.value.dtype))

    return [fill(x) for x in found]


def parted(like: PyTree, arrays: PyTree) -> PyTree:
    """What was `filled`, as it was before: the reverse, of NumPy arrays.

    Args:
      like: with a `Known` or a `Readings` where the result has one.
      arrays: what `filled` made of such a tree. A NaN counts as unknown.
    """

    def part(like: Any, x: Any) -> Any:
        if isinstance(like, Readings):
            axes = len(like.known.shape) - 1
            made = {name: _parted(x[name], axes) for name in like}
            masks = [entry.known for entry in made.values()]
            known = np.stack(masks, axis=-1) if masks else np.zeros(like.known.shape, bool)
            return Readings({name: entry.value for name, entry in made.items()}, known)
        return _parted(x, len(like.known.shape)) if isinstance(like, Known) else x

    return jax.tree.map(part, like, arrays, is_leaf=_is_known)


def _parted(x: Any, axes: int) -> Known:
    """An array and the mask of its first axes."""
    if not _has_nan(x):
        return Known(x, np.ones(x.shape[:axes], bool))
    known = ~np.isnan(x).all(axis=tuple(range(axes, x.ndim)))
    return Known(np.where(_mask(Known(x, known)), x, np.zeros((), x.dtype)), known)
