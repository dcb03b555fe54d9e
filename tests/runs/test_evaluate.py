"""A saved policy is evaluated as the run did it, or under conditions that differ in what is asked for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import checkpoint
from jaxtrain.runs.evaluate import evaluate_run
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import open_run
from tests.helpers import tiny

PUSHES = {"push": 2.0}
STATISTICS = [
    {"name": "moved", "source": "moved", "reduction": "episode"},
    {"name": "steps", "source": "tests.runs.test_evaluate:one", "reduction": "episode"},
]


def one(transition):
    return 1.0


CONFIG = tiny(
    2,
    env="tests.helpers:Walk",
    evaluation={"every": 8, "num_episodes": 3},
    logging={"every": 8, "statistics": STATISTICS},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of three members in an environment that a config may name."""
    place = tmp_path_factory.mktemp("three") / "run"
    launch(CONFIG, place, num_seeds=3)
    return place


@pytest.fixture(scope="module")
def run(place):
    """`evaluate_run` of their last checkpoint."""
    return lambda *args, **given: evaluate_run(place, "last", *args, config=CONFIG, **given)


@pytest.fixture(scope="module")
def own(run):
    return run().report


def test_members_are_rows_of_all_in_the_order_in_which_they_are_asked_for(run, own):
    some = run([2, 0])
    assert some.members == (2, 0)
    for name, values in some.report.items():
        np.testing.assert_array_equal(values, own[name][[2, 0]])


def test_each_episode_is_told_and_what_is_said_of_all_of_them_follows_from_it(own):
    returns, lengths = own["returns"], own["lengths"]
    assert returns.shape == lengths.shape == (3, 3) and lengths.dtype == np.int32
    for name, over in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        np.testing.assert_allclose(own[f"return_{name}"], over(returns, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(own["length_mean"], lengths.mean(1, dtype=np.float32))


def test_the_users_statistics_are_those_of_the_episodes_and_in_the_runs_log_as_evaluated(run, own):
    np.testing.assert_array_equal(own["steps"], own["length_mean"])
    assert np.isfinite(own["moved"]).all() and len({*own["moved"].tolist()}) == 3
    saved = run().saved
    for name in own.keys() - {"returns", "lengths"}:
        np.testing.assert_array_equal(saved.history["evaluation"][name][-1], own[name])
        np.testing.assert_array_equal(saved.state.metrics[f"evaluation/{name}"], own[name])
    assert {*saved.history["evaluation"]} == own.keys() - {"returns", "lengths"}  # a row is as long as it was


def test_a_run_of_a_version_that_did_not_tell_a_metric_is_read_with_the_metric_unknown(place, tmp_path):
    old = shutil.copytree(place, tmp_path / "old")
    for path in (old / "checkpoints").iterdir():
        arrays, facts = checkpoint.load(path)
        shutil.rmtree(path)
        told = {name: x for name, x in arrays.items() if not ("evaluation" in name and "moved" in name)}
        checkpoint.save(path, told, {k: v for k, v in facts.items() if k not in ("arrays", "files")})
    saved = open_run(old, "last", config=CONFIG)
    assert np.isnan(saved.state.metrics["evaluation/moved"]).all()
    assert np.isnan(saved.history["evaluation"]["moved"]).all()
    assert np.isfinite(saved.history["evaluation"]["return_mean"]).all()


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
