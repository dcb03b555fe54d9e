"""Environments by name or as objects, and their parameters.

In: a gymnax id, a `package.module:name`, or an object. Out: an `Env`, and its parameters as arrays.
Knows nothing of rollouts; no suite is imported before one of its environments is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import device
from jaxtrain.envs import contract, gymnax, pictures
from jaxtrain.envs.wrappers import Masked, Wrapper
from jaxtrain.errors import MISSING, ConfigError, Fault, Named, Problem, raised
from jaxtrain.names import load_object
from jaxtrain.types import Box, Dict, Discrete, Env, MultiDiscrete, PyTree

_MEMBERS = ("reset", "step", "default_params", "observation_space", "action_space")

# Gymnasium's, say, are no JAX programs.
_FROM_ELSEWHERE = (
    "; `jaxtrain list envs` has the ids; any other is a class of your own with `reset` and `step` in JAX "
    "(README.md, Environments)"
)


def ids() -> tuple[str, ...]:
    """The ids of the suites (gymnax's), those of `unavailable()` among them."""
    device.check()  # to import gymnax makes arrays
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
      The same object for the same name, so that what was compiled for it is found again. Of one's own the
      object itself, or what casts around it where that loses nothing, see `contract.py`.

    Raises:
      ConfigError: unknown name (with the nearest), a module that does not import, a missing method; a line
        for each thing that `reset` or `step` gives that fits neither the spaces nor the loop.
    """
    try:
        if not isinstance(env, str):
            return _as_env(env)
        return _as_env(_import(env)) if ":" in env else _by_id(env)
    except ConfigError as error:
        named = env if isinstance(env, str) else Named.of(env)
        rules = [str(problem) if problem.path else problem.rule for problem in error.problems]
        raise ConfigError([Problem(f"{path}.id", named, rule) for rule in rules]) from error.__cause__


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


def renderer(env: Env, name: Any = None, *, path: str = "env") -> Callable[[PyTree, PyTree], np.ndarray]:
    """How an environment is drawn: by its own `render`, or of gymnax's by `pictures.py`.

    Args:
      env: what `make` gave. Of what stands around others, the outermost that has `render` draws.
      name: what it was made of, for errors.

    Returns:
      A function of state and parameters of one environment, leaves are arrays. It gives uint8[H, W, 3] and
      raises a ConfigError where a `render` of one's own raises or gives something else.

    Raises:
      ConfigError: it cannot be drawn, or a package is missing.
    """
    named = name if isinstance(name, str) else Named.of(env if name is None else name)
    inner: Any = env
    while (draw := _drawn_by(inner)) is None:
        if not isinstance(inner, Wrapper):
            rule = "cannot be drawn; needs a method render(state, params) -> uint8[H, W, 3]"
            raise ConfigError([Problem(f"{path}.id", named, rule)])
        inner = inner.env

    def drawn(state: PyTree, params: PyTree) -> np.ndarray:
        try:
            return contract.picture(draw, state, params)
        except ConfigError as error:
            rules = [str(problem) for problem in error.problems]
            raise ConfigError([Problem(f"{path}.id", named, r) for r in rules]) from error.__cause__

    return drawn


def _drawn_by(env: Any) -> pictures.Draw | None:
    """How this very object is drawn, whatever it stands around; None if it does not say."""
    theirs = env.env if isinstance(env, gymnax.Gymnax) else env
    own = getattr(type(theirs), "render", None)
    # gymnax's own methods of that name give figures of matplotlib.
    draw = None if own is None or own.__module__.startswith(pictures.PACKAGE) else theirs.render
    if not isinstance(env, gymnax.Gymnax):
        return draw
    draw = draw or pictures.drawing(theirs)
    return None if draw is None else lambda state, params: draw(state, env.complete(params))


def _refuse(rule: str) -> ConfigError:
    return ConfigError([Problem("", MISSING, rule)])


def _by_id(env_id: str) -> Env:
    if env_id in gymnax.UNAVAILABLE:
        raise _refuse(gymnax.UNAVAILABLE[env_id])
    if env_id not in ids():
        near = _nearest(env_id, ids()) or _FROM_ELSEWHERE
        raise _refuse(f"needs a gymnax id or 'package.module:name'{near}")
    return gymnax.load(env_id)


def _import(name: str) -> Any:
    try:
        return load_object(name)
    except Fault as fault:
        raise _refuse(str(fault)) from fault.__cause__


@cache  # by the class or function itself: a name may be bound anew, as in a notebook
def _call(factory: Any) -> Any:
    # A constant made while something else is traced would belong to that trace.
    with jax.ensure_compile_time_eval():
        return factory()


def _as_env(found: Any) -> Env:
    if isinstance(found, type) or (callable(found) and not hasattr(found, "step")):
        try:
            found = _call(found)
        except Exception as error:
            raise _refuse(f"calling it with no arguments failed: {raised(error)}") from error
    try:
        hash(found)
    except TypeError as error:
        raise _refuse(
            f"needs to be hashable, as a frozen dataclass of hashable fields is ({error})"
        ) from error
    # Asked of the class: gymnax's wrappers hand `step_env` of what they wrap through, unwrapped.
    in_gymnax_manner = hasattr(type(found), "step_env")
    members = gymnax.METHODS if in_gymnax_manner else _MEMBERS
    missing = [member for member in members if not _has(found, member)]
    if missing:
        manner = "an environment in gymnax's manner" if in_gymnax_manner else "an environment"
        raise _refuse(f"{manner} needs {', '.join(members)}; missing: {', '.join(missing)}")
    try:
        return _kept(gymnax.adapt(found) if in_gymnax_manner else found)
    except ConfigError:
        raise
    except ValueError as error:  # of its parameters, or in gymnax's manner
        raise _refuse(str(error)) from error.__cause__


def _has(found: Any, member: str) -> bool:
    """Whether an object has a member; a property may raise."""
    try:
        return hasattr(found, member)
    except Exception as error:
        raise _refuse(f"{member}: raised {raised(error)}") from error


@cache  # so that an environment is traced once
def _kept(found: Any) -> Env:
    """An environment that keeps the contract, around one of one's own."""
    kinds = {
        "observation_space": (Discrete, MultiDiscrete, Box, Dict),
        "action_space": (Discrete, MultiDiscrete, Box),
    }
    for name, taken in kinds.items():
        space = getattr(found, name)
        if not isinstance(space, taken):
            names = ", ".join(kind.__name__ for kind in taken[:-1])
            rule = f"needs to be a {names} or {taken[-1].__name__} of jaxtrain.types, is {space!r}"
            raise _refuse(f"{name} {rule}")
    source = found.env if isinstance(found, gymnax.Gymnax) else found
    env = Masked(found, source) if hasattr(source, "action_mask") else found
    return contract.kept(env, params(env, {}))


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
