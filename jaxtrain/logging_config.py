"""What of a run is logged, how often, and where to: the `logging` part of a config.

In: plain values. Out: a frozen `LoggingConfig`. Knows the names of the sinks, and imports none but to
check the options that it is given for it.
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxtrain import event_config, fields
from jaxtrain.fields import Fault, Problem, nearest
from jaxtrain.files import load_object
from jaxtrain.params import Params
from jaxtrain.reading import from_list

REDUCTIONS = ("mean", "sum", "max", "last", "episode")
SINKS = ("console", "jsonlines", "tensorboard", "wandb")


def _read_source(value: Any) -> Any:
    if isinstance(value, str):
        named = load_object(value) if ":" in value else None
        if value.strip() and (named is None or callable(named)):
            return value
    elif callable(value):
        return value
    raise Fault("needs an entry of info, or a function of a transition, such as package.module:function")


@fields.config
class StatisticConfig:
    """A number computed from every transition and reduced on the device."""

    name: str = fields.text("")
    source: Any = fields.custom("", _read_source, "NAME", help="an entry of info, or package.module:function")
    reduction: str = fields.choice(
        "mean", REDUCTIONS, help="over the update's steps, or per finished episode"
    )


def _read_statistics(value: Any) -> tuple[StatisticConfig, ...]:
    made = tuple(from_list(StatisticConfig, value))
    if not all(isinstance(s, StatisticConfig) for s in made):
        raise Fault("needs a list of {name, source, reduction}")
    if len({s.name for s in made}) < len(made):
        raise Fault("needs a different name for each statistic")
    return made


def _read_sinks(value: Any) -> tuple[str, ...]:
    names = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise Fault(f"needs a list of {', '.join(SINKS)}")
    for name in names:
        if not isinstance(name, str) or name not in SINKS:
            raise Fault(f"{name!r} is no sink" + nearest(str(name), SINKS))
    if len(set(names)) < len(names):
        raise Fault("needs each sink once")
    return tuple(names)


@fields.config
class LoggingConfig:
    """How often metrics leave the device, and where to."""

    every: int | None = fields.integer(
        None, low=0, help="env steps between two; unset: a hundredth of the run, 0: never"
    )
    sinks: tuple[str, ...] = fields.custom(
        ("console", "jsonlines", "tensorboard"), _read_sinks, "NAME,NAME,…", help="for the command line"
    )
    wandb: Params = event_config.params("of the sink: project, mode, seeds, group, name", leaf=False)
    tensorboard: Params = event_config.params("of the sink: seeds", leaf=False)
    statistics: tuple[StatisticConfig, ...] = fields.custom(
        (), _read_statistics, "LIST", help="more rollout statistics, each {name, source, reduction}"
    )

    def rules(self) -> list[Problem]:
        found: list[Problem] = []
        for name in ("wandb", "tensorboard"):
            options = getattr(self, name)
            try:
                importlib.import_module("jaxtrain.sinks").make(name, ".", **options)
            except (TypeError, ValueError) as error:
                found.append(Problem(name, options, str(error)))
        return found
