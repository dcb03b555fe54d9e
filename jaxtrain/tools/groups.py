"""Runs as groups of seeds: which are taken together, and what a group is worth along a curve.

In: runs as `jaxtrain.runs.curves` reads them. Out: `Group`s. What `plot` and `compare` share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxtrain.errors import ConfigError, Problem, nearest
from jaxtrain.runs import facts
from jaxtrain.runs.curves import Curve, Logged
from jaxtrain.tools import stats

Axis = Literal["env_steps", "seconds"]
MOST_MARKS = 300  # at which a band is drawn: more are no pixels of their own


@dataclass(frozen=True)
class Group:
    """Runs whose seeds are one sample."""

    label: str
    runs: tuple[Logged, ...]

    @property
    def seeds(self) -> int:
        return sum(run.seeds for run in self.runs)


def grouped(runs: Sequence[Logged], by: str | None) -> list[Group]:
    """The runs as groups: each by itself, or by the value of a field.

    Args:
      by: a path as `--help` lists it, or seed, init_from, jaxtrain, jax, device.

    Raises:
      ConfigError: no run has that field; says in which they differ.
    """
    if by is None:
        what = facts.labels([run.facts for run in runs])
        alone = [": ".join(filter(None, words)) for words in zip(_names(runs), what, strict=True)]
        return [Group(label, (run,)) for label, run in zip(alone, runs, strict=True)]
    check_field("by", by, runs)
    found: dict[str, list[Logged]] = {}
    for run in runs:
        found.setdefault(facts.text(run.facts.get(by, facts.UNSET)), []).append(run)
    return [Group(f"{by}={value}", tuple(of_it)) for value, of_it in found.items()]


def _names(runs: Sequence[Logged]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    names = [run.name for run in runs]
    paths = [str(run.path) for run in runs]
    return [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def check_field(what: str, path: str, runs: Sequence[Logged]) -> None:
    """Raise a ConfigError if no run has that field."""
    known = {field for run in runs for field in run.facts}
    if path not in known:
        apart = facts.differing([run.facts for run in runs])
        some = f"; the runs differ in {', '.join(apart[:8])}" if apart else ""
        raise ConfigError([Problem(what, path, f"no run has such a field{nearest(path, known)}{some}")])


def along(curve: Curve, x: Axis) -> Curve:
    """The curve without records that have no such time, rising in it."""
    if x == "env_steps":
        return curve
    known = np.flatnonzero(np.isfinite(curve.seconds))
    order = known[np.argsort(curve.seconds[known], kind="stable")]
    return Curve(*(part[order] for part in curve))


def at(curve: Curve, x: Axis, marks: np.ndarray) -> np.ndarray:
    """The values of each seed at any marks, f64[K, S]: on the straight line between its records.

    A seed that has stopped stays as it was; before its first value it has none (NaN).
    """
    places = getattr(curve, x)
    found = np.full((len(marks), curve.values.shape[1]), np.nan)
    for seed, values in enumerate(curve.values.T):
        known = ~np.isnan(values)
        if known.any():
            found[:, seed] = np.interp(marks, places[known], values[known], left=np.nan)
    return found


def band(group: Group, metric: str, x: Axis) -> tuple[np.ndarray, stats.Band]:
    """The interquartile mean of a group along its curve, and its 95 % interval.

    Returns:
      The marks, at most `MOST_MARKS`, and the band there. They are those of all its runs, from where each of
      them has a record to where the first of them ends, so that no run joins or leaves on the way.
    """
    curves = [along(run.curves[metric], x) for run in group.runs]
    places = [getattr(curve, x) for curve in curves if len(curve.values)]
    if not places or len(places) < len(curves):
        return np.zeros(0), stats.iqm_band(np.zeros((0, 1)))
    first, last = max(p[0] for p in places), min(p[-1] for p in places)
    marks = np.unique(np.concatenate(places))
    marks = marks[(first <= marks) & (marks <= last)]
    if len(marks) > MOST_MARKS:
        marks = marks[np.unique(np.linspace(0, len(marks) - 1, MOST_MARKS).round().astype(int))]
    return marks, stats.iqm_band(np.concatenate([at(curve, x, marks) for curve in curves], axis=1))
