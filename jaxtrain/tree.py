"""What is done to any pytree of arrays, of one seed or of many.

In: pytrees. Out: pytrees: choices by seed, comparisons of structure, many arrays as a few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtrain.errors import ContractError
from jaxtrain.types import PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InPlace:
    """A big array, or a tree of them, that is written a block at a time and never as a whole.

    A choice between an old and a new one would read and write all of it, in every update. So `where` passes
    the new one on, and `not_finite` does not look at it: whoever writes a block sees to it that a stopped
    seed writes nowhere, and knows by other means which blocks count. What says so lies beside it, in a node
    of its own: a run that begins from the agent of another makes the whole node anew.
    """

    value: PyTree


def _in_place(x: Any) -> bool:
    return isinstance(x, InPlace)


def where(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Choose by `condition`, whose axes are the first of every leaf; of an `InPlace` always `on_true`."""

    def pick(x: Any, y: Any) -> Any:
        if x is y or _in_place(x) or x.ndim < condition.ndim:  # the clock
            return x
        return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

    return jax.tree.map(pick, on_true, on_false, is_leaf=_in_place)


def lead(x: Any, like: Any) -> jax.Array:
    """`x` with axes of one entry in front, until it has as many as `like`."""
    return jnp.reshape(x, (*[1] * (jnp.ndim(like) - jnp.ndim(x)), *jnp.shape(x)))


def inexact(x: Any) -> bool:
    """Whether the dtype has NaN and infinities."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def in_place(tree: PyTree) -> list[Any]:
    """The leaves of every `InPlace`."""
    leaves = jax.tree.leaves(tree, is_leaf=_in_place)
    return jax.tree.leaves([x for x in leaves if _in_place(x)])


def is_in_place(tree: PyTree) -> list[bool]:
    """For each leaf whether it is in an `InPlace`."""
    leaves = jax.tree.leaves(tree, is_leaf=_in_place)
    return [_in_place(x) for x in leaves for _ in jax.tree.leaves(x)]


def watched(tree: PyTree) -> list[Any]:
    """The leaves, without those of an `InPlace`."""
    return [x for x in jax.tree.leaves(tree, is_leaf=_in_place) if not _in_place(x)]


def not_finite(tree: PyTree, axes: int = 0) -> jax.Array:
    """Whether something in a tree, less what is `InPlace`, is NaN or infinite: bool[], or by first axes."""
    leaves = [x for x in watched(tree) if inexact(x)]
    shape = leaves[0].shape[:axes] if leaves else ()
    found = jnp.zeros(shape, bool)
    for x in leaves:
        found |= ~jnp.isfinite(x).all(axis=tuple(range(axes, x.ndim)))
    return found


def same_tree(what: str, old: PyTree, new: PyTree) -> PyTree:
    """`new`, if it has the structure, shapes and dtypes of `old`.

    Raises:
      ContractError: while tracing, naming what made it and the first leaf that differs.
    """
    old_leaves, new_leaves = jax.tree.leaves_with_path(old), jax.tree.leaves_with_path(new)
    if jax.tree.structure(old) != jax.tree.structure(new):
        was, now = ([jax.tree_util.keystr(p) for p, _ in x] for x in (old_leaves, new_leaves))
        said = [
            _some("lacks", [n for n in was if n not in now]),
            _some("has", [n for n in now if n not in was]),
        ]
        differing = "; ".join(filter(None, said)) or "its containers differ"
        raise ContractError(f"{what} is another tree than before: {differing}")
    made: list[Any] = []
    for (path, x), (_, y) in zip(old_leaves, new_leaves, strict=True):
        x, y = jnp.asarray(x), jnp.asarray(y)
        fits = x.dtype == y.dtype or (y.weak_type and jnp.result_type(x, y) == x.dtype)
        if x.shape != y.shape or not fits:
            was, now = (f"{leaf.dtype}{list(leaf.shape)}" for leaf in (x, y))
            raise ContractError(f"{what}: {jax.tree_util.keystr(path)} was {was}, is {now}")
        made.append(y.astype(x.dtype) if y.dtype != x.dtype else y)
    return jax.tree.unflatten(jax.tree.structure(old), made)


def _some(verb: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{verb} {', '.join(names[:3])}{more}" if names else ""


@jax.custom_batching.custom_vmap
def _any(x: jax.Array) -> jax.Array:
    return jnp.any(x)


@_any.def_vmap
def _any_rule(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return _any(x), False


def any_over_seeds(x: jax.Array) -> jax.Array:
    """Whether `x` holds anywhere, for any seed of the surrounding `vmap`s: bool[], never batched.

    A condition on data becomes a `select` under `vmap`, both branches run. Where it only saves work,
    asking it of all seeds keeps it a `cond`.
    """
    return _any(lax.stop_gradient(x))


@jax.custom_batching.custom_vmap
def nonbatchable(x: jax.Array) -> jax.Array:
    """`x`, which must not differ between seeds: a condition on it would become a `select`, both branches run.

    Raises:
      TypeError: while tracing, if a `vmap` has made it one for each seed.
    """
    return x


@nonbatchable.def_vmap
def _nonbatchable_rule(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size
    if in_batched[0]:
        raise TypeError("a condition of the loop differs between seeds: it has to be one of all of them")
    return x, False


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, traced once for all arguments of one form: JAX keeps what it has traced of a jitted one."""
    jitted = jax.jit(function, inline=True)

    def call(*args: Any) -> Any:
        # In the rule of a `custom_vmap` an empty mesh stands for none: all would be traced again.
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return jitted(*args)

    return call


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
            groups.setdefault(("alone", i) if alone else min(dtype.itemsize, 4), []).append(i)
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
                end = begin + math.prod(shape) * dtype.itemsize // words.itemsize
                found[i] = words[begin:end].view(dtype).reshape(shape)
                begin = end
        return [found[i] for i in range(len(self._like))]


def _words(x: jax.Array, width: int) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)  # which `bitcast_convert_type` does not take
    # Of 64 bits two words: the thread that a program calls on the host may know of 32 alone.
    return lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width])
