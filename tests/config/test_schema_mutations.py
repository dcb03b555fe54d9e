"""Whatever is changed in a config, it works or its error says where."""

from __future__ import annotations

import copy
import datetime
import random
from typing import Any

import jax
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from jaxtrain import Config, ConfigError, Trainer, load_config
from jaxtrain.config.describe import json_schema
from jaxtrain.config.field import from_mapping
from jaxtrain.config.schema import to_dict
from tests import configs


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return configs.written(tmp_path_factory.mktemp("config"))


JUNK = [
    None, True, 0, -1, 1, 2, 7, 64, 2**31, 10**30, 10**400, 0.5, 1e300, float("nan"), float("inf"),
    "", " ", "abc", "3e-4", "off", "none", "a > 3", "os:path", "os:getcwd", "tests.helpers:Walk", ":", "a:",
    "\0", b"x", [], [1], ["a"], [None], [[1]], [{}], {}, {"a": 1}, {"name": 1}, {1: 2},
    datetime.date(2020, 1, 1), 1j, object(), np.ones(2), np.float64("nan"), jax.nn.relu,
]  # fmt: skip


def _mutate(plain: Any, rng: random.Random) -> Any:
    """One random change somewhere in nested mappings and lists."""
    plain = copy.deepcopy(plain)
    here = plain
    while True:
        keys = list(here) if isinstance(here, dict) else range(len(here))
        key = rng.choice(keys) if keys else None
        inner = here[key] if keys else None
        if not keys or not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        here = inner
    how = rng.choice(("set", "set", "set", "drop", "add"))
    if how == "set" and key is not None:
        here[key] = rng.choice(JUNK)
    elif how == "drop" and key is not None:
        del here[key]
    elif isinstance(here, dict):
        here[rng.choice(["nme", "every", "params", "on", 3, None])] = rng.choice(JUNK)
    else:
        here.append(rng.choice([rng.choice(JUNK), *here]))
    return plain


def _check_mutations(plain: Any, seeds: range) -> int:
    refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        mutated = _mutate(plain, rng)
        try:
            Trainer(from_mapping(Config, mutated))
        except ConfigError as error:
            refused += 1
            assert error.problems, f"seed {seed}"
            for problem in error.problems:
                assert problem.path and problem.rule, f"seed {seed}: {problem}"
                assert "\n" not in str(problem), f"seed {seed}: {problem}"
    return refused


def test_a_random_change_is_a_config_that_works_or_an_error_that_says_where(path):
    assert _check_mutations(to_dict(load_config(path)), range(200)) > 50


def _of_a_file(value: Any) -> bool:
    """Whether YAML may hold it."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _of_a_file(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_of_a_file, value))
    return value is None or type(value) in (bool, int, float, str)


def _check_schema(plain: Any, seeds: range) -> int:
    schema, refused = Draft202012Validator(json_schema()), 0
    for seed in seeds:
        mutated = _mutate(plain, random.Random(seed))
        if _of_a_file(mutated) and not schema.is_valid(mutated):
            refused += 1
            with pytest.raises(ConfigError):
                from_mapping(Config, mutated)
                pytest.fail(f"seed {seed}: the schema alone refuses {mutated}")
    return refused


def test_a_random_change_that_the_schema_refuses_the_config_refuses_too(path):
    assert _check_schema(to_dict(load_config(path)), range(400)) > 100


@pytest.mark.slow
def test_many_random_changes_that_the_schema_refuses_the_config_refuses_too(path):
    assert _check_schema(to_dict(load_config(path)), range(400, 4000)) > 1000


@pytest.mark.slow
def test_many_random_changes_are_configs_that_work_or_errors_that_say_where(path):
    assert _check_mutations(to_dict(load_config(path)), range(200, 2200)) > 500
