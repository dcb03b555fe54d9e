"""PPO, one property at a time."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.algorithms.ppo import PPO
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.types import Box, Dict, Discrete, EnvSpec, Experience, Rollout
from tests.algorithms.small import (
    ENVS,
    METRICS,
    NARROW,
    STEPS,
    THREE,
    TWO,
    Drift,
    Image,
    Masked,
    Privileged,
    pick,
)
from tests.helpers import tiny_ppo
from tests.recorded import config_of, record


def recorded(env, algorithm, updates):
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x),
        jax.jit(lambda key: record(config_of(env, algorithm, ENVS, updates), key))(jax.random.key(0)),
    )


def test_one_full_batch_sees_the_policy_that_acted_however_observations_rewards_and_actions_are_transformed():
    """A normalizer that moved before learning, or a log-probability of another action, would show."""
    algorithm = pick(
        {},
        num_epochs=1,
        num_minibatches=1,
        squash_actions=True,
        normalize_observations=True,
        normalize_rewards=True,
    )
    with jax.enable_x64(True):
        run = recorded(Drift(NARROW), algorithm, 6)
    assert np.abs(run.metrics["approx_kl"]).max() < 1e-12
    assert not run.metrics["clip_fraction"].any()
    assert (np.abs(run.rollout.action) <= 0.5).all()
    assert np.abs(run.rollout.extras["action"]).max() > 2  # before the tanh


def given(rollout):
    """Experience that is always this rollout."""
    running = jnp.ones((), bool)
    return Experience(lambda policy, runner, key: (runner, rollout), lambda runner, *_: runner, running)


def test_each_sample_is_used_once_in_each_epoch():
    """The critic has one weight for each sample: each plain gradient step moves it by the same factor."""
    size, epochs, minibatches = STEPS * ENVS, 3, 4
    no = jnp.zeros((STEPS, ENVS), bool)
    obs = jnp.eye(size).reshape(STEPS, ENVS, size)
    extras = {"dist": jnp.zeros((STEPS, ENVS, 2))}
    rollout = Rollout(obs, no.astype(jnp.int32), jnp.ones((STEPS, ENVS)), ~no, no, obs, no, extras, ())
    algorithm = pick(
        {},
        num_epochs=epochs,
        num_minibatches=minibatches,
        clip_value=False,
        value_network=nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros),
        optimizer=optax.sgd(1.0),
    )
    spec = EnvSpec(Box(0.0, 1.0, (size,)), Discrete(2), jax.ShapeDtypeStruct((size,), jnp.float32), ENVS, 1)

    experience = given(rollout)

    @jax.jit
    def values(key):
        ppo = algorithm.make(spec)
        agent, _, metrics = ppo.update(ppo.init(key), (), experience, jnp.int32(0), key)
        return ppo.value(agent, obs, ()), metrics

    value, metrics = values(jax.random.key(0))
    factor = 1 - algorithm.value_coef * minibatches / size  # of (1 - value), from 0.5 (value - 1)^2 averaged
    np.testing.assert_allclose(value, 1 - factor**epochs, rtol=1e-5)
    assert {*metrics} == METRICS - {"learning_rate"}  # which is the optimizer's own


def test_masked_actions_are_never_taken_and_a_kl_target_ends_the_gradient_steps_of_an_update():
    """Several choices at once, a torso shared by policy and critic, and a target that is a rate."""

    @jax.jit
    def run(target_kl):
        algorithm = pick(
            {"shared": True}, target_kl=target_kl, learning_rate=0.03, anneal_learning_rate=False
        )
        return record(config_of(Masked(), algorithm, ENVS, 10), jax.random.key(0))

    strict, loose = run(1e-9), run(1e9)
    for run_ in (strict, loose):
        action, mask = np.asarray(run_.rollout.action), np.asarray(run_.rollout.obs["action_mask"])
        assert np.take_along_axis(mask, action[..., :1], -1).all()
        assert np.take_along_axis(mask, 2 + action[..., 1:], -1).all()
        assert not (~mask).all(axis=-1).any() and not mask.all()
        assert {*run_.metrics} == METRICS
        assert all(np.isfinite(value).all() for value in run_.metrics.values())
    assert {*strict.first.params} == {"torso", "policy_head", "value_head"}
    steps = np.arange(1, 11)
    # The first gradient step of an update is always made: nothing has moved before it.
    np.testing.assert_array_equal(optax.tree.get(strict.agent.opt_state, "count"), steps)
    np.testing.assert_array_equal(optax.tree.get(loose.agent.opt_state, "count"), 8 * steps)
    assert np.mean(loose.rollout.reward[-1]) > np.mean(loose.rollout.reward[0])


def test_a_kl_target_ends_the_gradient_steps_beyond_one_and_a_half_times_it():
    @jax.jit
    def run(target_kl):
        algorithm = pick({}, target_kl=target_kl, num_minibatches=1, normalize_advantages=False)
        return record(config_of(Masked(), algorithm, ENVS, 1), jax.random.key(0))

    second = 2 * float(run(1e9).metrics["approx_kl"][0])  # of two steps, and 0 before the first
    for share, steps in [(0.95, 2), (1.05, 1)]:
        agent = run(second / (1.5 * share)).agent
        assert optax.tree.get(agent.opt_state, "count") == steps, f"a KL of {share} times the limit"


def test_an_image_gets_a_cnn_that_learns_from_it():
    env = Image()
    algorithm = pick({"channels": (2,)}, learning_rate=0.02, clip_range=0.2, num_minibatches=2)
    run = recorded(env, algorithm, 60)
    assert {*run.first.params["policy"]["network"]["torso"]} == {
        "Dense_0",
        "MLP_0",
    }  # a convolution as a product
    assert run.rollout.reward[-10:].mean() >= 0.97
    assert all(np.isfinite(value).all() for value in run.metrics.values())


class Gaussian(nn.Module):
    """Mean and log standard deviation, both from the observation."""

    @nn.compact
    def __call__(self, x):
        return jnp.concatenate([nn.Dense(2, name="mean")(x), nn.Dense(2, name="log_std")(x)], axis=-1)


def test_networks_of_the_users_own_are_trained_as_they_are():
    algorithm = pick({}, policy_network=Gaussian(), value_network=nn.Dense(1))
    run = recorded(Drift(NARROW), algorithm, 1)
    assert {*run.first.params["policy"]} == {"network"}
    assert {*run.first.params["policy"]["network"]} == {"mean", "log_std"}
    assert {*run.first.params["value"]} == {"kernel", "bias"}
    for before, after in zip(
        jax.tree.leaves(run.first.params), jax.tree.leaves(run.agent.params), strict=True
    ):
        assert (after[-1] != before).any()


# ---- what the critic may see


@pytest.mark.parametrize("normalize", [False, True])
def test_the_critic_learns_from_entries_that_the_policy_does_not_see(normalize):
    algorithm = pick(
        {},
        learning_rate=0.05,
        policy_observations="shown",
        critic_observations=["truth"],
        normalize_observations=normalize,
    )
    env = Privileged()
    run = recorded(env, algorithm, 40)
    agent = jax.tree.map(lambda x: x[-1], run.agent)
    obs = {"shown": jnp.ones((2, 2)), "truth": jnp.array([[1.0], [-1.0]])}
    spec = EnvSpec(env.observation_space, TWO, jax.tree.map(lambda x: x[0], obs), ENVS, 40)
    ppo = algorithm.make(spec)
    np.testing.assert_allclose(ppo.value(agent, obs, ()), [1.0, -1.0], atol=0.05)
    policy = ppo.policy(agent, jnp.int32(0))
    slope = jax.grad(lambda obs: policy(obs, (), jax.random.key(0)).extras["dist"][:, 0].sum())(obs)
    assert slope["shown"].any() and not slope["truth"].any()
    assert set(agent.obs_stats.mean if normalize else ()) == ({"shown", "truth"} if normalize else set())


# ---- faults


def test_a_kl_that_is_nan_reaches_the_parameters_and_does_not_end_learning_unseen():
    algorithm = pick({}, target_kl=0.01)
    spec = EnvSpec(Box(0.0, 1.0, (2,)), TWO, jax.ShapeDtypeStruct((2,), jnp.float32), ENVS, 1)
    no = jnp.zeros((STEPS, ENVS), bool)
    obs = jnp.ones((STEPS, ENVS, 2))
    nan = {"dist": jnp.full((STEPS, ENVS, 2), jnp.nan)}
    rollout = Rollout(obs, no.astype(jnp.int32), jnp.ones((STEPS, ENVS)), no, no, obs, no, nan, ())

    @jax.jit
    def update(key):
        ppo = algorithm.make(spec)
        return ppo.update(ppo.init(key), (), given(rollout), jnp.int32(0), key)

    agent, _, metrics = update(jax.random.key(0))
    assert np.isnan(metrics["approx_kl"])
    assert any(np.isnan(x).any() for x in jax.tree.leaves(agent.params["policy"]))


NUMBERS, INTEGERS = Box(-1.0, 1.0, (2,)), Dict({"goal": Discrete(3)})


@pytest.mark.parametrize(
    ("algorithm", "observations", "actions", "path", "rule"),
    [
        (pick({}, num_minibatches=5), NUMBERS, TWO, "num_minibatches", "the 64 samples of a rollout"),
        (
            pick({"recurrent": "gru"}, num_minibatches=3),
            NUMBERS,
            TWO,
            "num_minibatches",
            "the 8 environments, as a recurrent policy keeps whole sequences; the nearest: 2 and 4",
        ),
        (pick({}, squash_actions=True), NUMBERS, TWO, "squash_actions", "continuous actions with bounds"),
        (pick({}, normalize_observations=True), THREE, TWO, "normalize_observations", "that are numbers"),
        (pick({}, normalize_observations=True), INTEGERS, TWO, "normalize_observations", "that are numbers"),
        (pick({"torso": "cnn"}), NUMBERS, TWO, "network.torso", "(height, width, channels)"),
        (pick({}, critic_observations=("gaol",)), INTEGERS, TWO, "critic_observations", "'goal'"),
        (
            pick({"recurrent": "lstm"}, value_network=nn.Dense(1)),
            NUMBERS,
            TWO,
            "network.recurrent",
            "built here",
        ),
    ],
)
def test_what_does_not_fit_the_environment_is_a_line_with_field_value_and_rule(
    algorithm, observations, actions, path, rule
):
    obs = {n: jax.ShapeDtypeStruct((), jnp.int32) for n in observations} if observations is INTEGERS else None
    (fault,) = algorithm.check(EnvSpec(observations, actions, obs, ENVS, 1))
    assert fault.path == path and rule in fault.rule
    assert str(fault.value) in str(fault)


def test_names_of_observations_are_a_list_or_text_and_nothing_else():
    assert PPO(policy_observations="near, far").policy_observations == ("near", "far")
    assert PPO(policy_observations=["near", "near"]).policy_observations == ("near",)
    for wrong in (3, [3], [""], {"near": 1}):
        with pytest.raises(ValueError, match=r"policy_observations = .*: needs a list of names"):
            PPO(policy_observations=wrong)


@pytest.mark.parametrize(
    ("given", "num_envs", "sound"),
    [
        ({"num_minibatches": 8}, 2, False),
        ({"num_minibatches": 4}, 2, True),
        ({"num_minibatches": 8, "normalize_advantages": False}, 2, True),
        ({"num_minibatches": 1, "rollout_length": 1}, 1, False),
        ({"rollout_length": 1, "network": NetworkConfig(recurrent="gru")}, 2, False),
        ({"network": NetworkConfig(recurrent="gru")}, 2, True),
    ],
)
def test_minibatches_of_one_sample_have_nothing_to_normalize_by(given, num_envs, sound):
    algorithm, spec = tiny_ppo(**given), EnvSpec(Box(-1, 1, (1,)), Discrete(2), jnp.zeros(1), num_envs, 1)
    found = [problem.path for problem in algorithm.check(spec)]
    assert found == ([] if sound else ["normalize_advantages"])
