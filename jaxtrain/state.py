"""The state of a run: one immutable pytree, of one seed or of many.

In: nothing. Out: `TrainState`, and what is done to any such tree.
Knows nothing of how it is advanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxtrain.episodes import Episodes
from jaxtrain.rollout import Runner
from jaxtrain.types import Key, Metrics, PyTree

# TrainState.status
RUNNING = 0
STOPPED = 1  # by an event
NON_FINITE = 2  # a metric or the agent was NaN or infinite; the state is the one before that update
ABANDONED = 3  # as another seed was not finite, with `on_nan: raise`


class TrainState(struct.PyTreeNode):
    """Everything a run is at one moment.

    Where it holds S seeds, every leaf but `clock` has a leading S axis.
    """

    clock: jax.Array  # i32[], updates done; shared by all seeds
    key: Key  # the seed's root key; never advanced
    agent: PyTree  # the algorithm's own
    runner: Runner
    env_params: PyTree  # leaves [B, ...]: each environment has its own
    episodes: Episodes
    metrics: Metrics  # of the last update, and the last report of each sticky event as `event/…`
    events: dict[str, PyTree]  # what events remember between firings
    status: jax.Array  # i32[]
    stopped_at: jax.Array  # i32[], updates done when it stopped running; -1 while it runs


# As in_axes and out_axes of a vmap over seeds.
AXES: Any = TrainState(**{name: None if name == "clock" else 0 for name in TrainState.__annotations__})  # type: ignore[arg-type]


def shared_clock(state: TrainState) -> TrainState:
    """The state with its one clock, of which an outer `vmap` may have made a copy for each seed."""
    return state.replace(clock=state.clock.reshape(-1)[0]) if state.clock.ndim else state


def where(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Choose by seed: `condition` is bool[] or bool[S], leaves have more axes behind those."""

    def pick(x: jax.Array, y: jax.Array) -> jax.Array:
        if x is y or x.ndim < condition.ndim:  # the clock
            return x
        return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

    return jax.tree.map(pick, on_true, on_false)


def unknown(shapes: PyTree) -> PyTree:
    """Arrays of these shapes that say nothing yet: NaN, and 0 where the dtype has no NaN."""

    def make(x: Any) -> jax.Array:
        return jnp.full(x.shape, jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)

    return jax.tree.map(make, shapes)


def inexact(x: Any) -> bool:
    """Whether the dtype has NaN and infinities."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def not_finite(leaves: Sequence[jax.Array], seeds: jax.Array) -> jax.Array:
    """Which of these seeds are not finite in some leaf [..., more axes]: a bool of the shape of `seeds`."""
    found = jnp.zeros(seeds.shape, bool)
    for x in filter(inexact, leaves):
        found |= ~jnp.isfinite(x).all(axis=tuple(range(seeds.ndim, x.ndim)))
    return found & seeds


def as_key(key: Any) -> Key:
    """A typed key from either kind; u32[..., 2] is the old one.

    Raises:
      ValueError: it is neither.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    try:
        if dtype != jnp.uint32:
            raise TypeError
        return jax.random.wrap_key_data(jnp.asarray(key))
    except TypeError:  # of another dtype, or not the two words of a key
        raise ValueError(f"key = {key!r}: needs jax.random.key(seed) or jax.random.PRNGKey(seed)") from None
