"""Run PPO and keep all that happened.

In: a config and a key. Out: every agent, rollout and row of metrics, stacked over the updates.
Knows nothing of what is right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain import Config, EnvConfig, EvaluationConfig, LoggingConfig, Trainer
from jaxtrain.loop.rollout import RolloutState
from jaxtrain.types import Clock, Experience, Key, Policy, PyTree, Rollout


class Recorded(NamedTuple):
    """U updates."""

    first: PyTree  # the agent before the first update
    agent: PyTree  # after each update, leaves [U, ...]
    rollout: Rollout  # leaves [U, T, B, ...]
    metrics: dict[str, jax.Array]  # [U]
    keys: Key  # [U], what each update was given


def config_of(env: Any, algorithm: Any, num_envs: int, updates: int, **env_params: float) -> Config:
    """A run of so many updates, without events."""
    return Config(
        env=EnvConfig(id=env, num_envs=num_envs, params=env_params),
        algorithm=algorithm,
        total_env_steps=updates * num_envs * algorithm.rollout_length,
        evaluation=EvaluationConfig(every=0),
        logging=LoggingConfig(every=0),
    )


def record(config: Config, key: Key, *, updates: int | None = None, env_params: PyTree = None) -> Recorded:
    """The updates of one seed.

    Args:
      updates: by default as many as are planned.
      env_params: leaves [B, ...]; by default the same for every environment.
    """
    trainer = Trainer(config)
    key_init, key_updates = jax.random.split(key)
    state = trainer.new(key_init)
    algorithm, collector = trainer.algorithm(state), trainer.collector(state)
    keys = jax.random.split(key_updates, updates or trainer.num_updates)

    def collect(
        policy: Policy, token: tuple[RolloutState, Any], key: Key
    ) -> tuple[tuple[RolloutState, Rollout], Rollout]:
        rollout_state, rollout = collector(policy, token[0], key)
        return (rollout_state, rollout), rollout  # the token of an update brings its rollout out

    def restart(token: tuple[RolloutState, Any], key: Key, group: int) -> tuple[RolloutState, Any]:
        raise NotImplementedError

    experience = Experience(collect, restart, jnp.ones((), bool))

    def update(carry: tuple[PyTree, RolloutState], x: tuple[Clock, Key]) -> tuple[Any, Any]:
        agent, (rollout_state, rollout), metrics = algorithm.update(
            carry[0], (carry[1], None), experience, *x
        )
        return (agent, rollout_state), (agent, rollout, metrics)

    runner, params = state.runner, state.env_params
    if env_params is not None:
        runner, params = collector.start(key_init, env_params)
    rollout_state = collector.begin(runner, params, state.episodes)
    _, rows = lax.scan(update, (state.agent, rollout_state), (jnp.arange(len(keys)), keys))
    return Recorded(state.agent, *rows, keys)
