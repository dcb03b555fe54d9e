"""Runs below a directory: what each is at, read from its files alone.

In: a path. Out: a row for each run. Knows nothing of JAX; a run that cannot be read has a row that says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import yaml as files
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import manager
from jaxtrain.runs.lock import NAME, owner_of

_TAIL = 1 << 18  # bytes of a log's end in which the last metrics are looked for


@dataclass(frozen=True)
class Row:
    """One run."""

    path: Path
    seeds: int
    state: str  # running, finished, stopped, killed, failed, unreadable
    env_steps: int  # done, as far as the log goes
    total_env_steps: int
    last_return: float | None  # mean over seeds: of the last evaluation, or else of training
    return_of: str  # "evaluation" or "training"
    checkpoint: int | None  # env steps of the newest
    started: str

    @property
    def progress(self) -> float:
        return self.env_steps / self.total_env_steps if self.total_env_steps else 0.0


def rows(root: str | Path) -> list[Row]:
    """The runs in a directory and below it, by the time of their last start."""
    return sorted(map(_row, _places(root)), key=lambda row: (row.started, str(row.path)))


def _places(root: str | Path) -> Iterator[Path]:
    """The directories of runs, to any depth; links are not followed."""
    left = [str(root)]
    while left:
        place = left.pop()
        found: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(place) as entries:
            found = list(entries)
        left += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
        if any(entry.name == rundir.RUN for entry in found):
            yield Path(place)


def _row(path: Path) -> Row:
    try:
        about = rundir.read_about(path)
        start, seeds = about["starts"][-1], len(about["seeds"] or ()) or about["num_seeds"]
        total = _count(files.read(rundir.config_of(path))["total_env_steps"])
        checkpoint = max(manager.found(rundir.inside(path, rundir.CHECKPOINTS)), default=None)
        env_steps, last, of = _last(rundir.inside(path, rundir.LOG))
        done = max(env_steps, checkpoint or 0)
        state = _state(path, start["exit"])
        return Row(path, seeds, state, done, total, last, of, checkpoint, start["started"][:40])
    except Exception:  # whatever a stranger's files make of it: the others have their rows
        return Row(path, 0, "unreadable", 0, 0, None, "", None, "")


def _state(path: Path, said: str | None) -> str:
    rundir.inside(path, NAME)  # a pipe would block
    if owner_of(path) is not None:
        return "running"
    if said is None:
        return "killed"
    return said if said == "finished" else "stopped" if said.startswith("signal") else "failed"


def _last(log: Path) -> tuple[int, float | None, str]:
    """Env steps, return and of what, as the end of a log has them."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0, None, ""
    found = [row for row in map(_parsed, lines) if row]
    env_steps = max((_count(row["env_steps"]) for row in found), default=0)
    for of, event, metric in (
        ("evaluation", "evaluation", "return_mean"),
        ("training", "metrics", "rollout/return_mean"),
    ):
        returns = (row["values"].get(metric) for row in reversed(found) if row["name"] == event)
        given = (np.asarray(x, float) for x in returns if x is not None)  # None in a list is NaN
        last = next((x for x in map(manager.over_seeds, given) if x is not None), None)
        if last is not None:
            return env_steps, last, of
    return env_steps, None, ""


def _count(value: Any) -> int:
    """Env steps, of a size that a table has room for."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("no count of env steps")
    return value


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # the first line of the tail, or one that is being written
        return None
