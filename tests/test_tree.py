"""What is done to any pytree: choices by seed, what is written in place, what no seed axis may reach."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from jaxtrain.tree import (
    InPlace,
    any_over_seeds,
    in_place,
    is_in_place,
    nonbatchable,
    not_finite,
    same_tree,
    watched,
    where,
)
from tests.helpers import equations

# ---- where


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_every_seed_has_the_leaf_that_its_condition_says(condition):
    size = len(condition)
    old = {"a": jnp.zeros((size, 2, 3)), "b": jnp.zeros(size, jnp.int32)}
    new = jax.tree.map(jnp.ones_like, old)
    found = where(jnp.array(condition), new, old)
    assert (np.asarray(found["a"]) == np.array(condition)[:, None, None]).all()
    assert (np.asarray(found["b"]) == condition).all()
    assert [x.dtype for x in found.values()] == [x.dtype for x in old.values()]


def test_a_typed_key_is_chosen_as_any_leaf():
    old, new = (jax.random.split(jax.random.key(i), 2) for i in (0, 1))
    found = where(jnp.array([True, False]), new, old)
    data = jax.random.key_data
    assert (data(found) == jnp.stack([data(new[0]), data(old[1])])).all()


@pytest.mark.parametrize("condition", [False, [False, False], [True, False]])
def test_what_is_in_place_is_handed_on_whatever_the_condition(condition):
    old, new = InPlace({"x": jnp.zeros((2, 3))}), InPlace({"x": jnp.ones((2, 3))})
    found = where(jnp.array(condition), {"ring": new, "y": jnp.ones(2)}, {"ring": old, "y": jnp.zeros(2)})
    assert found["ring"] is new
    assert (np.asarray(found["y"]) == condition).all()


def test_no_operation_reads_what_is_in_place_or_the_same_on_both_sides():
    def choose(condition, new, old, same):
        return where(condition, (InPlace(new), same), (InPlace(old), same))

    jaxpr = jax.make_jaxpr(choose)(jnp.array([True]), jnp.ones((1, 9)), jnp.ones((1, 9)), jnp.ones((1, 7)))
    assert all(x.aval.size == 1 for eqn in jaxpr.eqns for x in eqn.invars)


def test_a_leaf_without_the_axis_of_the_condition_is_the_new_one():
    old, new = {"clock": jnp.int32(3), "x": jnp.zeros(2)}, {"clock": jnp.int32(4), "x": jnp.ones(2)}
    found = where(jnp.array([True, False]), new, old)
    assert int(found["clock"]) == 4 and found["x"].tolist() == [1, 0]


# ---- what is finite


BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("bad", BAD)
def test_each_seed_is_looked_at_by_itself_and_in_every_leaf(bad):
    tree = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3), "n": jnp.zeros((3, 4), jnp.int32)}
    tree |= {"a": tree["a"].at[2, 1].set(bad), "b": tree["b"].at[0].set(bad)}
    assert not_finite(tree, 1).tolist() == [True, False, True]
    assert not_finite(tree).shape == () and bool(not_finite(tree))
    nested = jax.tree.map(lambda x: jnp.stack([x, jnp.zeros_like(x)]), tree)
    assert not_finite(nested, 2).tolist() == [[True, False, True], [False] * 3]


def test_half_precision_and_complex_numbers_are_looked_at_too():
    assert bool(not_finite(jnp.array([1, jnp.nan], jnp.bfloat16)))
    assert bool(not_finite(jnp.array([1, 1j * jnp.inf])))


def test_what_is_in_place_and_what_has_no_nan_is_not_looked_at():
    ring = InPlace({"rows": jnp.full((2, 5), jnp.nan)})
    tree = {"ring": ring, "n": jnp.ones(2, jnp.int32), "flag": jnp.ones(2, bool), "x": jnp.zeros(2)}
    assert not_finite(tree, 1).tolist() == [False, False]
    assert not_finite({"ring": ring, "n": jnp.int32(1)}).tolist() is False
    assert not_finite({}).tolist() is False
    jaxpr = jax.make_jaxpr(not_finite)({"ring": ring, "x": jnp.zeros(2)})
    assert all(x.aval.shape != (2, 5) for eqn in jaxpr.eqns for x in eqn.invars)


def test_the_leaves_are_those_in_place_and_those_watched_each_once_and_in_order():
    a, b, c, d = (jnp.full(1, float(i)) for i in range(4))
    tree = {"one": InPlace((a, {"b": b})), "two": [c, {"ring": InPlace(d)}], "zero": (), "none": None}
    assert [float(x[0]) for x in in_place(tree)] == [0, 1, 3]
    assert [float(x[0]) for x in watched(tree)] == [2]
    assert dict(zip([float(x[0]) for x in jax.tree.leaves(tree)], is_in_place(tree), strict=True)) == {
        0: True,
        1: True,
        2: False,
        3: True,
    }
    assert in_place((a, b)) == [] and watched(InPlace(a)) == []
    assert in_place(InPlace(InPlace(a)))[0] is a


def test_in_place_is_a_pytree_whose_leaves_have_paths_and_go_through_transformations():
    ring = InPlace({"x": jnp.zeros((2, 3))})
    (path,) = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(ring)]
    assert path == ".value['x']"
    mapped = jax.jit(jax.vmap(lambda r: InPlace({"x": r.value["x"].at[1].set(7.0)})))(ring)
    assert isinstance(mapped, InPlace)
    assert mapped.value["x"].tolist() == [[0, 7, 0]] * 2


# ---- conditions of all seeds


def test_nonbatchable_is_nothing_where_there_is_one_for_all():
    x = jnp.array(True)
    assert bool(nonbatchable(x)) and bool(jax.jit(nonbatchable)(x))
    found = jax.vmap(lambda y: jnp.where(nonbatchable(x), y, 0))(jnp.arange(3))
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("maps", [1, 2])
def test_nonbatchable_refuses_one_for_each_seed_while_tracing(maps):
    def one(x):
        return lax.cond(nonbatchable(x > 0), lambda: 1, lambda: 2)

    for _ in range(maps):
        one = jax.vmap(one)
    message = "a condition of the loop differs between seeds: it has to be one of all of them"
    with pytest.raises(TypeError, match=message):
        jax.make_jaxpr(one)(jnp.ones((2,) * maps))


@pytest.mark.parametrize("maps", [0, 1, 2])
def test_any_over_seeds_is_one_answer_for_all_and_leaves_a_condition_one(maps):
    def one(x):
        return any_over_seeds(x > 0), lax.cond(any_over_seeds(x > 0), lambda: x + 10, lambda: x)

    run = one
    for _ in range(maps):
        run = jax.vmap(run, out_axes=(None, 0))
    shape = (2, 3)[:maps]
    for x in (jnp.zeros(shape), jnp.zeros(shape).at[(1,) * maps].set(1.0)):
        found, chosen = run(x)
        assert found.shape == () and bool(found) == bool((x > 0).any())
        np.testing.assert_array_equal(chosen, x + 10 * bool((x > 0).any()))
    jaxpr = jax.make_jaxpr(run)(jnp.zeros(shape)).jaxpr
    conditions = [eqn for eqn, _ in equations(jaxpr) if eqn.primitive.name == "cond"]
    assert [eqn.invars[0].aval.shape for eqn in conditions] == [()]


def test_any_over_seeds_hinders_no_gradient():
    def loss(x):
        return lax.cond(any_over_seeds(x > 0), lambda: x * x, lambda: x)

    assert jax.vmap(jax.grad(loss))(jnp.array([3.0, -1.0])).tolist() == [6, -2]


# ---- the same tree


def test_the_same_tree_is_handed_back_and_python_numbers_take_the_dtype_they_replace():
    old = {"x": jnp.zeros(2), "n": jnp.int32(1), "b": jnp.array(False)}
    new = {"x": jnp.ones(2), "n": 7, "b": True}
    found = same_tree("it", old, new)
    assert [(found[k].dtype, found[k].shape) for k in old] == [(x.dtype, x.shape) for x in old.values()]
    assert int(found["n"]) == 7 and found["x"] is new["x"]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"x": jnp.zeros(2)}, r"it is another tree than before: lacks \['n'\]"),
        ({"x": jnp.zeros(2), "n": 1, "m": 2}, r"it is another tree than before: has \['m'\]"),
        ({"x": (jnp.zeros(2),), "n": 1}, r"it is another tree than before: lacks \['x'\]; has \['x'\]\[0\]"),
        ({"x": jnp.zeros(3), "n": 1}, r"it: \['x'\] was float32\[2\], is float32\[3\]"),
        ({"x": jnp.zeros(2, jnp.bfloat16), "n": 1}, r"it: \['x'\] was float32\[2\], is bfloat16\[2\]"),
        ({"x": jnp.zeros(2), "n": 1.5}, r"it: \['n'\] was int32\[\], is float32\[\]"),
        ({"x": jnp.zeros(2), "n": np.int16(1)}, r"it: \['n'\] was int32\[\], is int16\[\]"),
    ],
)
def test_another_tree_is_refused_by_the_first_leaf_that_differs(new, message):
    with pytest.raises(TypeError, match=message):
        same_tree("it", {"x": jnp.zeros(2), "n": jnp.int32(1)}, new)


def test_other_containers_with_the_same_leaves_are_refused():
    with pytest.raises(TypeError, match="its containers differ"):
        same_tree("it", [jnp.zeros(1)], (jnp.zeros(1),))
    with pytest.raises(TypeError, match="another tree"):
        same_tree("it", InPlace(jnp.zeros(1)), jnp.zeros(1))
