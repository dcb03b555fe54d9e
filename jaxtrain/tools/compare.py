"""`jaxtrain compare`: what runs were asked for otherwise, and what they reached.

In: directories of runs, running or not, of which nothing is executed. Out: a row for each run, as a table
or as JSON. Knows nothing of how runs are read (`runs/curves.py`) or summarized (`stats.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import yaml as files
from jaxtrain.config.number import as_number
from jaxtrain.errors import ConfigError, Problem, shown
from jaxtrain.runs import curves, facts
from jaxtrain.runs.curves import Logged
from jaxtrain.tools import output, stats
from jaxtrain.tools.groups import check_field

_LINE = (80, 120)  # characters of a line, at least and at most
_NAME = 28  # of a run's name
_log = logging.getLogger("jaxtrain")


@dataclass(frozen=True)
class Value:
    """A number over seeds, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        most = max(abs(self.low), abs(self.high), abs(self.value))
        digits = int(np.clip(3 - np.floor(np.log10(most)), 0, 4)) if most else 0
        kind = f",.{digits}f" if 1e-3 <= most < 1e7 else ".3g"
        value, low, high = (f"{x:{kind}}" for x in (self.value, self.low, self.high))
        return value if value == low == high else f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Compared:
    """One run among others.

    Attributes:
      last: the interquartile mean over seeds of the last values; a seed that has stopped keeps its own.
      best: the same at the record where it was best, one for all seeds: never the best of each.
      best_at: env steps of that record, of one seed.
      improvement: how probable it is that a seed of this run did better at last than one of the first run;
        None of that run itself, and of one in another environment.
      gap: by how much seeds fall short of the target at last; None without one.
      seconds: of wall time, without compilation; speed: env steps a second of all seeds.
      differs: the fields that not all runs have alike.
    """

    path: Path
    state: str
    seeds: int
    env_steps: int
    last: Value
    best: Value
    best_at: int
    improvement: Value | None
    gap: Value | None
    seconds: float | None
    speed: float | None
    differs: Mapping[str, Any]
    is_first: bool  # the one that the others are held against


SORTS: Mapping[str, Callable[[Compared], Any]] = {
    "last": lambda row: row.last.value,
    "best": lambda row: row.best.value,
    "path": lambda row: str(row.path),
    "seeds": lambda row: row.seeds,
    "env_steps": lambda row: row.env_steps,
    "seconds": lambda row: np.inf if row.seconds is None else row.seconds,
    "speed": lambda row: -np.inf if row.speed is None else row.speed,
}
_GREATEST_FIRST = ("last", "best", "speed")
MODES = ("max", "min")


def compare(
    runs: str | Path | Iterable[str | Path],
    *,
    metric: str | None = None,
    target: float | None = None,
    where: Sequence[str] = (),
    sort: str | None = None,
    mode: str = "max",
) -> list[Compared]:
    """Compare runs by a metric, over their seeds.

    Args:
      runs: directories of runs, or directories with runs below them.
      metric: as in the log, `train/entropy` say; unset, the return of evaluations, or else of training.
      target: what there is to reach, for the gap to it.
      where: `field=value`; runs of which one does not hold are left out.
      sort: one of `SORTS`; unset, as the runs are given.
      mode: "max" or "min", which is better.

    Returns:
      A row for each run. What cannot be read is named by the logger `jaxtrain`.

    Raises:
      ConfigError: there is no such run, metric, field or sort, or no run is left.
    """
    for name, value, known in (("sort", sort, SORTS), ("mode", mode, MODES)):
        if value is not None and value not in known:
            raise ConfigError([Problem(name, value, f"needs one of {', '.join(known)}")])
    if target is not None and not np.isfinite(target):
        raise ConfigError([Problem("target", target, "needs a finite number")])
    name, found, notes = curves.with_metric(_filtered(curves.read(runs), where), metric)
    known = [run for run in found if np.isfinite(run.curves[name].last()).any()]
    notes += [f"{run.path}: has no finite {name}, and is left out" for run in found if run not in known]
    for note in notes:
        _log.warning("%s", note)
    if not known:
        raise ConfigError([Problem("metric", name, "no run has a finite value of it")])
    paths = facts.differing([run.facts for run in known])
    sign = 1.0 if mode == "max" else -1.0
    rows = [_compared(run, known[0], name, target, sign, paths) for run in known]
    if sort is None:
        return rows
    falling = sort in _GREATEST_FIRST and not (mode == "min" and sort in ("last", "best"))
    return sorted(rows, key=SORTS[sort], reverse=falling)


def _filtered(runs: Sequence[Logged], where: Sequence[str]) -> list[Logged]:
    """The runs of which every `field=value` holds."""
    left = list(runs)
    for text in where:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError([Problem("where", text, "needs the form field=value")])
        check_field("where", path, runs)
        wanted = _readings(value)
        there = {facts.shown(run.facts.get(path, facts.UNSET)) for run in left}
        left = [run for run in left if facts.text(run.facts.get(path, facts.UNSET)) in wanted]
        if not left:
            rule = f"holds of no run; there {path} is {', '.join(sorted(there))}"
            raise ConfigError([Problem("where", text, rule)])
    return left


def _readings(written: str) -> set[str]:
    """The texts of values that a text may stand for: itself, what YAML reads in it, a number as 1e-3."""
    read: dict[str, Any] = {}
    files.override(read, f"value={written}")
    number = as_number(written)
    return {written, facts.text(read["value"])} | (set() if number is None else {facts.text(number)})


def _compared(
    run: Logged, first: Logged, metric: str, target: float | None, sign: float, paths: Sequence[str]
) -> Compared:
    curve = run.curves[metric]
    last = _known(curve.last())
    along = curves.carried(curve.values)
    middle = stats.iqm_band(along, samples=1).iqm
    best = int(np.nanargmax(sign * middle))
    at_best = _known(along[best])
    alike = run is not first and run.facts.get("env.id") == first.facts.get("env.id")
    against = (sign * last, sign * _known(first.curves[metric].last())) if alike else None
    gap = None if target is None else (sign * last, sign * target)
    return Compared(
        path=run.path,
        state=run.state,
        seeds=run.seeds,
        env_steps=int(curve.env_steps[-1]),
        last=Value(stats.iqm(last), *stats.iqm_interval(last)),
        best=Value(stats.iqm(at_best), *stats.iqm_interval(at_best)),
        best_at=int(curve.env_steps[best]),
        improvement=against
        and Value(stats.probability_of_improvement(*against), *stats.improvement_interval(*against)),
        gap=gap and Value(stats.optimality_gap(*gap), *stats.gap_interval(*gap)),
        seconds=run.seconds,
        speed=run.speed,
        differs={path: run.facts[path] for path in paths if path in run.facts},
        is_first=run is first,
    )


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def lines(rows: Sequence[Compared], width: int) -> list[str]:
    """The table: what was reached, then what differs.

    Args:
      width: characters that a line may have.
    """
    first = next(i for i, row in enumerate(rows) if row.is_first)
    names = [f"{i} {_cut(shown(str(row.path)))}" for i, row in enumerate(rows, 1)]
    table = [
        ["run", "seeds", "last", "best", "at", f"better than {first + 1}", "gap", "time", "steps/s"],
        *(
            [
                name,
                f"{row.seeds:,}",
                str(row.last),
                str(row.best),
                _steps(row.best_at),
                "" if row.improvement is None else _probability(row.improvement),
                "" if row.gap is None else str(row.gap),
                "" if row.seconds is None else _duration(row.seconds),
                "" if row.speed is None else _steps(row.speed),
            ]
            for name, row in zip(names, rows, strict=True)
        ),
    ]
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    return _blocks(columns, width) + _differences(names, rows, width)


def _blocks(columns: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns side by side; those that have no room stand in a block below, behind the names again."""
    names, *others = [[f"{x:<{max(map(len, column))}}" for x in column] for column in columns[:1]] + [
        [f"{x:>{max(map(len, column))}}" for x in column] for column in columns[1:]
    ]
    blocks = [[names]]
    for column in others:
        used = sum(len(c[0]) + 2 for c in blocks[-1])
        if used + len(column[0]) > width and len(blocks[-1]) > 1:
            blocks.append([names])
        blocks[-1].append(column)
    found = ["\n".join("  ".join(row).rstrip() for row in zip(*block, strict=True)) for block in blocks]
    return "\n\n".join(found).split("\n")


def _differences(names: Sequence[str], rows: Sequence[Compared], width: int) -> list[str]:
    if len(rows) < 2:
        return []
    if not any(row.differs for row in rows):
        return ["", "their configs do not differ"]
    indent = max(map(len, names)) + 2
    found = ["", "what differs"]
    for name, row in zip(names, rows, strict=True):
        words = "  ".join(f"{path}={facts.shown(value)}" for path, value in row.differs.items())
        found += textwrap.wrap(
            shown(words),
            max(width, indent + 20),
            initial_indent=f"{name:<{indent}}",
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
    return found


def _cut(name: str) -> str:
    """The end of a long name, which tells it from others."""
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def _probability(found: Value) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _steps(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


HELP = "what runs were asked for otherwise, and what they reached"
USAGE = """\
RUN… [--metric NAME] [--target R] [--where FIELD=VALUE]
         [--sort KEY] [--mode max|min] [--json]"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directory of a run, or of several")
    parser.add_argument("--metric", metavar="NAME", help=curves.DEFAULT)
    parser.add_argument("--target", type=_number, metavar="R", help="what to reach: adds the gap to it")
    more = "only runs of which it holds, algorithm.name=ppo say; again for more"
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help=more)
    parser.add_argument("--sort", metavar="KEY", help=f"one of {', '.join(SORTS)}")
    parser.add_argument("--mode", default="max", metavar="MODE", help="max (default) or min: which is better")
    parser.add_argument("--json", action="store_true", help="one JSON array, an object for each run")
    parser.epilog = """\
last, best: interquartile mean over seeds [95 % bootstrap interval], the best at
one record for all seeds; better than 1: how probable it is that a seed did
better at last than one of the first run; gap: what seeds lack of R on average
"""


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def main(options: argparse.Namespace) -> int:
    """Print the comparison."""
    if isinstance(options.target, str):
        raise ConfigError([Problem("target", options.target, "needs a number")])
    names = ("metric", "target", "where", "sort", "mode")
    rows = compare(options.runs, **{name: getattr(options, name) for name in names})
    if options.json:
        output.show(json.dumps([_plain(row) for row in rows], allow_nan=False, default=str))
        return 0
    width = int(np.clip(shutil.get_terminal_size().columns, *_LINE))
    output.show(*lines(rows, width))
    return 0


def _plain(row: Compared) -> dict[str, Any]:
    """As JSON has it."""
    found: dict[str, Any] = vars(row) | {"path": str(row.path)}
    return {key: vars(value) if isinstance(value, Value) else value for key, value in found.items()}
