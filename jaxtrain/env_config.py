"""Environments as a config names them.

In: an id or an object, and overrides of its parameters. Out: an `EnvConfig`; and what a config says of an
environment that it does not have. Suites are imported when a config names one of theirs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain import event_config, fields
from jaxtrain.event_config import EventConfig
from jaxtrain.fields import Fault, Problem, nearest
from jaxtrain.params import Params
from jaxtrain.reading import MISSING, as_number
from jaxtrain.types import Box, Env, Space


def _envs() -> Any:
    return importlib.import_module("jaxtrain.envs")


def _rule(error: ValueError, start: str) -> str:
    """What an error says behind the path and the value, which are ours to name."""
    text = str(error)
    return text.removeprefix(start) if text.startswith(start) else text.partition(": ")[2] or text


def _read_env(value: Any) -> Any:
    if value is None or isinstance(value, int | float | list | dict):
        raise Fault("needs an id such as 'CartPole-v1', 'package.module:name', or an environment object")
    try:
        _envs().make(value)
    except ValueError as error:
        raise Fault(_rule(error, f"env.id = {value!r}: ")) from None
    return value


@fields.config
class EnvConfig:
    """The environment and how many copies of it step in lockstep."""

    id: Any = fields.custom("CartPole-v1", _read_env, "ID", help="a gymnax id or package.module:name")
    num_envs: int = fields.integer(64, low=1, high=fields.INT32, help="environments stepped in lockstep, B")
    params: Params = event_config.params("overrides of the environment's parameters, such as {gravity: 9.8}")

    def make(self) -> Env:
        """The environment; the same object for the same id."""
        return _envs().make(self.id)

    def rules(self) -> list[Problem]:
        env = self.make()
        try:
            dtypes = _dtypes(env)
        except ValueError as error:
            return [Problem("id", self.id, str(error))]
        found: list[Problem] = []
        params: dict[str, Any] = {}
        for name, value in _dotted(self.params):
            try:
                _envs().params(env, {name: value})
            except ValueError as error:
                found.append(
                    Problem(f"params.{name}", value, _rule(error, f"env.params.{name} = {value!r}: "))
                )
            else:
                params[name] = _cast(value, dtypes[name])
        object.__setattr__(self, "params", Params(params))
        return found


def _dtypes(env: Env) -> dict[str, Any]:
    """The fields of an environment's parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(_envs().params(env, {}))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.dtype for path, leaf in leaves}


def _cast(value: Any, dtype: Any) -> Any:
    """A plain number as the field has it: in a float field an int is a rate as well."""
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


def faults_of_moves(event: EventConfig, env: Env) -> Iterator[Problem]:
    """Where a stock event moves what is no float field of `env`'s parameters, or follows from others."""
    moved: dict[str, Any] = {}
    if event.stock == "randomise":
        moved = {f"params.{name}": name for name in event.params}
    elif event.stock == "curriculum":
        moved = {"params.field": event.params["field"]}
    if not moved:
        return
    derived = getattr(env, "derived_params", {})
    floats = [
        n for n, dtype in _dtypes(env).items() if jnp.issubdtype(dtype, jnp.floating) and n not in derived
    ]
    for path, name in moved.items():
        if name in derived:
            yield Problem(
                path, MISSING, f"{name!r} follows from {' and '.join(derived[name].sources)}; move those"
            )
        elif name not in floats:
            rule = f"{name!r} is no float field of the environment's parameters" + nearest(str(name), floats)
            yield Problem(path, MISSING, rule)


def faults_of_spaces(env: Env, other: EnvConfig) -> Iterator[Problem]:
    """Where a policy for `env` does not fit into `other`."""
    made = other.make()
    for what, ours, theirs in (
        ("observations", env.observation_space, made.observation_space),
        ("actions", env.action_space, made.action_space),
    ):
        if _words(ours) != _words(theirs):
            rule = f"its {what} are {_words(theirs)}, those of `env` {_words(ours)}"
            yield Problem("id", other.id, rule)


def _words(space: Space) -> str:
    """What a policy has to fit, without the bounds of a Box."""
    return f"Box{space.shape}" if isinstance(space, Box) else str(space)
