"""PPO on problems whose answer is known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxtrain import PPO, Trainer, train
from jaxtrain.config import field
from jaxtrain.types import ActOutput, Algorithm, Box, Discrete, EnvSpec, Experience, Rollout, Step
from tests.probes import envs as probes
from tests.recorded import config_of, record

GAMMA = 0.9


def ppo(**changes: Any) -> PPO:
    small = {"rollout_length": 16, "num_epochs": 2, "num_minibatches": 2, "network": {"hidden_sizes": (8,)}}
    return PPO(**{**small, "learning_rate": 1e-2, "gamma": GAMMA, "entropy_coef": 0.0, **changes})


def learn(env, *, updates=200, **changes):
    config = config_of(env, ppo(**changes), num_envs=16, updates=updates)
    return Trainer(config), train(config, jax.random.key(0)).state


def probabilities(trainer, state, obs):
    """f32[N, n] of a discrete policy."""
    decision = trainer.algorithm(state).policy(state.agent, state.clock)(obs, (), jax.random.key(0))
    return np.asarray(jax.nn.softmax(decision.extras["dist"]))


VALUES = [
    (probes.OneStep, 0.01),
    (probes.ObsIsReward, 0.02),
    (probes.TwoSteps, 0.02),
    (probes.Cycle, 0.016),  # 1 % of the smallest value
    (probes.CycleTimed, 0.0065),  # 1 % of the smallest that is not 0
    (probes.CycleBoth, 0.0065),
]


@pytest.mark.parametrize(
    ("probe", "tolerance", "continuous"),
    [
        *((probe, tolerance, False) for probe, tolerance in VALUES),
        (probes.TwoSteps, 0.02, True),
        *(pytest.param(*of, True, marks=pytest.mark.slow) for of in VALUES if of[0] is not probes.TwoSteps),
    ],
)
def test_the_critic_learns_the_true_values(probe, tolerance, continuous):
    env = probe(continuous=continuous)
    trainer, state = learn(env)
    value = trainer.value(state, env.observations())
    np.testing.assert_allclose(value, env.values(GAMMA), rtol=0, atol=tolerance)


@dataclass(frozen=True)
class FarAway(probes.ObsIsReward):
    """The observation shifted and stretched, the reward a hundred times as large."""

    @property
    def observation_space(self):
        return Box(-np.inf, np.inf, (1,))

    def observations(self):
        return 1000 + 50 * super().observations()

    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return 1000 + 50 * obs, state

    def step(self, key, state, action, params):
        step = super().step(key, state, action, params)
        return step._replace(obs=1000 + 50 * step.obs, reward=100 * step.reward)


def test_normalized_observations_and_rewards_give_values_in_the_environments_own_units():
    trainer, state = learn(FarAway(), normalize_observations=True, normalize_rewards=True)
    value = trainer.value(state, FarAway().observations())
    np.testing.assert_allclose(value, [-100.0, 100.0], atol=2.0)


@pytest.mark.parametrize("probe", [probes.TwoActions, probes.ActionByObservation])
def test_the_policy_learns_the_best_action(probe):
    trainer, state = learn(probe())
    obs, best = probe().observations(), probe().best()
    assert (probabilities(trainer, state, obs)[np.arange(len(best)), best] >= 0.99).all()
    np.testing.assert_array_equal(trainer.policy(state)(obs), best)


@pytest.mark.parametrize("squash", [False, True], ids=["clipped", "squashed"])
def test_a_gaussian_policy_learns_the_best_action(squash):
    env = probes.ContinuousTarget(size=2)
    trainer, state = learn(env, squash_actions=squash)
    np.testing.assert_allclose(trainer.policy(state)(env.observations()), env.best(), atol=0.05)


def test_an_entropy_bonus_alone_makes_the_policy_uniform():
    env = probes.EntropyOnly()
    far_from_uniform = nn.Dense(env.num_actions, bias_init=nn.initializers.normal(2.0))
    trainer, state = learn(env, entropy_coef=0.1, policy_network=far_from_uniform)

    def entropy(state):
        p = probabilities(trainer, state, env.observations())[0]
        return -(p * np.log(p)).sum()

    assert entropy(trainer.new(jax.random.key(0))) < 0.8 * env.entropy()
    assert entropy(state) == pytest.approx(env.entropy(), abs=1e-3)


def test_with_normalized_advantages_the_unit_of_the_reward_does_not_reach_the_policy():
    # The observation is 0, so that a fresh critic says exactly 0 whatever the reward.
    plain_steps = ppo(num_epochs=1, num_minibatches=1, optimizer=optax.sgd(1.0))

    @jax.jit
    def gradient(scale):
        recorded = record(config_of(probes.TwoActions(), plain_steps, 16, 1, scale=scale), jax.random.key(0))
        return jax.tree.map(lambda old, new: old - new[0], recorded.first, recorded.agent).params

    one, hundred = gradient(1.0), gradient(100.0)
    for a, b in zip(jax.tree.leaves(one["policy"]), jax.tree.leaves(hundred["policy"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    size = {name: float(optax.tree.norm(one[name])) for name in one}
    assert size["policy"] > 0.1
    assert float(optax.tree.norm(hundred["value"])) == pytest.approx(100 * size["value"], rel=1e-4)


def test_the_values_of_a_fixed_policy_solve_the_bellman_equation():
    """Rollouts of three steps that hold every path of a random MDP as often as it is likely."""
    states, outcomes, steps = 4, 4, 3  # of the policy's action and of chance, equally likely
    rng = np.random.default_rng(0)
    successor, reward = rng.integers(states, size=(states, outcomes)), rng.normal(size=(states, outcomes))
    start, *drawn = np.array(list(itertools.product(range(states), *[range(outcomes)] * steps))).T
    visited = [start]
    for outcome in drawn:
        visited.append(successor[visited[-1], outcome])
    visited, drawn = np.stack(visited), np.stack(drawn)
    obs = np.eye(states, dtype=np.float32)
    never = np.zeros(drawn.shape, bool)
    rollout = Rollout(
        obs=obs[visited[:-1]],
        action=np.zeros(drawn.shape, np.int32),
        reward=reward[visited[:-1], drawn].astype(np.float32),
        terminated=never,
        truncated=never,
        next_obs=obs[visited[1:]],
        started=never,
        extras={"dist": np.zeros((*drawn.shape, 2), np.float32)},
    )
    rollout = jax.tree.map(jnp.asarray, rollout)
    updates, envs = 300, len(start)
    spec = EnvSpec(
        Box(0.0, 1.0, (states,)), Discrete(2), jax.ShapeDtypeStruct((states,), jnp.float32), envs, updates
    )
    algorithm = ppo(rollout_length=steps, max_grad_norm=1e6).make(spec)
    same = Experience(lambda policy, runner, key: (runner, rollout), lambda *_: (), jnp.ones((), bool))

    def update(agent, x):
        clock, key = x
        return algorithm.update(agent, (), same, clock, key)[0], None

    @jax.jit
    def run(key):
        turns = jnp.arange(updates), jax.random.split(key, updates)
        return lax.scan(update, algorithm.init(key), turns)[0]

    transition = np.eye(states)[successor].mean(axis=1)
    expected = np.linalg.solve(np.eye(states) - GAMMA * transition, reward.mean(axis=1))
    value = algorithm.value(run(jax.random.key(0)), obs, ())
    np.testing.assert_allclose(value, expected, atol=1e-3)


@pytest.mark.slow  # forty million steps: the error falls with the root of their number
def test_the_critic_of_a_frozen_policy_finds_the_values_of_a_random_mdp():
    env, gamma = probes.RandomMDP(), 0.5
    labels = {"policy": "frozen", "value": "learns"}
    steps = optax.multi_transform(
        {"frozen": optax.set_to_zero(), "learns": optax.sgd(lambda step: 40 / (40 + step))}, labels
    )
    algorithm = PPO(
        rollout_length=16,
        num_epochs=1,
        num_minibatches=1,
        gamma=gamma,
        gae_lambda=0.8,
        clip_value=False,
        optimizer=steps,
        policy_network=nn.Dense(env.num_actions),
        value_network=nn.Dense(1, use_bias=False),
    )
    config = config_of(env, algorithm, num_envs=1024, updates=2400)
    trainer, state = Trainer(config), train(config, jax.random.key(0)).state
    policy = probabilities(trainer, state, env.observations()).astype(np.float64)
    value = trainer.value(state, env.observations())
    np.testing.assert_allclose(value, env.values(gamma, policy), atol=1e-3)


def test_each_environment_sees_its_own_episodes_from_their_start_to_their_end():
    """Two seeds of four environments that show their number, the time and the episode."""
    seeds, num_envs, updates = 2, 4, 3
    env = probes.Counter()

    def numbered(key):
        config = config_of(env, ppo(rollout_length=8), num_envs, updates)
        return record(config, key, env_params=env.batched_params(num_envs))

    rollout = jax.jit(jax.vmap(numbered))(jax.random.split(jax.random.key(0), seeds)).rollout
    rollout = jax.tree.map(lambda x: np.asarray(x).reshape(seeds, -1, num_envs, *x.shape[4:]), rollout)
    number, time, episode = np.moveaxis(rollout.obs, -1, 0)
    length = np.arange(num_envs) % 5 + 1
    steps = np.arange(time.shape[1])[:, None]
    np.testing.assert_array_equal(number, np.broadcast_to(np.arange(num_envs), number.shape))
    np.testing.assert_array_equal(time, np.broadcast_to(steps % length, time.shape))
    np.testing.assert_array_equal(rollout.next_obs, rollout.obs + np.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(rollout.reward, time + 1)
    over, odd = time + 1 == length, episode % 2 == 1
    np.testing.assert_array_equal(rollout.terminated, over & ~odd)
    np.testing.assert_array_equal(rollout.truncated, over & odd)
    # The number of an episode is drawn from its reset's key: it changes where one ends and nowhere else.
    np.testing.assert_array_equal(episode[:, 1:] != episode[:, :-1], over[:, :-1])
    starts = episode[time == 0]
    assert len(set(starts)) == len(starts)


@dataclass(frozen=True)
class Noise(probes.OneStep):
    """Every observation is a draw, and so is the end."""

    def reset(self, key, params):
        return jax.random.uniform(key, (1,)), ()

    def step(self, key, state, action, params):
        obs = jax.random.uniform(key, (1,))
        return Step(obs, (), obs[0], obs[0] < 0.3, jnp.zeros((), bool), {})


@field.config
class Keep:
    """Acts by a draw, learns nothing, and keeps the last rollout."""

    name: str = field.text("keep")
    rollout_length: int = field.integer(4)

    def make(self, spec):
        def init(key):
            obs, draw = jnp.zeros((self.rollout_length, spec.num_envs, 1)), jnp.zeros(self.rollout_length)
            return {"obs": obs, "next_obs": obs, "draw": draw}

        def policy(agent, clock):
            def act(obs, carry, key):
                return ActOutput(jnp.zeros(len(obs), jnp.int32), carry, jax.random.uniform(key))

            return act

        def update(agent, runner, experience, clock, key):
            runner, rollout = experience.collect(policy(agent, clock), runner, key)
            kept = {"obs": rollout.obs, "next_obs": rollout.next_obs, "draw": rollout.extras}
            return kept, runner, {"loss": jnp.zeros(())}

        return Algorithm(init, policy, policy, update)


def test_no_draw_comes_twice_whatever_the_seed_the_update_the_step_or_the_environment():
    trainer = Trainer(config_of(Noise(), Keep(), num_envs=3, updates=5))

    @jax.jit
    def run(keys):
        def update(state, _):
            state = trainer.update(state)
            return state, state.agent

        return lax.scan(update, trainer.new(keys), length=5)[1]

    kept = jax.tree.map(np.ravel, run(jax.random.split(jax.random.key(0), 2)))
    starts = np.setdiff1d(kept["obs"], kept["next_obs"])
    begun = 2 * 3 + (kept["next_obs"] < 0.3).sum()  # episodes, of which those of the last step are not seen
    drawn = np.concatenate([kept["next_obs"], kept["draw"], starts])
    assert len(np.unique(drawn)) == len(drawn) == 120 + 40 + len(starts)
    assert begun - 6 <= len(starts) <= begun
