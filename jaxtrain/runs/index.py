"""Runs below a directory: what each is at, read from its files alone.

In: a path. Out: a row for each run. Knows nothing of JAX; a run that cannot be read has a row that says so.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import yaml as files
from jaxtrain.errors import ConfigError
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import manager
from jaxtrain.runs.lock import owner_of

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
    places = [Path(found) for found, _, names in os.walk(root) if rundir.RUN in names]
    return sorted(map(_row, places), key=lambda row: (row.started, str(row.path)))


def _row(path: Path) -> Row:
    try:
        about = rundir.read_about(path)
        start, seeds = about["starts"][-1], len(about["seeds"] or range(about["num_seeds"]))
        total = int(files.read(path / rundir.CONFIG)["total_env_steps"])
        checkpoint = max(manager.found(rundir.inside(path, rundir.CHECKPOINTS)), default=None)
        env_steps, last, of = _last(path / rundir.LOG)
        done = max(env_steps, checkpoint or 0)
        state = _state(path, start["exit"])
        return Row(path, seeds, state, done, total, last, of, checkpoint, start["started"])
    except (ConfigError, OSError, LookupError, TypeError, ValueError):
        return Row(path, 0, "unreadable", 0, 0, None, "", None, "")


def _state(path: Path, said: str | None) -> str:
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
    env_steps = max((row["env_steps"] for row in found), default=0)
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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # the first line of the tail, or one that is being written
        return None
