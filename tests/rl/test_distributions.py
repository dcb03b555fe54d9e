"""Distributions against closed forms, sampling and integration; masks are exact and finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl.distributions import TanhGaussian, distribution, mask_logits
from jaxtrain.types import Box, Discrete, MultiDiscrete

KEY = jax.random.key(0)
BOX = Box(np.array([-2.0, 0.0, -1.0]), np.array([2.0, 3.0, 5.0]), (3,))
SPACES = {
    "discrete": (distribution(Discrete(5)), ()),
    "multi": (distribution(MultiDiscrete((3, 2, 4))), (3,)),
    "gaussian": (distribution(BOX), (3,)),
    "matrix": (distribution(Box(-1.0, 1.0, (2, 2))), (2, 2)),
    "scalar": (distribution(Box(-1.0, 1.0)), ()),
    "tanh": (distribution(BOX, squash=True), (3,)),
}
everywhere = pytest.mark.parametrize(("dist", "shape"), SPACES.values(), ids=SPACES)


def some_params(dist, *batch):
    return 0.7 * jax.random.normal(jax.random.key(7), (*batch, dist.num_params + dist.num_extra))


@everywhere
def test_any_leading_axes_give_the_same_numbers_as_one_at_a_time(dist, shape):
    params, noise = some_params(dist, 2, 3), dist.noise(KEY, (2, 3))

    @jax.jit
    def everything(params, noise):
        action = dist.from_noise(params, noise)
        return action, dist.to_env(action), dist.mode(params), dist.log_prob(params, action)

    together = everything(params, noise)
    assert [out.shape for out in together] == [(2, 3, *shape)] * 3 + [(2, 3)]
    for ours, alone in zip(together, everything(params[1, 2], noise[1, 2]), strict=True):
        np.testing.assert_allclose(ours[1, 2], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dist.sample(params, KEY), together[0], rtol=1e-5, atol=1e-6)
    assert dist.entropy(params, KEY).shape == (2, 3)
    assert dist.entropy(params[0, 0], KEY).shape == ()


@everywhere
def test_entropy_is_the_mean_surprise_of_samples(dist, shape):
    params = jnp.broadcast_to(some_params(dist), (100_000, dist.num_params + dist.num_extra))
    surprise = -dist.log_prob(params, dist.sample(params, KEY))
    entropy = dist.entropy(params, jax.random.key(1))
    sigma = np.sqrt((surprise.var() + entropy.var()) / len(surprise))
    assert abs(surprise.mean() - entropy.mean()) < 4 * sigma + 1e-4


@everywhere
def test_entropy_takes_no_key_where_it_has_a_closed_form(dist, shape):
    params = some_params(dist, 2)
    if isinstance(dist, TanhGaussian):
        with pytest.raises(ValueError, match="no closed form: needs a key"):
            dist.entropy(params)
    else:
        np.testing.assert_array_equal(dist.entropy(params), dist.entropy(params, KEY))


@everywhere
def test_gradients_are_finite_far_out(dist, shape):
    params = 30.0 * jnp.sign(some_params(dist))
    action = jnp.full(shape, 20.0) if dist.num_extra else jnp.zeros(shape, jnp.int32)

    def total(params):
        return dist.log_prob(params, action) + dist.entropy(params.at[-1].set(1.0), KEY)

    params = params.at[dist.num_params :].set(1.0)  # log standard deviations
    assert jnp.isfinite(jax.grad(total)(params)).all()


@pytest.mark.parametrize("name", ["discrete", "multi"])
def test_integers_are_drawn_as_often_as_their_probability(name):
    dist, shape = SPACES[name]
    nvec = dist.nvec if shape else (dist.n,)
    params, count = some_params(dist), 50_000
    sample = jax.jit(dist.sample)(jnp.broadcast_to(params, (count, dist.num_params)), KEY)
    sample = np.asarray(sample).reshape(count, -1)
    assert dist.sample(params, KEY).dtype == jnp.int32
    for i, logits in enumerate(np.split(np.asarray(params), np.cumsum(nvec)[:-1])):
        p = np.exp(logits) / np.exp(logits).sum()
        frequency = np.bincount(sample[:, i], minlength=len(p)) / count
        assert np.all(abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / count))
        assert dist.mode(params).reshape(-1)[i] == p.argmax()


def test_integer_probabilities_sum_to_one_over_all_actions():
    dist, _ = SPACES["multi"]
    actions = jnp.array(list(np.ndindex(*dist.nvec)))
    params = jnp.broadcast_to(some_params(dist), (len(actions), dist.num_params))
    assert abs(jnp.exp(dist.log_prob(params, actions)).sum() - 1) < 1e-5


@pytest.mark.parametrize("name", ["discrete", "multi"])
def test_a_masked_action_never_happens_and_leaves_the_rest_as_if_it_did_not_exist(name):
    dist, shape = SPACES[name]
    mask = jnp.arange(dist.num_params) % 3 != 1
    logits = some_params(dist)
    masked = mask_logits(logits, mask)
    nvec = dist.nvec if shape else (dist.n,)
    parts = [np.flatnonzero(part) for part in np.split(np.asarray(mask), np.cumsum(nvec)[:-1])]
    left = distribution(MultiDiscrete(tuple(map(len, parts))))  # only the valid actions
    sample = dist.sample(jnp.broadcast_to(masked, (5000, dist.num_params)), KEY).reshape(5000, -1)
    for i, valid in enumerate(parts):
        assert set(np.unique(sample[:, i])) == set(valid)
    action = sample[0].reshape(shape)
    action_left = jnp.array([list(v).index(a) for v, a in zip(parts, sample[0].tolist(), strict=True)])
    for ours, theirs in [
        (dist.log_prob(masked, action), left.log_prob(logits[mask], action_left)),
        (dist.entropy(masked, KEY), left.entropy(logits[mask], KEY)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)

    def total(logits):
        masked = mask_logits(logits, mask)
        return dist.log_prob(masked, action) + dist.entropy(masked, KEY)

    gradient = jax.grad(total)(logits)
    assert jnp.isfinite(gradient).all()
    assert jnp.all(jnp.where(mask, True, gradient == 0))


def test_an_entirely_masked_action_is_in_range_and_finite():
    dist, _ = SPACES["multi"]
    masked = mask_logits(some_params(dist), jnp.zeros(dist.num_params, bool))
    action = dist.sample(masked, KEY)
    assert np.all(action < np.array(dist.nvec))
    assert jnp.isfinite(dist.log_prob(masked, action) + dist.entropy(masked, KEY))


def test_gaussian_log_prob_is_that_of_the_formula():
    dist, _ = SPACES["gaussian"]
    mean, log_std, action = np.random.default_rng(0).normal(size=(3, 3))
    oracle = -0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    params = jnp.concatenate([jnp.asarray(mean), jnp.asarray(log_std)])
    np.testing.assert_allclose(dist.log_prob(params, jnp.asarray(action)), oracle.sum(), rtol=1e-5)


def test_a_squashed_density_integrates_to_one():
    dist = distribution(Box(-1.0, 1.0, (1,)), squash=True)
    y = jnp.linspace(-1, 1, 20_003)[1:-1, None]
    params = jnp.broadcast_to(jnp.array([0.4, -0.3]), (len(y), 2))
    density = jnp.exp(dist.log_prob(params, jnp.arctanh(y)))
    assert abs(density.sum() * (y[1, 0] - y[0, 0]) - 1) < 1e-3


def test_the_tanh_correction_keeps_its_precision_where_tanh_is_one():
    u = np.array([-40.0, -5.0, 0.0, 0.3, 12.0, 60.0])
    dist, plain = (distribution(Box(-1.0, 1.0, (1,)), squash=squash) for squash in (True, False))
    params = jnp.stack([jnp.asarray(u), jnp.zeros(6)], axis=-1).astype(jnp.float32)
    action = params[:, :1]
    ours = plain.log_prob(params, action) - dist.log_prob(params, action)
    # log(1 - tanh(u)^2) = -2 log cosh(u), in float64
    np.testing.assert_allclose(ours, -2 * (np.logaddexp(u, -u) - np.log(2)), rtol=1e-6, atol=1e-6)


def test_actions_reach_the_environment_within_its_bounds():
    far = jnp.array([[-1e3, 1e3, 0.5], [1e3, -1e3, 0.5]])
    clipped, squashed = (SPACES[name][0].to_env(far) for name in ("gaussian", "tanh"))
    np.testing.assert_array_equal(clipped, [[-2.0, 3.0, 0.5], [2.0, 0.0, 0.5]])
    np.testing.assert_array_equal(squashed[:, :2], [[-2.0, 3.0], [2.0, 0.0]])
    np.testing.assert_allclose(squashed[:, 2], -1.0 + 6.0 * (np.tanh(0.5) + 1) / 2, rtol=1e-6)
    half = distribution(Box(0.0, np.inf, (3,)))
    np.testing.assert_array_equal(half.to_env(far[0]), [0.0, 1e3, 0.5])


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete((2, 2)), Box(0.0, np.inf, (1,))])
def test_squashing_what_has_no_bounds_is_an_error_that_says_so(space):
    with pytest.raises(ValueError, match="squash: needs"):
        distribution(space, squash=True)
