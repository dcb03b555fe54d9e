"""Append records to a text file: the record of a run, which the other sinks mirror.

In: `Record`s. Out: one JSON object a line.
Knows nothing of runs that are resumed: whoever resumes one cuts the file back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.paths import as_path
from jaxtrain.sinks.base import Closing, naming, number, reported
from jaxtrain.types import Record, RunInfo


class JsonLines(Closing):
    """Append `{"name", "update", "env_steps", "time", "values"}` to a file, one record a line.

    A value is a number for a single run and a list over the seeds otherwise; each reads back as the
    float32 that it was. In a list NaN is null; an infinity is the string "Infinity" or "-Infinity", so that
    the file is strict JSON and `numpy.array(value, float)` reads both.

    A line is in the file, whole, once `write` returns; between two writes no file is open. `open` creates
    the parent directory, and ends a line that was cut off, so that no row is glued to it. Methods raise
    OSError, naming the path; one raised by a full disk leaves no part of the line behind.

    Args:
      check: called before each line; raises if the file has become another's to write.
    """

    def __init__(self, path: str | Path, *, check: Callable[[], object] = lambda: None) -> None:
        self.path = as_path("path", path)
        self._check = check

    def open(self, run: RunInfo) -> None:
        self._check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # What cannot be written is known now.
        with naming(self.path), self.path.open("a+b", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a row that was cut off keeps a line of its own
                    file.write(b"\n")

    def write(self, record: Record) -> None:
        row = {
            "name": record.name,
            "update": record.update,
            "env_steps": record.env_steps,
            "time": dict(record.time),
            "values": {key: _plain(value) for key, value in reported(record).items()},
        }
        rest = json.dumps(row, allow_nan=False).encode() + b"\n"
        self._check()
        with naming(self.path), self.path.open("ab", buffering=0) as file:
            begin = file.tell()
            try:
                while rest:  # a nearly full disk takes a part first, and raises at the rest
                    rest = rest[file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(begin)
                raise

    def flush(self) -> None:
        pass

    def files(self) -> Sequence[Path]:
        """What it has appended to; see `jaxtrain.types.Sink`."""
        return [self.path]

    def close(self) -> None:
        pass


def _plain(value: np.ndarray) -> Any:
    rows = [entry(row) for row in value]
    return rows[0] if len(rows) == 1 else rows


def entry(value: Any) -> Any:
    """A number, or an array's, as JSON has it: null is NaN, and infinite ones are texts."""
    if np.ndim(value):
        return [entry(row) for row in value]
    if np.isfinite(value):
        return number(value)
    return None if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
