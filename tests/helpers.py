"""What the tests of the loop share: a tiny config, the least environment and the least algorithm.

In: nothing. Out: `tiny`, `Walk`, `Reinforce` and comparisons of pytrees.
Knows nothing of the claims that are tested with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtrain import PPO, Config, TrainState
from jaxtrain.config import field
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.types import (
    ActOutput,
    Algorithm,
    Box,
    Clock,
    Discrete,
    EnvSpec,
    Experience,
    Key,
    Metrics,
    Policy,
    PyTree,
    Space,
    Step,
)


class WalkParams(NamedTuple):
    scale: Any = 1.0  # of the reward
    end: Any = 0.2  # probability that a step terminates
    push: Any = 0.1  # what an action moves by


class WalkState(NamedTuple):
    position: jax.Array  # f32[]
    time: jax.Array  # i32[], steps since the reset


@dataclass(frozen=True)
class Walk:
    """A noisy walk on a line: random ends, some by a limit of 6 steps, and a reward for staying near 0."""

    @property
    def observation_space(self) -> Space:
        return Box(-np.inf, np.inf, (1,))

    @property
    def action_space(self) -> Space:
        return Discrete(2)

    @property
    def default_params(self) -> WalkParams:
        return WalkParams()

    def reset(self, key: Key, params: WalkParams) -> tuple[jax.Array, WalkState]:
        state = WalkState(jax.random.uniform(key, minval=-1.0), jnp.int32(0))
        return state.position[None], state

    def step(self, key: Key, state: WalkState, action: jax.Array, params: WalkParams) -> Step:
        key_noise, key_end = jax.random.split(key)
        moved = params.push * (2 * action - 1) + 0.01 * jax.random.normal(key_noise)
        state = WalkState(state.position + moved, state.time + 1)
        reward = params.scale * (1 - jnp.abs(state.position))
        terminated = jax.random.uniform(key_end) < params.end
        return Step(state.position[None], state, reward, terminated, state.time >= 6, {"moved": moved})


@field.config
class Reinforce:
    """A linear policy and a linear critic, one gradient step a rollout: the least that learns.

    Compiles many times faster than PPO; of the loop, both ask the same.
    """

    name: str = field.text("reinforce")
    rollout_length: int = field.integer(4, low=1)
    learning_rate: Any = field.rate(0.1, low=0)
    gamma: Any = field.rate(0.9, low=0, high=1)  # of the critic's one-step target

    def make(self, spec: EnvSpec) -> Algorithm[PyTree]:
        size, actions = *spec.observation_space.shape, spec.action_space.n

        def init(key: Key) -> PyTree:
            return {"policy": jax.random.normal(key, (size, actions)), "value": jnp.zeros(size)}

        def policy(agent: PyTree, clock: Clock, *, greedy: bool) -> Policy:
            def act(obs: jax.Array, carry: PyTree, key: Key) -> ActOutput:
                logits = obs @ agent["policy"]
                action = logits.argmax(-1) if greedy else jax.random.categorical(key, logits)
                return ActOutput(action, carry, ())

            return act

        sample = partial(policy, greedy=False)

        def update(
            agent: PyTree, runner: PyTree, experience: Experience, clock: Clock, key: Key
        ) -> tuple[PyTree, PyTree, Metrics]:
            runner, rollout = experience.collect(sample(agent, clock), runner, key)

            def loss(agent: PyTree) -> jax.Array:
                log_prob = jax.nn.log_softmax(rollout.obs @ agent["policy"])
                taken = jnp.take_along_axis(log_prob, rollout.action[..., None], -1)[..., 0]
                after = lax.stop_gradient(rollout.next_obs @ agent["value"])
                target = rollout.reward + self.gamma * ~rollout.terminated * after
                error = target - rollout.obs @ agent["value"]
                return jnp.mean(jnp.square(error) - taken * rollout.reward)

            value, grads = jax.value_and_grad(loss)(agent)
            agent = jax.tree.map(lambda w, g: w - self.learning_rate * g, agent, grads)
            return agent, runner, {"loss": value}

        return Algorithm(
            init=init,
            policy=partial(policy, greedy=True),
            sample=sample,
            update=update,
            value=lambda agent, obs, carry: obs @ agent["value"],
        )


def tiny(
    updates: int = 12, *, env: Any = None, params: Any = None, num_envs: int = 2, **given: Any
) -> Config:
    """Two environments and 4 steps an update; logging and evaluation only where asked for.

    Args:
      env, params: an environment and overrides of its parameters.
      given: other fields of the `Config`.
    """
    given = {"algorithm": Reinforce(), "logging": {"every": 0}, "evaluation": {"every": 0}} | given
    return Config(
        env={"id": env or Walk(), "num_envs": num_envs, "params": params or {}},
        total_env_steps=updates * num_envs * given["algorithm"].rollout_length,
        **given,
    )


def tiny_ppo(**given: Any) -> PPO:
    """One epoch, two minibatches, four hidden units."""
    network = NetworkConfig(hidden_sizes=(4,))
    return PPO(**({"rollout_length": 4, "num_epochs": 1, "num_minibatches": 2, "network": network} | given))


def keys(seeds: int, seed: int = 0) -> Key:
    """`seeds` keys [S]."""
    return jax.random.split(jax.random.key(seed), seeds)


def arrays(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every leaf by its path, keys as their words."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        yield jax.tree_util.keystr(path), np.asarray(jax.random.key_data(leaf) if typed else leaf)


def differing(a: Any, b: Any) -> list[str]:
    """The leaves whose bits differ, by path; of two trees of one structure."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return [
        path
        for (path, x), (_, y) in zip(arrays(a), arrays(b), strict=True)
        if x.shape != y.shape or x.dtype != y.dtype or x.tobytes() != y.tobytes()
    ]


def seed(index: int, state: TrainState) -> TrainState:
    """One seed of a state of many."""
    return jax.tree.map(lambda x: x[index] if x.ndim else x, state)


def equations(jaxpr: Any, around: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Every equation of a jaxpr and of those inside it, with the names of the primitives around it."""
    for eqn in jaxpr.eqns:
        yield eqn, around
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner, (*around, eqn.primitive.name))
