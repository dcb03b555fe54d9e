"""Configs as text: what a file holds, what an override sets, and what is written."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from jaxtrain import PPO, ConfigError, load_config
from jaxtrain.config import yaml as files
from tests import configs


def test_a_mapping_on_the_way_of_an_override_is_made(tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    overrides = ["env.id=tests.helpers:Walk", "env.params.push=0.5", "algorithm.network.shared=true"]
    config = load_config(tmp_path / "empty.yaml", overrides)
    assert config.env.params == {"push": 0.5} and config.algorithm.network.shared


def test_the_word_on_is_a_key_and_merged_keys_may_be_said_again(tmp_path):
    (tmp_path / "merge.yaml").write_text(
        "env: {id: 'tests.helpers:Walk'}\n"
        "events:\n"
        "- &base {name: a, run: randomize, on: reset, params: {push: {low: 1, high: 2}}}\n"
        "- {<<: *base, name: b}\n"
    )
    assert [(e.name, e.on) for e in load_config(tmp_path / "merge.yaml").events] == [
        ("a", "reset"),
        ("b", "reset"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: [", "is not YAML: expected the node .*, at line 1, column 7: 'env: \\['"),
        ("env:\n  id: a\n   b: 4", r"is not YAML: .* indented as no .*, at line 3, column 5: 'b: 4'"),
        ("env:\n  id: a\n b: 4", r"is not YAML: it is indented unlike .*, at line 3, column 2: 'b: 4'"),
        ("env:\n\tid: a", r"is not YAML: a tab; indent by spaces .*, at line 2, column 1: 'id: a'"),
        ("", r"holds no field, as a copy that was cut off; for every default write \{\}"),
        ("# a header\n", "holds no field, .*"),
        ("a: 1\nenv: {}\na: 2", "is not YAML: 'a' stands twice, at line 3, column 1: 'a: 2'"),
        ("{a: 1}: 2", "is not YAML: a key is no word, at line 1, column 1: '{a: 1}: 2'"),
        ("a: &a {b: *a}", "is not YAML: .*recursive.*"),
        ("a: \x00", "is not YAML: .*"),
        ("[1, 2]", r"= \[1, 2\]: needs a mapping of fields at the top"),
        ("false", "= False: needs a mapping of fields at the top"),
        ("CartPole-v1", "= 'CartPole-v1': needs a mapping of fields at the top"),
    ],
)
def test_a_file_that_holds_no_config_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}:? {message}$"):
        files.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)$"):
        files.read(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r": cannot be read \(Is a directory\)$"):
        files.read(tmp_path)


NINE = "[" + ", ".join(["{}"] * 9) + "]"
BOMBS = {
    "aliases": "a0: &a0 [1]\n"
    + "".join(f"a{i}: &a{i} {NINE.replace('{}', f'*a{i - 1}')}\n" for i in range(1, 20)),
    "merged": "a0: &a0 {k: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: {NINE.replace('{}', f'*a{i - 1}')}}}\n" for i in range(1, 20)),
    "sequences": "a: " + "[" * 900_000,
    "mappings": "{a: " * 200_000,
    "values": "a: [" + "1," * 450_000 + "1]",
    "unknown keys": "".join(f"key{i}: 1\n" for i in range(80_000)),
    "base of 60": "total_env_steps: " + "1:" * 400_000 + "1",
    "digits": "total_env_steps: !!int " + "9" * 900_000,
    "bytes": "a: 1\n" * 2_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_of_too_much_is_refused_while_it_is_read(name, tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name])
    with pytest.raises(
        ConfigError, match=r"bomb.yaml: is (too long|not YAML: (holds|is nested|a number has) )"
    ):
        load_config(path)


def test_an_alias_counts_as_often_as_it_is_used_and_ordinary_ones_are_read():
    few = "base: &base {a: 1, b: [1, 2]}\n" + "".join(f"k{i}: *base\n" for i in range(2000))
    assert files.parse(few.encode(), "x")["k7"] == {"a": 1, "b": [1, 2]}
    with pytest.raises(ConfigError, match="holds more than"):
        files.parse(few.replace("[1, 2]", f"[{'1, ' * 40}]").encode(), "x")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 30_000, "1:" * 50_000 + "1"])
def test_an_override_of_too_much_is_a_text_which_its_field_refuses(text, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"env\.params = .* needs a mapping") as error:
        load_config(tmp_path / "empty.yaml", [f"env.params={text}"])
    assert len(str(error.value)) < 1000


def test_of_many_unknown_keys_and_wrong_items_the_first_are_named(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("".join(f"key{i}: 1\n" for i in range(5000)) + "events: [" + "{}, " * 5000 + "]\n")
    with pytest.raises(ConfigError, match="4,980 more unknown keys") as error:
        load_config(path)
    assert len(error.value.problems) < 50 and "more may be wrong" in str(error.value)


@pytest.mark.parametrize(
    ("written", "made"),
    [
        ("a.b=3e-4", {"a": {"b": "3e-4"}, "list": [{"x": 1}, 2]}),  # YAML 1.1 has no such number; fields do
        ("list.0.x=[1, 2]", {"list": [{"x": [1, 2]}, 2]}),
        ("list.1=", {"list": [{"x": 1}, None]}),
        ("list.0.y.z=on", {"list": [{"x": 1, "y": {"z": True}}, 2]}),
        ("a={b: 1}", {"a": {"b": 1}, "list": [{"x": 1}, 2]}),
        ("a=: [", {"a": ": [", "list": [{"x": 1}, 2]}),  # no YAML, so a text
    ],
)
def test_an_override_sets_one_value_and_leaves_the_others(written, made):
    raw = {"list": [{"x": 1}, 2]}
    files.override(raw, written)
    assert raw == made


def test_plain_values_are_what_yaml_reads_back():
    value = {"a": (1, 2.5), "b": np.float32(0.5), "c": np.arange(3), "d": None, "e": configs.push, "f": PPO()}
    plain = files.plain(value)
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert plain["a"] == [1, 2.5] and plain["b"] == 0.5 and plain["c"] == [0, 1, 2] and plain["d"] is None
    assert plain["e"] == "tests.configs:push" and plain["f"]["gamma"] == 0.99


def test_only_what_a_name_gives_has_one():
    assert files.name_of(configs.push) == "tests.configs:push"
    assert files.name_of(lambda: None) is None and files.name_of(3) is None


def test_a_key_that_begins_with_x_is_a_place_for_anchors_at_the_top_alone(tmp_path):
    path = tmp_path / "anchors.yaml"
    path.write_text(
        "x-rates: &rates {learning_rate: 1e-3, gamma: 0.9}\n"
        "x-what: [ever, {is: here}]\n"
        "algorithm: {<<: *rates, gamma: 0.8}\n"
    )
    algorithm = load_config(path).algorithm
    assert (algorithm.learning_rate, algorithm.gamma) == (1e-3, 0.8)
    path.write_text("algorithm: {x-rates: 1}\n")
    with pytest.raises(ConfigError, match=r"^algorithm\.x-rates: unknown key"):
        load_config(path)
