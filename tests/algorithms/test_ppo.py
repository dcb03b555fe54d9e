"""PPO against a PPO written apart."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtrain.algorithms.ppo import PPO
from jaxtrain.rl.minibatch import permutation
from tests.algorithms.small import COMMON, ENVS, METRICS, NARROW, STEPS, Drift
from tests.recorded import config_of, record
from tests.reference_ppo import ReferencePPO, Settings

UPDATES = 50
CASES = {
    "discrete": (Drift(), 48, PPO(**COMMON, max_grad_norm=2.0)),
    # A range of values that is set stays as it is while that of the policy anneals.
    "set range": (
        Drift(),
        UPDATES,
        PPO(**COMMON, max_grad_norm=2.0, anneal_clip_range=True, value_clip_range=0.3),
    ),
    "continuous": (
        Drift(NARROW),
        UPDATES,
        PPO(
            **COMMON,
            anneal_learning_rate=False,
            anneal_clip_range=True,  # and with it that of values, which is unset
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
    assert (stats is None) == (not case.algorithm.normalize_observations)
    if stats is not None:
        obs = case.ours.rollout.obs.reshape(-1, 2)
        np.testing.assert_allclose(stats.mean[-1], obs.mean(axis=0))
        np.testing.assert_allclose(stats.var[-1], obs.var(axis=0))
