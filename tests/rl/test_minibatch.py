"""The shuffle is one-to-one and looks random. Keys are fixed, so each statistic is one number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl.minibatch import permutation

KEYS = 4000
SIZES = [(8, 8), (13, 32), (128, 9)]


@functools.cache
def many(t, b):
    """i32[KEYS, t * b]"""
    keys = jax.random.split(jax.random.key(0), KEYS)
    return np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, t, b)))(keys))


def chi_square_z(counts):
    """How many standard deviations the chi-square of equal cells is from its expectation."""
    expected, freedom = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("t", "b"), [(1, 1), (1, 97), (5, 2), (8, 7), (8, 8), (8, 128), (13, 11), (97, 8), (127, 64), (128, 2048)]
)
def test_every_sample_occurs_once_and_keys_give_different_orders(t, b):
    keys = jax.random.split(jax.random.key(0), 2)
    one, other = jax.jit(jax.vmap(lambda key: permutation(key, t, b)))(keys)
    assert one.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(one), np.arange(t * b))
    assert t * b == 1 or not np.array_equal(one, other)


@pytest.mark.parametrize(("t", "b"), SIZES)
def test_each_sample_goes_to_each_place_equally_often(t, b):
    orders = many(t, b)
    for place in (0, 1, b, t * b // 2, t * b - 1):
        assert abs(chi_square_z(np.bincount(orders[:, place], minlength=t * b))) < 4


@pytest.mark.parametrize(("t", "b"), SIZES)
def test_where_two_samples_go_is_unrelated(t, b):
    orders = many(t, b)
    places = [0, 1, 2, b, b + 1, 2 * b, t * b // 2, t * b - 1]
    off_diagonal = ~np.eye(len(places), dtype=bool)
    for axis in (orders[:, places] // b, orders[:, places] % b, orders[:, places]):
        correlation = np.corrcoef(axis.T)[off_diagonal]
        without_replacement = -1 / (t * b - 1)
        assert np.abs(correlation - without_replacement).max() < 4 / np.sqrt(KEYS)


@pytest.mark.parametrize(("t", "b"), SIZES)
@pytest.mark.parametrize("minibatches", [2, 4, 8])
def test_neighbours_share_a_minibatch_as_often_as_any_two_samples(t, b, minibatches):
    size = t * b // minibatches
    place = np.argsort(many(t, b), axis=1)[:, : size * minibatches]  # where each sample went
    batch = place.reshape(KEYS, -1) // size
    sigma = np.sqrt((1 - 1 / minibatches) / minibatches / KEYS)
    for sample, neighbor in [(0, 1), (b, b + 1), (0, b), (b + 2, 2 * b + 2)]:  # in env, in time
        counts = np.bincount(np.minimum(batch[:, sample], minibatches - 1), minlength=minibatches)
        assert abs(chi_square_z(counts)) < 4
        rate = np.mean(batch[:, sample] == batch[:, neighbor])
        assert abs(rate - (size - 1) / (t * b - 1)) < 4 * sigma


def test_a_minibatch_holds_its_share_of_every_time_and_environment():
    t, b, minibatches = 32, 64, 4
    batches = np.asarray(permutation(jax.random.key(0), t, b)).reshape(minibatches, -1)
    for batch in batches:
        for counts in (np.bincount(batch // b, minlength=t), np.bincount(batch % b, minlength=b)):
            assert abs(chi_square_z(counts)) < 4
