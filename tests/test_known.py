"""What is unknown: a mask on the device, NaN where it is read, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.known import Known, Readings, filled, parted
from tests.helpers import differing

SEEDS = 3
masks = st.lists(st.booleans(), min_size=SEEDS, max_size=SEEDS).map(np.array)


def readings(known, pair=None):
    """Of three seeds: numbers and pairs known of some, and a whole number."""
    known, pair = jnp.asarray(known), jnp.asarray(known if pair is None else pair)
    given = {"x": Known(1 + jnp.arange(3.0), known), "pair": Known(jnp.ones((3, 2)), pair)}
    return jax.vmap(Readings.of)({**given, "n": jnp.arange(3)})


def test_known_is_a_pytree_of_a_value_and_whether_it_is_one():
    metric = jax.vmap(lambda x: Known(x, x > 0))(jnp.array([-1.0, 1.0]))
    assert isinstance(metric, Known) and metric.known.tolist() == [False, True]


@given(masks, masks)
def test_what_is_unknown_reads_as_nan_and_a_whole_number_as_it_is(known, pair):
    found = readings(known, pair)
    np.testing.assert_array_equal(found["x"], np.where(known, [1, 2, 3], np.nan))
    np.testing.assert_array_equal(found["pair"], np.where(pair[:, None], np.ones((3, 2)), np.nan))
    assert found["n"].tolist() == [0, 1, 2] and found["n"].dtype == jnp.int32
    assert {name: x.tobytes() for name, x in filled(found).items()} == {n: found[n].tobytes() for n in found}


@given(masks, masks)
def test_no_leaf_has_a_nan_and_the_parts_come_back_from_the_whole(known, pair):
    tree = {
        "metrics": readings(known, pair),
        "best": Known(jnp.where(known, 1.5, 0), jnp.asarray(known)),
        "w": jnp.ones(2),
    }
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
    arrays = jax.tree.map(np.asarray, filled(tree))
    assert differing(parted(tree, arrays), tree) == []
    assert differing(parted(jax.eval_shape(lambda: tree), arrays), tree) == []


def test_a_value_behind_the_mask_is_zero_whatever_it_was_and_a_known_whole_number_a_float():
    found = Readings.of({"bad": Known(jnp.nan, False), "n": Known(3, True), "flag": Known(True, False)})
    assert [float(x) for x in jax.tree.leaves(found)[:-1]] == [0, 0, 3]
    assert found["n"].dtype == found["flag"].dtype == jnp.result_type(float)
    assert np.isnan(found["flag"]) and np.isnan(found["bad"])


@pytest.mark.parametrize("axes", [(), (4,)])
def test_nothing_is_known_at_first_but_whole_numbers_are_zero(axes):
    none = Readings.unknown(jax.eval_shape(lambda: readings([True] * 3)), *axes)
    assert np.isnan(none["x"]).all() and np.isnan(none["pair"]).all() and not none["n"].any()
    assert none["pair"].shape == (*axes, 3, 2) and none["n"].dtype == jnp.int32


def test_readings_are_updated_by_name_and_those_of_other_seeds_are_unknown():
    old, new = readings([True] * 3), Readings.of({"x": jnp.full(3, 9.0), "y": jnp.zeros(3)}, (3,))
    both = old.updated(new)
    assert list(both) == ["n", "pair", "x", "y"] and both["x"].tolist() == [9, 9, 9]
    assert list(both.scalars("a/")) == ["a/n", "a/x", "a/y"]
    asked = both.where(jnp.array([True, False, True]))
    np.testing.assert_array_equal(asked["n"], [0, np.nan, 2])
    np.testing.assert_array_equal(asked["pair"][:, 0], [1, np.nan, 1])


def test_reading_makes_no_nan_that_jax_takes_for_a_fault():
    with jax.debug_nans(True):
        found = readings([True, False, True])
        np.testing.assert_array_equal(found["x"], [1, np.nan, 3])
        rows = jax.vmap(lambda x: filled(Known(x, x > 0)))(jnp.array([-1.0, 1.0]))
        np.testing.assert_array_equal(rows, [np.nan, 1])
        with jax.disable_jit():
            np.testing.assert_array_equal(found["x"], [1, np.nan, 3])
        with pytest.raises(FloatingPointError):
            jnp.log(jnp.float32(-1))
