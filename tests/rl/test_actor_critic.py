"""Policy and critic: shapes, initial weights, masks, what either sees, carries, modules of the user's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl.actor_critic import actor_critic
from jaxtrain.rl.distributions import distribution
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.types import Box, Dict, Discrete, MultiDiscrete

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
        ({"shared": True, "value": Own(1)}, "network.shared = True: needs both networks to be built here"),
        ({"recurrent": "gru", "value": Own(1)}, "network.recurrent = 'gru': needs both networks"),
        ({"recurrent": "rnn"}, "recurrent = 'rnn': needs one of none, gru, lstm"),
        ({"policy_observations": ("near",)}, r"policy_observations = \('near',\): needs a Dict .* not Box"),
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


# ---- observations that are dicts

MIXED = Dict(
    {
        "near": Box(-1.0, 1.0, (3,)),
        "camera": IMAGE,
        "goal": Discrete(4),
        "inner": Dict({"speed": Box(-1.0, 1.0)}),
        "truth": Box(-1.0, 1.0, (2,)),
    }
)


def mixed(*batch):
    near, camera, speed, truth = jax.random.split(KEY, 4)
    return {
        "near": jax.random.normal(near, (*batch, 3)),
        "camera": jax.random.uniform(camera, (*batch, *IMAGE.shape)),
        "goal": jax.random.randint(KEY, batch, 0, 4),
        "inner": {"speed": jax.random.normal(speed, batch)},
        "truth": jax.random.normal(truth, (*batch, 2)),
    }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_dict_of_observations_gives_the_same_numbers_as_one_at_a_time(shared, masked):
    net = tiny(MIXED, distribution(Discrete(3)), shared=shared)
    obs = mixed(2, 3)
    if masked:
        obs = {"observation": obs, "action_mask": jnp.ones((2, 3, 3), bool).at[..., 1].set(False)}
    one = jax.tree.map(lambda x: x[1, 2], obs)
    params = net.init(KEY, one)
    policy, value = jax.jit(net.both)(params, obs)
    np.testing.assert_allclose(policy[1, 2], net.policy(params, one), atol=1e-6)
    np.testing.assert_allclose(value[1, 2], net.value(params, one), atol=1e-6)
    assert (policy[..., 1] < -1e8).all() == masked


def depends_on(f, obs):
    """The entries that a scalar function of floating observations has a slope in."""
    slopes = jax.grad(f, allow_int=True)(obs)
    return {name for name in obs if any(np.any(np.asarray(x, float)) for x in floats(slopes[name]))}


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if x.dtype != jax.dtypes.float0]


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_the_critic_sees_what_the_policy_does_not(recurrent):
    seen = {"policy_observations": ("near", "camera"), "critic_observations": ("near", "truth", "inner")}
    net = tiny(MIXED, distribution(Discrete(3)), recurrent=recurrent, recurrent_size=4, **seen)
    params = net.init(KEY, mixed())
    params = jax.tree.map(lambda x: x + 0.1, params)  # a fresh policy hardly depends on anything
    assert depends_on(lambda obs: net.act(params, obs, net.carry)[0].sum(), mixed()) == {"near", "camera"}
    assert depends_on(lambda obs: net.value(params, obs, net.carry), mixed()) == {"near", "truth", "inner"}


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_a_policy_acts_without_what_only_the_critic_sees(recurrent):
    """As on a robot, where no simulator gives it; its critic's carry stays where it is."""
    seen = {"policy_observations": ("near", "camera"), "critic_observations": ("truth",)}
    net = tiny(MIXED, distribution(Discrete(3)), recurrent=recurrent, recurrent_size=4, **seen)
    params = net.init(KEY, mixed())
    whole, carry = net.act(params, mixed(), net.carry)
    part, carry_part = net.act(params, {k: mixed()[k] for k in ("near", "camera")}, net.carry)
    np.testing.assert_array_equal(whole, part)
    if recurrent == "gru":
        np.testing.assert_array_equal(carry["policy"], carry_part["policy"])
        assert carry["value"].any() and not carry_part["value"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy_observations": ("nera",)}, r"policy_observations = .* has no 'nera'.*nearest .*'near'"),
        ({"critic_observations": ("depth",)}, r"critic_observations = .* has no 'depth'"),
        (
            {"shared": True, "critic_observations": ("near",)},
            r"critic_observations = \('near',\): needs the policy's entries where the torso is shared",
        ),
        ({"torso": "cnn", "policy_observations": ("near",)}, r"torso = 'cnn': needs .* \(height, width"),
    ],
)
def test_entries_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(MIXED, distribution(Discrete(3)), **arguments)


def test_a_shared_torso_may_see_a_part_if_both_see_the_same():
    both = {"policy_observations": ("near", "goal"), "critic_observations": ("goal", "near")}
    net = tiny(MIXED, distribution(Discrete(3)), shared=True, **both)
    assert net.init(KEY, mixed())["torso"]["MLP_0"]["Dense_0"]["kernel"].shape == (3 + 4, 8)


# ---- networks with a carry

T, B = 5, 3


def recurrent_net(cell, shared, action=ACTIONS["box"]):
    return tiny(VECTOR, distribution(action), recurrent=cell, recurrent_size=6, shared=shared)


def carries(net, *batch):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), net.carry)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_rollout_at_once_is_acting_step_by_step_and_its_carries_give_the_values_on_the_way(cell, shared):
    net = recurrent_net(cell, shared)
    params = net.init(KEY, jnp.zeros(4))
    obs = jax.random.normal(KEY, (T, B, 4))
    policy, value = jax.jit(net.both)(params, obs, carries(net, B), jnp.zeros((T, B), bool))
    values, after = net.values(params, obs, carries(net, B), jnp.zeros((T, B), bool))
    np.testing.assert_allclose(values, value, atol=1e-6)
    act, value_of = jax.jit(net.act), jax.jit(net.value)
    carry = carries(net, B)
    for t in range(T):
        np.testing.assert_allclose(value_of(params, obs[t], carry), value[t], atol=1e-6)
        now, carry = act(params, obs[t], carry)
        np.testing.assert_allclose(now, policy[t], atol=1e-6)
        for name in after:
            for x, y in zip(jax.tree.leaves(after[name]), jax.tree.leaves(carry[name]), strict=True):
                np.testing.assert_allclose(x[t], y, atol=1e-6)
    one = jax.tree.map(lambda x: x[0], carry)
    np.testing.assert_allclose(
        net.value(params, obs[0, 0], one), value_of(params, obs[0], carry)[0], atol=1e-6
    )


@pytest.mark.parametrize("shared", [False, True])
def test_a_recurrent_network_has_a_stem_for_each_of_policy_and_critic_or_one(shared):
    net = recurrent_net("gru", shared)
    params = net.init(KEY, jnp.zeros(4))
    stems = {"shared"} if shared else {"policy", "value"}
    assert set(params) == stems | {"policy_head", "value_head"}
    assert set(net.carry) == stems
    for stem in stems:
        assert set(params[stem]) == {"torso", "cell"}
        assert net.carry[stem].shape == (6,) and not net.carry[stem].any()
    assert set(params["policy_head"]) == {"network", "log_std"}
    policy, value = (params["policy_head"]["network"]["kernel"], params["value_head"]["kernel"])
    for kernel, scale in ((policy, 0.01), (value, 1.0)):
        assert kernel.shape[0] == 6
        np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), scale, rtol=1e-4)


def test_masked_actions_are_never_taken_by_a_policy_with_a_carry():
    net = recurrent_net("gru", True, Discrete(3))
    mask = jnp.broadcast_to(jnp.arange(3) != 2, (T, B, 3))
    obs = {"observation": jax.random.normal(KEY, (T, B, 4)), "action_mask": mask}
    params = net.init(KEY, jax.tree.map(lambda x: x[0, 0], obs))
    policy, _ = net.both(params, obs, carries(net, B), jnp.zeros((T, B), bool))
    first, _ = net.act(params, jax.tree.map(lambda x: x[0], obs), carries(net, B))
    assert (policy[..., 2] < -1e8).all() and (policy[..., :2] > -10).all()
    np.testing.assert_allclose(first, policy[0], atol=1e-6)


def test_settings_may_be_given_together_or_one_by_one():
    dist, obs = distribution(Discrete(3)), jnp.zeros(4)
    together = actor_critic(VECTOR, dist, NetworkConfig(hidden_sizes=(5,), shared=True)).init(KEY, obs)
    one_by_one = actor_critic(VECTOR, dist, hidden_sizes=(5,), shared=True).init(KEY, obs)
    over = actor_critic(VECTOR, dist, NetworkConfig(hidden_sizes=(5,)), shared=True).init(KEY, obs)
    for other in (one_by_one, over):
        assert jax.tree.all(jax.tree.map(np.array_equal, together, other))
