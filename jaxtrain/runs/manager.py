"""Advance a run in chunks; between two of them save, answer signals, and look whether all is well.

In: compiled programs, a state, a checkpoints. Out: the state at the end, or where a signal stopped it.
Knows nothing of directories or configs on disk: `launch.py` sets all of it up.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config.schema import AUTO, BEST, NONE, CheckpointConfig, Config
from jaxtrain.errors import ConfigError, Problem, nearest
from jaxtrain.loop.trainer import Trainer
from jaxtrain.runs import checkpoint, disk
from jaxtrain.runs.checkpoint import Damaged, Gone
from jaxtrain.schedule import every, finish

_log = logging.getLogger("jaxtrain")


@dataclass(frozen=True)
class PendingSave:
    """A checkpoint that is to be saved; what takes time is asked for by the thread that saves it."""

    env_steps: int
    arrays: Callable[[], Mapping[str, np.ndarray]]  # name -> array, on the host
    lengths: Callable[[], Mapping[Path, int]]  # see `Dispatcher.mark`
    facts: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]  # for the manifest, from the arrays
    needed: Path | None  # the log without which there must be no checkpoint: rows would be missing for ever
    in_place: frozenset[str] = frozenset()  # names of what is `tree.InPlace`, which may hold what was dropped


def found(directory: Path) -> dict[int, Path]:
    """The checkpoints in `checkpoints/` by env steps, oldest first; whether they are whole is not known.

    A number that is written otherwise than `place` writes it is a copy that somebody made, and no checkpoint.
    """
    try:
        names = [p for p in directory.iterdir() if p.name.isdecimal()]
    except FileNotFoundError:
        return {}
    return dict(sorted((int(p.name), p) for p in names if p == place(directory, int(p.name))))


def place(directory: Path, env_steps: int) -> Path:
    """Where the checkpoint of that many env steps is; names sort as numbers do."""
    return directory / f"{env_steps:013d}"


def manifests(directory: Path) -> dict[int, dict[str, Any]]:
    """What the readable checkpoints say of themselves, by env steps, oldest first."""
    said: dict[int, dict[str, Any]] = {}
    for env_steps, path in found(directory).items():
        try:
            said[env_steps] = checkpoint.read_manifest(path)
        except Damaged:
            continue
    return said


def over_seeds(values: Any) -> float | None:
    """What seeds are worth together: the mean of those that have a finite value; None if none has."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def best(said: Mapping[int, Mapping[str, Any]], metric: str | None, mode: str) -> int | None:
    """Env steps of the checkpoint whose metric is best, the newest of equals; NaN is never best."""
    sign = 1.0 if mode == "max" else -1.0
    values = {
        env_steps: sign * manifest["best"]["value"]
        for env_steps, manifest in said.items()
        if manifest["best"] and manifest["best"]["metric"] == metric and manifest["best"]["value"] is not None
    }
    values = {n: v for n, v in values.items() if not math.isnan(v)}
    return max(values, key=lambda n: (values[n], n), default=None)


def kept(said: Mapping[int, Mapping[str, Any]], settings: CheckpointConfig, metric: str | None) -> set[int]:
    """Env steps of the checkpoints that stay; never fewer than the newest, the best and the last finite."""
    newest = sorted(said)
    stay = set(newest[-settings.keep_last :])
    stay |= {n for n in [best(said, metric, settings.best_mode)] if n is not None}
    stay |= set([n for n in newest if said[n]["finite"]][-1:])
    if settings.keep_every:
        stay |= _first_of_each({n: n // settings.keep_every for n in newest})
    if settings.keep_every_minutes:
        seconds = 60 * settings.keep_every_minutes
        stay |= _first_of_each({n: int(said[n]["elapsed_seconds"] // seconds) for n in newest})
    return stay


def _first_of_each(interval: Mapping[int, int]) -> set[int]:
    """The first at or behind each multiple, of checkpoints in order and the interval that each is in."""
    first: dict[int, int] = {}
    for n, i in interval.items():
        first.setdefault(i, n)
    return {n for i, n in first.items() if i}


def newest_good(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[Path, str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one.

    In the directory of a run that goes on, one that is deleted meanwhile is looked past, to newer ones.

    Raises:
      Damaged: none is whole; says what is wrong with each.
      FileNotFoundError: there is none at all.
    """
    bad: dict[Path, str] = {}
    there = list(found(directory).values())
    while there:
        path = there.pop()
        try:
            arrays, manifest = checkpoint.load(path)
            if place(directory, manifest["env_steps"]) != path:
                raise Damaged(f"manifest.json is of {manifest['env_steps']} env steps")
            return arrays, manifest, bad
        except Gone:
            there = [newer for newer in found(directory).values() if newer not in bad]
        except Damaged as error:
            bad[path] = str(error)
    if not bad:
        raise FileNotFoundError(directory)
    raise Damaged("; ".join(f"{path.name}: {why}" for path, why in bad.items()))


def set_aside(path: Path) -> Path:
    """Rename a checkpoint that is not to be resumed from; nothing in it is deleted."""
    number = 0
    while os.path.lexists(aside := path.with_name(f"{path.name}.set-aside{f'-{number}' if number else ''}")):
        number += 1
    os.rename(path, aside)
    return aside


class CheckpointManager:
    """Saves checkpoints in a thread of its own, one after the other, while training goes on.

    Args:
      run: the run's directory; logs in it are named relative to it.
      settings: what stays.
      metric: whose best stays, or None.
      earlier: lengths of the logs of earlier processes, by name.
      check: called before anything is written, renamed or deleted; raises if the directory is another's.
    """

    def __init__(
        self,
        run: Path,
        settings: CheckpointConfig,
        metric: str | None,
        earlier: Mapping[str, int],
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._earlier = dict(earlier)
        self.directory = run / "checkpoints"
        self.directory.mkdir(exist_ok=True)
        disk.fsync_name(self.directory)
        self._run, self._settings, self._metric, self._check = run, settings, metric, check
        self._pool = ThreadPoolExecutor(1, "jaxtrain-checkpoint")
        self._job: Future[None] | None = None
        self._stuck: set[Path] = set()  # what could not be deleted at the last save
        self.last: Path | None = None  # the newest that is on disk
        self.written: list[float] = []  # seconds that each took to be on disk

    def submit(self, draft: PendingSave) -> None:
        """Begin to save; waits for the one before, and raises what went wrong with it."""
        self.wait()
        self._job = self._pool.submit(self._commit, draft)

    def check(self) -> None:
        """Raise what went wrong with a save that has ended; waits for none."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Return once nothing is left to save.

        Raises:
          OSError: naming the path and the errno, if it could not be saved.
        """
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """End the thread, after what it is at."""
        self._pool.shutdown(wait=True)

    def _commit(self, draft: PendingSave) -> None:
        begun = time.perf_counter()
        logs = dict(self._earlier)
        for path, size in draft.lengths().items():
            if (path := path.resolve()).is_relative_to(self._run):
                disk.fsync(path)
                disk.fsync_name(path, self._run)
                logs[path.relative_to(self._run).as_posix()] = size
        if draft.needed is not None and draft.needed.relative_to(self._run).as_posix() not in logs:
            return  # its sink has failed: the run ends at the next boundary, with that error
        on_host = draft.arrays()
        self._check()
        target = place(self.directory, draft.env_steps)
        manifest = {**draft.facts(on_host), "finite": _finite(on_host, draft.in_place), "logs": logs}
        # What the first one shows, that orbax can read here what it writes here, holds for the later ones.
        checkpoint.save(target, on_host, manifest, read_back=self.last is None, check=self._check)
        self.last = target
        said = manifests(self.directory)
        self._check()
        self._delete(said.keys() - kept(said, self._settings, self._metric))
        self.written.append(time.perf_counter() - begun)

    def _delete(self, doomed: Iterable[int]) -> None:
        """Delete checkpoints, and what could not be at the save before: that costs space and no more."""
        stuck: dict[Path, str] = {}
        for env_steps in doomed:
            path = place(self.directory, env_steps)
            try:
                # Under another name first: what is half deleted must not look like a checkpoint.
                os.rename(path, self.directory / f"{disk.PART}{env_steps}")
            except OSError as error:
                stuck[path] = str(error)
        stuck |= disk.sweep(self.directory)
        for path, why in stuck.items():
            if path not in self._stuck:
                _log.warning("%s cannot be deleted, which is tried again at each save: %s", path, why)
        self._stuck = set(stuck)


def _finite(arrays: Mapping[str, np.ndarray], in_place: frozenset[str]) -> bool:
    """Whether the agents hold neither NaN nor infinity; elsewhere in a state NaN means "not known yet"."""
    agents = [x for name, x in arrays.items() if name.startswith("state.agent") and name not in in_place]
    return all(bool(np.isfinite(x).all()) for x in agents if x.dtype.kind in "fc" or "float" in x.dtype.name)


def best_metric(trainer: Trainer) -> str | None:
    """The metric whose best checkpoint stays; None for none."""
    config: Config = trainer.config
    if config.checkpoint.best == AUTO:
        return BEST if config.interval("evaluation") else None
    return None if config.checkpoint.best == NONE else config.checkpoint.best


def check_metric(metric: str | None, metrics: Mapping[str, Any]) -> None:
    """Raise a ConfigError if `checkpoint.best` names a metric that the run has not."""
    if metric is not None and metric not in metrics:
        rule = "no such metric" + nearest(metric, metrics)
        raise ConfigError([Problem("checkpoint.best", metric, rule)])


def minutes(settings: CheckpointConfig) -> int | None:
    """How old the last checkpoint may become; None for any age."""
    return min((m for m in (settings.every_minutes, settings.keep_every_minutes) if m), default=None)


def due(trainer: Trainer) -> set[int]:
    """The updates after which a checkpoint is due; there is one before the first, too."""
    per, updates = trainer.env_steps_per_update, trainer.num_updates
    schedule = finish()
    for interval in (trainer.config.interval("checkpoint"), trainer.config.checkpoint.keep_every):
        if 0 < interval <= per * updates:
            schedule |= every(interval)
    return set(schedule.updates(per, updates))
