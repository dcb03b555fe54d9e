"""PPO in detail: against a PPO written apart, and one property at a time."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import PPO
from jaxtrain.rl.minibatch import permutation
from jaxtrain.types import Box, Dict, Discrete, EnvSpec, Experience, MultiDiscrete, Rollout, Step
from tests.recorded import config_of, record
from tests.reference_ppo import ReferencePPO, Settings

METRICS = {
    "loss",
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "explained_variance",
    "gradient_norm",
    "learning_rate",
}
ENVS = STEPS = 8
UPDATES = 50


TWO, THREE, PAIR = Discrete(2), Discrete(3), MultiDiscrete((2, 3))
NARROW = Box(-0.5, 0.5, (2,))  # a fresh policy, of standard deviation 1, often leaves it


class DriftState(NamedTuple):
    position: jax.Array  # f[2]
    time: jax.Array  # i32[]


@dataclass(frozen=True)
class Drift:
    """A random walk that the action steers; it may fall off, run out of time, or both at once."""

    actions: Any = THREE

    @property
    def observation_space(self):
        return Box(-np.inf, np.inf, (2,))

    @property
    def action_space(self):
        return self.actions

    @property
    def default_params(self):
        return ()

    def reset(self, key, params):
        state = DriftState(jax.random.normal(key, (2,)), jnp.int32(0))
        return self._observe(state), state

    def step(self, key, state, action, params):
        push = action - 1 if isinstance(self.actions, Discrete) else action
        position = 0.8 * state.position + 0.5 * push + jax.random.normal(key, (2,))
        state = DriftState(position, state.time + 1)
        reward = 1.0 - jnp.square(position).sum()
        return Step(self._observe(state), state, reward, jnp.abs(position[0]) > 2, state.time >= 5, {})

    def _observe(self, state):
        return jnp.array([3.0, -2.0]) + jnp.array([5.0, 0.5]) * state.position


COMMON = {
    "rollout_length": STEPS,
    "num_epochs": 2,
    "num_minibatches": 4,
    "learning_rate": 0.01,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip_range": 0.03,
    "network": {"hidden_sizes": (4, 3)},
}
CASES = {
    "discrete": (Drift(), 48, PPO(**COMMON, max_grad_norm=2.0)),
    "continuous": (
        Drift(NARROW),
        UPDATES,
        PPO(
            **COMMON,
            anneal_learning_rate=False,
            anneal_clip_range=True,
            value_clip_range=0.3,
            normalize_observations=True,
            normalize_rewards=True,
        ),
    ),
}


def layers(network):
    """The reference's form of an MLP's parameters."""
    torso = [network["torso"][f"Dense_{i}"] for i in range(len(network["torso"]))]
    return [(layer["kernel"], layer["bias"]) for layer in (*torso, network["head"])]


def flat(params):
    """Parameters in the reference's order."""
    arrays = [x for part in ("policy", "value") for x in layers(params[part].get("network", params[part]))]
    return [x for pair in arrays for x in pair] + [
        params["policy"][k] for k in ("log_std",) if k in params["policy"]
    ]


def orders(algorithm, key):
    """i64[epochs, minibatches, N]: the minibatches that `PPO.update` draws from its key."""
    epochs = jax.random.split(jax.random.split(key)[1], algorithm.num_epochs)
    shuffled = [permutation(jax.random.split(epoch)[0], STEPS, ENVS) for epoch in epochs]
    return np.array(shuffled).reshape(algorithm.num_epochs, algorithm.num_minibatches, -1)


def run_reference(algorithm, planned, ours):
    """Parameters and metrics after each update, on the rollouts of `ours`."""
    first = ours.first.params
    reference = ReferencePPO(
        layers(first["policy"]["network"]),
        layers(first["value"]),
        first["policy"].get("log_std"),
        Settings(**{name: getattr(algorithm, name) for name in Settings.__annotations__}),
        ENVS,
    )
    rollouts = jax.tree.map(np.asarray, ours.rollout)
    for u in range(UPDATES):
        rollout = jax.tree.map(lambda x, u=u: x[u], rollouts)
        action = rollout.extras.get("action", rollout.action)
        left = max(0.0, 1 - u / planned)
        learning_rate = algorithm.learning_rate * (left if algorithm.anneal_learning_rate else 1.0)
        clip_range = algorithm.clip_range * (left if algorithm.anneal_clip_range else 1.0)
        metrics = reference.update(
            rollout, action, orders(algorithm, ours.keys[u]), learning_rate, clip_range
        )
        yield [p.copy() for p in reference.parameters()], metrics


@pytest.fixture(scope="module", params=CASES)
def case(request):
    env, planned, algorithm = CASES[request.param]
    with jax.enable_x64(True):
        config = config_of(env, algorithm, ENVS, planned)
        ours = jax.jit(lambda key: record(config, key, updates=UPDATES))(jax.random.key(0))
        theirs = list(run_reference(algorithm, planned, ours))
    keys, ours = ours.keys, jax.tree.map(np.asarray, ours._replace(keys=None))
    return SimpleNamespace(
        name=request.param, algorithm=algorithm, planned=planned, ours=ours, theirs=theirs, keys=keys
    )


def test_a_ppo_written_apart_agrees_for_50_updates(case):
    for u, (params, metrics) in enumerate(case.theirs):
        agent = jax.tree.map(lambda x, u=u: x[u], case.ours.agent)
        for mine, other in zip(flat(agent.params), params, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11, err_msg=f"update {u}")
        assert {*case.ours.metrics} == {*metrics} == METRICS
        for name, value in metrics.items():
            np.testing.assert_allclose(
                case.ours.metrics[name][u], value, rtol=1e-6, atol=1e-9, err_msg=f"{name}, update {u}"
            )


def test_the_comparison_went_through_every_branch(case):
    rollout, metrics = case.ours.rollout, case.ours.metrics
    for ends in (
        rollout.terminated & rollout.truncated,
        rollout.terminated & ~rollout.truncated,
        rollout.truncated & ~rollout.terminated,
    ):
        assert ends[:, :-1].any() and ends[:, -1].any()
    assert (metrics["gradient_norm"] > case.algorithm.max_grad_norm).any()
    assert (metrics["gradient_norm"] < case.algorithm.max_grad_norm).any()
    assert (metrics["clip_fraction"] > 0).any()
    if case.name == "continuous":
        assert (np.abs(rollout.extras["action"]) > 0.5).any()


def test_the_action_that_is_judged_is_the_one_drawn_and_the_environment_gets_it_clipped(case):
    rollout = case.ours.rollout
    if case.name == "continuous":
        np.testing.assert_array_equal(rollout.action, np.clip(rollout.extras["action"], -0.5, 0.5))
    else:
        assert "action" not in rollout.extras


def test_the_rate_falls_in_a_line_to_0_after_the_planned_updates_and_stays_there(case):
    rates = case.ours.metrics["learning_rate"]
    if not case.algorithm.anneal_learning_rate:
        np.testing.assert_array_equal(rates, case.algorithm.learning_rate)
        return
    left = np.maximum(0, 1 - np.arange(UPDATES) / case.planned)
    np.testing.assert_allclose(rates, case.algorithm.learning_rate * left, rtol=1e-12)
    assert rates[case.planned - 1] > 0 and not rates[case.planned :].any()
    for params in jax.tree.leaves(case.ours.agent.params):
        np.testing.assert_array_equal(params[case.planned - 1], params[-1])
        assert (params[case.planned - 2] != params[case.planned - 1]).any()


def test_weights_start_orthogonal_scaled_by_their_place(case):
    first = case.ours.first.params
    for network, last in ((first["policy"]["network"], 0.01), (first["value"], 1.0)):
        pairs = layers(network)
        for (weights, bias), scale in zip(pairs, [np.sqrt(2)] * (len(pairs) - 1) + [last], strict=True):
            np.testing.assert_allclose(np.linalg.svd(weights, compute_uv=False), scale, rtol=1e-6)
            assert not bias.any()


def test_metrics_are_finite_and_the_loss_is_the_sum_of_its_parts(case):
    m = case.ours.metrics
    assert all(np.isfinite(value).all() for value in m.values())
    parts = (
        m["policy_loss"]
        - case.algorithm.entropy_coef * m["entropy"]
        + case.algorithm.value_coef * m["value_loss"]
    )
    np.testing.assert_allclose(m["loss"], parts, rtol=1e-9)


def test_normalizers_hold_the_statistics_of_all_rollouts_and_of_nothing_else(case):
    stats = case.ours.agent.obs_stats
    assert (stats is None) == (case.name == "discrete")
    if stats is not None:
        obs = case.ours.rollout.obs.reshape(-1, 2)
        np.testing.assert_allclose(stats.mean[-1], obs.mean(axis=0))
        np.testing.assert_allclose(stats.var[-1], obs.var(axis=0))


# ---- one property at a time


def pick(network, **changes):
    return PPO(**{**COMMON, "network": {"hidden_sizes": (4,), **network}, **changes})


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


class Pair(NamedTuple):
    mask: jax.Array  # bool[5]


@dataclass(frozen=True)
class Masked(Drift):
    """Two choices, of 2 and of 3, some of them invalid; an invalid one ends the episode with -1000."""

    actions: Any = PAIR

    def reset(self, key, params):
        return self._start(key)

    def step(self, key, state, action, params):
        valid = state.mask[action[0]] & state.mask[2 + action[1]]
        reward = jnp.where(valid, action.sum(), -1000.0)
        obs, state = self._start(key)
        return Step(obs, state, reward, ~valid, jnp.zeros((), bool), {})

    def _start(self, key):
        one, two, drop, of = jax.random.split(key, 4)
        # At least one of each choice is valid.
        first = jnp.arange(2) != jnp.where(jax.random.bernoulli(of), jax.random.randint(one, (), 0, 2), -1)
        second = (jnp.arange(3) == jax.random.randint(two, (), 0, 3)) | jax.random.bernoulli(drop, 0.5, (3,))
        mask = jnp.concatenate([first, second])
        return {"observation": mask[:2].astype(jnp.float32), "action_mask": mask}, Pair(mask)


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


@dataclass(frozen=True)
class Image(Drift):
    """One step: a 4 x 4 image, bright on the left (action 0 earns 1) or on the right (action 1)."""

    actions: Any = TWO

    @property
    def observation_space(self):
        return Box(0.0, 1.0, (4, 4, 1))

    def images(self):
        left = jnp.arange(4) < 2
        return jnp.broadcast_to(jnp.stack([left, ~left])[:, None, :, None], (2, 4, 4, 1)).astype(jnp.float32)

    def reset(self, key, params):
        side = jax.random.randint(key, (), 0, 2)
        return self.images()[side], side

    def step(self, key, state, action, params):
        return Step(
            self.images()[state], state, (action == state) * 1.0, jnp.ones((), bool), jnp.zeros((), bool), {}
        )


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


@dataclass(frozen=True)
class Privileged(Drift):
    """One step: the reward is `truth`, +1 or -1, which has nothing to do with what is shown."""

    actions: Any = TWO

    @property
    def observation_space(self):
        return Dict({"shown": Box(-1.0, 1.0, (2,)), "truth": Box(-1.0, 1.0, (1,))})

    def reset(self, key, params):
        key_shown, key_truth = jax.random.split(key)
        truth = 2.0 * jax.random.bernoulli(key_truth, shape=(1,)) - 1.0
        return {"shown": jax.random.normal(key_shown, (2,)), "truth": truth}, truth

    def step(self, key, state, action, params):
        obs, _ = self.reset(key, params)
        return Step(obs, state, state[0], jnp.ones((), bool), jnp.zeros((), bool), {})


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
