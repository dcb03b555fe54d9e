"""Fields of the config on a command line, as people write them."""

from __future__ import annotations

import pytest

from jaxtrain import ConfigError
from jaxtrain.tools import fields
from jaxtrain.tools.cli import OPTIONS, parsed


@pytest.mark.parametrize(
    "words",
    [
        ["a.yaml", "--env.num-envs", "8", "--algorithm.gamma", "0.9"],
        ["--env.num-envs", "8", "a.yaml", "algorithm.gamma=0.9"],
        ["--env.num_envs=8", "--algorithm.gamma=0.9", "--seed", "3", "a.yaml"],
        ["env.num_envs=8", "a.yaml", "--seed=3", "--algorithm.gamma", "0.9"],
    ],
)
def test_fields_stand_before_and_behind_the_file_in_each_form(words):
    options, rest = parsed(["train", *words])
    assert options.file == "a.yaml"
    assert fields.overrides(rest, OPTIONS["train"]) == ["env.num_envs=8", "algorithm.gamma=0.9"]


def test_a_value_is_no_file_and_a_dash_of_a_name_within_stays():
    options, rest = parsed(["train", "--env.id", "CartPole-v1"])
    assert options.file is None and fields.overrides(rest, ()) == ["env.id=CartPole-v1"]
    options, rest = parsed(["train", "a.yaml", "env.params.a-b=-1"])
    assert options.file == "a.yaml" and fields.overrides(rest, ()) == ["env.params.a-b=-1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["algorithm.learning_rate", "3e-4"],
            "is set by --algorithm.learning-rate 3e-4, or by algorithm.learning_rate=3e-4",
        ),
        (
            ["total_env_steps"],
            "total_env_steps: is set by --total-env-steps VALUE, or by total_env_steps=VALUE",
        ),
        (["-o", "algorithm.gamma=0.9"], "-o: no such option; a field is set without it: algorithm.gamma=0.9"),
        (["-n", "3"], "-n: no such option"),
        (["--lr", "3e-4"], "--lr: no such option or field of the config; there is --algorithm.learning-rate"),
        (["--num-env", "3"], "there is --env.num-envs"),
        (["--gama=0.9"], "there is --algorithm.gamma"),
        (["--num-sed", "3"], "the nearest known is 'num-seeds'"),
        (["--qqq", "3"], "--qqq: no such option or field of the config; --help lists them"),
    ],
)
def test_a_word_that_sets_nothing_is_told_how_it_would(words, message):
    with pytest.raises(ConfigError) as caught:
        fields.overrides(words, OPTIONS["train"])
    assert message in str(caught.value)
