"""A number is what people write as one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.config.number import as_float, as_number, is_array


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
