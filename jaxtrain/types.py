"""The words the modules share: spaces, what a rollout holds, and three protocols.

In: nothing. Out: plain containers, and what an environment, an algorithm and a sink must offer.
Knows nothing of how any of them works; every other module may import this one.

Axes: S seeds, B environments, T time steps of a rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np

PyTree: TypeAlias = Any
Key: TypeAlias = jax.Array
Metrics: TypeAlias = dict[str, jax.Array]  # flat, scalars of one seed
Report: TypeAlias = dict[str, jax.Array]  # flat, scalars or small arrays of one seed


@dataclass(frozen=True)
class Discrete:
    """One integer in `0 .. n-1`."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class MultiDiscrete:
    """One integer in `0 .. n-1` for each `n` in `nvec`; values are i32[len(nvec)]."""

    nvec: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)


@dataclass(frozen=True, eq=False)
class Box:
    """Real numbers between `low` and `high`, each broadcast to `shape`; infinite where unbounded."""

    low: Any
    high: Any
    shape: tuple[int, ...] = ()

    @property
    def bounded(self) -> bool:
        """Whether every entry has a finite bound on both sides."""
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        limit = float(np.finfo(np.float32).max)  # how gymnax writes "no bound"
        return bool((low > -limit).all() and (high < limit).all())


Space: TypeAlias = Discrete | MultiDiscrete | Box


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
    An observation is an array, or `{"observation": array, "action_mask": bool[n]}` where some
    actions are invalid (`True` marks a valid one; MultiDiscrete: the masks end to end).
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
    memory: PyTree  # recurrent state, [B, ...]; () for a policy without one
    extras: PyTree  # kept in the rollout for the update (log-probability, logits, ...)


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
    extras: PyTree


@dataclass(frozen=True)
class EnvSpec:
    """What an algorithm has to know of the problem; fixed for a run."""

    observation_space: Space
    action_space: Space
    observation: PyTree  # jax.ShapeDtypeStruct of one observation
    num_envs: int  # B
    num_updates: int  # what schedules anneal over: the run's updates, or fewer if it was extended


# `(agent, runner, key) -> (runner, rollout)`. To an algorithm the runner is a token to pass on.
Collect: TypeAlias = Callable[[PyTree, PyTree, Key], tuple[PyTree, Rollout]]


@runtime_checkable
class Algorithm(Protocol):
    """Hyperparameters and three pure methods, all written for one seed.

    Implementations are frozen dataclasses registered as pytrees: rates are leaves, shapes are static.
    """

    @property
    def name(self) -> str: ...

    @property
    def rollout_length(self) -> int: ...

    def init(self, spec: EnvSpec, key: Key) -> PyTree:
        """A fresh agent: parameters, optimizer state, normalizers."""
        ...

    def act(
        self, spec: EnvSpec, agent: PyTree, obs: PyTree, memory: PyTree, key: Key, *, greedy: bool
    ) -> ActOutput:
        """Choose actions for B observations."""
        ...

    def update(
        self, spec: EnvSpec, agent: PyTree, collect: Collect, runner: PyTree, key: Key
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Collect as often as the algorithm wants, and learn: `(agent, runner, metrics)`.

        Every metric is a finite scalar while training is sound: a NaN in one is a NaN in the run.
        """
        ...

    def value(self, spec: EnvSpec, agent: PyTree, obs: PyTree) -> jax.Array:
        """The critic, in the environment's reward unit, for any leading axes."""
        ...

    def memory(self, spec: EnvSpec) -> PyTree:
        """The recurrent state at an episode's start, leaves [B, ...]; () for none."""
        ...


@dataclass(frozen=True)
class Record:
    """One row of the log: what one event reported at one update, for all seeds."""

    name: str  # the event's
    update: int  # updates done
    env_steps: int  # exact, whatever its size
    values: Mapping[str, np.ndarray]  # [S] or [S, ...]; S = 1 for a single run
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
