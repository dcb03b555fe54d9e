"""The stock event `randomize`: draw parameters of the environments anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.config.field import is_number
from jaxtrain.errors import Problem, nearest
from jaxtrain.events.event import leaf_name, replace_leaves, traits
from jaxtrain.types import Key, PyTree, Report

DRAWS = {"uniform": ("low", "high"), "log_uniform": ("low", "high"), "gaussian": ("mean", "std")}


def _draw(key: Key, how: Mapping[str, Any], shape: tuple[int, ...]) -> jax.Array:
    kind = how.get("distribution", "uniform")
    a, b = (jnp.asarray(how[name], jnp.float32) for name in DRAWS[kind])
    if kind == "gaussian":
        return a + b * jax.random.normal(key, shape)
    u = jax.random.uniform(key, shape)
    if kind == "log_uniform":
        return a * (b / a) ** u
    return a + (b - a) * u


def _check(**fields: Any) -> list[Problem]:
    problems: list[Problem] = []
    if not fields:
        problems.append(
            Problem("", dict(fields), "needs a field of the environment's parameters to randomize")
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
    return problems


def _moves(**fields: Any) -> dict[str, str]:
    return {name: name for name in fields}


@traits(check=_check, moves=_moves)
def randomize(trainer: Any, state: Any, key: Key, **fields: Mapping[str, Any]) -> tuple[Any, Report]:
    """Draw float fields of the environment's parameters anew, apart for every environment.

    Episodes under way feel the change at their next step; for a draw at each episode's start there is
    `randomize_at_reset`, in a config `on: reset`.

    Args:
      fields: field -> {distribution: uniform | log_uniform, low, high} or {distribution: gaussian,
        mean, std}. The bounds are rates: a sweep over them is a `vmap`.

    Returns:
      The state, and each field's mean over the environments.

    Source:
      Tobin et al. 2017, "Domain Randomization".
    """
    del trainer
    params = randomize_at_reset(key, state.env_params, **fields)
    named = {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return state.replace(env_params=params), {f"{f}_mean": named[f].mean() for f in fields}


@traits(check=_check, moves=_moves)
def randomize_at_reset(key: Key, params: PyTree, **fields: Mapping[str, Any]) -> PyTree:
    """`randomize` as an `OnReset` hook: every episode has parameters of its own."""
    keys = dict(zip(fields, jax.random.split(key, len(fields)), strict=True))
    draws = {f: lambda leaf, f=f: _draw(keys[f], fields[f], leaf.shape) for f in fields}
    return replace_leaves("randomize", params, draws)
