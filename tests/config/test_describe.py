"""What a config may hold, as JSON Schema: never stricter than a config, and it sees typos and wrong types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jaxtrain import Config, ConfigError, load_config
from jaxtrain.config import experiments, field
from jaxtrain.config import yaml as files
from jaxtrain.config.describe import describe, json_schema
from jaxtrain.config.field import from_mapping
from jaxtrain.config.schema import default_algorithm, dump, resolved
from jaxtrain.tools.cli import main
from tests import configs

ROOT = Path(__file__).parents[2]
SHIPPED = [*experiments.known().values(), *sorted((ROOT / "examples").glob("*.yaml"))]
# What is of another type than any value of a field of that kind; of all others a mapping is.
WRONG = {"MAPPING": 3, "LIST": {"a": 1}}


@field.config
class Own:
    name: str = field.text("own")
    rollout_length: int = field.integer(4, low=1)
    gain: Any = field.rate(0.5, low=0)
    needed: str = field.text("", help="has to be said")

    def make(self, spec: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def schema():
    made = json.loads(json.dumps(json_schema()))
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def said(schema: Draft202012Validator, given: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(given)]


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_config_is_valid_as_it_is_written(schema, path):
    assert said(schema, files.read(path)) == []


@pytest.mark.parametrize("name", experiments.known())
def test_a_config_that_is_printed_whole_is_valid(schema, name):
    assert said(schema, files.parse(dump(resolved(load_config(name))).encode(), "")) == []


def test_a_config_that_uses_most_of_what_there_is_is_valid(schema):
    assert said(schema, files.parse(configs.TEXT.encode(), "")) == []
    scheduled = {
        "learning_rate": {"schedule": "cosine", "from": "1e-3", "to": 0, "over": 1e6, "warmup": 1e4},
        "clip_range": {"schedule": "piecewise", "values": [0.3, "0.2"], "at": [2e5]},
        "entropy_coef": {"schedule": "tests.configs:solved", "scale": 2},
    }
    given = {
        "x-rates": {"any": ["thing"]},
        "algorithm": scheduled,
        "checkpoint": {"signals": "USR1, SIGUSR2"},
    }
    assert said(schema, given) == []


def test_every_field_has_what_help_says_of_it_and_takes_its_default(schema):
    for path, _, default, help in describe():
        here = schema.schema
        for name in path.split("."):
            while "$ref" in here:
                here = schema.schema["$defs"][here["$ref"].rpartition("/")[2]]
            if "allOf" in here:
                here = schema.schema["$defs"][type(default_algorithm()).__name__]
            here = here["properties"][name]
        assert here.get("description", "") == help, path
        assert here["default"] == files.plain(default), path
        assert said(schema, nested(path, here["default"])) == [], path


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize(("path", "kind"), [row[:2] for row in describe()])
def test_a_typo_of_a_fields_name_and_a_value_of_another_type_are_refused_by_schema_and_config(
    schema, path, kind
):
    wrong = nested(path, WRONG.get(kind, {"a": 1}))
    typo = nested(path + "x", 3)
    for given in (wrong, typo):
        assert said(schema, given)
        with pytest.raises(ConfigError):
            from_mapping(Config, given)


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": {"name": "pop"}},
        {"algorithm": {"name": "dqn", "clip_range": 0.2}},
        {"algorithm": {"gamma": 1.5}},
        {"algorithm": {"learning_rate": {"schedule": "linear", "from": 1e-3}}},
        {"algorithm": {"learning_rate": {"schedule": "linear", "from": 1, "to": 0, "over": 0}}},
        {"algorithm": {"policy_network": "Mlp"}},
        {"env": {"num_envs": 0}},
        {"evaluation": {"env": {"params": {}}}},
        {"logging": {"sinks": ["consol"]}},
        {"logging": {"statistics": [{"name": ""}]}},
        {"events": [{"name": "evaluate", "every": 64}]},
        {"events": [{"name": "a", "run": "randomise", "every": 64}]},
        {"events": [{"run": "evaluation", "every": 64}]},
        {"events": [{"name": "evaluation", "when": "a >= 3", "every": 64}]},
        {"x": 3},
    ],
    ids=str,
)
def test_a_wrong_choice_range_or_form_is_refused_by_schema_and_config(schema, given):
    assert said(schema, given)
    with pytest.raises(ConfigError):
        from_mapping(Config, given)


def test_an_algorithm_of_ones_own_may_hold_anything_unless_its_fields_are_known(schema):
    name = f"{__name__}:Own"
    sound, typo = ({"algorithm": {"name": name, "needed": "a", rate: 1}} for rate in ("gain", "gian"))
    lacking = {"algorithm": {"name": name}}
    known = Draft202012Validator(json_schema({name: Own}))
    assert not said(schema, sound) and not said(schema, typo)
    assert not said(known, sound) and said(known, typo) and said(known, lacking)


def test_the_command_line_prints_it_with_the_algorithm_that_a_file_names(capsys):
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert main(["config", "--schema", f"--algorithm.name={__name__}:Own"]) == 0
    assert "gain" in json.loads(capsys.readouterr().out)["$defs"]["Own"]["properties"]
    assert main(["config", "--schema", "--algorithm.name=pop"]) == 2
    assert "algorithm.name = 'pop': no such algorithm" in capsys.readouterr().err
