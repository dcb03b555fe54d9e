"""Complete episodes, step by step: what an evaluation only sums up, with the state at every step.

In: a collector, a policy, a key. Out: the states of K environments, from the start of an episode to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.envs.wrappers import Wrapper
from jaxtrain.events.event import OnStep
from jaxtrain.loop.rollout import Collector, Policy, Runner, Start
from jaxtrain.types import Key, PyTree, Step


class Moment(NamedTuple):
    """K episodes at one step; what is behind an episode's end means nothing."""

    state: PyTree  # of the environments, leaves [K, ...]
    returns: jax.Array  # f32[K], so far
    terminated: jax.Array  # bool[K], the step that led here ended the episode so
    truncated: jax.Array  # bool[K]


class Walked(NamedTuple):
    """How far K episodes are."""

    key: Key  # of all steps
    time: jax.Array  # i32[], steps since the start
    runner: Runner
    env_params: PyTree  # leaves [K, ...]
    returns: jax.Array  # f32[K]


class Ended(NamedTuple):
    """The state of an environment, and how the step that led to it ended."""

    state: PyTree
    terminated: jax.Array
    truncated: jax.Array


@dataclass(frozen=True)
class Endless(Wrapper):
    """`env`, whose last states a collector does not replace by the next start."""

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = self.env.reset(key, params)
        return obs, Ended(state, jnp.zeros((), bool), jnp.zeros((), bool))

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        out = Step(*self.env.step(key, state.state, action, params))
        no = jnp.zeros((), bool)
        ended = Ended(out.state, out.terminated, out.truncated)
        return out._replace(state=ended, terminated=no, truncated=no)


def watched(collector: Collector) -> Collector:
    """A collector whose episodes go on behind their end, for `begin` and `go_on`."""
    hooks = tuple(_inside(hook) for hook in collector.on_step)
    return replace(collector, env=Endless(collector.env), on_step=hooks, statistics=(), watch=False)


def begin(collector: Collector, key: Key, env_params: PyTree) -> tuple[Walked, Moment]:
    """Start K episodes, those that `loop.evaluate.evaluate` has of the same arguments.

    Args:
      collector: what `watched` gave.
      key: used up here.
      env_params: leaves [K, ...].
    """
    key_start, key_run = jax.random.split(key)
    runner, env_params = collector.start(key_start, env_params)
    returns = jnp.zeros(collector.num_envs)
    walked = Walked(key_run, jnp.zeros((), jnp.int32), runner, env_params, returns)
    return walked, _moment(runner, returns)


def go_on(collector: Collector, policy: Policy, walked: Walked, steps: int) -> tuple[Walked, Moment]:
    """So many steps further; the moments after each of them, leaves [steps, K, ...]."""

    def step(walked: Walked, _: None) -> tuple[Walked, Moment]:
        runner = walked.runner
        keys = collector.step_keys(jax.random.fold_in(walked.key, walked.time))
        stay = Start(runner.obs, runner.env, None)  # no episode is seen to end, so no start is drawn
        runner, _, made = collector.step(policy, runner, walked.env_params, keys, stay)
        returns = walked.returns + made.rollout.reward
        walked = walked._replace(time=walked.time + 1, runner=runner, returns=returns)
        return walked, _moment(runner, returns)

    return lax.scan(step, walked, None, length=steps)


def _moment(runner: Runner, returns: jax.Array) -> Moment:
    return Moment(runner.env.state, returns, runner.env.terminated, runner.env.truncated)


def _inside(hook: OnStep) -> OnStep:
    """A hook, that it finds the environment's own state."""

    def run(key: Key, state: Any, params: PyTree, **more: Any) -> Any:
        return state._replace(state=hook.run(key, state.state, params, **more))

    return replace(hook, run=run)
