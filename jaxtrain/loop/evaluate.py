"""Evaluation: complete episodes in environments of their own.

In: a policy, environments and a key. Out: statistics over exactly K episodes, one per environment slot
(never the first K to finish, which would favour short ones).
Knows nothing of training; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.events.event import Statistic, Transition
from jaxtrain.loop.rollout import Collector, Policy, Runner, Start
from jaxtrain.types import Box, Env, Key, PyTree, Report, Step

Kept: TypeAlias = dict[str, jax.Array]  # f32[K] by the name of a statistic: of each episode so far
# time, environments, their parameters, still in the first episode [K], its return [K], length [K], statistics
Carry: TypeAlias = tuple[jax.Array, Runner, PyTree, jax.Array, jax.Array, jax.Array, Kept]
EPISODES = ("returns", "lengths")  # what is told of each episode
UNROLL = 8  # steps in one turn of the loop on a GPU, where a turn costs several µs


def evaluate(
    collector: Collector, policy: Policy, env_params: PyTree, key: Key, *, max_episode_steps: int
) -> tuple[Report, Report]:
    """One complete episode in each of the collector's environments.

    Args:
      collector: K environments with their hooks and statistics.
      policy: `(obs, memory, key) -> ActOutput`, leaves [K, ...].
      env_params: leaves [K, ...].
      key: used up here; the same key gives the same initial states.
      max_episode_steps: an episode longer than this is cut there and counted in `episodes_cut`.

    Returns:
      Of one seed `return_mean`, `return_std`, `return_min`, `return_max` (undiscounted, in the
      environment's reward unit), `length_mean` (steps), `episodes` and `episodes_cut`, and each statistic by
      its name: over the steps of all the episodes as a rollout's is over its own, see `reduced`. And of each
      episode its `returns` f32[K] and `lengths` i32[K].
    """
    num = collector.num_envs
    key_start, key_run = jax.random.split(key)
    runner, env_params = collector.start(key_start, env_params)
    unroll = UNROLL if jax.default_backend() != "cpu" else 1

    def step(carry: Carry, _: None) -> tuple[Carry, None]:
        time, runner, params, active, total, length, kept = carry
        keys = collector.step_keys(jax.random.fold_in(key_run, time))
        # A slot that is done stays: what it does afterwards does not count, so no start is drawn for it.
        stay = Start(runner.obs, runner.env, None)
        runner, _, moment = collector.step(policy, runner, params, keys, stay)
        counts = active & (time < max_episode_steps)  # the last turn may go further
        total = total + jnp.where(counts, moment.rollout.reward, 0.0)
        kept = {
            s.name: jnp.where(counts, _later(s, kept[s.name], moment.numbers[s.name], time), kept[s.name])
            for s in collector.statistics
        }
        ended = counts & moment.done
        return (time + 1, runner, params, active & ~ended, total, length + counts, kept), None

    def turn(carry: Carry) -> Carry:
        return lax.scan(step, carry, None, length=unroll, unroll=unroll)[0]

    def running(carry: Carry) -> jax.Array:
        return (carry[0] < max_episode_steps) & jnp.any(carry[3])

    zero, zeros = jnp.zeros((), jnp.int32), jnp.zeros(num)
    kept = {s.name: zeros for s in collector.statistics}
    carry = (zero, runner, env_params, jnp.ones(num, bool), zeros, jnp.zeros(num, jnp.int32), kept)
    *_, active, total, length, kept = lax.while_loop(running, turn, carry)
    report = {
        "return_mean": total.mean(),
        "return_std": total.std(),
        "return_min": total.min(),
        "return_max": total.max(),
        "length_mean": length.mean(dtype=jnp.float32),
        "episodes": jnp.full((), num, jnp.int32),
        "episodes_cut": active.sum(dtype=jnp.int32),
        **{s.name: reduced(s, kept[s.name], length) for s in collector.statistics},
    }
    return report, dict(zip(EPISODES, (total, length), strict=True))


def _later(statistic: Statistic, kept: jax.Array, now: jax.Array, time: jax.Array) -> jax.Array:
    """Of each episode, f32[K], one step on; `now` is what the step gives, of `episode` the sum so far."""
    if statistic.reduction in ("mean", "sum"):
        return kept + now
    return jnp.where(time == 0, now, jnp.maximum(kept, now)) if statistic.reduction == "max" else now


def reduced(statistic: Statistic, kept: jax.Array, length: jax.Array) -> jax.Array:
    """A statistic over K episodes: what it is in a rollout, with their steps for those of an update.

    Args:
      kept: f32[K], of each episode its sum (`mean`, `sum`, `episode`), maximum, or value at the end (`last`).
      length: i32[K], steps.

    Returns:
      f32[]: the mean, sum or maximum over all the steps; of `last` and `episode` the mean over the episodes.
    """
    if statistic.reduction == "mean":
        return kept.sum() / length.sum(dtype=jnp.float32)
    return {"sum": jnp.sum, "max": jnp.max}.get(statistic.reduction, jnp.mean)(kept)


def told(env: Env, env_params: PyTree, statistics: Sequence[Statistic]) -> tuple[Statistic, ...]:
    """Those statistics that an environment has the entries of `info` for; one that trains has them all.

    Args:
      env_params: of one environment.
    """
    space = env.action_space
    action = jnp.zeros(space.shape, jnp.float32 if isinstance(space, Box) else jnp.int32)  # type: ignore

    def transition(key: Key) -> Transition:
        obs, state = env.reset(key, env_params)
        out = Step(*env.step(key, state, action, env_params))
        return Transition(obs, action, out.reward, out.obs, out.terminated, out.truncated, out.info)

    seen = jax.eval_shape(transition, jax.random.key(0))

    def has(statistic: Statistic) -> bool:
        if not callable(statistic.source):
            return statistic.source in seen.info
        try:
            jax.eval_shape(statistic, seen)
        except KeyError:
            return False
        return True

    return tuple(filter(has, statistics))
