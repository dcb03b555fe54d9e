"""Events: a schedule and a pure function.

In: what happened in an update, and a timetable. Out: a changed state and a report.
Knows nothing of the loop that calls it nor of where reports go.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxtrain.hooks import OnReset, OnStep
from jaxtrain.schedule import Schedule
from jaxtrain.types import Key, PyTree, Report

__all__ = ["Event", "OnReset", "OnStep", "mean_return", "stream"]

RESERVED = "non_finite"  # the loop's own records


@dataclass(frozen=True)
class Event:
    """What to do, and when.

    Args:
      name: of its records and its history; its random draws are named by it too.
      schedule: `every`, `at`, `startup`, `finish`, `when`, or several joined with `|`.
      run: `run(trainer, state, key) -> (state, report)`, a pure function of one seed. The report is a
        flat dict of scalars or small arrays. The state comes back changed or as it is; its `key` and
        `clock` belong to the loop.
      scope: "seed", or "population" for a `run` that sees all seeds at once, leaves [S, ...]; its
        report has a leading S axis, or none for a number about all of them.
      init: `init(trainer) -> memory`, what it remembers of one seed between firings, found in
        `state.events[name]`.
      sticky: keep the last report's scalars in `state.metrics` as `name/…`, for triggers to read.
    """

    name: str
    schedule: Schedule
    run: Callable[[Any, Any, Key], tuple[Any, Report]]
    scope: str = "seed"
    init: Callable[[Any], PyTree] | None = None
    sticky: bool = False

    def __post_init__(self) -> None:
        name, schedule = vars(self)["name"], vars(self)["schedule"]  # untyped: what was really given
        if not isinstance(name, str) or not name or name == RESERVED:
            raise ValueError(f"Event name {self.name!r}: needs a text other than {RESERVED!r}")
        if not isinstance(schedule, Schedule):
            kinds = "every(n), at(n), startup(), finish() or when(...)"
            raise ValueError(f"event {name!r}: schedule = {schedule!r}: needs {kinds}")
        if not callable(self.run):
            raise ValueError(
                f"event {self.name!r}: run = {self.run!r}: needs a function of (trainer, state, key)"
            )
        if self.scope not in ("seed", "population"):
            raise ValueError(f"event {self.name!r}: scope = {self.scope!r}: needs 'seed' or 'population'")
        if self.scope == "population" and self.schedule.predicate is not None:
            raise ValueError(f"event {self.name!r}: when(...) asks each seed, so it needs scope='seed'")


def stream(key: Key, name: str) -> Key:
    """The named source of randomness of a seed: adding a consumer moves no other's draws."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def mean_return(state: Any) -> jax.Array:
    """Mean undiscounted return of the last 100 finished episodes, f32[]; NaN before the first."""
    return state.episodes.metrics()["rollout/return_mean"]
