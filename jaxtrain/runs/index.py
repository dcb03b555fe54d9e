"""Runs below a directory: what each is at, read from its files alone.

In: a path. Out: a row for each run. Knows nothing of JAX; a run that cannot be read has a row that says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import yaml as files
from jaxtrain.errors import ConfigError, Problem
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import facts, log, manager
from jaxtrain.runs.lock import NAME, owner_of

_TAIL = 1 << 18  # bytes of a log's end in which the env steps done are looked for


@dataclass(frozen=True)
class Row:
    """One run."""

    path: Path
    seeds: int
    state: str  # running, finished, stopped, killed, failed, unreadable
    env_steps: int  # done, as far as the log goes
    total_env_steps: int
    last_return: float | None  # mean over seeds: of the last evaluation, or else of training
    best_return: float | None  # the best such mean that the log has
    return_of: str  # "evaluation" or "training"
    checkpoint: int | None  # env steps of the newest
    started: str
    differs: Mapping[str, Any] = field(default_factory=dict)  # the fields that the runs do not share
    label: str = ""  # the first of these, in a few words

    @property
    def progress(self) -> float:
        return self.env_steps / self.total_env_steps if self.total_env_steps else 0.0


# How rows may be sorted; of returns the greatest come first, and runs without one last.
SORTS: Mapping[str, Callable[[Row], Any]] = {
    "started": lambda row: row.started,
    "path": lambda row: str(row.path),
    "state": lambda row: row.state,
    "seeds": lambda row: row.seeds,
    "env_steps": lambda row: row.env_steps,
    "last": lambda row: -np.inf if row.last_return is None else row.last_return,
    "best": lambda row: -np.inf if row.best_return is None else row.best_return,
}


def rows(root: str | Path, sort: str = "started") -> list[Row]:
    """The runs in a directory and below it, by one of `SORTS`: by the time of their last start.

    Raises:
      ConfigError: there is no such sort.
    """
    if sort not in SORTS:
        raise ConfigError([Problem("sort", sort, f"needs one of {', '.join(SORTS)}")])
    found = [_row(path) for path in places(root)]
    paths = facts.differing([asked for _, asked in found if asked])
    labels = iter(facts.labels([asked for _, asked in found if asked]))
    said = [
        replace(row, differs={p: asked[p] for p in paths if p in asked}, label=next(labels)) if asked else row
        for row, asked in found
    ]
    said.sort(key=lambda row: (row.started, str(row.path)))
    return sorted(said, key=SORTS[sort], reverse=sort in ("last", "best"))


def places(root: str | Path) -> Iterator[Path]:
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


def _row(path: Path) -> tuple[Row, facts.Facts]:
    """A row, without what differs, and the fields of the run; none of one that cannot be read."""
    try:
        about = rundir.read_about(path)
        start, seeds = about["starts"][-1], len(about["seeds"] or ()) or about["num_seeds"]
        config = files.read(rundir.config_of(path))
        total = _count(config["total_env_steps"])
        checkpoint = max(manager.found(rundir.inside(path, rundir.CHECKPOINTS)), default=None)
        place = rundir.inside(path, rundir.LOG)
        returns, of = _returns(place)
        done = max(_done(place), checkpoint or 0)
        last, best = (returns[-1], max(returns)) if returns else (None, None)
        state, started = state_of(path, about), start["started"][:40]
        asked = facts.of_config(config) | facts.of_run(about)
        return Row(path, seeds, state, done, total, last, best, of, checkpoint, started), asked
    except Exception:  # whatever a stranger's files make of it: the others have their rows
        return Row(path, 0, "unreadable", 0, 0, None, None, "", None, ""), {}


def state_of(path: Path, about: Mapping[str, Any]) -> str:
    """What became of a run: running, finished, stopped, killed or failed.

    Args:
      about: what its `run.json` says.

    Raises:
      ConfigError: its lock is none, or leads out of it.
    """
    rundir.inside(path, NAME)  # a pipe would block
    said = about["starts"][-1].get("exit") if about["starts"] else None
    if owner_of(path) is not None:
        return "running"
    if said is None:
        return "killed"
    return said if said == "finished" else "stopped" if said.startswith("signal") else "failed"


def _done(place: Path) -> int:
    """Env steps as the end of a log has them."""
    try:
        with place.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    return max((_count(row["env_steps"]) for row in map(_parsed, lines) if row), default=0)


def _returns(place: Path) -> tuple[list[float], str]:
    """The mean return over seeds of each evaluation, or else of training, and of which it is."""
    for of, event, metric in (
        ("evaluation", "evaluation", "return_mean"),
        ("training", "metrics", "rollout/return_mean"),
    ):
        with suppress(FileNotFoundError):
            given = (row["values"].get(metric) for _, row in log.rows(place, event) if row is not None)
            means = (manager.over_seeds(np.asarray(x, float)) for x in given if x is not None)
            if found := [x for x in means if x is not None]:  # None in a list is NaN
                return found, of
    return [], ""


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
