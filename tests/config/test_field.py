"""Fields that check themselves, and the pytrees that they make."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import field
from jaxtrain.config.field import Items, Params, from_mapping
from jaxtrain.config.schema import EvaluationConfig
from jaxtrain.errors import ConfigError, Problem


@field.config
class Inner:
    rate: Any = field.rate(0.5, low=0, high=1)
    sizes: tuple[int, ...] = field.integers((64, 64), low=1)


@field.config
class Outer:
    rate: Any = field.rate(1.0, above=0)
    unset: Any = field.rate(None, above=0)
    count: int = field.integer(4, low=1, high=8)
    maybe: int | None = field.integer(None, low=0)
    start: float = field.static_float(0.0)
    flag: bool = field.flag(False)
    mode: str = field.choice("freeze", ("freeze", "off"))
    title: str | None = field.text(None)
    module: Any = field.given("a module", "init", "apply")
    inner: Inner = field.nested(Inner)
    other: Inner | None = field.nested(Inner, optional=True)

    def rules(self) -> list[Problem]:
        if self.count == 7:
            return [Problem("count", 7, "is out of luck")]
        return []


class Module:
    def init(self) -> None: ...

    def apply(self) -> None: ...


MODULE = Module()


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("rate", "3e-4", 3e-4),
        ("rate", 1, 1.0),
        ("rate", "1_000.5", 1000.5),
        ("rate", np.float32(0.5), 0.5),
        ("rate", np.int64(2), 2.0),
        ("rate", jnp.float32(0.5), 0.5),
        ("unset", None, None),
        ("unset", "none", None),
        ("count", "5", 5),
        ("count", 5.0, 5),
        ("count", np.int32(5), 5),
        ("maybe", 1e6, 1_000_000),
        ("maybe", "1e6", 1_000_000),
        ("maybe", "1_000_000", 1_000_000),
        ("maybe", 10**30, 10**30),
        ("maybe", "null", None),
        ("start", "-1.5", -1.5),
        ("flag", "on", True),
        ("flag", "No", False),
        ("flag", np.bool_(True), True),
        ("mode", "off", "off"),
        ("mode", False, "off"),
        ("title", "a b", "a b"),
        ("module", MODULE, MODULE),
        ("inner", {"sizes": [32]}, Inner(sizes=(32,))),
        ("inner", {"sizes": "64, 32"}, Inner(sizes=(64, 32))),
        ("inner", {"sizes": "[64,32]"}, Inner(sizes=(64, 32))),
        ("inner", {"sizes": 64}, Inner(sizes=(64,))),
        ("inner", {"sizes": ["1e2", 8.0, np.int64(3)]}, Inner(sizes=(100, 8, 3))),
        ("other", {"rate": "0.25"}, Inner(rate=0.25)),
        ("other", None, None),
    ],
)
def test_what_people_write_is_read_as_the_declared_type(name, written, read):
    made = getattr(Outer(**{name: written}), name)
    assert made == read and type(made) is type(read)


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("rate", "fast", "rate = 'fast': needs a number > 0"),
        ("rate", True, "rate = True: needs a number > 0"),
        ("rate", None, "rate = None: needs a number > 0"),
        ("rate", float("nan"), "rate = nan: needs a number > 0"),
        ("rate", float("inf"), "rate = inf: needs a number > 0"),
        ("rate", "inf", "rate = 'inf': needs a number > 0"),
        ("rate", 0, "rate = 0: needs a number > 0"),
        ("rate", [0.1], r"rate = \[0.1\]: needs a number > 0"),
        ("rate", np.array([0.1, -1.0]), r"rate = array\(.*\): needs a number > 0"),
        ("rate", np.array([0.1, np.nan]), r"rate = array\(.*\): needs a number > 0"),
        ("rate", np.array(["a"]), r"rate = array\(.*\): needs a number > 0"),
        ("inner", {"rate": 1.1}, "inner.rate = 1.1: needs a number >= 0 and <= 1; the nearest is 1"),
        ("inner", {"rate": -2}, "inner.rate = -2: needs a number >= 0 and <= 1; the nearest is 0"),
        ("inner", {"rat": 1}, "inner.rat: unknown key; the nearest known is 'rate'"),
        ("inner", {"sizes": [64, 0]}, r"inner.sizes = \[64, 0\]: needs a list of ints >= 1"),
        ("inner", {"sizes": [1.5]}, r"inner.sizes = \[1.5\]: needs a list of ints >= 1"),
        ("inner", {"sizes": "a,b"}, "inner.sizes = 'a,b': needs a list of ints >= 1"),
        ("inner", {"sizes": {}}, r"inner.sizes = \{\}: needs a list of ints >= 1"),
        ("inner", 3, "inner = 3: needs a mapping of rate, sizes"),
        ("inner", None, "inner = None: needs a mapping of rate, sizes"),
        ("count", 0, "count = 0: needs an int >= 1 and <= 8; the nearest is 1"),
        ("count", 10**400, "count = 10+: needs an int >= 1 and <= 8; the nearest is 8"),
        ("count", 2.6, "count = 2.6: needs an int >= 1 and <= 8; the nearest is 3"),
        ("count", "four", "count = 'four': needs an int >= 1 and <= 8"),
        ("count", [4], r"count = \[4\]: needs an int >= 1 and <= 8"),
        ("count", False, "count = False: needs an int >= 1 and <= 8"),
        ("count", 7, "count = 7: is out of luck"),
        ("start", 10**400, "start = 10+: needs a number"),
        ("flag", 1, "flag = 1: needs true or false"),
        ("mode", "freze", "mode = 'freze': needs one of freeze, off; the nearest is 'freeze'"),
        ("mode", ["off"], r"mode = \['off'\]: needs one of freeze, off; the nearest is 'off'"),
        ("title", "", "title = '': needs a text of 1 to 200 printable characters"),
        ("title", 3, "title = 3: needs a text of 1 to 200 printable characters"),
        ("title", "\x1b[2J", r"title = '\\x1b\[2J': needs a text of 1 to 200 printable characters"),
        ("module", "mlp", "module = 'mlp': needs a module, given from Python; it has no init, apply"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_rule(name, written, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Outer(**{name: written})


def test_all_faults_are_in_one_error_a_line_each():
    with pytest.raises(ConfigError) as error:
        from_mapping(Outer, {"rate": 0, "cuont": 3, "inner": {"rate": 2, "sizes": "x"}, "other": {"a": 1}})
    lines = str(error.value).splitlines()
    assert [p.path for p in error.value.problems] == ["cuont", "rate", "inner.rate", "inner.sizes", "other.a"]
    assert [str(p) for p in error.value.problems] == lines
    assert isinstance(error.value, ValueError)


def test_configs_cannot_be_changed_and_compare_by_value():
    config = Outer(count=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.count = 6
    assert config == Outer(count="5") and hash(config) == hash(Outer(count="5"))
    assert dataclasses.replace(config, count=6) == Outer(count=6)
    with pytest.raises(ConfigError, match="count = 9"):
        dataclasses.replace(config, count=9)


def test_rates_are_the_leaves_and_all_else_is_static():
    config = Outer(unset=0.1, other=Inner())
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(config)]
    assert paths == [".rate", ".unset", ".inner.rate", ".other.rate"]
    structure = jax.tree.structure(config)
    same = jax.tree.structure(dataclasses.replace(config, rate=2.0, inner=Inner(rate=0.1)))
    other = jax.tree.structure(dataclasses.replace(config, count=5))
    assert structure == same and hash(structure) == hash(same) and structure != other
    assert jax.tree.unflatten(structure, jax.tree.leaves(config)) == config


def test_a_rate_may_be_an_array_or_a_tracer_and_the_config_can_be_made_anew_from_it():
    rates = jnp.array([0.25, 0.5])

    def one(rate):
        config = dataclasses.replace(Outer(), rate=rate, unset=rate, inner=Inner(rate=rate))
        return dataclasses.replace(config, count=8).inner.rate

    assert jax.vmap(one)(rates).tolist() == [0.25, 0.5]
    assert Outer(rate=rates).rate is rates
    assert Outer(rate=np.array([1, 2])).rate.dtype == np.float64  # a sweep over ints is one over floats


VALUES = {
    "gain": 0.5,
    "exact": "3e-4",
    "count": 3,
    "title": "a b",
    "nested": {"low": 1.0, "kind": "uniform"},
    "floats": [1, 2.5, "1e2"],
    "mixed": [0.5, "a"],
    "ints": [1, 2],
    "nothing": None,
    "array": np.ones(2),
}


def test_of_free_values_the_floats_and_arrays_are_leaves():
    params = Params(VALUES)
    leaves = {
        jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in jax.tree.leaves_with_path(params)
    }
    assert list(leaves) == ["gain", "exact", "nested.low", "floats.0", "floats.1", "floats.2", "array"]
    assert leaves["exact"] == 3e-4 and leaves["floats.2"] == 100.0
    assert params["ints"] == (1, 2) and params["mixed"] == (0.5, "a")


def test_free_values_come_back_from_their_leaves_as_they_were_and_in_order():
    params = Params({k: v for k, v in VALUES.items() if k != "array"})
    leaves, structure = jax.tree.flatten(params)
    again = jax.tree.unflatten(structure, leaves)
    assert again == params and list(again) == list(params) and hash(again) == hash(params)
    changed = jax.tree.structure(Params({**params, "gain": 0.75}))
    assert changed == structure and hash(changed) == hash(structure)
    assert jax.tree.structure(Params({**params, "count": 4})) != structure


def test_objects_among_configs_are_static_and_stay_in_place():
    def act() -> None: ...

    items = Items((Inner(rate=0.25), act, Inner(rate=0.75)))
    leaves, structure = jax.tree.flatten(items)
    assert leaves == [0.25, 0.75] and jax.tree.unflatten(structure, leaves) == items == tuple(items)
    assert jax.jit(lambda x: x[0].rate + x[2].rate)(items) == 1.0


def test_a_config_within_a_config_is_read_from_what_yaml_gives():
    made = from_mapping(EvaluationConfig, {"num_episodes": "8", "greedy": "off"})
    assert made == EvaluationConfig(num_episodes=8, greedy=False)
    assert from_mapping(EvaluationConfig, made) is made
