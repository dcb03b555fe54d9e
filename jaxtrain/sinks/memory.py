"""Keep records in a list: for notebooks and tests.

In: `Record`s. Out: the same, less what there is nothing to report of.
Knows nothing of files.
"""

from __future__ import annotations

import dataclasses

from jaxtrain.sinks.base import Closing, reported
from jaxtrain.types import Record, RunInfo


class Memory(Closing):
    """Keep every record. `records` may be read while a run goes on; it grows with the run's marks."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.run: RunInfo | None = None  # the last one opened for

    def open(self, run: RunInfo) -> None:
        self.run = run

    def write(self, record: Record) -> None:
        # One append, which no reader in another thread can see half done.
        self.records.append(dataclasses.replace(record, values=reported(record)))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
