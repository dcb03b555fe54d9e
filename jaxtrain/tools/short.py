"""A short form of any run, for trying whether it runs: `JAXTRAIN_SHORT=1`.

In: a config. Out: the same for two updates. What has a shape in the program stays, but for evaluations and
replays: what compiles, and the memory that an update takes, are those of the whole run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from jaxtrain.config.events import EventConfig
from jaxtrain.config.schema import INTERVALS, Config
from jaxtrain.errors import ConfigError, Problem
from jaxtrain.events.event import Event

VARIABLE = "JAXTRAIN_SHORT"
UPDATES, REPEATS = 2, 2
EPISODES, EPISODE_STEPS = 4, 200  # of an evaluation
# Fields that an algorithm may have, and how many updates each has room for at most.
ROOM = {
    "learning_starts": 1,
    "target_update_interval": 1,
    "exploration_steps": UPDATES,
    "buffer_size": UPDATES,
    "batch_size": UPDATES,
}


def asked() -> bool:
    """Whether the environment asks for it.

    Raises:
      ConfigError: a value that says neither.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ConfigError([Problem(VARIABLE, value, "needs 1, or 0")])
    return value == "1"


def repeats(count: int) -> int:
    """How many seeds, rounds or turns: as many as were asked for, in short at most two."""
    return min(count, REPEATS) if asked() else count


def config(given: Config) -> Config:
    """The config of a run as the environment asks for it; says so where that is in short."""
    if not asked():
        return given
    made = cut(given)
    _say(f"{UPDATES} updates of {made.env_steps_per_update:,} env steps, and at most {REPEATS} seeds")
    return made


def longer(given: Config, before: Config) -> Config:
    """Likewise of a run that is to go on for longer than it was to: two updates longer."""
    more = UPDATES * before.env_steps_per_update
    if not asked() or given.total_env_steps <= before.total_env_steps + more:
        return given
    total = before.total_env_steps + more
    _say(f"{UPDATES} updates more, to {total:,} env steps")
    return replace(given, total_env_steps=total)


def seeds(given: Sequence[int], count: int) -> list[int]:
    """Which of a run's `count` seeds are asked for; in short it may have fewer than were meant."""
    if not asked() or max(given) < count:
        return list(given)
    made = list(dict.fromkeys(seed % count for seed in given))
    _say(f"seeds {', '.join(map(str, made))} in place of {', '.join(map(str, given))}")
    return made


def _say(what: str) -> None:
    print(f"jaxtrain: {VARIABLE}=1: {what}", file=sys.stderr)


def cut(given: Config) -> Config:
    """The same run, two updates long: all that is due later comes within them, in the same order."""
    per = given.env_steps_per_update
    total = min(given.total_env_steps, UPDATES * per)
    made: dict[str, Any] = {}
    for name in INTERVALS:
        part = getattr(given, name)
        made[name] = part if part.every is None else replace(part, every=min(part.every, per))
    made["evaluation"] = replace(
        made["evaluation"],
        num_episodes=min(given.evaluation.num_episodes, EPISODES),
        max_episode_steps=min(given.evaluation.max_episode_steps, EPISODE_STEPS),
    )
    return replace(
        given,
        **made,
        total_env_steps=total,
        algorithm=_algorithm(given.algorithm, per),
        events=tuple(_event(event, per, total, given.total_env_steps) for event in given.events),
    )


def _algorithm(given: Any, per: int) -> Any:
    values = {name: getattr(given, name, None) for name in ROOM if is_dataclass(type(given))}
    most = {name: room * per for name, room in ROOM.items()}
    less = {n: most[n] for n, value in values.items() if isinstance(value, int) and value > most[n]}
    return replace(given, **less) if less else given


def _event(given: Any, per: int, total: int, whole: int) -> Any:
    """An event whose intervals are an update at most, and whose marks keep their share of the run."""

    def moved(marks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(-(-mark * total // (whole * per)) * per for mark in marks))

    if isinstance(given, EventConfig):
        every = None if given.every is None else min(given.every, per)
        return replace(given, every=every, at=moved(given.at))
    if isinstance(given, Event):
        intervals = tuple(min(n, per) for n in given.schedule.intervals)
        schedule = replace(given.schedule, intervals=intervals, marks=moved(given.schedule.marks))
        return replace(given, schedule=schedule)
    return given
