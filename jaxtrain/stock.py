"""Stock events: evaluation, domain randomisation, curriculum, early stop.

In: parameters from Python or from a config. Out: an `Event`, or an `OnReset` hook.
Knows a trainer by what it offers (`evaluate`, `env_steps_per_update`), not the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxtrain.config import EvaluationConfig
from jaxtrain.events import Event, OnReset
from jaxtrain.fields import ConfigError, Problem, from_mapping, is_number, nearest
from jaxtrain.schedule import Schedule
from jaxtrain.types import Key, PyTree, Report

STOPPED = 1  # TrainState.status of a seed that an event stopped
DRAWS = {"uniform": ("low", "high"), "log_uniform": ("low", "high"), "gaussian": ("mean", "std")}


def evaluation(
    name: str, schedule: Schedule, settings: EvaluationConfig | None = None, **params: Any
) -> Event:
    """Evaluate on complete episodes; the report is that of `Trainer.evaluate`.

    Args:
      settings, params: an `EvaluationConfig`, or its fields by name. The environments are the
        training ones with their nominal parameters, unless `env` says otherwise.

    The key is the same at every firing: two evaluations differ by the policy alone.
    """
    settings = from_mapping(EvaluationConfig, params) if settings is None else settings

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del key
        return state, trainer.evaluate(state, trainer.evaluation_key(state, name), settings)

    return Event(name, schedule, run, sticky=True)


def _leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _replace(event: str, params: PyTree, new: Mapping[str, Callable[[jax.Array], jax.Array]]) -> PyTree:
    """`params` with the named leaves made anew, in their shape and dtype.

    Raises:
      ConfigError: while tracing: no such field, or one that holds no floats.
    """
    leaves = {_leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    floats = [name for name, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating)]
    problems = [
        Problem(
            f"event {event!r}",
            name,
            "needs a float field of the environment's parameters" + nearest(name, floats),
        )
        for name in new
        if name not in floats
    ]
    if problems:
        raise ConfigError(problems)

    def one(path: Any, leaf: jax.Array) -> jax.Array:
        make = new.get(_leaf_name(path))
        return leaf if make is None else jnp.broadcast_to(make(leaf), leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def _draw(key: Key, how: Mapping[str, Any], shape: tuple[int, ...]) -> jax.Array:
    kind = how.get("distribution", "uniform")
    a, b = (jnp.asarray(how[name], jnp.float32) for name in DRAWS[kind])
    if kind == "gaussian":
        return a + b * jax.random.normal(key, shape)
    u = jax.random.uniform(key, shape)
    if kind == "log_uniform":
        return a * (b / a) ** u
    return a + (b - a) * u


def _check_draws(fields: Mapping[str, Any]) -> None:
    problems: list[Problem] = []
    if not fields:
        problems.append(
            Problem("", dict(fields), "needs a field of the environment's parameters to randomise")
        )
    for name, how in fields.items():
        if not isinstance(how, Mapping):
            problems.append(
                Problem(name, how, "needs a mapping such as {distribution: uniform, low: 1, high: 2}")
            )
            continue
        kind = how.get("distribution", "uniform")
        if kind not in DRAWS:
            problems.append(
                Problem(f"{name}.distribution", kind, "no such distribution" + nearest(str(kind), DRAWS))
            )
            continue
        for key in DRAWS[kind]:
            if key not in how or (isinstance(how[key], str) and not is_number(how[key])):
                problems.append(
                    Problem(
                        f"{name}.{key}", how.get(key), f"{kind} needs numbers for {' and '.join(DRAWS[kind])}"
                    )
                )
        problems += [
            Problem(f"{name}.{key}", how[key], "unknown key" + nearest(key, ("distribution", *DRAWS[kind])))
            for key in how
            if key not in ("distribution", *DRAWS[kind])
        ]
        low, high = how.get("low"), how.get("high")
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            continue  # missing, or data that only the program knows
        if low > high or (kind == "log_uniform" and low <= 0):
            rule = "0 < low <= high" if kind == "log_uniform" else "low <= high"
            problems.append(Problem(name, {"low": low, "high": high}, f"{kind} needs {rule}"))
    if problems:
        raise ConfigError(problems)


def randomise(name: str, schedule: Schedule | None, **fields: Mapping[str, Any]) -> Event | OnReset:
    """Draw float fields of the environment's parameters anew, apart for every environment.

    Args:
      schedule: when; None for a draw at each episode's start (`on: reset`), where every episode has
        parameters of its own. Otherwise episodes under way feel the change at their next step.
      fields: field -> {distribution: uniform | log_uniform, low, high} or {distribution: gaussian,
        mean, std}. The bounds are rates: a sweep over them is a `vmap`.

    The report has each field's mean over the environments.

    Source:
      Tobin et al. 2017, "Domain Randomization".
    """
    _check_draws(fields)

    def draw(key: Key, params: PyTree) -> PyTree:
        keys = dict(zip(fields, jax.random.split(key, len(fields)), strict=True))
        return _replace(
            name, params, {f: lambda leaf, f=f: _draw(keys[f], fields[f], leaf.shape) for f in fields}
        )

    if schedule is None:
        return OnReset(name, draw)

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del trainer
        params = draw(key, state.env_params)
        named = {_leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        return state.replace(env_params=params), {f"{f}_mean": named[f].mean() for f in fields}

    return Event(name, schedule, run)


def _is_rate(value: Any) -> bool:
    """A number, or an array or tracer that stands for one."""
    return isinstance(value, jax.Array) or (not isinstance(value, str) and is_number(value))


def curriculum(
    name: str, schedule: Schedule, *, field: str, marks: Sequence[float], values: Sequence[float]
) -> Event:
    """Move one parameter of the environments along a schedule.

    Args:
      field: of the environment's parameters.
      marks: env steps, ascending.
      values: of the field at those marks; straight lines between, constant outside.
    """
    for key, given in (("marks", marks), ("values", values)):
        if not isinstance(given, list | tuple) or not all(map(_is_rate, given)):
            raise ConfigError([Problem(key, given, "needs a list of numbers")])
    marks, values = tuple(marks), tuple(values)
    # Written as floats they are leaves of the config, and traced in the program; they were sound before it.
    known = [m for m in marks if not isinstance(m, Tracer)]
    if len(marks) != len(values) or not marks or known != sorted(known):
        raise ConfigError(
            [Problem("marks", marks, f"needs ascending env steps, one for each of {len(values)} values")]
        )

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del key
        # In updates, as the counter is: a float32 of env steps would be coarse.
        per = trainer.env_steps_per_update
        value = jnp.interp(
            state.clock, jnp.asarray([m / per for m in marks]), jnp.asarray(values, jnp.float32)
        )
        params = _replace(name, state.env_params, {field: lambda leaf: value})
        return state.replace(env_params=params), {field: value}

    return Event(name, schedule, run)


def early_stop(name: str, schedule: Schedule, *, metric: str, threshold: Any, below: bool = False) -> Event:
    """Stop the seeds whose metric has reached the threshold: they are frozen from then on.

    Args:
      metric: a name in `state.metrics`, such as `evaluation/return_mean` or `rollout/return_mean`.
      threshold: reached at this value or more; with `below`, at this value or less.
    """

    if not _is_rate(threshold):
        raise ConfigError([Problem("threshold", threshold, "needs a number")])

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del trainer, key
        if metric not in state.metrics:
            raise ConfigError(
                [
                    Problem(
                        f"event {name!r}: metric", metric, "no such metric" + nearest(metric, state.metrics)
                    )
                ]
            )
        value = state.metrics[metric]
        reached = value <= threshold if below else value >= threshold  # NaN reaches nothing
        running = state.status == 0
        return state.replace(
            status=jnp.where(running & reached, STOPPED, state.status),
            stopped_at=jnp.where(running & reached, state.clock, state.stopped_at),
        ), {"stopped": state.status.astype(bool) | reached}

    return Event(name, schedule, run)


__all__ = ["curriculum", "early_stop", "evaluation", "randomise"]
