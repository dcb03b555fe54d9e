"""A number is what people write as one."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import ConfigError
from jaxtrain.config.number import as_float, as_int, as_number, is_array, same, whole, wholes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        (" 1e3 ", 1000.0),
        ("0x10", None),
        ("", None),
        ("1,5", None),
        ("9" * 5000, None),
        (2 + 0j, None),
    ],
)
def test_a_number_is_what_reads_as_one(text, number):
    assert as_number(text) == number


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_its_text_and_its_array_are_one(value):
    assert as_number(value) == as_number(repr(value)) == value
    assert type(as_number(value)) is type(value)
    if isinstance(value, float):
        assert as_number(np.float64(value)) == value and type(as_number(np.float64(value))) is float


@pytest.mark.parametrize("value", [True, None, float("nan"), float("inf"), "nan", np.ones(1), [1], "on"])
def test_what_is_no_finite_number_is_none(value):
    assert as_number(value) is None and as_float(value) is None


def test_a_float_that_no_float_reaches_is_none_and_an_int_is_one():
    assert as_number(10**400) == 10**400 and as_float(10**400) is None
    assert as_float("3") == 3.0 and type(as_float(3)) is float


def test_a_traced_array_is_an_array_and_no_number():
    seen = []
    jax.eval_shape(lambda x: seen.append((is_array(x), as_number(x))), jnp.float32(1))
    assert seen == [(True, None)]
    assert as_number(jnp.float32(0.5)) == 0.5 and is_array(np.float32(1)) and not is_array(1.0)


NO_INTS = [1.5, 1.0, "1", True, np.True_, jnp.bool_(True), None, [1], np.ones(1, int), np.float32(1), 1j]


@given(st.integers(0, 2**32 - 1))
def test_a_whole_argument_is_an_int_of_pythons_or_numpys_with_each_of_its_bits(value):
    for given_as in (value, np.int64(value), np.uint32(value), np.array(value)):
        read = whole("seed", given_as)
        assert (read, type(read)) == (value, int)
    assert wholes("seeds", np.array([value])) == wholes("seeds", range(value, value + 1)) == (value,)


@pytest.mark.parametrize("value", [*NO_INTS, -1, 2**32, 2**63, 10**30, np.int64(-1)])
def test_what_is_no_whole_argument_is_named_with_its_value_and_the_rule(value):
    with pytest.raises(ConfigError) as error:
        whole("seed", value)
    (problem,) = error.value.problems
    assert (problem.path, problem.value is value) == ("seed", True)
    assert problem.rule == "needs an int >= 0 and <= 4294967295"
    with pytest.raises(ConfigError, match="seeds = "):
        wholes("seeds", [0, value])


@pytest.mark.parametrize("value", [3, "3", "3,4", [], [1, 1], [1, np.int64(1)], None])
def test_several_are_different_ints_in_a_list(value):
    with pytest.raises(ConfigError, match="needs different ints >= 0 and <= 4294967295"):
        wholes("seeds", value)


def test_a_count_is_one_at_least():
    assert whole("num_seeds", 1, low=1) == 1
    with pytest.raises(ConfigError, match="num_seeds = 0: needs an int >= 1"):
        whole("num_seeds", 0, low=1)


def test_an_int_may_have_any_size():
    assert as_int(np.int64(2**62)) == 2**62 and as_int(10**30) == 10**30 and as_int(True) is None


def test_values_are_the_same_if_all_their_entries_are():
    one, many = jnp.float32(0.5), np.array([0.5, 0.25])
    for a in (0.5, "x", None, one, many, (one, many), ((many,), 1)):
        assert same(a, copy.deepcopy(a))
    assert same(one, 0.5) and same((0.5, many), (one, many.copy()))
    for a, b in (
        (one, 0.25),
        (many, one),
        (many, many[::-1]),
        (many, None),
        ((one,), (one, one)),
        (many, "x"),
    ):
        assert not same(a, b) and not same(b, a)
    assert jax.eval_shape(lambda x: jnp.array([same(x, x), same(x, 0.5)]), one).shape == (2,)
