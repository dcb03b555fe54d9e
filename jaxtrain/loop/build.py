"""From a config to the fixed parts of a run: environment, events, hooks, timetable; all but the rates.

In: a `Config`, and events from Python. Out: `Parts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from jaxtrain import envs
from jaxtrain.config import rate
from jaxtrain.config.events import EventConfig
from jaxtrain.config.registry import load_object
from jaxtrain.config.schema import Config
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.evaluation import evaluation
from jaxtrain.events.event import Event, OnReset, OnStep, Part, Statistic, checked_parts
from jaxtrain.loop.fit import fit, spec_of
from jaxtrain.loop.hyper import Layout, Rates
from jaxtrain.loop.rollout import Collector
from jaxtrain.schedule import every, finish
from jaxtrain.types import Algorithm, Clock, Env, Key, Metrics, PyTree, Report


class Parts:
    """What of a run is fixed.

    Args:
      config: what to run.
      given: events from Python, after those of the config.
      fitted: whether `config` has been found to fit, as a `Parts`' own has.

    Raises:
      ConfigError: for what cannot be run, before anything is traced.
    """

    def __init__(self, config: Config, given: Sequence[Part] = (), *, fitted: bool = False) -> None:
        if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
            rule = "needs a jaxtrain.Config; load_config reads a file"
            raise ConfigError([Problem("config", config, rule)])
        from_python = checked_parts([e for e in config.events if not isinstance(e, EventConfig)])
        given = checked_parts(given)
        self.config = config if fitted else fit(config, given)
        self.env: Env = envs.make(config.env.id)
        self.spec = spec_of(config, self.env)
        self.num_updates, self.env_steps_per_update = config.num_updates, config.env_steps_per_update
        self._layout = Layout(self.config, [*from_python, *given])
        self._hooks = [p for p in (*map(part_of, config.events), *given) if not isinstance(p, Event)]
        events = (p for p in (*map(part_of, config.events), *given) if isinstance(p, Event))
        self.events = (*built_in(config), *events)
        names = [part.name for part in (*self.events, *self._hooks)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError([Problem("events", twice, "needs a different name for each event")])
        self.statistics = statistics(config)

    @cached_property
    def timetable(self) -> dict[str, tuple[int, ...]]:
        """Event -> the updates after which it is due, exact."""
        table: dict[str, tuple[int, ...]] = {}
        for event in self.events:
            try:
                table[event.name] = event.schedule.updates(self.env_steps_per_update, self.num_updates)
            except ValueError as error:
                raise ConfigError([Problem(f"event {event.name!r}", MISSING, str(error))]) from None
        return table

    def rates(self) -> Rates:
        """The config's, as arrays: what a fresh state begins with."""
        return self._layout.rates()

    def config_at(self, rates: Rates) -> Config:
        """The config with the rates of one seed, and schedules where it has them."""
        return self._layout.config(rates)[0]

    def params_at(self, rates: Rates) -> dict[str, Mapping[str, Any]]:
        """Event or hook -> its parameters, with the rates of one seed."""
        config, given = self._layout.config(rates)
        named = {item.name: item.params for item in config.events if isinstance(item, EventConfig)}
        return {**{event.name: event.params for event in built_in(config)}, **named, **given}

    def algorithm(self, rates: Rates, clock: Clock) -> Algorithm[Any]:
        """The algorithm with the rates of one seed: built anew, once for each trace.

        Args:
          clock: at which schedules are numbers; of its `update`, `policy` and `sample` too.
        """
        return self._at_clock(rates, clock)[0].make(self.spec)

    def scheduled(self, rates: Rates, clock: Clock) -> Metrics:
        """The number that each schedule of the algorithm is at that clock."""
        return {f"rates/{name}": value for name, value in self._at_clock(rates, clock)[1].items()}

    def _at_clock(self, rates: Rates, clock: Clock) -> tuple[Any, dict[str, Any]]:
        algorithm = self.config_at(rates).algorithm
        return rate.at_clock(algorithm, clock, self.env_steps_per_update, self.spec.num_updates)

    def collector(self, rates: Rates, carry: PyTree = ()) -> Collector:
        """How experience is collected, with the rates of one seed.

        Args:
          carry: of the algorithm.
        """
        hooks = [bound(hook, self.params_at(rates)[hook.name]) for hook in self._hooks]
        return Collector(
            env=self.env,
            num_envs=self.spec.num_envs,
            length=self.config.algorithm.rollout_length,
            carry=carry,
            on_reset=tuple(hook for hook in hooks if isinstance(hook, OnReset)),
            on_step=tuple(hook for hook in hooks if isinstance(hook, OnStep)),
            statistics=self.statistics,
            watch=self.config.on_nan != "ignore",
        )

    @property
    def hooks(self) -> tuple[OnReset | OnStep, ...]:
        """What acts inside the environments."""
        return tuple(self._hooks)


def bound(hook: Any, params: Mapping[str, Any]) -> Any:
    """A hook that takes no more parameters."""
    run = partial(hook.run, **params)
    return OnStep(hook.name, run, hook.every) if isinstance(hook, OnStep) else OnReset(hook.name, run)


def built_in(config: Config) -> tuple[Event, ...]:
    """The metrics and the evaluation of every run, each at its interval and at the end."""
    found = (("metrics", "logging", _metrics), ("evaluation", "evaluation", evaluation))
    due = [(name, config.interval(part), run) for name, part, run in found]
    return tuple(Event(name, every(n) | finish(), run) for name, n, run in due if n)


def _metrics(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
    """The metrics of the last update; what other events left there is in their own records."""
    del trainer, key
    metrics = state.metrics.entries()
    return state, {k: v for k, v in metrics.items() if k.startswith(("rollout/", "train/", "rates/"))}


def part_of(item: Any) -> Part:
    """What an item of a config's events stands for."""
    if not isinstance(item, EventConfig):
        return item
    function = item.function
    if item.on == "reset":
        return OnReset(item.name, function, item.params)
    if item.on == "step":
        return OnStep(item.name, function, (item.every_steps[0], item.every_steps[-1]), item.params)
    return Event(item.name, item.schedule, function, item.params, scope=item.scope)


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
