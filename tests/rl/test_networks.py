"""Networks: encoded observations, torsos, initial weights, and settings that do not fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtrain import PPO
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.rl.networks import (
    CNN,
    ByteImage,
    NetworkConfig,
    apply,
    byte_images,
    dense,
    encode,
    init,
    make_torso,
    orthogonal,
    problems,
    scaled,
    select,
    split_mask,
)
from jaxtrain.types import Box, Dict, Discrete, EnvSpec, MultiDiscrete

KEY = jax.random.key(0)
IMAGE, VECTOR = Box(0.0, 1.0, (6, 5, 2)), Box(-1.0, 1.0, (3,))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (3, 3, 2, 5)])
@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_an_orthogonal_matrix_has_one_singular_value(shape, scale):
    matrix = orthogonal(scale)(KEY, shape).reshape(-1, shape[-1])
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), scale, rtol=1e-5)


def test_an_image_goes_through_convolutions():
    x = jax.random.normal(KEY, (7, 6, 5, 2))
    cnn = CNN(channels=(3,), hidden_sizes=(), activation="relu")
    params = cnn.init(KEY, x)
    kernel = params["params"]["Dense_0"]["kernel"].reshape(3, 3, 2, 3)
    axes = ("NHWC", "HWIO", "NHWC")
    conv = nn.relu(lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=axes))
    np.testing.assert_allclose(cnn.apply(params, x), conv.reshape(7, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("space", "obs", "encoded"),
    [
        (Discrete(3), np.array([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        (MultiDiscrete((2, 3)), np.array([[1, 0], [0, 2]]), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (Box(0, 9, (2,)), np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (Box(0, 1), np.array([True, False]), [1, 0]),
    ],
)
def test_observations_become_floats_and_integers_one_hot(space, obs, encoded):
    x, batch = encode(space, obs)
    assert x.dtype == jnp.float32 and batch == 1
    np.testing.assert_array_equal(x, np.array(encoded))


NESTED = Dict({"goal": Discrete(2), "body": Dict({"arm": VECTOR, "camera": IMAGE})})


def nested(*batch):
    body = {"arm": jnp.ones((*batch, 3)), "camera": jnp.ones((*batch, 6, 5, 2)), "unseen": jnp.ones(batch)}
    return {"goal": jnp.ones(batch, jnp.int32), "body": body}


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_entries_are_encoded_each_and_those_that_the_space_does_not_have_are_left_out(batch):
    x, axes = encode(NESTED, nested(*batch))
    assert axes == len(batch)
    assert {name: leaf.shape for name, leaf in x.items()} == {
        "goal": (*batch, 2),
        "body.arm": (*batch, 3),
        "body.camera": (*batch, 6, 5, 2),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda obs: obs.pop("goal"), "obs: needs an entry 'goal', has body"),
        (lambda obs: obs["body"].update(arm=jnp.ones(2)), r"body: arm: obs: has shape \(2,\), needs \(3,\)"),
        (lambda obs: obs.update(goal=jnp.ones(5, jnp.int32)), r"obs: its entries have .* leading axes"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(change, message):
    obs = nested()
    change(obs)
    with pytest.raises(ValueError, match=message):
        encode(NESTED, obs)


def test_what_is_no_dict_where_one_is_needed_is_an_error():
    with pytest.raises(ValueError, match="obs: needs an entry 'goal', has ArrayImpl"):
        encode(NESTED, jnp.ones(3))


def features(space, obs, **settings):
    """Parameters of a torso, and what it gives for one batch axis."""
    module = make_torso(space, NetworkConfig(hidden_sizes=(7,), channels=(4,), **settings))
    x, batch = encode(space, obs)
    params = init(module, KEY, x, "torso")
    return params, apply(module, params, x, batch, "torso")


def test_an_image_among_entries_has_convolutions_of_its_own_and_all_go_through_one_mlp():
    params, out = features(NESTED, nested(2))
    assert out.shape == (2, 7)
    assert set(params) == {"body.camera", "MLP_0"}
    assert set(params["body.camera"]) == {"Dense_0"}
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (2 + 3 + 4 * 3 * 4, 7)
    params, _ = features(NESTED, nested(2), torso="mlp")
    assert set(params) == {"MLP_0"}
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (2 + 3 + 6 * 5 * 2, 7)


def test_without_layer_norm_nothing_is_added_and_with_it_each_layer_is_normalized():
    x = 100.0 * jax.random.normal(KEY, (9, 6, 5, 2))
    plain, _ = features(IMAGE, x)
    assert {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(plain)} == {
        f"['{layer}']['{leaf}']" for layer in ("Dense_0", "MLP_0']['Dense_0") for leaf in ("kernel", "bias")
    }
    params, out = features(IMAGE, x, layer_norm=True, activation="elu")
    assert set(params) == {"Dense_0", "LayerNorm_0", "MLP_0"}
    assert set(params["MLP_0"]) == {"Dense_0", "LayerNorm_0"}
    before = jnp.where(out < 0, jnp.log1p(out), out)  # the activation undone
    np.testing.assert_allclose(before.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(before.std(-1), 1, atol=1e-3)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_a_module_is_applied_to_one_batch_axis_whatever_the_leading_axes(batch):
    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            assert x["a"].ndim == 2
            return dense(2, 1.0)(jnp.concatenate([x["a"], x["b"]], axis=-1))

    x = {"a": jnp.ones((*batch, 3)), "b": jnp.ones((*batch, 1))}
    params = init(One(), KEY, jax.tree.map(lambda leaf: jnp.ones((1, leaf.shape[-1])), x), "one")
    assert apply(One(), params, x, len(batch), "one", (2,)).shape == (*batch, 2)
    with pytest.raises(ValueError, match=r"one: gave shape .* needs \(3,\) for each"):
        apply(One(), params, x, len(batch), "one", (3,))


def test_a_mask_is_split_off_and_a_dict_without_one_is_an_observation():
    obs = {"observation": {"near": 1}, "action_mask": 2}
    assert split_mask(obs) == ({"near": 1}, 2)
    for plain in ({"near": 1}, {"observation": 1}, 3):
        assert split_mask(plain) == (plain, None)


def test_a_part_of_a_space_has_the_entries_named_in_their_order():
    assert list(select(NESTED, ("body",))) == ["body"]
    assert select(NESTED, ()) is NESTED
    assert select(VECTOR, ()) is VECTOR


@pytest.mark.parametrize(
    ("space", "settings", "path"),
    [
        (VECTOR, {"torso": "cnn"}, "network.torso"),
        (Box(0.0, 1.0, (2, 9, 1)), {"torso": "cnn"}, "network.torso"),
        (Dict({"near": VECTOR}), {"torso": "cnn"}, "network.torso"),
    ],
)
def test_a_cnn_needs_an_image(space, settings, path):
    (fault,) = problems(space, NetworkConfig(**settings))
    assert fault.path == path and fault.value == "cnn" and "(height, width, channels)" in fault.rule
    with pytest.raises(ValueError, match=r"network.torso = 'cnn': needs observations of shape"):
        make_torso(space, NetworkConfig(**settings))
    assert not problems(NESTED, NetworkConfig(**settings))


BYTES = Box(0, 255, (6, 5, 2))


def test_only_bounded_images_of_uint8_are_marked_and_encoded_from_0_to_1():
    space = Dict({"a": BYTES, "in": Dict({"b": Box(1, 3, (2, 2, 1)), "c": Box(0, 255, (4,))}), "d": BYTES})
    obs = {"a": jnp.full(BYTES.shape, 51, jnp.uint8), "d": jnp.full(BYTES.shape, 51.0)}
    obs["in"] = {"b": jnp.full((2, 2, 1), 2, jnp.uint8), "c": jnp.full(4, 255, jnp.uint8)}
    marked = scaled(space, obs)
    assert [*byte_images(marked)] == ["observations.a", "observations.in.b"]
    assert byte_images(scaled(BYTES, obs["d"])) == byte_images(space) == {}
    assert byte_images(scaled(Box(-np.inf, np.inf, BYTES.shape), obs["a"])) == {}
    masked = {"observation": obs["a"], "action_mask": jnp.ones(2, bool)}
    assert isinstance(scaled(BYTES, masked), ByteImage)
    x, _ = encode(marked, obs)
    seen = {name: float(leaf.ravel()[0]) for name, leaf in x.items()}
    assert seen == {"a": pytest.approx(0.2, rel=1e-6), "in.b": 0.5, "in.c": 255, "d": 51}


def spec_of(observation, actions):
    return EnvSpec(BYTES, actions, jax.ShapeDtypeStruct(BYTES.shape, observation), 2, 1)


class Head(nn.Module):
    """A module of one's own, which shows what it is given."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x.reshape(x.shape[0], -1))


SMALL = {"hidden_sizes": (4,), "channels": (2,)}


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("own", [False, True], ids=["built here", "of one's own"])
def test_networks_built_here_see_bytes_as_floats_from_0_to_1_and_others_as_they_are(algorithm, own):
    given = {"buffer_size": 8} if algorithm is DQN else {}
    if own:
        modules = {"policy_network": Head(2), "value_network": Head(1)}
        given |= modules if algorithm is PPO else {"q_network": Head(2)}

    def made(observation, **network):
        config = algorithm(network=NetworkConfig(**SMALL, **network), **given)
        return config.make(spec_of(observation, Discrete(2)))

    agent = jax.jit(made(jnp.uint8).init)(KEY)
    raw = jax.random.randint(KEY, (3, *BYTES.shape), 0, 256).astype(jnp.uint8)
    floats = raw.astype(jnp.float32)
    seen = made(jnp.float32).value(agent, floats if own else floats / 255, ())
    np.testing.assert_array_equal(made(jnp.uint8).value(agent, raw, ()), seen)
    seen = made(jnp.float32).value(agent, floats, ())
    np.testing.assert_array_equal(made(jnp.uint8, scale_images=False).value(agent, raw, ()), seen)


def test_what_is_normalized_is_not_scaled():
    spec = spec_of(jnp.uint8, Discrete(2))
    assert PPO(normalize_observations=True).network_space(spec) is BYTES
    assert isinstance(PPO().network_space(spec), ByteImage)
    assert PPO(network=NetworkConfig(scale_images=False)).network_space(spec) is BYTES
