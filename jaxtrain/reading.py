"""Reading what people write: numbers, mappings, and what is wrong with them.

In: values from YAML, a command line or Python. Out: plain numbers and objects, or one error with a line
for every fault: path, value, rule.
Knows nothing of fields and of configs.
"""

from __future__ import annotations

import dataclasses
import difflib
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

MISSING: Any = dataclasses.MISSING


class Problem(NamedTuple):
    """One fault: where, what stands there, and what would work."""

    path: str
    value: Any
    rule: str

    def __str__(self) -> str:
        shown = "" if self.value is MISSING else f" = {self.value!r}"
        return " ".join(line.strip() for line in f"{self.path}{shown}: {self.rule}".splitlines())


class ConfigError(ValueError):
    """A config that cannot be run. `problems` holds every fault; the message has a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def under(self, path: str) -> list[Problem]:
        """The same faults, seen from one level further up."""
        return [p._replace(path=f"{path}.{p.path}" if p.path else path) for p in self.problems]


class Fault(Exception):
    """Raised by a field's `read`: the rule that a value breaks."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; the nearest known is 'x'`, or a short list of what is known where nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; the nearest known is {close[0]!r}"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""


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


def is_number(value: Any) -> bool:
    """A finite number, or text that reads as one."""
    return as_number(value) is not None


def as_float(value: Any) -> float | None:
    """`as_number` as a float; None for an int that no float reaches."""
    number = as_number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:  # an int beyond 1.8e308
        return None


def from_mapping(cls: type[T], value: Any) -> T:
    """Build `cls` from a mapping; an instance of it passes as it is. Every fault is in one error."""
    if isinstance(value, cls):
        return value
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise ConfigError([Problem("", value, f"needs a mapping of {', '.join(names)}")])
    unknown = [str(key) for key in value if key not in names]
    problems = [Problem(key, MISSING, "unknown key" + nearest(key, names)) for key in unknown]
    try:
        made = cls(**{key: v for key, v in value.items() if key in names})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return made


def from_list(cls: type[Any], value: Any) -> list[Any]:
    """Build a `cls` of every mapping in a list; other members pass as they are."""
    if not isinstance(value, list | tuple):
        raise Fault("needs a list")
    made: list[Any] = []
    problems: list[Problem] = []
    for i, item in enumerate(value):
        try:
            made.append(from_mapping(cls, item) if isinstance(item, Mapping) else item)
        except ConfigError as error:
            problems += error.under(str(i))
    if problems:
        raise ConfigError(problems)
    return made
