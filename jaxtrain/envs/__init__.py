"""Environments by name or as objects, and their parameters.

In: a gymnax id, a `package.module:name`, or an object. Out: an `Env`, and its parameters as arrays.
Knows nothing of rollouts; no suite is imported before one of its environments is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.envs import gymnax
from jaxtrain.types import Box, Dict, Discrete, Env, Key, MultiDiscrete, PyTree, Space, Step

_MEMBERS = ("reset", "step", "default_params", "observation_space", "action_space")


def ids() -> tuple[str, ...]:
    """The ids of the suites (gymnax's), those of `unavailable()` among them."""
    return gymnax.ids()


def unavailable() -> dict[str, str]:
    """The ids that `make` refuses, and why."""
    return dict(gymnax.UNAVAILABLE)


def make(env: Any, *, path: str = "env") -> Env:
    """An environment from its name, or from an object.

    Args:
      env: one of `ids()`; or `package.module:name`, an instance, a class or a function of no
        arguments; or such an object itself. An instance is an `Env`, or in gymnax's manner
        (`reset_env`, `step_env`, `is_truncated`). With a method `action_mask(state, params) ->
        bool[n]`, observations become `{"observation": ..., "action_mask": ...}`.
      path: what errors call the environment.

    Returns:
      The same object for the same name, so that what was compiled for it is found again.

    Raises:
      ValueError: unknown name (with the nearest), a module that does not import, a missing method.
    """
    if not isinstance(env, str):
        return _as_env(env, f"{path} = {getattr(env, '__name__', type(env).__name__)}")
    where = f"{path}.id = {env!r}"
    return _as_env(_import(env, where), where) if ":" in env else _by_id(env, where)


def params(env: Env, overrides: Mapping[str, Any], *, path: str = "env.params") -> PyTree:
    """The default parameters with some of them replaced, every leaf a strongly typed array.

    Args:
      env: its `default_params` are a pytree of numbers and arrays; what is not a leaf (a field with
        `pytree_node=False`) stays as it is.
      overrides: field -> number, array of the field's shape, or tracer. Fields of nested parameters
        are joined by dots.
      path: what errors call the parameters.

    Raises:
      ValueError: every fault at once: an unknown field (with the nearest), one that follows from
        others, a value of another type or shape than the field's.
    """
    defaults = env.default_params
    flat, structure = jax.tree_util.tree_flatten_with_path(defaults)
    derived = getattr(env, "derived_params", {})
    arrays: dict[str, jax.Array] = {}
    problems: list[str] = []

    def fault(name: str, value: Any, rule: str) -> None:
        problems.append(f"{path}.{name} = {value!r}: {rule}")

    for key, leaf in flat:
        name = jax.tree_util.keystr(key, simple=True, separator=".")
        try:
            array = jnp.asarray(leaf)
        except TypeError:
            fault(name, leaf, "needs to be a number or an array, or a field with `pytree_node=False`")
        else:
            arrays[name] = jax.lax.convert_element_type(array, array.dtype)
    for name, value in overrides.items():
        if name in derived:
            fault(name, value, f"follows from {' and '.join(derived[name].sources)}; set those")
        elif name in arrays:
            try:
                arrays[name] = _convert(value, arrays[name])
            except ValueError as error:
                fault(name, value, str(error))
        else:
            known = [known for known in arrays if known not in derived]
            rule = "fixed, not a number" if hasattr(defaults, name) else f"unknown{_nearest(name, known)}"
            fault(name, value, f"{rule}; fields: {', '.join(known) or 'none'}")
    if problems:
        raise ValueError("\n".join(problems))
    return jax.tree.unflatten(structure, arrays.values())


def batch(params: PyTree, num_envs: int) -> PyTree:
    """The same parameters for every environment: leaves [...] -> [B, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_envs, *jnp.shape(leaf))), params)


def faults(env: Env, params: PyTree) -> list[str]:
    """What an environment of one's own gives that fits neither its spaces nor the loop; both are traced.

    Returns:
      A rule for each; [] for one of a suite, or in the manner of one, which its adapter has looked at.
    """
    source: Any = env.env if isinstance(env, _Masked) else env
    if isinstance(source, gymnax.Gymnax):
        return []
    key = jax.random.key(0)
    begun: Any = jax.eval_shape(source.reset, key, params)
    if not isinstance(begun, tuple) or len(begun) != 2:
        return [f"reset gave {_what(begun)}, needs (obs, state)"]
    space: Any = env.action_space
    action = jnp.zeros(space.shape, jnp.float32 if isinstance(space, Box) else jnp.int32)
    out: Any = jax.eval_shape(source.step, key, begun[1], action, params)
    if not isinstance(out, tuple) or len(out) != len(Step._fields):
        return [f"step gave {_what(out)}, needs Step({', '.join(Step._fields)})"]
    step = Step(*out)
    found = [
        *_unlike("reset", env.observation_space, begun[0]),
        *_unlike("step", env.observation_space, step.obs),
    ]
    for name in ("reward", "terminated", "truncated"):
        shape = jnp.shape(getattr(step, name))
        found += [f"step gave {name} of shape {list(shape)}, needs one number"] if shape else []
    if jax.tree.structure(begun[1]) != jax.tree.structure(step.state):
        found.append("step gave a state of another structure than reset's")
    return found


def _what(given: Any) -> str:
    return f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__


def _unlike(where: str, space: Space, obs: Any, name: str = "obs") -> list[str]:
    """Where an observation has not the shape that its space says; beside a mask, the observation in it."""
    masked = isinstance(obs, Mapping) and {*obs} == {"observation", "action_mask"}
    if masked and not isinstance(space, Dict):
        return _unlike(where, space, obs["observation"], f"{name}['observation']")
    if isinstance(space, Dict):
        if not isinstance(obs, Mapping) or {*obs} != {*space}:
            return [f"{where} gave {name} = {_what(obs)}, its observation_space has {', '.join(space)}"]
        return [x for k, part in space.items() for x in _unlike(where, part, obs[k], f"{name}[{k!r}]")]
    shape = getattr(obs, "shape", None)
    if shape is not None and tuple(shape) == space.shape:
        return []
    has = type(obs).__name__ if shape is None else f"shape {list(shape)}"
    return [f"{where} gave {name} of {has}, its observation_space has {list(space.shape)}"]


@dataclass(frozen=True)
class _Masked:
    """`env`, its observations joined by the mask of the actions that are valid there."""

    env: Any

    @property
    def observation_space(self) -> Space:
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def default_params(self) -> PyTree:
        return self.env.default_params

    @property
    def derived_params(self) -> Mapping[str, gymnax.Derived]:
        return getattr(self.env, "derived_params", {})

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = self.env.reset(key, params)
        return self._mask(obs, state, params), state

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        step = Step(*self.env.step(key, state, action, params))
        return step._replace(obs=self._mask(step.obs, step.state, params))

    def _mask(self, obs: PyTree, state: PyTree, params: PyTree) -> PyTree:
        if isinstance(obs, Mapping) and set(obs) == {"observation", "action_mask"}:
            return obs
        source = self.env.env if isinstance(self.env, gymnax.Gymnax) else self.env
        return {"observation": obs, "action_mask": jnp.asarray(source.action_mask(state, params), jnp.bool_)}


def _by_id(env_id: str, where: str) -> Env:
    if env_id in gymnax.UNAVAILABLE:
        raise ValueError(f"{where}: {gymnax.UNAVAILABLE[env_id]}")
    if env_id not in ids():
        near = _nearest(env_id, ids()) or "; jaxtrain.envs.ids() has them all"
        raise ValueError(f"{where}: needs a gymnax id or 'package.module:name'{near}")
    return gymnax.load(env_id)


def _import(name: str, where: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does while it is imported
        raise ValueError(
            f"{where}: cannot import {module_name!r}: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        near = _nearest(attribute, vars(module))
        raise ValueError(f"{where}: module {module_name!r} has no {attribute!r}{near}") from error


@cache  # by the class or function itself: a name may be bound anew, as in a notebook
def _call(factory: Any) -> Any:
    # A constant made while something else is traced would belong to that trace.
    with jax.ensure_compile_time_eval():
        return factory()


def _as_env(found: Any, where: str) -> Env:
    if isinstance(found, type) or (callable(found) and not hasattr(found, "step")):
        try:
            found = _call(found)
        except Exception as error:
            raise ValueError(
                f"{where}: calling it with no arguments failed: {type(error).__name__}: {error}"
            ) from error
    try:
        hash(found)
    except TypeError as error:
        raise ValueError(
            f"{where}: needs to be hashable, as a frozen dataclass of hashable fields is ({error})"
        ) from error
    # Asked of the class: gymnax's wrappers hand `step_env` of what they wrap through, unwrapped.
    in_gymnax_manner = hasattr(type(found), "step_env")
    members = gymnax.METHODS if in_gymnax_manner else _MEMBERS
    missing = [member for member in members if not hasattr(found, member)]
    if missing:
        manner = "an environment in gymnax's manner" if in_gymnax_manner else "an environment"
        raise ValueError(f"{where}: {manner} needs {', '.join(members)}; missing: {', '.join(missing)}")
    if in_gymnax_manner:
        try:
            env: Any = gymnax.adapt(found)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    else:
        env = found
        kinds = {
            "observation_space": (Discrete, MultiDiscrete, Box, Dict),
            "action_space": (Discrete, MultiDiscrete, Box),
        }
        for name, taken in kinds.items():
            space = getattr(env, name)
            if not isinstance(space, taken):
                names = ", ".join(kind.__name__ for kind in taken[:-1])
                rule = f"needs to be a {names} or {taken[-1].__name__} of jaxtrain.types, is {space!r}"
                raise ValueError(f"{where}: {name} {rule}")
    return _Masked(env) if hasattr(found, "action_mask") else env


def _convert(value: Any, field: jax.Array) -> jax.Array:
    """`value` as an array like `field`; raises ValueError with the rule it breaks."""
    if isinstance(value, str):  # YAML reads `3e-4` as text
        try:
            value = float(value)
        except ValueError:
            raise ValueError("needs a number") from None
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if field.dtype == jnp.bool_:
        if array.dtype != jnp.bool_:
            raise ValueError("needs true or false")
    elif not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise ValueError("needs a number")
    if array.shape != field.shape:
        expected = f"numbers of shape {field.shape}" if field.ndim else "one number"
        raise ValueError(f"needs {expected}, has shape {array.shape}")
    if isinstance(array, np.ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(field.dtype)
        if not np.isfinite(converted).all():
            raise ValueError(f"needs to be finite in {field.dtype}")
        if jnp.issubdtype(field.dtype, jnp.integer) and (converted != array).any():
            raise ValueError(f"needs a whole number that fits {field.dtype}")
    elif jnp.issubdtype(field.dtype, jnp.integer) and not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"needs an array of {field.dtype}, has {array.dtype}")
    return jnp.asarray(array, field.dtype)


def _nearest(name: str, known: Iterable[str]) -> str:
    folded = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(repr(folded[other]) for other in near)}" if near else ""
