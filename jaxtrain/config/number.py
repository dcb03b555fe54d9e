"""How a number is read, as people write one in Python, in YAML and on a command line."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


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
