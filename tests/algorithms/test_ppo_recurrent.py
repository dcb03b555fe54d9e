"""PPO with a recurrent network: training sees what acting saw, values are of the right carry."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import PPO
from jaxtrain.rl.actor_critic import actor_critic
from jaxtrain.rl.distributions import distribution
from jaxtrain.types import Box, Discrete, EnvSpec, Step
from tests.recorded import config_of, record

STEPS, ENVS, UPDATES = 6, 8, 8
ENDS = 1 + jnp.arange(ENVS)  # the length of each environment's episodes: ends at every step of a rollout


class ClockState(NamedTuple):
    time: jax.Array  # i32[]
    episode: jax.Array  # i32[], counted by a key that moves
    noise: jax.Array  # f32[2]


@dataclass(frozen=True)
class Clock:
    """Noise, and a reward that goes with it; an episode has `length` steps and ends in one of three ways."""

    @property
    def observation_space(self):
        return Box(-np.inf, np.inf, (2,))

    @property
    def action_space(self):
        return Discrete(2)

    @property
    def default_params(self):
        return {"length": jnp.int32(3)}

    def reset(self, key, params):
        noise = 2.0 + jax.random.normal(key, (2,))
        state = ClockState(jnp.int32(0), jax.random.randint(key, (), 0, 3), noise)
        return noise, state

    def step(self, key, state, action, params):
        noise = 2.0 + jax.random.normal(key, (2,))
        reward = noise[0] + action
        over = state.time + 1 >= params["length"]
        terminated, truncated = over & (state.episode != 0), over & (state.episode != 1)
        return Step(
            noise, ClockState(state.time + 1, state.episode, noise), reward, terminated, truncated, {}
        )


def ppo(cell, *, shared=False, **changes):
    network = {"hidden_sizes": (4,), "recurrent": cell, "recurrent_size": 5, "shared": shared}
    settings = {"rollout_length": STEPS, "num_epochs": 1, "num_minibatches": 1, "gamma": 0.9}
    return PPO(**{**settings, "gae_lambda": 0.8, "learning_rate": 0.05, "network": network, **changes})


def recorded(algorithm):
    """Updates of one seed in which episodes end at every step; the carry goes on from one to the next."""
    config = config_of(Clock(), algorithm, ENVS, UPDATES)
    return jax.jit(lambda key: record(config, key, env_params={"length": ENDS}))(jax.random.key(0))


def at(update, tree):
    return jax.tree.map(lambda x: x[update], tree)


def before(run, update):
    """The agent that made a rollout."""
    return run.first if update == 0 else at(update - 1, run.agent)


SPEC = EnvSpec(
    Clock().observation_space,
    Discrete(2),
    jax.ShapeDtypeStruct((2,), jnp.float32),
    num_envs=ENVS,
    num_updates=UPDATES,
)
CELLS = [("gru", True), ("lstm", False)]  # each is both ways in `tests/rl/test_actor_critic.py`


@pytest.fixture(
    scope="module", params=CELLS, ids=lambda case: f"{case[0]}-{'shared' if case[1] else 'apart'}"
)
def case(request):
    cell, shared = request.param
    algorithm = ppo(cell, shared=shared, normalize_advantages=False, clip_value=False)
    made = algorithm.make(SPEC)

    @jax.jit
    def look(agent, obs, next_obs, carry):
        """The values of two observations, each with its carry, and the carry between them."""
        after = made.sample(agent, jnp.int32(0))(obs, carry, jax.random.key(0)).carry
        return made.value(agent, obs, carry), made.value(agent, next_obs, after), after

    return SimpleNamespace(algorithm=algorithm, run=recorded(algorithm), look=look, fresh=made.carry)


def test_the_forward_pass_over_a_stored_rollout_is_that_of_acting(case):
    algorithm, run = case.algorithm, case.run
    net = actor_critic(Clock().observation_space, distribution(Discrete(2)), algorithm.network)
    both = jax.jit(net.both)
    done = np.asarray(run.rollout.terminated | run.rollout.truncated)
    started = np.asarray(run.rollout.started)
    np.testing.assert_array_equal(started[:, 1:], done[:, :-1])
    assert not started[:, 0].any() and started[:, 1:].any((0, 2)).all() and done[:, -1].any()
    for update in range(UPDATES):
        rollout = at(update, run.rollout)
        params = before(run, update).params
        policy, _ = both(params, rollout.obs, rollout.carry, rollout.started)
        np.testing.assert_allclose(policy, rollout.extras["dist"], atol=1e-6)
    # Where the last step of a rollout ended an episode the next begins with a fresh carry, else it goes on.
    for leaf in jax.tree.leaves(run.rollout.carry):
        fresh = ~np.asarray(leaf[1:]).any(axis=-1)
        np.testing.assert_array_equal(fresh, done[:-1, -1])


@pytest.mark.parametrize(
    ("cell", "shared", "normalize"),
    [("gru", True, False), ("lstm", False, True), pytest.param("gru", False, True, marks=pytest.mark.slow)],
)
def test_while_nothing_is_learned_every_minibatch_sees_the_policy_that_acted(cell, shared, normalize):
    """A carry of another environment, or one reset late, would change the ratio."""
    algorithm = ppo(
        cell,
        shared=shared,
        num_epochs=2,
        num_minibatches=4,
        learning_rate=0.0,
        normalize_observations=normalize,
    )
    with jax.enable_x64(True):
        run = recorded(algorithm)
    assert np.abs(run.metrics["approx_kl"]).max() < 1e-12
    assert not np.asarray(run.metrics["clip_fraction"]).any()
    assert np.asarray(run.metrics["gradient_norm"]).min() > 0


def advantages_by_hand(case, agent, rollout):
    """f64[T, B]: one step after the other, each value asked for with its own carry."""
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (ENVS, *x.shape)), case.fresh)
    gamma, gae_lambda = case.algorithm.gamma, case.algorithm.gae_lambda
    carry, now, after = rollout.carry, [], []
    for t in range(STEPS):
        start = rollout.started[t][:, None]
        carry = jax.tree.map(lambda new, old, start=start: jnp.where(start, new, old), fresh, carry)
        value, following, carry = case.look(agent, rollout.obs[t], rollout.next_obs[t], carry)
        now.append(value)
        after.append(following)
    values, following = np.asarray(now, float), np.asarray(after, float)
    advantage, last = np.zeros((STEPS, ENVS)), np.zeros(ENVS)
    for t in reversed(range(STEPS)):
        going = ~np.asarray(rollout.terminated[t])
        delta = np.asarray(rollout.reward[t]) + gamma * going * following[t] - values[t]
        ended = np.asarray(rollout.terminated[t] | rollout.truncated[t])
        last = delta + gamma * gae_lambda * np.where(ended, 0.0, last)
        advantage[t] = last
    return advantage, values


def test_the_value_of_a_truncated_state_is_that_of_the_carry_before_the_reset(case):
    """The losses of a rollout in one batch are moments of the advantages."""
    run = case.run
    assert (run.rollout.truncated & ~run.rollout.terminated).any((0, 2)).all()  # at every step
    for update in range(UPDATES):
        rollout = at(update, run.rollout)
        advantage, values = advantages_by_hand(case, before(run, update), rollout)
        metrics = at(update, run.metrics)
        np.testing.assert_allclose(metrics["policy_loss"], -advantage.mean(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics["value_loss"], 0.5 * np.square(advantage).mean(), rtol=1e-5)
        explained = 1 - advantage.var() / (advantage + values).var()
        np.testing.assert_allclose(metrics["explained_variance"], explained, rtol=1e-4, atol=1e-5)


def test_a_recurrent_policy_gives_its_next_carry_and_one_without_hands_its_own_on():
    for cell, size in (("gru", 5), ("none", 0)):
        made = ppo(cell).make(SPEC)
        agent = made.init(jax.random.key(0))
        carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), made.carry)
        for policy in (made.policy(agent, jnp.int32(0)), made.sample(agent, jnp.int32(0))):
            out = policy(jnp.ones((3, 2)), carry, jax.random.key(0))
            assert jax.tree.structure(out.carry) == jax.tree.structure(made.carry)
            assert all(x.shape == (3, size) and x.any() for x in jax.tree.leaves(out.carry))
        assert (made.carry == ()) == (cell == "none")


class RecallState(NamedTuple):
    time: jax.Array
    bit: jax.Array


@dataclass(frozen=True)
class Recall:
    """Shows +1 or -1 at the first of 4 steps; the last earns 1 for the action that was shown, else -1."""

    @property
    def observation_space(self):
        return Box(-1.0, 1.0, (2,))

    @property
    def action_space(self):
        return Discrete(2)

    @property
    def default_params(self):
        return ()

    def reset(self, key, params):
        state = RecallState(jnp.int32(0), jax.random.randint(key, (), 0, 2))
        return self._show(state), state

    def step(self, key, state, action, params):
        right = jnp.where(action == state.bit, 1.0, -1.0)
        reward = jnp.where(state.time == 3, right, 0.0)
        over = state.time == 3
        state = RecallState(state.time + 1, state.bit)
        return Step(self._show(state), state, reward, over, jnp.zeros((), bool), {})

    def _show(self, state):
        return jnp.array([jnp.where(state.time == 0, 2.0 * state.bit - 1.0, 0.0), state.time / 4])


def last_rewards(algorithm: Any) -> float:
    config = config_of(Recall(), algorithm, 16, 60)
    run = jax.jit(lambda key: record(config, key))(jax.random.key(0))
    rollout = at(slice(-8, None), run.rollout)
    return float(jnp.sum(rollout.reward) / jnp.sum(rollout.terminated))


@pytest.mark.parametrize(
    ("cell", "shared", "low", "high"),
    [
        ("lstm", False, 0.9, 1.0),
        ("none", False, -0.2, 0.2),
        pytest.param("gru", True, 0.9, 1.0, marks=pytest.mark.slow),
    ],
)
def test_what_was_seen_before_is_recalled_with_a_cell_and_not_without(cell, shared, low, high):
    algorithm = ppo(
        cell, shared=shared, rollout_length=32, num_epochs=4, num_minibatches=2, learning_rate=0.02
    )
    assert low <= last_rewards(algorithm) <= high
