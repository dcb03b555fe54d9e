"""What the sinks share: how records become curves, and how a sink is closed.

In: `Record`s of NumPy arrays. Out: plain numbers by tag.

NaN means "nothing to report": a value that is NaN for every seed is left out by all of them.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from jaxtrain.errors import ConfigError, Named, Problem
from jaxtrain.types import Record, Sink

Seeds: TypeAlias = Literal["aggregate", "separate"]
_MAX_FLAT = 16  # entries of one array-valued metric that become a curve each


class Closing:
    """A sink that a `with` statement closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_ASCII = {"×": "x", "±": "+-", "…": "..."}  # in the place of signs that an encoding lacks; of others a code
REPLACING = "jaxtrain.replacing"  # for `errors` of a text file


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found), error.end


codecs.register_error(REPLACING, _replace)


def fitting(text: str, encoding: str | None) -> str:
    """The text, with other signs for those that an encoding lacks."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, REPLACING).decode(encoding)


@contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Give an `OSError` that names no file the name of this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


METHODS = ("open", "write", "flush", "close")


def checked(path: str, given: Any) -> list[Sink]:
    """The sinks that a run was given.

    Raises:
      ConfigError: no list, or one with what is no sink: a class or a name instead of an instance, or one that
        lacks a method.
    """
    if not isinstance(given, list | tuple):
        lacks = [name for name in METHODS if not hasattr(given, name)]
        rule = "needs a list of sinks" + ("" if lacks else f": [{Named.of(given)}(…)]")
        raise ConfigError([Problem(path, given if isinstance(given, str) else Named.of(given), rule)])
    found = [Problem(f"{path}.{i}", *fault) for i, sink in enumerate(given) if (fault := _fault(sink))]
    if found:
        raise ConfigError(found)
    return list(given)


def _fault(sink: Any) -> tuple[Any, str] | None:
    """How to show what is no sink, and what is wrong with it."""
    if isinstance(sink, str):
        return sink, "needs an instance; jaxtrain.sinks.make makes one from a name"
    if isinstance(sink, type):
        return Named.of(sink), f"needs an instance; this is a class: {sink.__name__}(…)"
    missing = [name for name in METHODS if not callable(getattr(sink, name, None))]
    if missing:
        return Named.of(sink), f"needs the methods {', '.join(METHODS)}; it lacks {', '.join(missing)}"
    return None


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{what} = {value!r}: needs one of {', '.join(choices)}")


def reported(record: Record) -> dict[str, np.ndarray]:
    """The values that say something: those that are not NaN for every seed."""
    return {key: value for key, value in record.values.items() if not np.isnan(value).all()}


def number(value: Any) -> int | float:
    """One entry of an array as a plain number, of the fewest digits that read back as the same entry."""
    return int(value) if np.issubdtype(value.dtype, np.integer) or value.dtype == bool else float(str(value))


def curves(record: Record, seed: int | None = None) -> Mapping[str, int | float]:
    """What a tool that draws curves is told of a record: one finite or infinite number per tag.

    A tag is the metric's name, after the event's unless that is "metrics". Small arrays become a tag per
    entry, large ones are left out. The metrics of all seeds carry `time/env_steps_per_second` as well.

    Args:
      record: values [S, ...].
      seed: one of the S, or None for all of them: the value itself where S is 1, else `tag/mean`,
        `tag/std` (of the population), `tag/min` and `tag/max` over the seeds whose entry is finite.
    """
    tags: dict[str, int | float] = {}
    for metric, value in reported(record).items():
        tag = metric if record.name == "metrics" else f"{record.name}/{metric}"
        flat = value.reshape(len(value), -1)
        if flat.shape[1] > _MAX_FLAT:
            continue
        for index, column in enumerate(flat.T):
            name = tag if value.ndim == 1 else f"{tag}/{index}"
            if seed is not None or len(column) == 1:
                if not np.isnan(column[seed or 0]):
                    tags[name] = number(column[seed or 0])
            elif np.isfinite(column).any():
                finite = column[np.isfinite(column)].astype(np.float64)
                tags[f"{name}/mean"], tags[f"{name}/std"] = float(finite.mean()), float(finite.std())
                tags[f"{name}/min"], tags[f"{name}/max"] = float(finite.min()), float(finite.max())
    if seed is None and record.name == "metrics" and "env_steps_per_second" in record.time:
        tags["time/env_steps_per_second"] = record.time["env_steps_per_second"]
    return tags


def non_finite(record: Record) -> str:
    """Of a record "non_finite": which seeds, which metrics, when."""
    seeds = sorted({int(s) for value in record.values.values() for s in value.nonzero()[0]})
    names = [name for name, value in record.values.items() if value.any()]
    return (
        f"not finite: {', '.join(names)} of seed {', '.join(map(str, seeds))} "
        f"at update {record.update} ({record.env_steps:,} env steps)"
    )
