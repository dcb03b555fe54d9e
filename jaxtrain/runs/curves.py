"""What a run has logged, read from its files alone: running, damaged, of another version or a stranger's.

In: directories. Out: curves of every metric, marks of events, what the run was asked for, and a sentence on
each part that could not be read. Nothing of a run is executed or changed, and no module that it names is
imported. Knows nothing of what is drawn or compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import yaml as files
from jaxtrain.errors import MISSING, ConfigError, Problem, nearest, shortened
from jaxtrain.paths import as_path
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import facts, index, log

EVALUATION, TRAINING = "evaluation/return_mean", "rollout/return_mean"
DEFAULT = f"default {EVALUATION}, or else {TRAINING}"  # of `with_metric`, in words
_GREATEST = np.finfo(np.float32).max  # as runs log float32; sums of what is beyond overflow
_CURVES = ("metrics", "evaluation")  # records that are curves, and no marks on an axis


class Curve(NamedTuple):
    """A metric over a run: N records, S seeds."""

    env_steps: np.ndarray  # i64[N], of one seed, rising
    seconds: np.ndarray  # f64[N], of wall time since the first update, NaN where the log has none
    values: np.ndarray  # f64[N, S], NaN where a seed has no finite one

    def last(self) -> np.ndarray:
        """The last value of each seed, f64[S]: one that has stopped stays as it was. NaN if it has none."""
        return carried(self.values)[-1]


def carried(values: np.ndarray) -> np.ndarray:
    """The value of each seed at each record, or else at the one before, [N, S]; NaN before its first."""
    rows = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    newest = np.maximum.accumulate(rows, axis=0)
    return np.where(newest < 0, np.nan, np.take_along_axis(values, np.maximum(newest, 0), axis=0))


@dataclass(frozen=True)
class Logged:
    """What a run has on disk, as far as it can be read."""

    path: Path
    seeds: int = 1
    state: str = "unreadable"  # as `jaxtrain runs` has it
    facts: facts.Facts = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    events: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> env steps, i64[K]
    seconds: float | None = None  # of wall time, without compilation
    speed: float | None = None  # env steps a second of all seeds together: the median of what was logged
    problems: tuple[str, ...] = ()  # what could not be read

    @property
    def name(self) -> str:
        """What it is called: the last part of its path."""
        return self.path.name or str(self.path)


def read(runs: str | Path | Iterable[str | Path]) -> list[Logged]:
    """Every run that is named, or below a directory that is named; each once.

    Raises:
      ConfigError: a directory that is none, or that has no run in it.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    if not given:
        raise ConfigError([Problem("runs", MISSING, "needs the directory of a run, or of several")])
    found: dict[Path, Path] = {}
    for place in (as_path("run", one) for one in given):
        here = [place] if (place / rundir.RUN).exists() else sorted(index.places(place))
        if not here:
            rundir.read_about(place)  # says what is missing
        found |= {path.resolve(): path for path in here if path.resolve() not in found}
    return [_read(path) for path in found.values()]


def _read(path: Path) -> Logged:
    problems: list[str] = []
    about = _or_none(lambda: rundir.read_about(path), problems)
    config = _or_none(lambda: files.read(rundir.config_of(path)), problems)
    state = _or_none(lambda: index.state_of(path, about), problems) if about else None
    rows = _or_none(lambda: _rows(rundir.inside(path, rundir.LOG), problems), problems) or []
    seeds = (len(about["seeds"] or ()) or about["num_seeds"]) if about else _seeds_of(rows)
    asked = (facts.of_config(config) if config else {}) | (facts.of_run(about) if about else {})
    known = {"seeds": seeds, "state": state or "unreadable", "facts": asked}
    return Logged(path, problems=tuple(problems), **known, **_measured(rows, seeds))


def _or_none(part: Callable[[], Any], problems: list[str]) -> Any:
    """A part of a run; None for one that cannot be read, and a sentence more in `problems`."""
    try:
        return part()
    except ConfigError as error:
        problems += [_sentence(problem) for problem in error.problems]
    except OSError as error:
        problems.append(f"{rundir.LOG} cannot be read ({error.strerror}): needs the sink jsonlines")
    return None


def _sentence(problem: Problem) -> str:
    """A problem without the run's directory in front; one of a file in it begins with that."""
    of_file = not problem.path.startswith("directory ")
    return shortened(f"{Path(problem.path).name} {problem.rule}" if of_file else problem.rule)


def _rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The records of a log; what is amiss with it becomes a sentence more in `problems`."""
    found: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, row in log.rows(path):
        if row is None:
            bad.append(number)
        else:
            row["values"] = {name: x for name, x in map(_as_array, row["values"].items()) if x is not None}
            found.append(row)
    if path.stat().st_size > log.MOST:
        problems.append(f"{rundir.LOG}: of its bytes the first {log.MOST:,} are read")
    if bad:
        few = ", ".join(map(str, bad[:3])) + (" …" if len(bad) > 3 else "")
        problems.append(f"{rundir.LOG}: {len(bad):,} of its lines are no records ({few})")
    return found


def _as_array(item: tuple[str, Any]) -> tuple[str, np.ndarray | None]:
    name, value = item
    try:
        of_all = np.array(value, float)  # null is NaN, and "Infinity" infinite
    except (TypeError, ValueError, OverflowError):
        return name, None
    return name, np.where(np.abs(of_all) <= _GREATEST, of_all, np.nan)


def _seeds_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many seeds a log has whose run does not say it: as many as its first value has entries."""
    first = next((value for row in rows for value in row["values"].values()), np.zeros(()))
    return len(first) if first.ndim else 1


def _measured(rows: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """Curves, events and times of a log."""
    shape = () if seeds == 1 else (seeds,)
    points: dict[str, dict[int, tuple[float, np.ndarray]]] = {}
    marks: dict[str, list[int]] = {}
    for row in rows:
        at, elapsed = row["env_steps"], _seconds(row, "elapsed_seconds")
        if row["name"] not in _CURVES:
            marks.setdefault(row["name"], []).append(at)
        for name, value in row["values"].items():
            tag = name if row["name"] == "metrics" else f"{row['name']}/{name}"
            if value.shape == shape:
                points.setdefault(tag, {})[at] = elapsed, value.reshape(seeds)
    found = {tag: sorted(x.items(), key=lambda item: item[0]) for tag, x in points.items()}
    times = [x for x in (_seconds(row, "elapsed_seconds") for row in rows) if not np.isnan(x)]
    speeds = [x for x in (_seconds(row, "env_steps_per_second") for row in rows) if not np.isnan(x)]
    return {
        "curves": {
            tag: Curve(
                np.array([at for at, _ in x], np.int64),
                np.array([seconds for _, (seconds, _) in x]),
                np.stack([values for _, (_, values) in x]),
            )
            for tag, x in found.items()
        },
        "events": {name: np.unique(np.array(at, np.int64)) for name, at in marks.items()},
        "seconds": max(times, default=None),
        "speed": float(np.median(speeds)) if speeds else None,
    }


def _seconds(row: Mapping[str, Any], name: str) -> float:
    """A time of a record, NaN where it has none that is a finite number."""
    value = row["time"].get(name)
    try:
        found = float(value) if type(value) in (int, float) else np.nan
    except OverflowError:
        return np.nan
    return found if np.isfinite(found) else np.nan


def with_metric(runs: Sequence[Logged], metric: str | None) -> tuple[str, list[Logged], list[str]]:
    """The metric that is meant, the runs that have it, and a sentence on each part of a run that is amiss.

    Args:
      metric: unset, the return of evaluations, or of training where more runs have that.

    Raises:
      ConfigError: no run has it; says which metrics there are.
    """
    if metric is None:
        metric = max((EVALUATION, TRAINING), key=lambda tag: sum(tag in run.curves for run in runs))
    having = [run for run in runs if metric in run.curves]
    notes = [f"{run.path}: {problem}" for run in runs for problem in run.problems]
    if not having:
        there = sorted({tag for run in runs for tag in run.curves})
        rule = f"no run has it; there are {', '.join(there)}" if there else "no run has logged anything yet"
        rule += nearest(metric, there, few=0)
        amiss = [Problem(str(run.path), MISSING, problem) for run in runs for problem in run.problems]
        raise ConfigError([Problem("metric", metric, rule), *amiss])
    without = [run for run in runs if metric not in run.curves and (run.curves or not run.problems)]
    notes += [f"{run.path}: has no {metric}, and is left out" for run in without]
    return metric, having, notes
