"""Evaluation: complete episodes in environments of their own.

In: a policy, environments and a key. Out: statistics over exactly K episodes, one per environment slot
(never the first K to finish, which would favour short ones).
Knows nothing of training; changes nothing.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.loop.rollout import Collector, Policy, Runner, Start
from jaxtrain.types import Key, PyTree, Report

# time, environments, their parameters, still in the first episode [K], its return [K] and length [K]
Carry: TypeAlias = tuple[jax.Array, Runner, PyTree, jax.Array, jax.Array, jax.Array]
UNROLL = 8  # steps in one turn of the loop on a GPU, where a turn costs several µs


def evaluate(
    collector: Collector, policy: Policy, env_params: PyTree, key: Key, *, max_episode_steps: int
) -> Report:
    """One complete episode in each of the collector's environments.

    Args:
      collector: K environments with their hooks.
      policy: `(obs, memory, key) -> ActOutput`, leaves [K, ...].
      env_params: leaves [K, ...].
      key: used up here; the same key gives the same initial states.
      max_episode_steps: an episode longer than this is cut there and counted in `episodes_cut`.

    Returns:
      `return_mean`, `return_std`, `return_min`, `return_max` (undiscounted, in the environment's
      reward unit), `length_mean` (steps), `episodes` and `episodes_cut`, of one seed.
    """
    num = collector.num_envs
    key_start, key_run = jax.random.split(key)
    runner, env_params = collector.start(key_start, env_params)
    unroll = UNROLL if jax.default_backend() != "cpu" else 1

    def step(carry: Carry, _: None) -> tuple[Carry, None]:
        time, runner, params, active, total, length = carry
        keys = collector.step_keys(jax.random.fold_in(key_run, time))
        # A slot that is done stays: what it does afterwards does not count, so no start is drawn for it.
        stay = Start(runner.obs, runner.env, None)
        runner, _, moment = collector.step(policy, runner, params, keys, stay)
        counts = active & (time < max_episode_steps)  # the last turn may go further
        total = total + jnp.where(counts, moment.rollout.reward, 0.0)
        return (time + 1, runner, params, active & ~(counts & moment.done), total, length + counts), None

    def turn(carry: Carry) -> Carry:
        return lax.scan(step, carry, None, length=unroll, unroll=unroll)[0]

    def running(carry: Carry) -> jax.Array:
        return (carry[0] < max_episode_steps) & jnp.any(carry[3])

    zero = jnp.zeros((), jnp.int32)
    carry = (zero, runner, env_params, jnp.ones(num, bool), jnp.zeros(num), jnp.zeros(num, jnp.int32))
    *_, active, total, length = lax.while_loop(running, turn, carry)
    return {
        "return_mean": total.mean(),
        "return_std": total.std(),
        "return_min": total.min(),
        "return_max": total.max(),
        "length_mean": length.mean(dtype=jnp.float32),
        "episodes": jnp.full((), num, jnp.int32),
        "episodes_cut": active.sum(dtype=jnp.int32),
    }
