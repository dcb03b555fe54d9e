"""How a number is read: of a config as people write one, in YAML too; an argument as the int that it is."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxtrain.errors import ConfigError, Problem

LARGEST = 2**32 - 1  # of a seed: `jax.random.key` cuts off what is above it


def is_array(value: Any) -> bool:
    """Of JAX or NumPy, NumPy scalars among them."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def as_number(value: Any) -> float | int | None:
    """A finite number, also as people write one in YAML or on a command line; else None."""
    if is_array(value) and np.ndim(value) == 0 and not isinstance(value, Tracer):
        value = value.item()
    if isinstance(value, str):
        for kind in (int, float):
            try:
                value = kind(value)
                break
            except ValueError:
                continue
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if np.isfinite(float(value)) else None


def as_float(value: Any) -> float | None:
    """`as_number` as a float; None for an int that no float reaches."""
    number = as_number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:  # an int beyond 1.8e308
        return None


def same(a: Any, b: Any) -> bool:
    """Whether two values of a field are equal: arrays of one shape by their entries, tracers by identity."""
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if not (is_array(a) or is_array(b)):
        return bool(a == b)
    if isinstance(a, Tracer) or isinstance(b, Tracer) or a is None or b is None:
        return False
    return np.shape(a) == np.shape(b) and bool(np.all(a == b))


def whole(name: str, value: Any, *, low: int = 0, high: int = LARGEST) -> int:
    """An argument that is an int, Python's or NumPy's, from `low` to `high`: a seed, or from 1 a count.

    Raises:
      ConfigError: it is anything else, a bool, a float or text; names the argument.
    """
    found = as_int(value)
    if found is None or not low <= found <= high:
        raise ConfigError([Problem(name, value, f"needs an int >= {low} and <= {high}")])
    return found


def wholes(name: str, value: Any) -> tuple[int, ...]:
    """An argument that is one or more different ints, each as `whole` takes it.

    Raises:
      ConfigError: it is anything else; names the argument.
    """
    given = None if isinstance(value, str) or not isinstance(value, Iterable) else list(value)  # type: ignore
    found = [x for x in map(as_int, given or ()) if x is not None and 0 <= x <= LARGEST]
    if not given or len(set(found)) < len(given):
        rule = f"needs different ints >= 0 and <= {LARGEST}"
        raise ConfigError([Problem(name, value if given is None else given, rule)])
    return tuple(found)


def as_int(value: Any) -> int | None:
    """The int that a value is, Python's or NumPy's; None for anything else, a bool or a whole float too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
