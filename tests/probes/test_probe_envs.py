"""The probes' own promises: what they call the answer is the answer.

In: `tests.probes.envs`. Out: nothing. Knows nothing of algorithms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import envs
from jaxtrain.types import Box, Env, Step
from tests.probes import envs as probes

PROBES = [
    *(
        probe(continuous=continuous)
        for probe in (
            probes.OneStep,
            probes.ObsIsReward,
            probes.TwoSteps,
            probes.Cycle,
            probes.CycleTimed,
            probes.CycleBoth,
            probes.Counter,
        )
        for continuous in (False, True)
    ),
    probes.TwoActions(),
    probes.ActionByObservation(),
    probes.ContinuousTarget(),
    probes.RandomMDP(),
    probes.EntropyOnly(),
]
GAMMA = 0.9


def episode(env, params, key, num_steps):
    """Uniformly random actions for `num_steps`: the first observation, and the steps."""
    key_reset, *keys = jax.random.split(key, num_steps + 1)
    first, state = env.reset(key_reset, params)
    steps = []
    for key in keys:
        key_action, key_step = jax.random.split(key)
        if isinstance(env.action_space, Box):
            action = jax.random.uniform(key_action, env.action_space.shape, minval=-1.0)
        else:
            action = jax.random.randint(key_action, (), 0, env.action_space.n)
        steps.append(env.step(key_step, state, action, params))
        state = steps[-1].state
    return first, steps


@pytest.mark.parametrize("env", PROBES, ids=repr)
def test_every_probe_is_an_env_that_a_scan_can_carry(env):
    assert isinstance(env, Env) and hash(env) == hash(type(env)(**vars(env))) and envs.make(env) == env

    def run(key, params):
        obs, state = env.reset(key, params)
        action = jnp.zeros(
            env.action_space.shape, jnp.float32 if isinstance(env.action_space, Box) else jnp.int32
        )
        step = env.step(key, state, action, params)
        return (obs, state), step

    params = envs.batch(envs.params(env, {}), 2)
    start, step = jax.eval_shape(jax.vmap(run), jax.random.split(jax.random.key(0), 2), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), start) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (step.obs, step.state)
    )
    assert step.obs.shape == (2, *env.observation_space.shape) and step.obs.dtype == jnp.float32
    assert [(x.shape, x.dtype) for x in step[2:5]] == [((2,), jnp.float32), ((2,), bool), ((2,), bool)]


@pytest.mark.parametrize("env", [p for p in PROBES if hasattr(p, "values")], ids=repr)
def test_values_are_the_fixed_point_of_the_steps(env):
    # V(s) = mean over next of r + gamma (1 - terminated) V(next), from the transitions themselves.
    known, values = env.observations(), env.values(GAMMA)
    params, total, count = envs.params(env, {}), np.zeros(len(values)), np.zeros(len(values))
    draws = 4000 if isinstance(env, probes.RandomMDP) else 16

    @jax.jit
    @jax.vmap
    def run(key):
        key_reset, key_action, *keys = jax.random.split(key, 10)
        obs, state = env.reset(key_reset, params)
        rows, over = [], False
        actions = jax.random.randint(key_action, (8, *env.action_space.shape), 0, 2)
        for key, action in zip(keys, actions, strict=True):
            step = env.step(key, state, action, params)
            rows.append((obs, step.reward, step.terminated, step.obs, jnp.logical_not(over)))
            over = over | step.terminated | step.truncated
            obs, state = step.obs, step.state
        return jax.tree.map(lambda *x: jnp.stack(x), *rows)

    rows = jax.tree.map(
        lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), run(jax.random.split(jax.random.key(0), draws))
    )
    obs, reward, terminated, next_obs, alive = (x[rows[4]] for x in rows)
    assert alive.all()
    index = (obs[:, None] == known).all(-1).argmax(1)
    after = (next_obs[:, None] == known).all(-1)
    assert (terminated | after.any(1)).all()  # what is bootstrapped is an observation with a known value
    target = reward + GAMMA * np.where(terminated, 0.0, values[after.argmax(1)])
    np.add.at(total, index, target)
    np.add.at(count, index, 1)
    assert (count > 0).all()
    # Exact where nothing is random; else within five standard errors of the mean.
    error = 1e-6 if not isinstance(env, probes.RandomMDP) else 5 * target.std() / np.sqrt(count.min())
    np.testing.assert_allclose(total / count, values, atol=error)


def test_the_cycle_has_the_five_values_of_its_closed_form():
    np.testing.assert_allclose(probes.Cycle().values(0.9), [1.602, 1.780, 1.978, 2.198, 2.442], atol=5e-4)


@pytest.mark.parametrize(
    ("probe", "ends"),
    [(probes.Cycle, (False, True)), (probes.CycleTimed, (True, False)), (probes.CycleBoth, (True, True))],
)
def test_a_cycle_ends_at_its_limit_and_as_it_says(probe, ends):
    env = probe()
    first, steps = episode(env, env.default_params, jax.random.key(0), 8)
    assert [(bool(s.terminated), bool(s.truncated)) for s in steps] == [(False, False)] * 7 + [ends]
    assert [float(s.reward) for s in steps] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert first[:5].argmax() == 0 and steps[-1].obs[:5].argmax() == 3  # the limit does not divide the cycle


@pytest.mark.parametrize("env", [probes.TwoActions(), probes.ActionByObservation(5)], ids=repr)
def test_the_best_action_earns_more_than_any_other(env):
    for obs, best in zip(env.observations(), env.best(), strict=True):
        state = jnp.int32(obs.argmax())
        rewards = [
            float(env.step(jax.random.key(0), state, jnp.int32(a), env.default_params).reward)
            for a in range(env.action_space.n)
        ]
        assert rewards == [float(a == best) for a in range(env.action_space.n)]


def test_the_continuous_target_is_the_observation():
    env = probes.ContinuousTarget(size=2)
    obs, state = env.reset(jax.random.key(3), env.default_params)
    gradient = jax.grad(lambda a: env.step(jax.random.key(0), state, a, env.default_params).reward)
    np.testing.assert_array_equal(gradient(obs), 0.0)
    assert env.step(jax.random.key(0), state, obs, env.default_params).reward == 0.0
    np.testing.assert_array_equal(env.best(), env.observations())


def test_values_of_a_policy_agree_with_its_returns_summed():
    env = probes.RandomMDP(num_states=5, num_actions=3, seed=7)
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    transition, reward = env.tables()
    chain, mean, summed = np.einsum("sa,san->sn", policy, transition), (policy * reward).sum(1), np.zeros(5)
    for _ in range(400):  # gamma^400 < 1e-18
        summed = mean + GAMMA * chain @ summed
    np.testing.assert_allclose(env.values(GAMMA, policy), summed, rtol=1e-12)


def test_the_counter_shows_who_when_and_which_episode():
    env, key = probes.Counter(), jax.random.key(0)
    params = env.batched_params(7)
    endings = set()
    for i in range(7):
        one = jax.tree.map(lambda x, i=i: x[i], params)
        first, steps = episode(env, one, jax.random.fold_in(key, i), i % 5 + 1)
        seen = np.stack([first, *(s.obs for s in steps)])
        assert (seen[:, 0] == i).all() and (seen[:, 1] == np.arange(len(seen))).all()
        assert len(set(seen[:, 2])) == 1
        assert [bool(s.terminated | s.truncated) for s in steps] == [False] * (i % 5) + [True]
        endings.add((bool(steps[-1].terminated), bool(steps[-1].truncated)))
        assert sum(float(s.reward) for s in steps) == len(steps) * (len(steps) + 1) / 2
    assert endings == {(True, False), (False, True)}


def test_the_scale_multiplies_the_reward_and_nothing_else():
    env, key = probes.Cycle(), jax.random.key(0)
    (obs, plain), (obs_scaled, scaled) = (
        episode(env, envs.params(env, {"scale": scale}), key, 8) for scale in (1.0, 100.0)
    )
    assert isinstance(plain[0], Step)
    np.testing.assert_array_equal(obs, obs_scaled)
    for a, b in zip(plain, scaled, strict=True):
        assert b.reward == 100 * a.reward
        np.testing.assert_array_equal(a.obs, b.obs)
