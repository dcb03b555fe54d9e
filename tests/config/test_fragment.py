"""What a fragment refuses its field refuses too, whatever is written there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jaxtrain import ConfigError
from jaxtrain.config import field, fragment
from jaxtrain.config.rate import KEYS
from jaxtrain.errors import Fault


@field.config
class Fields:
    rate: Any = field.rate(0.5, low=0, high=1)
    above: Any = field.rate(None, above=0)
    count: Any = field.integer(4, low=1, high=8)
    maybe: Any = field.integer(None, low=0)
    start: Any = field.static_float(0.0)
    sizes: Any = field.integers((64,), low=1, high=99)
    flag: Any = field.flag(False)
    mode: Any = field.choice("freeze", ("freeze", "off"))
    title: Any = field.text(None)
    module: Any = field.given("a module", "init", "apply")


FIELDS = {f.name: f.metadata["field"] for f in dataclasses.fields(Fields)}
VALIDATORS = {
    name: Draft202012Validator({"$defs": {"schedule": fragment.schedule(KEYS)}, "allOf": [spec.accepts]})
    for name, spec in FIELDS.items()
}
words = st.sampled_from(
    [
        "none",
        "Null",
        "true",
        "OFF",
        "off",
        "linear",
        "",
        " ",
        "a",
        "[64, 32]",
        "8,9",
        "1_0",
        "1e1",
        " 5 ",
        "٣",
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 12),
    st.integers(),
    st.floats(),
    st.sampled_from([0.0, 0.5, 1.0, 8.0]),
    words,
    st.text(alphabet="0123456789eE+-_. ,[]()naif", max_size=6),
    st.text(max_size=3),
)
keys = st.sampled_from(["schedule", "from", "to", "over", "warmup", "values", "at", "scale", "x"])
kinds = st.sampled_from([*KEYS, "os:getcwd", 3])
schedules = st.builds(
    lambda kind, rest: {"schedule": kind, **rest},
    kinds,
    st.dictionaries(keys, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=4),
)
values = st.one_of(scalars, st.lists(scalars, max_size=4), schedules, st.just({}))


@pytest.mark.parametrize("name", FIELDS)
@given(value=values)
def test_a_fragment_refuses_nothing_that_its_field_takes(name, value):
    if VALIDATORS[name].is_valid(value):
        return
    with pytest.raises((Fault, ConfigError)):
        FIELDS[name].read(value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_fragment_takes_the_default_and_refuses_a_list_of_lists(name):
    (default,) = (f.default for f in dataclasses.fields(Fields) if f.name == name)
    assert VALIDATORS[name].is_valid([*default] if isinstance(default, tuple) else default)
    assert not VALIDATORS[name].is_valid([["a"]])
