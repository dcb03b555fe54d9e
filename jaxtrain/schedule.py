"""When events are due: schedules in env steps, compiled to a timetable in updates.

In: `every`, `at`, `startup`, `finish`, `when`. Out: the sorted updates at which an event fires, exact
Python ints, one entry per mark. Knows nothing of JAX, events or state; the loop compares its counter
with the timetable.

A mark is an env-step count; it fires after the update that reaches it. Marks that fall into one
update fire once. Mark 0 is before the first update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from typing import Any

MOST_MARKS = 2_000_000  # of one event: its history has a row for each, on the device too


def too_many(interval: int, env_steps_per_update: int, num_updates: int) -> str | None:
    """What to do about an interval that is due too often in a run; None for one that is not."""
    times = num_updates * env_steps_per_update // max(interval, env_steps_per_update)
    if times <= MOST_MARKS:
        return None
    least = -(-num_updates // MOST_MARKS) * env_steps_per_update
    return f"is due {times:,} times, at most {MOST_MARKS:,} are kept; needs {least} env steps or more"


@dataclass(frozen=True)
class Schedule:
    """When something is due, in env steps of one seed. Two schedules join with `|`."""

    intervals: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    at_finish: bool = False
    predicate: Callable[[Any], Any] | None = None  # checked at the marks, for each seed
    once: bool = False  # with a predicate: a single time for each seed

    def __or__(self, other: Schedule) -> Schedule:
        if self.predicate is not None or other.predicate is not None:
            raise ValueError("when(...) cannot be joined with another schedule; use two events")
        return Schedule(
            intervals=self.intervals + other.intervals,
            marks=self.marks + other.marks,
            at_finish=self.at_finish or other.at_finish,
        )

    @classmethod
    def union(cls, parts: Sequence[Schedule]) -> Schedule:
        return reduce(lambda a, b: a | b, parts, cls()) if len(parts) != 1 else parts[0]

    def updates(self, env_steps_per_update: int, num_updates: int) -> tuple[int, ...]:
        """The updates after which it is due, sorted, each once; 0 is before the first.

        Raises:
          ValueError: if it would never fire in this run, or too often, or a mark lies behind the end.
        """
        total = env_steps_per_update * num_updates
        late = [m for m in self.marks if m > total]
        if late:
            raise ValueError(f"at({late[0]}) lies behind the end of the run, {total} env steps")
        due = {-(-mark // env_steps_per_update) for mark in self.marks}
        for n in self.intervals:
            if n > total:
                raise ValueError(f"every({n}) never fires in a run of {total} env steps")
            if rule := too_many(n, env_steps_per_update, num_updates):
                raise ValueError(f"every({n}) {rule}")
            if n <= env_steps_per_update:  # a mark in every update
                due.update(range(1, num_updates + 1))
            else:
                due.update(-(-k * n // env_steps_per_update) for k in range(1, total // n + 1))
        if self.at_finish:
            due.add(num_updates)
        if not due:
            raise ValueError("the schedule is empty: it never fires")
        return tuple(sorted(due))

    def __str__(self) -> str:
        parts = [f"every {n:,}" for n in self.intervals]
        parts += ["startup" if m == 0 else f"at {m:,}" for m in self.marks]
        parts += ["finish"] if self.at_finish else []
        words = ", ".join(parts)
        if self.predicate is None:
            return words
        asked = getattr(self.predicate, "__name__", self.predicate)
        return f"{words}, when {asked}{', once' if self.once else ''}"


def _positive(value: int, name: str, low: int) -> int:
    # `value % 1` of an infinity or a NaN is NaN.
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or value < low:
        raise ValueError(f"{name}({value!r}): needs a whole number of env steps >= {low}")
    return int(value)


def every(env_steps: int) -> Schedule:
    """Each time another `env_steps` are done; not before the first update."""
    return Schedule(intervals=(_positive(env_steps, "every", 1),))


def at(*env_steps: int) -> Schedule:
    """At the given env steps; 0 is before the first update."""
    if not env_steps:
        raise ValueError("at(): needs at least one env-step count")
    return Schedule(marks=tuple(sorted(_positive(n, "at", 0) for n in env_steps)))


def startup() -> Schedule:
    """Before the first update."""
    return Schedule(marks=(0,))


def finish() -> Schedule:
    """After the last update."""
    return Schedule(at_finish=True)


def when(predicate: Callable[[Any], Any], *, every: int, once: bool = False) -> Schedule:
    """For the seeds whose state satisfies `predicate(state) -> bool[]`, looked at every `every` env steps.

    With `once`, a single time for each seed.
    """
    if not callable(predicate):
        raise ValueError(f"when({predicate!r}): needs a function of the state")
    return Schedule(intervals=(_positive(every, "every", 1),), predicate=predicate, once=once)
