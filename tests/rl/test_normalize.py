"""Running statistics against NumPy over all the data at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl import normalize
from jaxtrain.types import Box, Dict, Discrete


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1e4, 1.0), (-3.0, 1e-2), (50.0, 1e3)])
def test_after_any_updates_the_statistics_are_those_of_all_the_data(offset, spread):
    rng = np.random.default_rng(0)
    data = rng.normal(offset, spread, size=(40, 16, 8, 3)).astype(np.float32)  # 40 rollouts
    data += np.linspace(0, spread, 40, dtype=np.float32)[:, None, None, None]  # they drift

    def step(stats, batch):
        return normalize.update(stats, batch), None

    stats, _ = jax.lax.scan(step, normalize.init((3,)), jnp.asarray(data))
    exact = data.astype(np.float64).reshape(-1, 3)
    rounding = 4 * np.finfo(np.float32).eps * abs(offset)
    assert abs(stats.mean - exact.mean(0)).max() < 1e-3 * spread + rounding
    np.testing.assert_allclose(stats.var, exact.var(0), rtol=2e-3)
    assert stats.updates.dtype == jnp.int32 and stats.updates == 40
    ours = normalize.apply(stats, jnp.asarray(data[0]))
    oracle = np.clip((data[0] - exact.mean(0)) / exact.std(0), -10, 10)
    np.testing.assert_allclose(ours, oracle, atol=5e-3)


def test_a_first_batch_far_from_zero_loses_nothing_to_float32():
    data = np.random.default_rng(0).normal(1e4, 1.0, size=(128, 2048, 1)).astype(np.float32)
    stats = normalize.update(normalize.init((1,)), jnp.asarray(data))
    exact = data.astype(np.float64)
    assert abs(stats.mean[0] - exact.mean()) < 1e-3
    np.testing.assert_allclose(stats.var[0], exact.var(), rtol=1e-3)


def test_before_the_first_update_nothing_changes():
    x = jnp.array([[-1e6, 0.3, 1e6]])
    np.testing.assert_array_equal(normalize.apply(normalize.init((3,)), x), x)


def test_a_constant_becomes_zero_and_stays_finite():
    stats = normalize.init((2,))
    batch = jnp.broadcast_to(jnp.array([0.1, 1e4]), (5, 7, 2))
    for _ in range(3):
        stats = normalize.update(stats, batch)
    np.testing.assert_array_equal(normalize.apply(stats, batch), jnp.zeros((5, 7, 2)))


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_what_varies_is_told_from_rounding_by_its_own_size(unit):
    batch = unit * jax.random.normal(jax.random.key(0), (64, 8, 2))
    stats = normalize.update(normalize.init((2,)), batch)
    np.testing.assert_allclose(normalize.std(stats), batch.std(axis=(0, 1)), rtol=1e-4)


def test_outliers_are_clipped():
    stats = normalize.update(normalize.init(()), jnp.array([[-1.0, 1.0]]))
    np.testing.assert_array_equal(normalize.apply(stats, jnp.array([-99.0, 99.0]), 5.0), [-5.0, 5.0])


def test_of_a_masked_observation_only_the_observation_is_normalized():
    mask = jnp.ones((4, 2, 3), bool)
    obs = {"observation": 5 + jax.random.normal(jax.random.key(0), (4, 2, 6)), "action_mask": mask}
    stats = normalize.update(normalize.init((6,)), obs)
    out = normalize.apply(stats, obs)
    assert out["action_mask"] is mask
    np.testing.assert_allclose(out["observation"].mean((0, 1)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(out["observation"].std((0, 1)), np.ones(6), atol=1e-5)


SPACE = Dict(
    {
        "arm": Box(-1.0, 1.0, (3,)),
        "pixels": Box(0, 255, (2, 2)),
        "goal": Discrete(3),
        "inner": Dict({"speed": Box(-1.0, 1.0)}),
    }
)


def entries(*batch):
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "arm": 5 + 3 * jax.random.normal(keys[0], (*batch, 3)),
        "pixels": jax.random.randint(keys[1], (*batch, 2, 2), 0, 256, jnp.uint8),
        "goal": jnp.ones(batch, jnp.int32),
        "inner": {"speed": 1e3 + jax.random.normal(keys[2], batch)},
    }


@pytest.mark.parametrize("masked", [False, True])
def test_of_a_dict_the_floating_boxes_are_normalized_each_as_if_alone_and_nothing_else(masked):
    obs = entries(6, 4)
    given = {"observation": obs, "action_mask": jnp.ones((6, 4, 2), bool)} if masked else obs
    shapes = normalize.normalized_shapes(SPACE, given)
    assert shapes == {"arm": (3,), "inner": {"speed": ()}}
    stats = normalize.init(shapes)
    before = normalize.apply(stats, given)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, given))
    stats = normalize.update(stats, given)
    out = normalize.apply(stats, given)
    out, mask = (out["observation"], out["action_mask"]) if masked else (out, None)
    assert (mask is None) != masked
    assert out["goal"] is obs["goal"] and out["pixels"] is obs["pixels"]
    for one, alone in ((out["arm"], obs["arm"]), (out["inner"]["speed"], obs["inner"]["speed"])):
        apart = normalize.update(normalize.init(alone.shape[2:]), alone)
        np.testing.assert_array_equal(one, normalize.apply(apart, alone))
    assert jax.tree.structure(normalize.std(stats)) == jax.tree.structure(stats.mean)


def test_an_entry_that_is_not_there_is_not_normalized():
    stats = normalize.update(
        normalize.init({"near": (), "far": ()}), {"near": jnp.ones(3), "far": jnp.ones(3)}
    )
    assert set(normalize.apply(stats, {"near": jnp.ones(3)})) == {"near"}


@pytest.mark.parametrize(
    ("space", "dtype", "shapes"),
    [
        (Box(0.0, 1.0, (2,)), jnp.bool_, (2,)),  # alone, whatever its dtype
        (Discrete(3), jnp.int32, None),
        (Dict({"goal": Discrete(3)}), jnp.int32, None),
        (Dict({"pixels": Box(0, 255)}), jnp.uint8, None),
    ],
)
def test_what_is_not_a_number_has_no_statistics(space, dtype, shapes):
    one = jax.ShapeDtypeStruct((), dtype)
    obs = dict.fromkeys(space, one) if isinstance(space, Dict) else one
    assert normalize.normalized_shapes(space, obs) == shapes


def test_without_statistics_observations_pass_through():
    obs = jnp.arange(4)
    assert normalize.update(None, obs) is None
    assert normalize.apply(None, obs) is obs


def test_reward_is_scaled_by_the_std_of_all_running_returns_so_far():
    rng, gamma = np.random.default_rng(0), 0.9
    rewards, dones = rng.normal(3.0, 2.0, size=(3, 10, 4)), rng.random((3, 10, 4)) < 0.2
    state, running, seen = normalize.init_reward_scale(4), np.zeros(4), []
    for reward, done in zip(rewards, dones, strict=True):
        state, scaled = normalize.update_and_scale(state, jnp.asarray(reward), jnp.asarray(done), gamma)
        for t in range(10):
            running = reward[t] + gamma * running
            seen.append(running)
            running = np.where(done[t], 0.0, running)
        np.testing.assert_allclose(scaled, reward / np.std(seen), rtol=1e-4)
        np.testing.assert_allclose(normalize.scale(state), np.std(seen), rtol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 1.0, -1e4])
def test_returns_that_do_not_vary_leave_the_reward_as_it_is(reward):
    state, rewards = normalize.init_reward_scale(4), jnp.full((6, 4), reward)
    assert normalize.scale(state) == 1
    for _ in range(3):
        state, scaled = normalize.update_and_scale(state, rewards, jnp.ones((6, 4), bool), 0.99)
        np.testing.assert_array_equal(scaled, rewards)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_reward_does_not_matter(unit):
    reward = jax.random.normal(jax.random.key(0), (20, 4))
    done = jax.random.bernoulli(jax.random.key(1), 0.1, (20, 4))
    scaled = [
        normalize.update_and_scale(normalize.init_reward_scale(4), r, done, 0.99)[1]
        for r in (reward, unit * reward)
    ]
    np.testing.assert_allclose(*scaled, rtol=1e-5)
