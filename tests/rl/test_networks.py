"""Actor-critic networks: shapes, initial weights, masks, and modules of the user's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtrain.rl.distributions import distribution
from jaxtrain.rl.networks import CNN, actor_critic
from jaxtrain.types import Box, Discrete, MultiDiscrete

KEY = jax.random.key(0)
VECTOR, IMAGE = Box(-np.inf, np.inf, (4,)), Box(0.0, 1.0, (6, 5, 2))
OBSERVATIONS = {
    "vector": (VECTOR, jnp.float32),
    "scalar": (Box(0.0, 1.0), jnp.float32),
    "matrix": (Box(0.0, 1.0, (3, 2)), jnp.float32),
    "image": (IMAGE, jnp.bool_),
    "discrete": (Discrete(5), jnp.int32),
    "multi": (MultiDiscrete((2, 3)), jnp.int32),
}
ACTIONS = {"discrete": Discrete(3), "multi": MultiDiscrete((2, 3)), "box": Box(-1.0, 1.0, (2,))}


tiny = functools.partial(actor_critic, hidden_sizes=(8,), channels=(4,))


def some_obs(space, dtype, *batch):
    return jax.random.randint(KEY, (*batch, *space.shape), 0, 2).astype(dtype)


CASES = {
    **{f"from_{name}": (*case, ACTIONS["discrete"], False) for name, case in OBSERVATIONS.items()},
    **{f"to_{name}": (*OBSERVATIONS["image"], action, True) for name, action in ACTIONS.items()},
}


@pytest.mark.parametrize(("space", "dtype", "action", "shared"), CASES.values(), ids=CASES)
def test_any_leading_axes_give_the_same_numbers_as_one_at_a_time(space, dtype, action, shared):
    dist = distribution(action)
    net = tiny(space, dist, shared=shared)
    params = net.init(KEY, jax.ShapeDtypeStruct(space.shape, dtype))
    obs = some_obs(space, dtype, 2, 3)
    policy, value = jax.jit(net.both)(params, obs)
    assert policy.shape == (2, 3, dist.num_params + dist.num_extra)
    assert value.shape == (2, 3)
    np.testing.assert_allclose(policy[1], net.policy(params, obs[1]), atol=1e-6)
    np.testing.assert_allclose(value[1], net.value(params, obs[1]), atol=1e-6)
    np.testing.assert_allclose(policy[1, 2], net.policy(params, obs[1, 2]), atol=1e-6)
    np.testing.assert_allclose(value[1, 2], net.value(params, obs[1, 2]), atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
def test_weights_start_orthogonal_and_biases_zero(space, shared):
    net = tiny(space, distribution(Discrete(3)), hidden_sizes=(16, 8), shared=shared)
    params = net.init(KEY, jnp.zeros(space.shape))
    assert set(params) == ({"torso", "policy_head", "value_head"} if shared else {"policy", "value"})
    scales = []
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key == "bias":
            assert not leaf.any()
            continue
        singular = np.linalg.svd(leaf, compute_uv=False)
        head = "head" in jax.tree_util.keystr(path)
        policy = "policy" in jax.tree_util.keystr(path)
        scales.append((0.01 if policy else 1.0) if head else np.sqrt(2))
        np.testing.assert_allclose(singular, scales[-1], rtol=1e-4)
    assert {0.01, 1.0} < set(scales)


def test_an_image_goes_through_convolutions():
    x = jax.random.normal(KEY, (7, 6, 5, 2))
    cnn = CNN(channels=(3,), hidden_sizes=(), activation="relu")
    params = cnn.init(KEY, x)
    kernel = params["params"]["Dense_0"]["kernel"].reshape(3, 3, 2, 3)
    axes = ("NHWC", "HWIO", "NHWC")
    conv = nn.relu(lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=axes))
    np.testing.assert_allclose(cnn.apply(params, x), conv.reshape(7, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("torso", "space", "shape"),
    [
        ("auto", IMAGE, (18, 4)),  # 3 × 3 patches of 2 channels
        ("mlp", IMAGE, (60, 8)),
        ("auto", VECTOR, (4, 8)),
        ("auto", Box(0.0, 1.0, (2, 2, 3)), (12, 8)),  # too small for a kernel
    ],
)
def test_the_torso_follows_the_observation_unless_named(torso, space, shape):
    net = tiny(space, distribution(Discrete(2)), torso=torso, shared=True)
    torso_params = net.init(KEY, jnp.zeros(space.shape))["torso"]
    assert torso_params["Dense_0"]["kernel"].shape == shape


@pytest.mark.parametrize("shared", [False, True])
def test_the_log_std_is_one_learned_vector_for_all_observations(shared):
    dist = distribution(ACTIONS["box"])
    net = tiny(VECTOR, dist, shared=shared, log_std_init=-0.5)
    params = net.init(KEY, jnp.zeros(4))
    obs = jax.random.normal(KEY, (5, 4))
    np.testing.assert_array_equal(net.policy(params, obs)[:, 2:], np.full((5, 2), -0.5))
    gradient = jax.grad(lambda p: dist.entropy(net.policy(p, obs), KEY).mean())(params)
    np.testing.assert_allclose(gradient["policy_head" if shared else "policy"]["log_std"], np.ones(2))


@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((2, 3))])
def test_masked_actions_are_never_taken_and_the_networks_do_not_see_the_mask(action):
    dist = distribution(action)
    net = tiny(VECTOR, dist)
    x = jax.random.normal(KEY, (50, 4))
    mask = jnp.arange(dist.num_params) != dist.num_params - 1
    obs = {"observation": x, "action_mask": jnp.broadcast_to(mask, (50, dist.num_params))}
    params = net.init(KEY, jax.tree.map(lambda leaf: leaf[0], obs))
    assert dist.sample(net.policy(params, obs), KEY).max() == 1
    np.testing.assert_array_equal(net.value(params, obs), net.value(params, x))
    np.testing.assert_array_equal(net.policy(params, obs)[:, mask], net.policy(params, x)[:, mask])


class Own(nn.Module):
    """Takes exactly one batch axis, as many modules do."""

    features: int
    squeeze: bool = False

    @nn.compact
    def __call__(self, x):
        out = nn.Dense(self.features)(x.reshape(len(x), -1))
        return out[:, 0] if self.squeeze else out


@pytest.mark.parametrize(
    ("features", "value", "log_std"),
    [(2, Own(1), True), (4, Own(1, squeeze=True), False), (2, None, True)],
)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_modules_of_the_users_own_take_the_place_of_ours(features, value, log_std, batch):
    net = tiny(IMAGE, distribution(ACTIONS["box"]), policy=Own(features), value=value)
    params = net.init(KEY, jnp.zeros(IMAGE.shape))
    assert ("log_std" in params["policy"]) == log_std
    policy, estimate = net.both(params, some_obs(IMAGE, jnp.float32, *batch))
    assert policy.shape == (*batch, 4)
    assert estimate.shape == batch


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"policy": Own(5)}, r"policy: gave shape \(1, 5\) .* needs \(3,\) for each"),
        ({"value": Own(2)}, r"value: gave shape \(1, 2\) .* needs \(\) or \(1,\) for each"),
        ({"policy": Counting()}, r"policy: keeps \['batch_stats'\] besides 'params'"),
    ],
)
def test_a_module_that_does_not_fit_is_an_error_that_says_what_would(modules, message):
    net = tiny(VECTOR, distribution(Discrete(3)), **modules)
    with pytest.raises(ValueError, match=message):
        net.init(KEY, jnp.zeros(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tan"}, "activation = 'tan': needs one of tanh, relu"),
        ({"torso": "rnn"}, "torso = 'rnn': needs one of auto, mlp, cnn"),
        ({"torso": "cnn"}, r"torso = 'cnn': needs .* not \(4,\)"),
        ({"shared": True, "value": Own(1)}, "shared = True: needs"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(VECTOR, distribution(Discrete(3)), **arguments)


@pytest.mark.parametrize(
    ("action", "obs", "message"),
    [
        (Discrete(3), jnp.zeros(5), r"obs: has shape \(5,\), needs \(4,\)"),
        (Discrete(3), {"observation": jnp.zeros(4), "action_mask": jnp.ones(2, bool)}, "action_mask: has"),
        (Box(-1.0, 1.0, (2,)), {"observation": jnp.zeros(4), "action_mask": jnp.ones(2, bool)}, "continuous"),
    ],
)
def test_an_observation_that_does_not_fit_is_an_error(action, obs, message):
    with pytest.raises(ValueError, match=message):
        tiny(VECTOR, distribution(action)).init(KEY, obs)


def test_a_network_over_seeds_is_the_networks_one_by_one():
    net = tiny(IMAGE, distribution(Discrete(3)))
    obs = some_obs(IMAGE, jnp.float32, 3, 4)
    seeds = [net.init(key, obs[0, 0]) for key in jax.random.split(KEY, 3)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.vmap(net.value)(params, obs)
    for seed in range(3):
        np.testing.assert_allclose(together[seed], net.value(seeds[seed], obs[seed]), atol=1e-5)
