"""Rates that move: a schedule stands in a config where a number could.

In: `{schedule: linear, from: 1e-3, to: 0, over: 1e6}`, or a function from Python. Out: a `RateSchedule`, a
pytree whose leaves are its numbers; and, once the clock is known, the number that it stands for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxtrain.config.number import as_float, as_number, is_array, same
from jaxtrain.config.registry import load_object
from jaxtrain.errors import MISSING, ConfigError, Fault, Problem, nearest

# Schedule -> the keys that it takes; the first two kinds need `from` and `to`.
KEYS = {
    "linear": ("from", "to", "over"),
    "cosine": ("from", "to", "over", "warmup"),
    "piecewise": ("values", "at"),
}
FUNCTION = "function"
INT32 = 2**31 - 1


class PerEnvSteps:
    """A function of env steps as one of updates; see `per_env_steps`."""

    def __init__(self, function: Callable[[jax.Array], Any]) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, env_steps: jax.Array) -> Any:
        return self.function(env_steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerEnvSteps) and self.function == other.function

    def __hash__(self) -> int:
        return hash((PerEnvSteps, self.function))

    def __repr__(self) -> str:
        return f"per_env_steps({self.function!r})"


def per_env_steps(function: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    """A schedule of one's own that is told env steps, f32[], exact to 2^24, instead of updates, i32[].

    Such as `PPO(learning_rate=per_env_steps(lambda steps: 1e-3 * 0.5 ** (steps / 1e6)))`.
    """
    return PerEnvSteps(function)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class RateSchedule:
    """A rate that the clock moves.

    Its leaves are `scale` and `points`. In `state.hyper` the scale has the rate's own name, and a point has
    its name behind that, as `algorithm.learning_rate.from`. All else is static.

    Args:
      kind: one of `KEYS`, or "function".
      points: `from` and `to`, or the values of a piecewise one.
      scale: what the whole is multiplied by.
      over: env steps until `to` is reached, warm-up included; None is as long as the run's rates anneal.
      warmup: env steps of a rise from 0 to `from`, before all else.
      at: env steps, ascending; from each on the next value holds.
      function: `f(updates: i32[]) -> f32[]`.
    """

    kind: str
    points: tuple[Any, ...] = ()
    scale: Any = 1.0
    over: int | None = None
    warmup: int = 0
    at: tuple[int, ...] = ()
    function: Callable[[jax.Array], Any] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RateSchedule):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the points."""
        if self.kind == "piecewise":
            return tuple(f"values.{i}" for i in range(len(self.points)))
        return ("from", "to")[: len(self.points)]

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        # The scale has the rate's own name: an empty word behind it.
        keyed = [(jax.tree_util.DictKey(n), x) for n, x in zip(self.names, self.points, strict=True)]
        static = (self.kind, self.over, self.warmup, self.at, self.function)
        return [(jax.tree_util.DictKey(""), self.scale), *keyed], static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: Any) -> RateSchedule:
        scale, *points = leaves
        return cls(static[0], tuple(points), scale, *static[1:])

    def value(self, clock: jax.Array, env_steps_per_update: int, num_updates: int) -> jax.Array:
        """The rate in the update after `clock` updates, i32[]: f32[], exact at every mark.

        Args:
          num_updates: how long it takes where `over` is unset.
        """
        per = env_steps_per_update
        if self.kind == "piecewise":
            value = jnp.asarray(self.points[0])
            for mark, point in zip(self.at, self.points[1:], strict=True):
                value = jnp.where(clock >= min(-(-mark // per), INT32), point, value)
        elif self.kind == "linear":
            value = self._between(_left(clock, self._end(per, num_updates), per))
        elif self.kind == "cosine":
            end = self._end(per, num_updates)
            left = _left(clock, end, per, of=end - self.warmup)
            share = jnp.where(left > 0, 0.5 * (1 - jnp.cos(jnp.pi * left)), 0)
            value = self._between(share)
            if self.warmup:
                rising = clock < -(-self.warmup // per)
                risen = clock.astype(value.dtype) / (self.warmup / per)
                value = jnp.where(rising, self.points[0] * risen, value)
        else:
            assert self.function is not None  # by `read`
            at = clock
            if isinstance(self.function, PerEnvSteps):
                at = clock.astype(jnp.result_type(float)) * per
            value = jnp.asarray(self.function(at), jnp.result_type(float))
        return self.scale * value

    def _end(self, per: int, num_updates: int) -> int:
        """Env steps until `to` is reached."""
        return num_updates * per if self.over is None else self.over

    def _between(self, share: jax.Array) -> jax.Array:
        """`from` where the share is 1, `to` where it is 0; both exact."""
        first, last = self.points
        return share * first + (1 - share) * last

    def check(self, env_steps_per_update: int, num_updates: int) -> list[Problem]:
        """What does not fit the sizes of a run, or is no function of the clock."""
        per, found = env_steps_per_update, list[Problem]()
        if self.over is not None and self.over > INT32 * per:
            rule = f"needs at most 2^31 - 1 updates; the nearest is {INT32 * per}"
            found.append(Problem("over", self.over, rule))
        end = self._end(per, num_updates)
        if self.warmup >= end:
            rule = f"needs fewer env steps than the {end} that the schedule takes"
            found.append(Problem("warmup", self.warmup, rule))
        if self.function is not None:
            try:
                shape = jax.eval_shape(
                    lambda clock: self.value(clock, per, num_updates), jax.ShapeDtypeStruct((), jnp.int32)
                ).shape
                rule = "" if shape == jnp.shape(self.scale) else f"gave shape {list(shape)}, needs one number"
            except Exception as error:  # whatever a function of the user's does
                rule = f"needs a function of the updates done, i32[]; {type(error).__name__}: {error}"
            found += [Problem("", self.function, rule)] if rule else []
        return found

    def as_mapping(self) -> dict[str, Any]:
        """As it is written in a config."""
        written: dict[str, Any] = {"schedule": self.kind if self.function is None else self.function}
        if self.kind == "piecewise":
            written |= {"values": list(self.points), "at": list(self.at)}
        written |= dict(zip(("from", "to"), self.points, strict=False)) if "to" in self.names else {}
        written |= {} if self.over is None else {"over": self.over}
        written |= {"warmup": self.warmup} if self.warmup else {}
        plain = isinstance(self.scale, float) and self.scale == 1.0
        return written if plain else {**written, "scale": self.scale}


def _left(clock: jax.Array, end: int, per: int, of: int | None = None) -> jax.Array:
    """How much is left until `end` as a share of the last `of` env steps: from 1 down to 0, then 0.

    Counted in updates: the clock in env steps would overflow.
    """
    whole, rest = divmod(end, per)
    left = (whole - clock).astype(jnp.result_type(float)) + rest / per
    length, rest = divmod(end if of is None else of, per)
    return jnp.minimum(jnp.maximum(left, 0) / (length + rest / per), 1)


def is_schedule(value: Any) -> bool:
    """Whether it is meant as one."""
    named = isinstance(value, str) and value in KEYS
    return named or isinstance(value, RateSchedule | Mapping) or callable(value)


def read(value: Any, number: Callable[[Any], Any]) -> RateSchedule:
    """What people write as a schedule.

    Args:
      number: reads one of its numbers; raises `Fault` for what the rate must not be.

    Raises:
      ConfigError: a line for every fault.
    """
    if isinstance(value, RateSchedule):
        value = value.as_mapping()
    if not isinstance(value, Mapping):
        value = {"schedule": value}
    return _Reader(value, number).schedule()


class _Reader:
    """Reads a mapping, and gathers what is wrong with it."""

    def __init__(self, given: Mapping[str, Any], number: Callable[[Any], Any]) -> None:
        self._given, self._number = given, number
        self._found: list[Problem] = []

    def schedule(self) -> RateSchedule:
        kind, function = self._kind()
        known = ("schedule", *(() if function else KEYS[kind]), "scale")
        for key in self._given:
            if key not in known:
                self._fault(key, MISSING, "unknown key" + nearest(str(key), known))
        for key in () if function else KEYS[kind][:2]:
            if key not in self._given:
                self._fault(key, MISSING, "is missing")
        made = RateSchedule(
            kind=kind,
            points=self._points(),
            scale=self._read("scale", 1.0, _any_number),
            over=self._read("over", None, lambda x: None if x is None else _whole(x, 1)),
            warmup=self._read("warmup", 0, lambda x: _whole(x, 0)),
            at=self._read("at", (), _marks),
            function=function,
        )
        if not self._found:
            self._check(made)
        if self._found:
            raise ConfigError(self._found)
        return made

    def _kind(self) -> tuple[str, Callable[[jax.Array], Any] | None]:
        """Which it is, or the function that it names."""
        kind = self._given.get("schedule", MISSING)
        rule = f"needs one of {', '.join(KEYS)}, or package.module:function"
        if isinstance(kind, str) and ":" in kind:
            try:
                kind = load_object(kind)
            except Fault as fault:
                raise ConfigError([Problem("schedule", kind, str(fault))]) from None
        if isinstance(kind, str) and kind in KEYS:
            return kind, None
        if not callable(kind):
            near = nearest(kind, KEYS) if isinstance(kind, str) else ""
            raise ConfigError([Problem("schedule", kind, rule + near)])
        return FUNCTION, kind

    def _points(self) -> tuple[Any, ...]:
        if "values" not in self._given:
            ends = [name for name in ("from", "to") if name in self._given]
            return tuple(self._read(name, None, self._number) for name in ends)
        values = self._given["values"]
        if not isinstance(values, list | tuple) and not (is_array(values) and np.ndim(values)):
            values = [values]
        made: list[Any] = []
        for i, value in enumerate(values):
            try:
                made.append(self._number(value))
            except Fault as fault:
                self._fault(f"values.{i}", value, str(fault))
        return tuple(made)

    def _read(self, key: str, unset: Any, read: Callable[[Any], Any]) -> Any:
        value = self._given.get(key, unset)
        try:
            return read(value) if key in self._given else unset
        except Fault as fault:
            self._fault(key, value, str(fault))
            return unset

    def _fault(self, key: Any, value: Any, rule: str) -> None:
        self._found.append(Problem(str(key), value, rule))

    def _check(self, made: RateSchedule) -> None:
        """What no key says alone."""
        if made.kind == "piecewise" and len(made.points) != len(made.at) + 1:
            rule = f"needs one fewer than the {len(made.points)} values, as the first holds from 0 on"
            self._fault("at", list(made.at), rule)
        if made.over is not None and made.warmup >= made.over:
            rule = f"needs fewer env steps than over = {made.over}, which it is part of"
            self._fault("warmup", made.warmup, rule)
        if made.warmup:
            try:
                self._number(0.0)
            except Fault as fault:
                self._fault("warmup", made.warmup, f"begins at 0, where this rate {fault}; leave it out")


def _any_number(value: Any) -> Any:
    if isinstance(value, Tracer) or (is_array(value) and np.ndim(value)):
        return value
    number = as_float(value)
    if number is None:
        raise Fault("needs a number")
    return number


def _whole(value: Any, low: int) -> int:
    number = as_number(value)
    if number is None:
        raise Fault(f"needs a whole number of env steps >= {low}")
    near = max(round(number), low)
    if near != number:
        raise Fault(f"needs a whole number of env steps >= {low}; the nearest is {near}")
    return near


def _marks(value: Any) -> tuple[int, ...]:
    if is_array(value):
        value = value.tolist()
    marks = [_whole(x, 1) for x in (value if isinstance(value, list | tuple) else [value])]
    ascending = sorted(set(marks))
    if marks != ascending:
        raise Fault(f"needs ascending env steps; the nearest is {ascending}")
    return tuple(marks)


def schedules(algorithm: Any) -> dict[str, RateSchedule]:
    """Those in an algorithm's config, by their path in it."""
    found = jax.tree.leaves_with_path(algorithm, is_leaf=lambda x: isinstance(x, RateSchedule))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): x
        for path, x in found
        if isinstance(x, RateSchedule)
    }


def at_clock(
    algorithm: Any, clock: jax.Array, env_steps_per_update: int, num_updates: int
) -> tuple[Any, dict[str, jax.Array]]:
    """An algorithm's config with a number for each schedule.

    Returns:
      The config, and those numbers by their paths in it.
    """
    found = schedules(algorithm)
    values = {name: x.value(clock, env_steps_per_update, num_updates) for name, x in found.items()}
    if not values:
        return algorithm, values
    leaves = iter(values.values())
    made = jax.tree.map(
        lambda x: next(leaves) if isinstance(x, RateSchedule) else x,
        algorithm,
        is_leaf=lambda x: isinstance(x, RateSchedule),
    )
    fields = dataclasses.fields(algorithm) if dataclasses.is_dataclass(algorithm) else ()
    moved = [f.metadata["field"].anneal for f in fields if f.name in values and "field" in f.metadata]
    off = {flag: False for flag in moved if flag is not None}
    return (dataclasses.replace(made, **off) if off else made), values
