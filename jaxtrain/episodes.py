"""Finished episodes: the last 100 of a seed, as a ring on the device.

In: which episodes ended in a rollout, their returns and lengths. Out: statistics over the window.
Knows nothing of environments.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxtrain.types import Metrics

WINDOW = 100  # finished episodes that `rollout/return_mean` and the like look back on


@struct.dataclass
class Episodes:
    """The last 100 finished episodes of one seed, as a ring."""

    returns: jax.Array  # f32[100], in the environment's reward unit, undiscounted
    lengths: jax.Array  # i32[100], steps
    position: jax.Array  # i32[], where the next one goes
    finished: jax.Array  # i32[], how many have finished; stays at 2^31 - 1 from there on

    @classmethod
    def empty(cls) -> Episodes:
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros(WINDOW), jnp.zeros(WINDOW, jnp.int32), zero, zero)

    def add(self, done: jax.Array, returns: jax.Array, lengths: jax.Array) -> Episodes:
        """Put in the episodes that ended, in order of time: all three are [T, B]."""
        done, returns, lengths = done.reshape(-1), returns.reshape(-1), lengths.reshape(-1)
        rank = jnp.cumsum(done, dtype=jnp.int32)  # the k-th to finish has rank k
        count = rank[-1]
        kept = done & (rank > count - WINDOW)
        slot = jnp.where(kept, (self.position + rank - 1) % WINDOW, WINDOW)
        room = jnp.iinfo(jnp.int32).max - self.finished
        return Episodes(
            returns=self.returns.at[slot].set(returns, mode="drop"),
            lengths=self.lengths.at[slot].set(lengths, mode="drop"),
            position=(self.position + count) % WINDOW,
            finished=self.finished + jnp.minimum(count, room),
        )

    def metrics(self) -> Metrics:
        """Mean and standard deviation over the window; NaN while no episode has finished."""
        held = jnp.minimum(self.finished, WINDOW)
        inside = jnp.arange(WINDOW) < held

        def mean(x: jax.Array) -> jax.Array:
            return jnp.where(held > 0, jnp.sum(jnp.where(inside, x, 0)) / jnp.maximum(held, 1), jnp.nan)

        return_mean = mean(self.returns)
        return {
            "rollout/return_mean": return_mean,
            "rollout/return_std": jnp.sqrt(mean((self.returns - return_mean) ** 2)),
            "rollout/length_mean": mean(self.lengths.astype(jnp.float32)),
            "rollout/episodes": self.finished,
        }
