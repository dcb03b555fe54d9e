"""A saved policy is evaluated as the run did it, or under conditions that differ in what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.runs.evaluate import evaluate_run
from jaxtrain.runs.launch import launch
from tests.helpers import tiny

PUSHES = {"push": 2.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three members in an environment that a config may name, and `evaluate_run` of their last checkpoint."""
    place = tmp_path_factory.mktemp("three") / "run"
    config = tiny(2, env="tests.helpers:Walk", evaluation={"every": 8, "num_episodes": 3})
    launch(config, place, num_seeds=3)
    return lambda *args, **given: evaluate_run(place, "last", *args, config=config, **given)


@pytest.fixture(scope="module")
def own(run):
    return run().report


def test_members_are_rows_of_all_in_the_order_in_which_they_are_asked_for(run, own):
    some = run([2, 0])
    assert some.members == (2, 0)
    for name, values in some.report.items():
        np.testing.assert_array_equal(values, own[name][[2, 0]])


def test_new_draws_are_the_same_for_the_same_seed_and_others_for_another(run, own):
    a, b = (run([1], seed=4, sampled=True).report["length_mean"] for _ in range(2))
    others = [run(seed=n, sampled=True).report for n in (4, 5)]
    assert a == b == others[0]["length_mean"][1]
    assert (others[0]["return_mean"] != others[1]["return_mean"]).any()


def test_other_conditions_are_those_of_the_run_with_what_was_given(run, own):
    found = run(env={"params": PUSHES}, num_episodes=2)
    assert found.settings.env.id == "tests.helpers:Walk" and found.settings.env.params == PUSHES
    assert (found.report["episodes"] == 2).all() and (own["episodes"] == 3).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": [0, 3]}, r"^members = \[3\]: the run has \[0, 1, 2\]$"),
        ({"members": [1, 1]}, r"^members = \[1, 1\]: needs different ints"),
        ({"seed": -1}, "^seed = -1: needs an int >= 0"),
        ({"num_episodes": 0}, "^num_episodes = 0: needs an int >= 1"),
        ({"env": {"id": "CartPole-v1"}}, r"^env.id = 'CartPole-v1': its observations are Box\(4,\)"),
        ({"env": {"params": {"pusj": 1.0}}}, "^env.params.pusj = 1.0: .*push"),
        ({"env": {"params": 3}}, "^env.params = 3: needs a mapping"),
    ],
)
def test_what_does_not_fit_is_named_as_it_was_given(run, given, message):
    with pytest.raises(ConfigError, match=message):
        run(**given)
