"""The shuffle is one-to-one and looks random, and minibatches are a partition of what a rollout holds.

Keys are fixed, so each statistic is one number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl.minibatch import check, epochs, permutation

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


# ---- passes over a rollout


def passes(t, b, **settings):
    """All that each minibatch was given: `(samples, carry)`, leaves [epochs, minibatches, ...]."""
    index = jnp.arange(t * b).reshape(t, b)
    carry = {"h": jnp.arange(b)} if settings.get("whole_sequences") else ()

    def step(count, samples, carry, key):
        return count + 1, (samples, carry, jax.random.key_data(key))

    state = jnp.int32(0)
    count, out = epochs(step, state, {"index": index}, carry, jax.random.key(0), num_epochs=3, **settings)
    assert count == 3 * settings["num_minibatches"]
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize(("t", "b", "minibatches"), [(8, 8, 4), (5, 4, 2), (16, 9, 1)])
def test_each_sample_is_in_one_minibatch_of_each_pass(t, b, minibatches):
    samples, carry, keys = passes(t, b, num_minibatches=minibatches)
    assert carry == ()
    assert samples["index"].shape == (3, minibatches, t * b // minibatches)
    for epoch in samples["index"]:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(t * b))
    assert not np.array_equal(samples["index"][0], samples["index"][1])
    assert len(np.unique(keys.reshape(-1, keys.shape[-1]), axis=0)) == 3 * minibatches


@pytest.mark.parametrize(("t", "b", "minibatches"), [(8, 8, 4), (5, 4, 2), (16, 9, 1), (3, 6, 6)])
def test_each_sequence_is_whole_and_in_one_minibatch_of_each_pass_with_its_carry(t, b, minibatches):
    samples, carry, _ = passes(t, b, num_minibatches=minibatches, whole_sequences=True)
    index = samples["index"]
    assert index.shape == (3, minibatches, t, b // minibatches)
    np.testing.assert_array_equal(index // b, np.broadcast_to(np.arange(t)[:, None], index.shape))
    np.testing.assert_array_equal(index % b, np.broadcast_to(carry["h"][:, :, None], index.shape))
    for epoch in carry["h"]:
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(b))
    assert minibatches == 1 or not np.array_equal(carry["h"][0], carry["h"][1])


def test_a_carry_without_whole_sequences_is_an_error():
    with pytest.raises(ValueError, match="carry: needs whole_sequences = True"):
        epochs(
            lambda state, samples, carry, key: (state, {}),
            (),
            jnp.zeros((4, 2)),
            jnp.zeros(2),
            jax.random.key(0),
            num_epochs=1,
            num_minibatches=1,
        )


@pytest.mark.parametrize(
    ("minibatches", "whole", "rule"),
    [
        (8, False, None),
        (6, True, None),
        (
            7,
            False,
            "needs to divide the 48 samples of a rollout (6 environments x 8 steps); the nearest: 6 and 8",
        ),
        (
            4,
            True,
            "needs to divide the 6 environments, as a recurrent policy keeps whole sequences; "
            "the nearest: 3 and 6",
        ),
        (
            9,
            True,
            "needs to divide the 6 environments, as a recurrent policy keeps whole sequences; the nearest: 6",
        ),
    ],
)
def test_so_many_minibatches_divide_a_rollout_or_the_nearest_that_do_are_named(minibatches, whole, rule):
    faults = check(minibatches, 8, 6, whole_sequences=whole)
    assert [(f.path, f.value, f.rule) for f in faults] == (
        [("num_minibatches", minibatches, rule)] if rule else []
    )
