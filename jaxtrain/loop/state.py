"""The state of a run: one immutable pytree, of one seed or of many.

In: nothing. Out: `TrainState`, and what is done to any such tree.
Knows nothing of how it is advanced.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from jaxtrain.known import Readings
from jaxtrain.loop.hyper import Rates
from jaxtrain.loop.rollout import Episodes, Runner
from jaxtrain.types import Key, PyTree

# TrainState.status
RUNNING = 0
STOPPED = 1  # by an event
NON_FINITE = 2  # the agent or what it collected was NaN or infinite; the state is that before
ABANDONED = 3  # as another seed was not finite, with `on_nan: raise`


class TrainState(struct.PyTreeNode):
    """Everything a run is at one moment.

    Where it holds S seeds, every leaf but `clock` has a leading S axis.
    """

    clock: jax.Array  # i32[], updates done; shared by all seeds
    key: Key  # the seed's root key; never advanced
    hyper: Rates  # the run's rates by path, such as "algorithm.learning_rate"; events may move them
    agent: PyTree  # the algorithm's own
    runner: Runner
    env_params: PyTree  # leaves [B, ...]: each environment has its own
    episodes: Episodes
    metrics: Readings  # of the last update, and the last report of each event that keeps it, as `event/…`
    events: dict[str, PyTree]  # what events remember between firings
    status: jax.Array  # i32[]
    stopped_at: jax.Array  # i32[], updates done when it stopped running; -1 while it runs


# As in_axes and out_axes of a vmap over seeds.
AXES: Any = TrainState(**{name: None if name == "clock" else 0 for name in TrainState.__annotations__})  # type: ignore[arg-type]


def shared_clock(state: TrainState) -> TrainState:
    """The state with its one clock, of which an outer `vmap` may have made a copy for each seed."""
    return state.replace(clock=state.clock.reshape(-1)[0]) if state.clock.ndim else state
