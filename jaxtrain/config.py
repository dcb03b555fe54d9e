"""The config tree: what a run is, checked before anything compiles.

In: YAML files, overrides as text, or Python objects. Out: a frozen `Config`, a pytree whose leaves
are the rates. Knows the names of the parts (algorithms, suites, events, sinks), not how they work:
each is imported when a config names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import yaml

from jaxtrain import event_config, fields, files
from jaxtrain.checkpoint_config import CheckpointConfig
from jaxtrain.env_config import EnvConfig, faults_of_moves, faults_of_spaces
from jaxtrain.event_config import EVENTS, EventConfig
from jaxtrain.fields import ConfigError, Fault, Problem, from_mapping, nearest
from jaxtrain.files import load_object
from jaxtrain.logging_config import SINKS, LoggingConfig, StatisticConfig
from jaxtrain.reading import MISSING

__all__ = [
    "ALGORITHMS",
    "EVENTS",
    "SINKS",
    "CheckpointConfig",
    "Config",
    "EnvConfig",
    "EvaluationConfig",
    "EventConfig",
    "LoggingConfig",
    "StatisticConfig",
    "describe",
    "dump",
    "load_config",
    "load_object",
    "resolved",
    "to_dict",
]

ALGORITHMS = {"ppo": "jaxtrain.algorithms.ppo:PPO"}


def _read_evaluation_env(value: Any) -> Any:
    if isinstance(value, Mapping) and "id" not in value:
        raise ConfigError(
            [Problem("id", MISSING, "needs an id; that of `env` to change its parameters alone")]
        )
    return from_mapping(EnvConfig, value)


@fields.config
class EvaluationConfig:
    """Complete episodes with the current policy, in environments of their own."""

    every: int | None = fields.integer(
        None, low=0, help="env steps between two; unset: a tenth of the run, 0: never"
    )
    num_episodes: int = fields.integer(
        32, low=1, high=fields.INT32, help="complete episodes, one per environment slot"
    )
    greedy: bool = fields.flag(True, help="the most probable action, or a sampled one")
    max_episode_steps: int = fields.integer(
        10_000, low=1, high=fields.INT32, help="a longer episode is cut there, and counted as cut"
    )
    env: EnvConfig | None = fields.custom(
        None,
        _read_evaluation_env,
        "MAPPING",
        leaf=True,
        optional=True,
        help="unset: the training environment",
    )
    events: tuple[Any, ...] = event_config.events()  # hooks of the evaluation environments

    def rules(self) -> list[Problem]:
        rule = "only events on: reset and on: step act in evaluation"
        return [
            Problem(f"events.{i}", event.name, rule)
            for i, event in enumerate(self.events)
            if getattr(event, "on", None) == "update"
            or (not isinstance(event, EventConfig) and hasattr(event, "schedule"))
        ]


# Part -> what share of the run lies between two, where its `every` is unset.
INTERVALS = {"logging": 100, "evaluation": 10, "checkpoint": 10}
MEMBERS = ("name", "rollout_length", "init", "act", "update", "value", "memory")


def _read_algorithm(value: Any) -> Any:
    if isinstance(value, Mapping):
        name = value.get("name", "ppo")
        try:
            if not isinstance(name, str) or (name not in ALGORITHMS and ":" not in name):
                raise Fault("no such algorithm" + nearest(str(name), ALGORITHMS))
            cls = load_object(ALGORITHMS.get(name, name))
            if not isinstance(cls, type) or not dataclasses.is_dataclass(cls) or not hasattr(cls, "update"):
                raise Fault(f"needs a dataclass of hyperparameters with {', '.join(MEMBERS)}")
        except Fault as fault:
            raise ConfigError([Problem("name", name, str(fault))]) from None
        value = from_mapping(cls, {k: v for k, v in value.items() if k != "name"})
    missing = [member for member in MEMBERS if not hasattr(value, member)]
    if missing:
        raise Fault(f"needs a mapping such as {{name: ppo}}, or an object that has {', '.join(missing)}")
    if jax.tree_util.all_leaves([value]):
        raise Fault("needs to be a pytree; see jax.tree_util.register_dataclass")
    return value


def _default_algorithm() -> Any:
    return load_object(ALGORITHMS["ppo"])()


@fields.config
class Config:
    """A whole run. Every field has a default; the defaults train CartPole with PPO."""

    env: EnvConfig = fields.nested(EnvConfig)
    algorithm: Any = fields.custom(_default_algorithm, _read_algorithm, "", leaf=True)
    total_env_steps: int = fields.integer(1_048_576, low=1, help="summed over the environments of one seed")
    anneal_env_steps: int | None = fields.integer(
        None, low=1, help="env steps over which rates anneal, then to stay as they are; unset: the whole run"
    )
    evaluation: EvaluationConfig = fields.nested(EvaluationConfig)
    logging: LoggingConfig = fields.nested(LoggingConfig)
    checkpoint: CheckpointConfig = fields.nested(CheckpointConfig)
    events: tuple[Any, ...] = event_config.events()
    on_nan: str = fields.choice(
        "freeze",
        ("raise", "freeze", "skip", "ignore"),
        help="of an update that is not finite: freeze, its seed stops; raise, all stop; skip, it is dropped",
    )

    @property
    def env_steps_per_update(self) -> int:
        return self.env.num_envs * self.algorithm.rollout_length

    @property
    def num_updates(self) -> int:
        return self.total_env_steps // self.env_steps_per_update

    @property
    def anneal_updates(self) -> int:
        """Updates over which rates anneal."""
        return max(1, (self.anneal_env_steps or self.total_env_steps) // self.env_steps_per_update)

    def interval(self, name: str) -> int:
        """Env steps between two of what `INTERVALS` names; 0 is never."""
        every = getattr(self, name).every
        share = max(1, self.num_updates // INTERVALS[name]) * self.env_steps_per_update
        return share if every is None else every

    def rules(self) -> list[Problem]:
        found: list[Problem] = []
        total, per = self.total_env_steps, self.env_steps_per_update
        sizes = f"{per} env steps ({self.env.num_envs} environments x {self.algorithm.rollout_length} steps)"
        if total % per:
            down = total // per * per
            near = f"{down} and {down + per}" if down else f"{per}"
            rule = f"needs a whole number of updates of {sizes}; the nearest: {near}"
            found.append(Problem("total_env_steps", total, rule))
        elif total // per > fields.INT32:
            rule = f"needs at most 2^31 - 1 updates of {sizes}; raise num_envs or rollout_length"
            found.append(Problem("total_env_steps", total, rule))
        if self.anneal_env_steps and self.anneal_updates > fields.INT32:
            rule = f"needs at most {fields.INT32 * per}, 2^31 - 1 updates"
            found.append(Problem("anneal_env_steps", self.anneal_env_steps, rule))
        if hasattr(self.algorithm, "problems"):
            problems = self.algorithm.problems(self.env.num_envs, self.env.make())
            found += [p._replace(path=f"algorithm.{p.path}") for p in problems]
        for name in INTERVALS:
            value = getattr(self, name).every
            if value is not None and value > total:
                rule = f"needs at most total_env_steps = {total}, or 0 for never"
                found.append(Problem(f"{name}.every", value, rule))
        return [*found, *self._rules_of_events(), *self._rules_of_evaluation()]

    def _rules_of_events(self) -> list[Problem]:
        """What an event cannot know: the length of the run, its environment, the run's own events."""
        found: list[Problem] = []
        total, env = self.total_env_steps, self.env.make()
        own = {"metrics": "logging", "evaluation": "evaluation"}
        for i, event in enumerate(self.events):
            settings, problems = own.get(event.name), list[Problem]()
            if settings is not None and getattr(self, settings).every != 0:
                rule = f"is the run's own; needs another name, or {settings}.every = 0"
                problems.append(Problem("name", event.name, rule))
            if isinstance(event, EventConfig):
                if event.every is not None and event.every > total:
                    rule = f"never fires in a run of {total} env steps; needs at most that"
                    problems.append(Problem("every", event.every, rule))
                if any(mark > total for mark in event.at):
                    problems.append(
                        Problem("at", event.at, f"lies behind the end of the run, {total} env steps")
                    )
                problems += faults_of_moves(event, env)
            found += ConfigError(problems).under(f"events.{i}")
        return found

    def _rules_of_evaluation(self) -> list[Problem]:
        settings, found = self.evaluation, list[Problem]()
        if settings.env is not None:
            found += ConfigError(faults_of_spaces(self.env.make(), settings.env)).under("evaluation.env")
        env = (settings.env or self.env).make()
        for i, event in enumerate(settings.events):
            if isinstance(event, EventConfig):
                found += ConfigError(faults_of_moves(event, env)).under(f"evaluation.events.{i}")
        return found


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `algorithm.learning_rate=3e-4`, check everything.

    Raises:
      ConfigError: a line for every fault: path, value, rule and, where there is one, a value that works.
    """
    raw = files.read(path)
    problems: list[Problem] = []
    for override in overrides:
        try:
            files.override(raw, override)
        except ConfigError as error:
            problems += error.problems
    try:
        made = from_mapping(Config, raw)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return made


def resolved(config: Config) -> Config:
    """The config with every unset interval as the number that it stands for."""
    parts = {name: getattr(config, name) for name in INTERVALS}
    return dataclasses.replace(
        config,
        **{name: dataclasses.replace(part, every=config.interval(name)) for name, part in parts.items()},
    )


def to_dict(config: Config) -> dict[str, Any]:
    """A config as plain YAML values; an object given from Python becomes its name, or else its `repr`."""
    made, cls = files.plain(config), type(config.algorithm)
    if dataclasses.is_dataclass(cls):
        known = {place: name for name, place in ALGORITHMS.items()}
        place = f"{cls.__module__}:{cls.__qualname__}"
        values = {f.name: files.plain(getattr(config.algorithm, f.name)) for f in dataclasses.fields(cls)}
        made["algorithm"] = {**values, "name": known.get(place, place)}
    return made


def dump(config: Config) -> str:
    """The resolved config as YAML; `load_config` reads it back as an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def describe(cls: type[Any] = Config) -> list[tuple[str, str, Any, str]]:
    """Every field that a file or a command line can set: its path, what to write, its default, what it is."""
    rows: list[tuple[str, str, Any, str]] = []
    for f in dataclasses.fields(cls):
        spec: fields.Field = f.metadata["field"]
        inner = type(_default_algorithm()) if f.default_factory is _default_algorithm else spec.config
        if inner is not None:
            rows += [
                (f"{f.name}.{path}", kind, default, help) for path, kind, default, help in describe(inner)
            ]
        elif spec.kind:
            default = f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
            rows.append((f.name, spec.kind, default, spec.help))
    return rows
