"""What a run has saved comes back as it was: policies, evaluations, single seeds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxtrain
from jaxtrain.runs import snapshot
from jaxtrain.runs.evaluate import evaluate_run
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import load_policy, one_seed, open_run, replay, verdicts
from tests.helpers import differing, seed, tiny, tiny_ppo

EVALUATED = {"every": 24, "num_episodes": 3}
QUIET = {"every": 0, "sinks": ["jsonlines"]}
ALL = {"every": 8, "keep_last": 99}


@pytest.fixture(scope="module")
def config():
    return tiny(updates=12, evaluation=EVALUATED, logging=QUIET, checkpoint=ALL)


@pytest.fixture(scope="module")
def single(config, tmp_path_factory):
    return launch(config, tmp_path_factory.mktemp("single") / "run", seed=5)


@pytest.fixture(scope="module")
def three(config, tmp_path_factory):
    return launch(config, tmp_path_factory.mktemp("three") / "run", seed=5, num_seeds=3)


def evaluations(ending):
    rows = map(json.loads, (ending.directory / "metrics.jsonl").read_text().splitlines())
    return {row["env_steps"]: row["values"]["return_mean"] for row in rows if row["name"] == "evaluation"}


def test_the_last_state_comes_back_bit_for_bit_with_its_history(single, three, config):
    for ending in (single, three):
        saved = open_run(ending.directory, "last", config=config)
        assert differing(saved.state, ending.result.state) == []


def test_an_evaluation_of_a_checkpoint_gives_the_number_that_was_logged_when_it_was_made(
    single, three, config
):
    for ending in (single, three):
        for env_steps, logged in evaluations(ending).items():
            *_, report = evaluate_run(ending.directory, env_steps, config=config)
            np.testing.assert_array_equal(report["return_mean"], np.float32(logged))
    for env_steps, logged in evaluations(three).items():
        *_, report = evaluate_run(three.directory, env_steps, [1], config=config)
        np.testing.assert_array_equal(report["return_mean"], np.float32(logged[1]))


def test_the_best_checkpoint_is_that_of_the_best_evaluation(single, three, config):
    for ending in (single, three):
        means = {env_steps: np.mean(value) for env_steps, value in evaluations(ending).items()}
        best = max(means, key=lambda env_steps: (means[env_steps], env_steps))
        assert open_run(ending.directory, "best", config=config).manifest["env_steps"] == best


def test_a_policy_acts_as_the_agent_it_was_saved_from(three, config):
    trainer, obs = jaxtrain.Trainer(config), jax.random.normal(jax.random.key(1), (7, 5, 1))
    for index in range(3):
        policy = load_policy(three.directory, "last", index, config=config)
        agent = trainer.policy(seed(index, three.result.state))
        assert policy.seed == index and policy.env_steps == config.total_env_steps
        np.testing.assert_array_equal(policy(obs), agent(obs))
        key = jax.random.key(2)
        np.testing.assert_array_equal(policy(obs, key), agent(obs, key))
        assert policy(obs[0, 0]).shape == ()


@pytest.mark.parametrize("index", [2, None])
def test_of_one_seed_no_other_is_brought_to_the_device(three, config, index, monkeypatch):
    axes, restore = set(), snapshot.from_arrays

    def look(held, *args, **named):
        axes.update(x.shape[:1] for name, x in held.items() if "policy" in name and "agent" in name)
        return restore(held, *args, **named)

    monkeypatch.setattr(snapshot, "from_arrays", look)
    policy = load_policy(three.directory, "last", index, config=config)
    loaded = jaxtrain.load(three.directory, "last", policy.seed, config=config)
    assert axes == {(1,)}  # of the observation, not of the seeds
    monkeypatch.undo()
    alone = one_seed(open_run(three.directory, "last", config=config), index)
    assert differing(loaded.state, alone.state) == [] and loaded.seeds == alone.seeds.all == (policy.seed,)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_several_seeds_the_best_at_that_checkpoint_is_taken(three, config, mode):
    config = replace(config, checkpoint=replace(config.checkpoint, best_mode=mode))
    policy = load_policy(three.directory, "last", config=config)
    found = np.asarray(three.result.state.metrics["evaluation/return_mean"])
    assert policy.seed == {"max": np.argmax, "min": np.argmin}[mode](found) and found.min() < found.max()


def test_a_saved_policy_normalizes_as_the_agent_did(tmp_path):
    algorithm = tiny_ppo(normalize_observations=True)
    config = tiny(updates=3, algorithm=algorithm, logging=QUIET)
    ending = launch(config, tmp_path / "run")
    policy = load_policy(tmp_path / "run", "last", config=config)
    obs = 100.0 * jax.random.normal(jax.random.key(1), (64, 1))
    act = jaxtrain.Trainer(config).policy(ending.result.state)
    key = jax.random.key(0)
    np.testing.assert_array_equal(policy(obs, key), act(obs, key))


@pytest.mark.parametrize(
    ("which", "index", "message"),
    [
        (7, None, r"which = 7: needs 'best', 'last' or one of 0, 8, 16"),
        ("lats", None, "which = 'lats': needs 'best', 'last'"),
        (True, None, "which = True: needs 'best', 'last'"),
        (["last"], None, r"which = \['last'\]: needs 'best', 'last'"),
        ("last", 3, r"seed = 3: the run has \[0, 1, 2\]"),
        ("last", True, "seed = True: needs an int >= 0"),
        (np.int64(8), 2**63, "seed = 9223372036854775808: needs an int >= 0"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(three, config, which, index, message):
    with pytest.raises(jaxtrain.ConfigError, match=message):
        load_policy(three.directory, which, index, config=config)


@pytest.mark.parametrize("episodes", ["3", 0, 1.0, 2**31])
def test_a_number_of_episodes_that_is_none_is_named(three, config, episodes):
    with pytest.raises(jaxtrain.ConfigError, match=f"num_episodes = {episodes!r}: needs an int >= 1"):
        evaluate_run(three.directory, num_episodes=episodes, config=config)


def test_a_run_without_evaluations_has_no_best(tmp_path):
    config = tiny(updates=2, logging=QUIET)
    launch(config, tmp_path / "run")
    with pytest.raises(jaxtrain.ConfigError, match="'last' is the newest"):
        load_policy(tmp_path / "run", config=config)


def test_a_config_that_only_python_can_make_is_asked_for(single):
    with pytest.raises(jaxtrain.ConfigError, match="objects from Python"):
        load_policy(single.directory)


def test_every_checkpoint_is_whole_and_the_last_interval_runs_again_to_the_same_bits(three, config):
    assert set(verdicts(three.directory).values()) == {None}
    assert replay(three.directory, config=config) == (88, 96, None)


@pytest.mark.parametrize("name", ["single", "three"])
def test_a_loaded_run_has_the_state_the_history_and_the_marks_of_its_result(name, config, request):
    ending = request.getfixturevalue(name)
    run = jaxtrain.load(ending.directory, "last", config=config)
    assert differing(run.state, ending.result.state) == []
    assert differing(run.history, ending.result.history) == []
    assert dict(run.marks) == dict(ending.result.marks)
    assert run.env_steps == config.total_env_steps
    assert jaxtrain.to_dict(run.config)["env"] == jaxtrain.to_dict(config)["env"]


def test_an_earlier_checkpoint_has_its_history_and_marks_up_to_there(three, config):
    run, last = (jaxtrain.load(three.directory, which, config=config) for which in (48, "last"))
    assert int(run.state.clock) == 48 // config.env_steps_per_update
    assert run.marks["evaluation"] == tuple(m for m in last.marks["evaluation"] if m <= 48) != ()
    rows = last.history["evaluation"]["return_mean"][:, : len(run.marks["evaluation"])]
    np.testing.assert_array_equal(run.history["evaluation"]["return_mean"], rows)


def test_the_metrics_of_a_run_are_what_its_log_has_with_their_env_steps(single, three, config):
    for ending in (single, three):
        metrics = jaxtrain.load(ending.directory, "last", config=config).metrics()["evaluation/return_mean"]
        logged = evaluations(ending)
        assert metrics.env_steps.tolist() == list(logged)
        np.testing.assert_array_equal(metrics.values, np.array(list(logged.values())))


def test_one_of_several_seeds_is_loaded_as_a_single_run_has_it(three, config):
    everyone, run = (jaxtrain.load(three.directory, "last", seed=s, config=config) for s in (None, 1))
    assert run.seeds == (1,) and everyone.seeds == (0, 1, 2)
    assert differing(run.state, seed(1, three.result.state)) == []
    rows = three.result.history["evaluation"]["return_mean"][1]
    np.testing.assert_array_equal(run.history["evaluation"]["return_mean"], rows)
    series = {name: x.values for name, x in everyone.metrics().items()}
    np.testing.assert_array_equal(
        run.metrics()["evaluation/return_mean"].values, series["evaluation/return_mean"][:, 1]
    )
    obs = jax.random.normal(jax.random.key(1), (7, 1))
    np.testing.assert_array_equal(run.policy()(obs), everyone.policy(1)(obs))


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_is_named(three, config, tmp_path):
    run = jaxtrain.load(shutil.copytree(three.directory, tmp_path / "run"), "last", config=config)
    log = tmp_path / "run" / "metrics.jsonl"
    whole = run.metrics()
    log.write_text(log.read_text() + '{"name": "eval')
    assert run.metrics().keys() == whole.keys()
    log.write_text(log.read_text() + "\n")
    with pytest.raises(jaxtrain.ConfigError, match=r"metrics\.jsonl: line \d+ is no JSON"):
        run.metrics()
    log.unlink()
    with pytest.raises(jaxtrain.ConfigError, match=r"has no metrics\.jsonl"):
        run.metrics()
