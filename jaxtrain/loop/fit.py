"""Whether a config fits its environments: what only they can tell, before anything is traced.

In: a config whose fields are sound, and events from Python. Out: the same config, its environments'
parameters in their dtypes; or one error with a line for every fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import device, envs
from jaxtrain.config import rate
from jaxtrain.config.events import EventConfig, misfits, takes
from jaxtrain.config.field import Params, as_number, from_mapping
from jaxtrain.config.schema import Config, EnvConfig, EvaluationConfig
from jaxtrain.errors import MISSING, ConfigError, Problem, nearest
from jaxtrain.events.evaluation import evaluation
from jaxtrain.events.event import Event, OnReset, Part, traits_of
from jaxtrain.types import Box, Dict, Env, EnvSpec, Space


def fit(config: Config, given: Sequence[Part]) -> Config:
    """The config as the run has it.

    Raises:
      ConfigError: everything that does not fit.
    """
    device.check()
    found = ConfigError(_faults_of_rates(config.algorithm)).under("algorithm")
    try:
        place, faults = _fitted(config.env, "env")
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from error.__cause__
    found += faults
    config, settings = dataclasses.replace(config, env=place), config.evaluation
    env = envs.make(config.env.id)
    spec = spec_of(config, env)
    if not found:
        for path, schedule in rate.schedules(config.algorithm).items():
            faults = schedule.check(config.env_steps_per_update, spec.num_updates)
            found += ConfigError(faults).under(f"algorithm.{path}")
    found += ConfigError(_check(config, spec)).under("algorithm")
    if settings.env is not None:
        with suppress(ConfigError):  # said below, with all that is wrong with evaluation
            there, faults = _fitted(settings.env, "evaluation.env")
            if not faults:
                settings = dataclasses.replace(settings, env=there)
                config = dataclasses.replace(config, evaluation=settings)
    found += ConfigError(_faults_of_evaluation(config, settings, env)).under("evaluation")
    for i, event in enumerate(config.events):
        if isinstance(event, EventConfig):
            function, params = event.function, event.params
            found += ConfigError(_faults_of_arrays(params)).under(f"events.{i}.params")
            found += ConfigError(_faults_of_event(config, function, params, env)).under(f"events.{i}")
    for event in (*(e for e in config.events if not isinstance(e, EventConfig)), *given):
        found += ConfigError(_faults_of_given(config, event, env)).under(f"event {event.name!r}")
    if found:
        raise ConfigError(found)
    return config


EACH = "; for a run with each of several, jax.vmap over a function that makes the config of each and trains"


def _faults_of_rates(algorithm: Any) -> Iterator[Problem]:
    scheduled = rate.schedules(algorithm)
    for path, value in jax.tree.leaves_with_path(algorithm):
        if jnp.ndim(value):
            name = jax.tree_util.keystr(path, simple=True, separator=".").rstrip(".")
            rule = f"has shape {list(jnp.shape(value))}: needs one number; for a run with each of several, "
            if name in scheduled or name.rpartition(".")[0].removesuffix(".values") in scheduled:
                rule += "jax.vmap over a function that makes the schedule of each and calls train"
            else:
                rule += (
                    f"jax.vmap(lambda x: train(dataclasses.replace(config, algorithm=dataclasses.replace("
                    f"config.algorithm, {name}=x)), key))(values)"
                )
            yield Problem(name, value, rule)


def _faults_of_arrays(params: Params) -> Iterator[Problem]:
    for path, value in jax.tree.leaves_with_path(params):
        if jnp.ndim(value):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            rule = f"has shape {list(jnp.shape(value))}: needs one number, or a list of them"
            yield Problem(name, value, rule + EACH)


def spec_of(config: Config, env: Env) -> EnvSpec:
    """What an algorithm is told of the run."""
    obs, _ = jax.eval_shape(lambda key: env.reset(key, envs.params(env, {})), jax.random.key(0))
    updates = config.anneal_updates
    return EnvSpec(env.observation_space, env.action_space, obs, config.env.num_envs, updates)


def _check(config: Config, spec: EnvSpec) -> list[Problem]:
    check = getattr(config.algorithm, "check", None)
    found = [] if check is None else check(spec)
    if not isinstance(found, list | tuple) or not all(isinstance(fault, Problem) for fault in found):
        rule = f"{type(config.algorithm).__qualname__}.check gave {found!r}, needs a list of Problem, or []"
        return [Problem("", MISSING, rule)]
    return list(found)


def _fitted(place: EnvConfig, path: str) -> tuple[EnvConfig, list[Problem]]:
    """The same with each parameter as the environment has it: in a float field an int is a rate.

    Returns:
      It, and what is wrong with the parameters.

    Raises:
      ConfigError: there is no such environment, or it cannot be run.
    """
    env = envs.make(place.id, path=path)
    dtypes = _dtypes(env)
    found: list[Problem] = []
    params: dict[str, Any] = {}
    for name, value in _dotted(place.params):
        try:
            envs.params(env, {name: value})
        except ValueError as error:
            rule = _rule(error, f"env.params.{name} = {value!r}: ")
            if np.ndim(value):
                rule += EACH
            found.append(Problem(f"{path}.params.{name}", value, rule))
        else:
            params[name] = _cast(value, dtypes[name])
    return dataclasses.replace(place, params=Params(params)), found


def _rule(error: ValueError, start: str) -> str:
    """What an error says behind the path and the value, which are ours to name."""
    text = str(error)
    return text.removeprefix(start) if text.startswith(start) else text.partition(": ")[2] or text


def _dtypes(env: Env) -> dict[str, Any]:
    """The fields of an environment's parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(envs.params(env, {}))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.dtype for path, leaf in leaves}


def _cast(value: Any, dtype: Any) -> Any:
    """A plain number as the field has it."""
    if isinstance(value, tuple):
        return tuple(_cast(v, dtype) for v in value)
    number = None if isinstance(value, jax.Array) else as_number(value)
    if number is None:
        return value
    return float(number) if jnp.issubdtype(dtype, jnp.floating) else int(number)


def _dotted(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Nested parameters, by the names that they have in one flat mapping."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in _dotted(value))
        else:
            yield name, value


def _faults_of_given(config: Config, event: Part, env: Env) -> list[Problem]:
    """What is wrong with an event from Python; one that a config names has been looked at."""
    on = "update" if isinstance(event, Event) else "reset" if isinstance(event, OnReset) else "step"
    found = misfits(event.run, takes(event.run, on), event.params)
    found = found or ConfigError(traits_of(event.run).check(**event.params)).under("params")
    return found or _faults_of_event(config, event.run, event.params, env)


def _faults_of_event(config: Config, run: Any, params: Mapping[str, Any], env: Env) -> list[Problem]:
    """What an event says of environments: of those that it moves, of those that it evaluates in."""
    if run is evaluation and params:
        settings = from_mapping(EvaluationConfig, params)
        return ConfigError(_faults_of_evaluation(config, settings, env)).under("params")
    return list(_faults_of_moves(run, params, env))


def _faults_of_evaluation(config: Config, settings: EvaluationConfig, env: Env) -> list[Problem]:
    """Where a policy for `env`, or a hook, does not fit into the environments of an evaluation."""
    found: list[Problem] = []
    other = env
    if settings.env is not None:
        try:
            there, found = _fitted(settings.env, "env")
        except ConfigError as error:
            return list(error.problems)
        other = envs.make(there.id)
        found += ConfigError(_faults_of_spaces(env, other, settings.env.id)).under("env")
    for i, event in enumerate(settings.events):
        if isinstance(event, EventConfig):
            faults = _faults_of_moves(event.function, event.params, other)
        else:
            faults = _faults_of_moves(event.run, event.params, other)
        found += ConfigError(faults).under(f"events.{i}")
    return found


def _faults_of_moves(run: Any, params: Mapping[str, Any], env: Env) -> Iterator[Problem]:
    """Where an event moves what is no float field of `env`'s parameters, or follows from others."""
    moved = traits_of(run).moves(**params)
    if not moved:
        return
    derived = getattr(env, "derived_params", {})
    floats = [
        n for n, dtype in _dtypes(env).items() if jnp.issubdtype(dtype, jnp.floating) and n not in derived
    ]
    for name, moves in moved.items():
        path = f"params.{name}"
        if moves in derived:
            rule = f"{moves!r} follows from {' and '.join(derived[moves].sources)}; move those"
            yield Problem(path, MISSING, rule)
        elif moves not in floats:
            rule = f"{moves!r} is no float field of the environment's parameters" + nearest(
                str(moves), floats
            )
            yield Problem(path, MISSING, rule)


def _faults_of_spaces(env: Env, other: Env, name: Any) -> Iterator[Problem]:
    """Where a policy for `env` does not fit into `other`."""
    for what, ours, theirs in (
        ("observations", env.observation_space, other.observation_space),
        ("actions", env.action_space, other.action_space),
    ):
        if _words(ours) != _words(theirs):
            rule = f"its {what} are {_words(theirs)}, those of `env` {_words(ours)}"
            yield Problem("id", name, rule)


def _words(space: Space) -> str:
    """What a policy has to fit, without the bounds of a Box."""
    if isinstance(space, Dict):
        return f"Dict({', '.join(f'{name}: {_words(inner)}' for name, inner in space.items())})"
    return f"Box{space.shape}" if isinstance(space, Box) else str(space)
