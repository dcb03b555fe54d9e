"""From a config to objects: the events and statistics that it names.

In: a `Config`. Out: `Event`s, `OnReset` and `OnStep` hooks, `Statistic`s.
Knows nothing of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxtrain.config.events import EventConfig
from jaxtrain.config.registry import EVENTS, load_object
from jaxtrain.config.schema import Config
from jaxtrain.errors import ConfigError, Fault, Problem
from jaxtrain.events.evaluation import evaluation
from jaxtrain.events.event import Event, OnReset, OnStep, Part, Statistic
from jaxtrain.schedule import every, finish
from jaxtrain.types import Key, Report


def built_in(config: Config) -> tuple[Event, ...]:
    """The metrics and the evaluation of every run, each at its interval and at the end."""
    made: list[Event] = []
    for name, part in (("metrics", "logging"), ("evaluation", "evaluation")):
        interval = config.interval(part)
        if interval == 0:
            continue
        schedule = every(interval) | finish()
        made.append(
            Event(name, schedule, _metrics)
            if name == "metrics"
            else evaluation(name, schedule, config.evaluation)
        )
    return tuple(made)


def _metrics(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
    """The metrics of the last update; what other events left there is in their own records."""
    del trainer, key
    return state, {k: v for k, v in state.metrics.items() if k.startswith(("rollout/", "train/"))}


def parts(events: Sequence[Any]) -> list[Part]:
    """The events of a config, objects among them as they are."""
    made: list[Part] = []
    for item in events:
        if isinstance(item, EventConfig):
            try:
                item = _part(item)
            except ConfigError as error:
                raise ConfigError(error.under(f"events.{item.name}.params")) from None
            except (Fault, TypeError, ValueError) as error:
                raise ConfigError([Problem(f"events.{item.name}", dict(item.params), str(error))]) from None
        if not isinstance(item, Event | OnReset | OnStep):
            raise ConfigError([Problem("events", item, "needs Event, OnReset or OnStep objects")])
        made.append(item)
    return made


def _part(item: EventConfig) -> Part:
    run = item.run or item.name
    schedule = item.schedule if item.on == "update" else None
    if isinstance(run, str) and run in EVENTS:
        if item.on == "step" or (item.on == "reset" and run != "randomize"):
            raise Fault(f"{run} does not run on: {item.on}")
        return load_object(EVENTS[run])(item.name, schedule, **item.params)
    function = partial(load_object(run) if isinstance(run, str) else run, **item.params)
    if item.on == "reset":
        return OnReset(item.name, function)
    if item.on == "step":
        return OnStep(item.name, function, (item.every_steps[0], item.every_steps[-1]))
    assert schedule is not None  # by EventConfig.rules
    return Event(item.name, schedule, function, scope=item.scope)


def statistics(config: Config) -> tuple[Statistic, ...]:
    """The rollout statistics that a config names."""
    return tuple(
        Statistic(
            s.name,
            load_object(s.source) if isinstance(s.source, str) and ":" in s.source else s.source,
            s.reduction,
        )
        for s in config.logging.statistics
    )
