"""Containers of a config that are pytrees: named values, and lists of parts.

In: what YAML or Python gives. Out: immutable containers in which floats are leaves and all else is static.
Knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from jaxtrain.reading import as_number, is_array

_LEAF = object()


@jax.tree_util.register_pytree_with_keys_class
class Params(Mapping[str, Any]):
    """Free-form named values: floats and arrays are leaves, nested mappings too, all else is static.

    A list with a float in it is a list of floats; text such as `3e-4`, which YAML 1.1 takes for no
    number, is a float.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = {str(k): _freeze(v) for k, v in (values or {}).items()}
        # Named here for good: what JAX puts in place of a leaf (an axis, a flag) is one as well.
        self._leaves = frozenset(k for k, v in self._values.items() if not _static(v))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.DictKey(k), v) for k, v in self._values.items() if k in self._leaves]
        return keyed, tuple((k, _LEAF if k in self._leaves else v) for k, v in self._values.items())

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: Iterable[Any]) -> Params:
        self, children = object.__new__(cls), iter(children)
        self._values = {k: next(children) if v is _LEAF else v for k, v in aux}
        self._leaves = frozenset(k for k, v in aux if v is _LEAF)
        return self


@jax.tree_util.register_pytree_with_keys_class
class Items(tuple[Any, ...]):
    """A tuple whose pytrees are subtrees and whose other members, objects from Python, are static."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        static = [jax.tree_util.all_leaves([item]) for item in self]
        keyed = [(jax.tree_util.SequenceKey(i), item) for i, item in enumerate(self) if not static[i]]
        return keyed, tuple(item if static[i] else _LEAF for i, item in enumerate(self))

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: Iterable[Any]) -> Items:
        children = iter(children)
        return cls(next(children) if item is _LEAF else item for item in aux)


def _static(value: Any) -> bool:
    if isinstance(value, tuple):
        return not value or not all(isinstance(v, float | Params) or is_array(v) for v in value)
    return not (isinstance(value, float | Params) or is_array(value))


def _freeze(value: Any) -> Any:
    """What YAML gives, made immutable."""
    if isinstance(value, Mapping):
        return Params(value)
    if isinstance(value, list | tuple):
        numbers = [as_number(v) for v in value]
        if None not in numbers and any(_is_float(v) for v in value):
            return tuple(float(v) for v in numbers if v is not None)
        return tuple(_freeze(v) for v in value)
    return float(value) if _is_float(value) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, float | str) and isinstance(as_number(value), float)
