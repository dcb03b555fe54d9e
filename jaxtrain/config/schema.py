"""The config tree: what a run is, checked before anything compiles.

In: YAML files, overrides as text, or Python objects. Out: a frozen `Config`, a pytree whose leaves
are the rates.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import yaml

from jaxtrain.config import events as event_config
from jaxtrain.config import experiments, field, fragment, modules
from jaxtrain.config import yaml as files
from jaxtrain.config.events import EventConfig
from jaxtrain.config.field import Params, from_list, from_mapping
from jaxtrain.config.registry import ALGORITHMS, SINKS, load_object
from jaxtrain.errors import MISSING, ConfigError, Fault, Problem, nearest
from jaxtrain.schedule import too_many
from jaxtrain.signals import MORE as SIGNALS

AUTO, NONE = "auto", "none"  # of `best`: `BEST` if there are evaluations; no metric
BEST = "evaluation/return_mean"


def _metric(value: Any) -> str:
    if value is None:
        return AUTO
    if not isinstance(value, str) or not value.strip():
        raise Fault(f"needs the name of a metric, {AUTO} or {NONE}")
    return value


def _read_signals(value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    rule = f"needs a list of {', '.join(SIGNALS)}; INT, TERM and HUP save and leave anyway"
    if not isinstance(words, list | tuple):
        raise Fault(rule)
    names = tuple(str(word).strip().upper().removeprefix("SIG") for word in words if word != "")
    if not set(names) <= set(SIGNALS):
        raise Fault(rule)
    return tuple(dict.fromkeys(names))


@field.config
class CheckpointConfig:
    """When a run in a directory is saved, and which checkpoints stay. `train` saves nothing."""

    every: int | None = field.integer(
        None, low=0, help="env steps between two; unset: a tenth of the run, 0: only at its ends"
    )
    every_minutes: int = field.integer(
        15, low=0, help="another one when the last is older than this, 0: never"
    )
    keep_last: int = field.integer(2, low=1, help="how many of the newest stay")
    keep_every: int = field.integer(
        0, low=0, help="env steps: the first at or behind each multiple stays for ever"
    )
    keep_every_minutes: int = field.integer(
        0, low=0, help="likewise of minutes of training, over all of a run's starts"
    )
    best: str = field.custom(
        AUTO,
        _metric,
        "TEXT",
        accepts=fragment.TEXT | {"type": ["string", "null"]},
        help=f"metric whose best checkpoint stays; {AUTO}: {BEST}, if evaluated; {NONE}: of none",
    )
    best_mode: str = field.choice("max", ("max", "min"), help="whether more of it is better, or less")
    reaction_seconds: int = field.integer(
        10, low=1, help="within this a signal is answered, or after the update and evaluation under way"
    )
    signals: tuple[str, ...] = field.custom(
        (),
        _read_signals,
        "NAME,NAME",
        accepts=fragment.listed(fragment.words("", *SIGNALS, *(f"SIG{s}" for s in SIGNALS)), text=True),
        help="that save and leave besides INT, TERM and HUP: USR1, USR2",
    )


def _read_env(value: Any) -> Any:
    if value is None or isinstance(value, int | float | list | dict):
        raise Fault("needs an id such as 'CartPole-v1', 'package.module:name', or an environment object")
    return value


@field.config
class EnvConfig:
    """The environment and how many copies of it step in lockstep."""

    id: Any = field.custom(
        "CartPole-v1", _read_env, "ID", accepts=fragment.STRING, help="a gymnax id or package.module:name"
    )
    num_envs: int = field.integer(64, low=1, high=field.INT32, help="environments stepped in lockstep, B")
    params: Params = event_config.params("overrides of the environment's parameters, such as {gravity: 9.8}")


# What rollouts and evaluations say of themselves.
RESERVED = (
    *("return_mean", "return_std", "return_min", "return_max", "length_mean", "episodes", "episodes_cut"),
    *("returns", "lengths"),
)
REDUCTIONS = ("mean", "sum", "max", "last", "episode")


def _read_source(value: Any) -> Any:
    if value == "":
        return value  # the name's
    if isinstance(value, str):
        named = load_object(value) if ":" in value else None
        if value.strip() and (named is None or callable(named)):
            return value
    elif callable(value):
        return value
    raise Fault("needs an entry of info, or a function of a transition, such as package.module:function")


@field.config
class StatisticConfig:
    """A number computed from every transition and reduced on the device."""

    name: str = field.text("", help="its metrics are rollout/NAME and evaluation/NAME")
    source: Any = field.custom(
        "",
        _read_source,
        "NAME",
        accepts=fragment.TEXT,
        help="an entry of info (unset: of this name), or package.module:function",
    )
    reduction: str = field.choice("mean", REDUCTIONS, help="over the update's steps, or per finished episode")


def _read_statistics(value: Any) -> tuple[StatisticConfig, ...]:
    made = tuple(from_list(StatisticConfig, value))
    if not all(isinstance(s, StatisticConfig) for s in made):
        raise Fault("needs a list of {name, source, reduction}")
    if len({s.name for s in made}) < len(made):
        raise Fault("needs a different name for each statistic")
    if own := [s.name for s in made if s.name in RESERVED]:
        raise Fault(f"{own[0]!r} is the library's own; needs another name")
    return tuple(s if s.source else dataclasses.replace(s, source=s.name) for s in made)


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


@field.config
class LoggingConfig:
    """How often metrics leave the device, and where to."""

    every: int | None = field.integer(
        None, low=0, help="env steps between two; unset: a hundredth of the run, 0: never"
    )
    sinks: tuple[str, ...] = field.custom(
        ("console", "jsonlines", "tensorboard"),
        _read_sinks,
        "NAME,NAME,…",
        accepts=fragment.listed({"enum": [*SINKS]}, text=True),
        help="for the command line",
    )
    wandb: Params = event_config.params("of the sink: project, mode, seeds, group, name", leaf=False)
    tensorboard: Params = event_config.params("of the sink: seeds", leaf=False)
    statistics: tuple[StatisticConfig, ...] = field.custom(
        (),
        _read_statistics,
        "LIST",
        accepts=fragment.listed(StatisticConfig),
        help="more statistics of rollouts and evaluations, each {name, source, reduction}",
    )

    def rules(self) -> list[Problem]:
        found: list[Problem] = []
        for name in ("wandb", "tensorboard"):
            options = getattr(self, name)
            try:
                importlib.import_module("jaxtrain.sinks").make(name, ".", **options)
            except ConfigError as error:
                found += error.under(name)
            except (TypeError, ValueError) as error:
                found.append(Problem(name, options, str(error)))
        return found


def _read_evaluation_env(value: Any) -> Any:
    if isinstance(value, Mapping) and "id" not in value:
        raise ConfigError(
            [Problem("id", MISSING, "needs an id; that of `env` to change its parameters alone")]
        )
    return from_mapping(EnvConfig, value)


@field.config
class EvaluationConfig:
    """Complete episodes with the current policy, in environments of their own."""

    every: int | None = field.integer(
        None, low=0, help="env steps between two; unset: a tenth of the run, 0: never"
    )
    num_episodes: int = field.integer(
        32, low=1, high=field.INT32, help="complete episodes, one per environment slot"
    )
    greedy: bool = field.flag(True, help="the most probable action, or a sampled one")
    max_episode_steps: int = field.integer(
        10_000, low=1, high=field.INT32, help="a longer episode is cut there, and counted as cut"
    )
    env: EnvConfig | None = field.custom(
        None,
        _read_evaluation_env,
        "MAPPING",
        leaf=True,
        optional=True,
        accepts={"allOf": [EnvConfig, {"required": ["id"]}]},
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
MEMBERS = ("name", "rollout_length", "make")
TAKES = {
    "make": "make(self, spec: EnvSpec) -> Algorithm",
    "check": "check(self, spec: EnvSpec) -> list[Problem]",
}


def algorithm_class(value: Any) -> type[Any]:
    """The class of hyperparameters that a mapping names; without a name the default one.

    Raises:
      ConfigError: no such class, or one that lacks something; names class, member and what is expected.
    """
    name = value.get("name", "ppo") if isinstance(value, Mapping) else "ppo"
    try:
        if not isinstance(name, str) or (name not in ALGORITHMS and ":" not in name):
            raise Fault(
                "no such algorithm" + nearest(str(name), ALGORITHMS) + "; one of your own is module:Class"
            )
        cls = load_object(ALGORITHMS.get(name, name))
        fields = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        if not isinstance(cls, type) or not any(m in fields or hasattr(cls, m) for m in MEMBERS):
            raise Fault(f"needs a dataclass of hyperparameters with {', '.join(MEMBERS)}")
        _check_members(cls, fields)
    except Fault as fault:
        raise ConfigError([Problem("algorithm.name", name, str(fault))]) from None
    return cls


def _check_members(cls: type[Any], fields: Sequence[str]) -> None:
    """Raise a Fault for a class that lacks a member, or a method of which takes something else."""
    missing = [TAKES.get(m, m) for m in MEMBERS if m not in fields and not hasattr(cls, m)]
    if missing:
        raise Fault(f"{cls.__name__} needs to have {', '.join(missing)}")
    for name, form in TAKES.items():
        method = getattr(cls, name, None)
        if method is None:
            continue
        try:
            inspect.signature(method).bind(None, None)  # itself and the spec
        except (TypeError, ValueError) as error:
            raise Fault(f"{cls.__name__}.{name} needs to be {form}: {error}") from None


def _read_algorithm(value: Any) -> Any:
    if isinstance(value, Mapping):
        try:
            cls = algorithm_class(value)
        except ConfigError as error:
            raise ConfigError([p._replace(path="name") for p in error.problems]) from None
        value = from_mapping(cls, {k: v for k, v in value.items() if k != "name"})
    if isinstance(value, type):
        raise Fault(f"needs an instance; this is a class: {value.__name__}(…)")
    missing = [member for member in MEMBERS if not hasattr(value, member)]
    if len(missing) == len(MEMBERS):
        raise Fault(f"needs a mapping such as {{name: ppo}}, or an object that has {', '.join(missing)}")
    _check_members(type(value), [member for member in MEMBERS if member not in missing])
    if jax.tree_util.all_leaves([value]):
        raise Fault("needs to be a pytree; see jax.tree_util.register_dataclass")
    return value


def default_algorithm() -> Any:
    """PPO as it is where nothing else is said."""
    return load_object(ALGORITHMS["ppo"])()


@field.config
class Config:
    """A whole run. Every field has a default; the defaults train CartPole with PPO."""

    env: EnvConfig = field.nested(EnvConfig)
    algorithm: Any = field.custom(default_algorithm, _read_algorithm, "", leaf=True)
    total_env_steps: int = field.integer(1_048_576, low=1, help="summed over the environments of one seed")
    anneal_env_steps: int | None = field.integer(
        None, low=1, help="env steps over which rates anneal, then to stay as they are; unset: the whole run"
    )
    evaluation: EvaluationConfig = field.nested(EvaluationConfig)
    logging: LoggingConfig = field.nested(LoggingConfig)
    checkpoint: CheckpointConfig = field.nested(CheckpointConfig)
    events: tuple[Any, ...] = event_config.events()
    on_nan: str = field.choice(
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
        if per > field.INT32:
            length, most = self.algorithm.rollout_length, field.INT32 // self.env.num_envs
            rule = f"needs at most {most} with {self.env.num_envs} environments, or fewer of these: "
            rule += "an update has at most 2^31 - 1 env steps"
            found.append(Problem("algorithm.rollout_length", length, rule))
        elif total % per:
            down = total // per * per
            near = f"{down} and {down + per}" if down else f"{per}"
            rule = f"needs a whole number of updates of {sizes}; the nearest: {near}"
            found.append(Problem("total_env_steps", total, rule))
        elif total // per > field.INT32:
            rule = f"needs at most 2^31 - 1 updates of {sizes}; raise num_envs or rollout_length"
            found.append(Problem("total_env_steps", total, rule))
        if self.anneal_env_steps and self.anneal_updates > field.INT32:
            rule = f"needs at most {field.INT32 * per}, 2^31 - 1 updates"
            found.append(Problem("anneal_env_steps", self.anneal_env_steps, rule))
        fits = max(1, total // per) * per
        for name, share in INTERVALS.items():
            value = getattr(self, name).every
            if value is not None and value > total:
                rule = f"needs at most {fits}, as long as the run; or none, a {share}th of it; or 0, never"
                found.append(Problem(f"{name}.every", value, rule))
        saved = {"every": self.interval("checkpoint"), "keep_every": self.checkpoint.keep_every}
        for name, value in saved.items():
            if not found and value and (rule := too_many(value, per, self.num_updates)):
                found.append(Problem(f"checkpoint.{name}", value, rule))
        return [*found, *self._rules_of_events()]

    def _rules_of_events(self) -> list[Problem]:
        """What an event cannot know: the length of the run, and the run's own events."""
        found: list[Problem] = []
        total = self.total_env_steps
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
            found += ConfigError(problems).under(f"events.{i}")
        return found


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `algorithm.learning_rate=3e-4`, check everything.

    Args:
      path: of the file, or the name of an experiment that comes with the library; unset, every field that no
        override sets has its default.

    Raises:
      ConfigError: a line for every fault: path, value, rule and, where there is one, a value that works.
    """
    raw = {} if path is None else files.read(experiments.file_of(path))
    algorithm, problems = copy.deepcopy(raw.get("algorithm")), list[Problem]()
    for override in overrides:
        try:
            files.override(raw, override)
        except ConfigError as error:
            problems += error.problems
    if planted := modules.check(raw):
        raise ConfigError([*problems, *planted])
    try:
        problems += _of_another(raw, algorithm)
        made = from_mapping(Config, raw)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return made


def _of_another(raw: dict[str, Any], written: Any) -> list[Problem]:
    """What a file sets that the algorithm named by an override has not, in one line; it is taken out.

    Args:
      written: the algorithm as the file has it.
    """
    given = raw.get("algorithm")
    if not isinstance(written, dict) or not isinstance(given, dict):
        return []
    name, old = given.get("name", "ppo"), written.get("name", "ppo")
    if name == old:
        return []
    known = [f.name for f in dataclasses.fields(algorithm_class(given))]
    alien = [key for key in written if key not in known and key in given]
    for key in alien:
        del given[key]
    rule = f"has no {', '.join(alien)}, which the file sets for {old!r}; needs a file without"
    return [Problem("algorithm.name", name, rule)] if alien else []


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
