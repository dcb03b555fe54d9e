"""What users add to a rollout: functions inside the environments' episodes, numbers about every step.

In: pure functions of one environment. Out: `OnReset`, `OnStep`, `Statistic`.
Knows nothing of when they are called; `rollout.py` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtrain.types import Key, PyTree


@dataclass(frozen=True)
class OnReset:
    """A pure function at the start of each episode: `run(key, params) -> params`, of one environment."""

    name: str
    run: Callable[[Key, PyTree], PyTree]


@dataclass(frozen=True)
class OnStep:
    """A pure function every few steps of an episode: `run(key, state, params) -> state`, of one environment.

    The number of steps until the next call is drawn for each environment, uniformly from
    `every = (low, high)`; the count begins anew with each episode. It acts between the policy's
    observation and the step, as a push would.
    """

    name: str
    run: Callable[[Key, PyTree, PyTree], PyTree]
    every: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        low, high = self.every
        if not 1 <= low <= high:
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
        if callable(self.source):
            return jnp.asarray(self.source(transition), jnp.float32)
        if self.source not in transition.info:
            known = ", ".join(map(str, transition.info)) or "nothing"
            raise ValueError(f"statistic {self.name!r}: info has no {self.source!r}; it has {known}")
        return jnp.asarray(transition.info[self.source], jnp.float32)
