"""Events: a schedule and a pure function; and what acts or counts inside a rollout.

In: pure functions. Out: `Event`, `OnReset`, `OnStep`, `Statistic`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxtrain.config.field import Params, is_array, is_number
from jaxtrain.errors import MISSING, ConfigError, Named, Problem, nearest
from jaxtrain.known import Known, filled
from jaxtrain.schedule import Schedule
from jaxtrain.types import PyTree, Report

F = TypeVar("F", bound=Callable[..., Any])


def _read_params(what: str, params: Any) -> Params:
    """Named values; arrays as plain numbers, so that equal events find the same compiled program.

    A tracer, of a config that a `vmap` sweeps, stays one.
    """
    if not isinstance(params, Mapping):
        raise ValueError(f"{what}: params = {params!r}: needs a mapping of names to values")

    def plain(x: Any) -> Any:
        return x.tolist() if is_array(x) and not isinstance(x, Tracer) else x

    return Params(jax.tree.map(plain, Params(params)))  # a tree of a dict is in alphabetical order


def _read_hook(kind: str, hook: Any, form: str) -> Params:
    """The parameters of a hook whose name and function are what they have to be."""
    if not isinstance(hook.name, str) or not hook.name:
        raise ValueError(f"{kind} name {hook.name!r}: needs a text")
    if not callable(hook.run):
        raise ValueError(f"{kind} {hook.name!r}: run = {hook.run!r}: needs a function of {form}")
    return _read_params(f"{kind} {hook.name!r}", hook.params)


@dataclass(frozen=True)
class OnReset:
    """A pure function at the start of each episode, of one environment.

    It is given the nominal parameters each time: those of the config, and what events have moved since; so
    `gravity * 0.9` is 0.9 of the nominal in every episode. With `traits(last=True)` it is also given those of
    the episode before, `run(key, params, last, **more)`, which `state.env_params` has.

    Args:
      run: `run(key, params, **more) -> params`; `more` is what this was given as `params`, whose floats are
        rates in `state.hyper`.
    """

    name: str
    run: Callable[..., PyTree]
    params: Mapping[str, Any] = field(default_factory=Params)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", _read_hook("OnReset", self, "(key, params)"))


@dataclass(frozen=True)
class OnStep:
    """A pure function every few steps of an episode, of one environment.

    It is `run(key, state, params, **more) -> state`; `more` is as for `OnReset`. The number of steps until
    the next call is drawn for each environment, uniformly from `every = (low, high)`; the count begins anew
    with each episode. It acts between the policy's observation and the step, as a push would.
    """

    name: str
    run: Callable[..., PyTree]
    every: tuple[int, int] = (1, 1)
    params: Mapping[str, Any] = field(default_factory=Params)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", _read_hook("OnStep", self, "(key, state, params)"))
        every: Any = self.every  # untyped: what was really given
        two = isinstance(every, tuple | list) and len(every) == 2 and all(isinstance(n, int) for n in every)
        if not two or not 1 <= every[0] <= every[1]:
            raise ValueError(f"OnStep {self.name!r}: every = {self.every!r}: needs 1 <= low <= high")


class Transition(NamedTuple):
    """One step of one environment, as the functions of `Statistic` see it."""

    obs: PyTree
    action: jax.Array
    reward: jax.Array
    next_obs: PyTree
    terminated: jax.Array
    truncated: jax.Array
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Statistic:
    """A number from every transition, reduced on the device.

    `source` is the name of an entry of the environment's info, or a pure function of a `Transition`
    giving a scalar. `reduction`: mean, sum, max or last over the steps of an update, or `episode`: the
    sum over an episode, averaged over those that finished in the update (NaN if none did).
    """

    name: str
    source: str | Callable[[Transition], jax.Array]
    reduction: str = "mean"

    def __call__(self, transition: Transition) -> jax.Array:
        who = f"statistic {self.name!r}"
        if callable(self.source):
            value = self.source(transition)
        elif self.source in transition.info:
            value = transition.info[self.source]
        else:
            known = ", ".join(map(str, transition.info)) or "nothing"
            raise ConfigError([Problem(who, MISSING, f"info has no {self.source!r}; it has {known}")])
        try:
            number = jnp.asarray(value, jnp.float32)
        except (TypeError, ValueError):
            rule = f"{type(value).__name__}, needs one number"
            raise ConfigError([Problem(who, MISSING, f"its source gives {rule}")]) from None
        if number.shape:
            rule = f"shape {list(number.shape)}, needs one number"
            raise ConfigError([Problem(who, MISSING, f"its source gives {rule}")])
        return number


class Traits(NamedTuple):
    """What the function of an event says of itself.

    Args:
      check: `check(**params) -> problems`: what is wrong with its parameters, before anything compiles.
      moves: `moves(**params) -> {parameter: field}`: which float fields of the environment's parameters it
        changes, and which parameter of its own names each.
      keep_latest: the last report's scalars stay in `state.metrics` as `NAME/…`, for triggers to read.
      same_key: it draws the same at every firing, `stream(state.key, "NAME_OF_FUNCTION/NAME")`.
      init: `init(trainer) -> memory`, what it remembers of one seed between firings. It is told under which
        name, as it is `run(trainer, state, key, name, **params)`: in `state.events[name]`.
      last: an `OnReset` hook that asks for the parameters of the episode before, see there.
    """

    check: Callable[..., list[Problem]] = lambda **params: []
    moves: Callable[..., Mapping[str, str]] = lambda **params: {}
    keep_latest: bool = False
    same_key: bool = False
    init: Callable[[Any], PyTree] | None = None
    last: bool = False


def traits(**given: Any) -> Callable[[F], F]:
    """A decorator: what a function of an event says of itself, see `Traits`."""

    def mark(function: F) -> F:
        function.traits = Traits(**given)  # type: ignore[attr-defined]
        return function

    return mark


def traits_of(function: Any) -> Traits:
    """What `traits` said of a function."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "traits", Traits())


RESERVED = "non_finite"  # the loop's own records


@dataclass(frozen=True)
class Event:
    """What to do, and when.

    Args:
      name: of its records and its history; its random draws are named by it too.
      schedule: `every`, `at`, `startup`, `finish`, `when`, or several joined with `|`.
      run: `run(trainer, state, key, **params) -> (state, report)`, a pure function of one seed. The report
        is a flat dict of scalars or small arrays. The state comes back changed or as it is; its `key` and
        `clock` belong to the loop. See `traits` for what a function may say of itself.
      params: what `run` takes besides. Floats are rates: they are in `state.hyper` as `events.NAME.PARAM`.
      scope: "seed", or "population" for a `run` that sees all seeds at once, leaves [S, ...]; its
        report has a leading S axis, or none for a number about all of them.
      init: `init(trainer) -> memory`, what it remembers of one seed between firings, found in
        `state.events[name]`; unset, as the function says of itself.
      keep_latest: the last report's scalars stay in `state.metrics` as `NAME/…`, for triggers to read; unset,
        as the function says of itself.
    """

    name: str
    schedule: Schedule
    run: Callable[..., tuple[Any, Report]]
    params: Mapping[str, Any] = field(default_factory=Params)
    scope: str = "seed"
    init: Callable[[Any], PyTree] | None = None
    keep_latest: bool | None = None

    def __post_init__(self) -> None:
        name, schedule = vars(self)["name"], vars(self)["schedule"]  # untyped: what was really given
        if not isinstance(name, str) or not name or name == RESERVED:
            raise ValueError(f"Event name {self.name!r}: needs a text other than {RESERVED!r}")
        if not isinstance(schedule, Schedule):
            kinds = "every(n), at(n), startup(), finish() or when(...)"
            raise ValueError(f"event {name!r}: schedule = {schedule!r}: needs {kinds}")
        if not callable(self.run):
            raise ValueError(
                f"event {self.name!r}: run = {self.run!r}: needs a function of (trainer, state, key)"
            )
        if self.scope not in ("seed", "population"):
            raise ValueError(f"event {self.name!r}: scope = {self.scope!r}: needs 'seed' or 'population'")
        if self.scope == "population" and self.schedule.predicate is not None:
            raise ValueError(f"event {self.name!r}: when(...) asks each seed, so it needs scope='seed'")
        object.__setattr__(self, "params", _read_params(f"event {self.name!r}", self.params))
        if self.keep_latest is None:
            object.__setattr__(self, "keep_latest", self.traits.keep_latest)
        if self.init is None:
            object.__setattr__(self, "init", self.traits.init)

    @property
    def traits(self) -> Traits:
        """What its function says of itself."""
        return traits_of(self.run)


def mean_return(state: Any) -> jax.Array:
    """Mean undiscounted return of the last 100 finished episodes, f32[]; NaN before the first."""
    return filled(state.episodes.metrics()["rollout/return_mean"])


Part = Event | OnReset | OnStep


def checked_parts(given: Any) -> list[Part]:
    """The events and hooks that were given from Python.

    Raises:
      ConfigError: no list, or one with what is none of them.
    """
    if not isinstance(given, list | tuple):
        rule = "needs a list of Event, OnReset or OnStep objects"
        raise ConfigError([Problem("events", _shown(given), rule)])
    found = [
        Problem(f"events.{i}", _shown(part), "needs Event, OnReset or OnStep objects" + _hint(part))
        for i, part in enumerate(given)
        if not isinstance(part, Part)
    ]
    if found:
        raise ConfigError(found)
    return list(given)


def _shown(given: Any) -> Any:
    return given if isinstance(given, str | int | float | dict | None) else Named.of(given)


def _hint(given: Any) -> str:
    """How a function becomes an event, or a class one."""
    if isinstance(given, type):
        return f"; this is a class: {given.__name__}(…)"
    name = getattr(given, "__name__", "")
    return f"; of a function: Event({name!r}, every(N), {name})" if callable(given) and name else ""


def own_report(event: Event, result: Any) -> tuple[Any, Report]:
    """What an event's `run` gave: `(state, report)`, the report a flat dict of arrays.

    Raises:
      TypeError: while tracing, naming the event.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"event {event.name!r}: run gave {type(result).__name__}, needs (state, report)")
    state, report = result
    if not isinstance(report, dict):
        raise TypeError(
            f"event {event.name!r}: the report is {type(report).__name__}, needs a flat dict of arrays"
        )
    checked: Report = {}
    for name, value in report.items():
        try:
            is_known = isinstance(value, Known)
            checked[str(name)] = Known(*map(jnp.asarray, value)) if is_known else jnp.asarray(value)
        except (TypeError, ValueError):
            raise TypeError(f"event {event.name!r}: report[{name!r}] is no array: {value!r}") from None
    return state, checked


STOPPED = 1  # TrainState.status of a seed that an event stopped


def leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def replace_leaves(event: str, params: PyTree, new: Mapping[str, Callable[[jax.Array], jax.Array]]) -> PyTree:
    """`params` with the named leaves made anew, in their shape and dtype.

    Raises:
      ConfigError: while tracing: no such field, or one that holds no floats.
    """
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
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
        make = new.get(leaf_name(path))
        return leaf if make is None else jnp.broadcast_to(make(leaf), leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def is_rate(value: Any) -> bool:
    """A number, or an array or tracer that stands for one."""
    return isinstance(value, jax.Array) or (not isinstance(value, str) and is_number(value))
