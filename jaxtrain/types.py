"""The words the modules share: spaces, what a rollout holds, and four protocols.

In: nothing. Out: plain containers, and what an environment, an algorithm and a sink must offer.

Axes: S seeds, B environments, T time steps of a rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.core import Tracer

from jaxtrain.errors import ConfigError, Problem

PyTree: TypeAlias = Any
Key: TypeAlias = jax.Array
Metrics: TypeAlias = dict[str, Any]  # flat, scalars of one seed; an algorithm's may be `known.Known`
Report: TypeAlias = dict[str, Any]  # flat, scalars or small arrays of one seed; may be `known.Known`
Carry: TypeAlias = PyTree  # recurrent state of a policy, leaves [B, ...]; () for one without
Clock: TypeAlias = jax.Array  # i32[], updates done; shared by all seeds and never batched
Agent = TypeVar("Agent")  # an algorithm's own state, of one seed


@dataclass(frozen=True)
class Discrete:
    """One integer in `0 .. n-1`."""

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _count("Discrete.n", self.n))

    @property
    def shape(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class MultiDiscrete:
    """One integer in `0 .. n-1` for each `n` in `nvec`; values are i32[len(nvec)]."""

    nvec: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nvec", _counts("MultiDiscrete.nvec", self.nvec))
        if not self.nvec:
            raise ConfigError([Problem("MultiDiscrete.nvec", self.nvec, "needs an int >= 1 for each action")])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)


@dataclass(frozen=True, eq=False)
class Box:
    """Real numbers between `low` and `high`, each broadcast to `shape`; infinite where unbounded.

    Raises:
      ConfigError: an axis that is no int >= 1; a bound that is no number or does not broadcast to `shape`;
        one that lies above the other.
    """

    low: Any
    high: Any
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _counts("Box.shape", self.shape))
        bounds = {name: vars(self)[name] for name in ("low", "high")}
        found = [
            Problem(f"Box.{name}", bound, rule)
            for name, bound in bounds.items()
            if (rule := _rule_of_bound(bound, self.shape))
        ]
        known = not found and not any(isinstance(bound, Tracer) for bound in bounds.values())
        if known and not (np.asarray(self.low) <= np.asarray(self.high)).all():  # as with NaN
            found = [Problem("Box.low", self.low, f"needs to be at most high, which is {self.high!r}")]
        if found:
            raise ConfigError(found)

    @property
    def bounded(self) -> bool:
        """Whether every entry has a finite bound on both sides."""
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        limit = float(np.finfo(np.float32).max)  # how gymnax writes "no bound"
        return bool((low > -limit).all() and (high < limit).all())


@dataclass(frozen=True, init=False)
class Dict:
    """A space for each name; values are dicts of theirs. Made from a mapping."""

    spaces: tuple[tuple[str, Space], ...]

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        given: Any = spaces  # untyped: what was really given
        if not isinstance(given, Mapping) or not given:
            raise ConfigError([Problem("Dict", given, "needs a mapping of names to spaces")])
        kinds = (Discrete, MultiDiscrete, Box, Dict)
        rule = "needs a Discrete, MultiDiscrete, Box or Dict of jaxtrain.types"
        parts: list[tuple[Any, Any]] = list(given.items())
        found = [Problem(f"Dict[{k!r}]", part, rule) for k, part in parts if not isinstance(part, kinds)]
        found += [Problem("Dict", k, "needs names that are text") for k, _ in parts if not isinstance(k, str)]
        if found:
            raise ConfigError(found)
        object.__setattr__(self, "spaces", tuple(spaces.items()))

    def __getitem__(self, name: str) -> Space:
        return dict(self.spaces)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.spaces)

    def items(self) -> tuple[tuple[str, Space], ...]:
        return self.spaces


def _count(what: str, value: Any) -> int:
    """A number of things, as a plain int; raises a ConfigError."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ConfigError([Problem(what, value, "needs an int >= 1")])
    return int(value)


def _counts(what: str, value: Any) -> tuple[int, ...]:
    """Several of them; one alone is a tuple of one, as NumPy reads a shape."""
    each = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    try:
        return tuple(_count(what, n) for n in each)
    except ConfigError:
        raise ConfigError([Problem(what, value, "needs ints >= 1")]) from None


def _rule_of_bound(bound: Any, shape: tuple[int, ...]) -> str:
    """What is wrong with a bound of a Box; "" if nothing is."""
    try:
        has = np.shape(bound) if isinstance(bound, Tracer) else np.asarray(bound, np.float64).shape
    except (TypeError, ValueError):
        return "needs numbers"
    try:
        fits = np.broadcast_shapes(has, shape) == shape
    except ValueError:
        fits = False
    return "" if fits else f"has shape {list(has)}, needs one that broadcasts to {list(shape)}"


Space: TypeAlias = Discrete | MultiDiscrete | Box | Dict


class Step(NamedTuple):
    """What one environment step gives; a plain tuple in this order works as well."""

    obs: PyTree  # where the action led, never an auto-reset observation
    state: PyTree
    reward: jax.Array  # f32[], in the environment's own unit
    terminated: jax.Array  # bool[], the task ended: nothing follows, so nothing is bootstrapped
    truncated: jax.Array  # bool[], a limit cut the episode: the value of `obs` is bootstrapped
    info: Mapping[str, Any]  # read only by the statistics that name an entry of it


@runtime_checkable
class Env(Protocol):
    """Two pure functions and two spaces, for one environment and without auto-reset.

    `terminated` and `truncated` may both be true at one step; terminated wins.
    An observation is what `observation_space` says: an array, or a dict of them for a `Dict`. Where some
    actions are invalid it is `{"observation": …, "action_mask": bool[n]}` (`True` marks a valid one;
    MultiDiscrete: the masks end to end).

    One that can be drawn has a third method, `render(state, params) -> uint8[H, W, 3]`, rows from the top. It
    is called on the host and never traced, with arrays of JAX in the leaves. A small picture, such as a pixel
    for each field of a grid, is shown larger.
    """

    @property
    def observation_space(self) -> Space: ...

    @property
    def action_space(self) -> Space: ...

    @property
    def default_params(self) -> PyTree:
        """Parameters that `reset` and `step` take; numeric leaves, so that events can move them."""
        ...

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        """Start an episode: `(obs, state)`."""
        ...

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        """Advance by one step."""
        ...


class ActOutput(NamedTuple):
    """What a policy answers, for B environments."""

    action: jax.Array  # [B, ...], as the environment takes it
    carry: PyTree  # the recurrent state after this step, leaves [B, ...]; () for a policy without one
    extras: PyTree  # kept in the rollout for the update (logits, values, ...)


# `(obs [B, ...], carry [B, ...], key)`.
Policy: TypeAlias = Callable[[PyTree, PyTree, Key], ActOutput]


class Rollout(NamedTuple):
    """T steps of B environments, time-major: leaves [T, B, ...].

    `next_obs[t]` is where `action[t]` led, before any reset; `obs[t + 1]` is the same except
    where an episode ended at `t`.
    """

    obs: PyTree
    action: jax.Array
    reward: jax.Array  # f32[T, B]
    terminated: jax.Array  # bool[T, B]
    truncated: jax.Array  # bool[T, B]
    next_obs: PyTree
    # bool[T, B], an episode began at t within the rollout: before `obs[t]` a carry is reset. Row 0 is False,
    # as `carry` is that of a fresh episode already where one begins there.
    started: jax.Array
    extras: PyTree
    carry: PyTree = ()  # the recurrent state before `obs[0]`, leaves [B, ...]


@dataclass(frozen=True)
class EnvSpec:
    """What an algorithm has to know of the problem; fixed for a run."""

    observation_space: Space
    action_space: Space
    observation: PyTree  # jax.ShapeDtypeStruct of one observation
    num_envs: int  # B
    num_updates: int  # what rates anneal over: the run's updates, or fewer if it was extended


class Experience(NamedTuple):
    """How experience is made, closed over the environments. A runner is a token to pass on."""

    # `(policy, runner, key) -> (runner, rollout)`: T steps of B environments, once in an update.
    collect: Callable[[Policy, PyTree, Key], tuple[PyTree, Rollout]]
    # `(runner, key, group) -> runner`: fresh episodes; groups of so many environments share a start.
    restart: Callable[[PyTree, Key, int], PyTree]
    running: jax.Array  # bool[]; False for a seed that has stopped: what it writes is dropped


class Algorithm(NamedTuple, Generic[Agent]):
    """What the loop sees of an algorithm: pure functions of one seed, closed over its networks and rates.

    All that lives between two updates is in the agent or the runner. What happens at a clock (warm-up, the
    copy of a target) is a `lax.cond` on the clock, which stays one under `vmap`.
    """

    # `(key) -> agent`; with a second argument, `params=None`, also for a run that begins from parameters of
    # another: what is made of them, such as a target or an optimizer's state, is then made of those.
    init: Callable[..., Agent]
    policy: Callable[[Agent, Clock], Policy]  # greedy
    sample: Callable[[Agent, Clock], Policy]  # the one that explores
    # `(agent, runner, experience, clock, key) -> (agent, runner, metrics)`. A metric that means nothing yet
    # is a `known.Known`.
    update: Callable[[Agent, PyTree, Experience, Clock, Key], tuple[Agent, PyTree, Metrics]]
    carry: PyTree = ()  # the recurrent state of one environment at an episode's start
    # `(agent, obs, carry) -> f32[...]`, in the environment's reward unit, for any leading axes.
    value: Callable[[Agent, PyTree, PyTree], jax.Array] | None = None


@runtime_checkable
class Hyperparameters(Protocol):
    """What a config says of an algorithm: a frozen dataclass and pytree, see `config.field.config`.

    Rates are leaves, which may be tracers: they are numbers by the time of `make`, also where the config has
    a schedule. All else is static, and decides shapes.
    """

    @property
    def name(self) -> str: ...

    @property
    def rollout_length(self) -> int: ...

    def make(self, spec: EnvSpec) -> Algorithm[Any]:
        """Build networks, distributions and optimizers, once, and the functions that use them."""
        ...

    def check(self, spec: EnvSpec) -> list[Problem]:
        """What does not fit the environment, before anything is traced: a rate may still be a schedule."""
        ...


@dataclass(frozen=True)
class Record:
    """One row of the log: what one event reported at one update, for all seeds."""

    name: str  # the event's
    update: int  # updates done
    env_steps: int  # exact, whatever its size
    values: Mapping[str, np.ndarray]  # [S] or [S, ...]; S = 1 for a single run; read-only
    # What depends on the clock: unix seconds since 1970, elapsed_seconds since the first update
    # began, env_steps_per_second (summed over seeds; without compilation and evaluation).
    time: Mapping[str, float] = field(default_factory=dict)
    index: int = 0  # place in the run's log, from 0; a resumed run goes on counting


@dataclass(frozen=True)
class RunInfo:
    """What a sink is told before the first record."""

    name: str
    total_env_steps: int
    env_steps_per_update: int
    num_seeds: int
    config: Mapping[str, Any] = field(default_factory=dict)  # resolved, plain values
    id: str = ""  # the same whenever the run is resumed; "" for a run that cannot be
    resumed_at: int | None = None  # env steps done when this process took the run up; None in its first


@runtime_checkable
class Sink(Protocol):
    """Where records go. Methods are called from one worker thread, in order, NumPy in, no JAX.

    A sink may raise or block: it is reported once, by name, and left out; training goes on.

    A sink that appends to files may have a fifth method, `files() -> Sequence[Path]`: those it has
    appended to. When a run is resumed they are cut back to their length at the checkpoint, before `open`.
    """

    def open(self, run: RunInfo) -> None: ...

    def write(self, record: Record) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...
