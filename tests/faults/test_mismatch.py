"""A run goes on as the run that it is: anything else is refused with a diff, and nothing is overwritten.

In: a directory of a run, and configs and seeds that are not its own. Out: a line for each field that differs.
Knows nothing of damage; `test_corruption.py` has that.
"""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from functools import partial

import numpy as np
import pytest

import jaxtrain
from jaxtrain import ConfigError, Event, every
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import load_policy, replay
from jaxtrain.tools import cli
from tests.faults.processes import Drift, arrays, rows
from tests.faults.test_corruption import listing
from tests.helpers import Reinforce, tiny, tiny_ppo

ENV = "tests.helpers:Walk"
LOGGED = {"every": 8, "sinks": ["jsonlines"]}


def config_of(updates=4, **given):
    base = {"env": ENV, "algorithm": Drift(), "logging": LOGGED, "checkpoint": {"every": 8, "keep_last": 9}}
    return tiny(updates, **(base | given))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original") / "run"
    launch(config_of(), directory, seed=3, num_seeds=2, cache=False)
    return directory


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def probe(trainer, state, key):
    return state, {}


EVENT = {"name": "stop", "run": "early_stop", "at": [16], "params": {"metric": "train/loss", "threshold": 9}}
# Per case: what is asked for, and of each line of the diff the field, the new value and the old one.
CASES = {
    "an environment": ({"env": "CartPole-v1"}, {}, [("env.id", "'CartPole-v1'", f"{ENV!r}")]),
    "a parameter of it": ({"params": {"scale": 2.0}}, {}, [("env.params.scale", "2.0", "'nothing'")]),
    "num_envs": (
        {"num_envs": 4, "updates": 2},
        {},
        [("env.num_envs", "4", "2")],
    ),
    "a rate": ({"algorithm": Drift(learning_rate=0.2)}, {}, [("algorithm.learning_rate", "0.2", "0.1")]),
    "another length of a rollout": (
        {"algorithm": Drift(rollout_length=8), "updates": 2},
        {},
        [("algorithm.rollout_length", "8", "4")],
    ),
    "another algorithm": (
        {"algorithm": Reinforce(name="tests.helpers:Reinforce")},
        {},
        [("algorithm.name", "'tests.helpers:Reinforce'", "'tests.faults.processes:Drift'")],
    ),
    "on_nan": ({"on_nan": "skip"}, {}, [("on_nan", "'skip'", "'freeze'")]),
    "evaluations": (
        {"evaluation": {"every": 16, "num_episodes": 3}},
        {},
        [("evaluation.every", "16", "0"), ("evaluation.num_episodes", "3", None)],
    ),
    "statistics": (
        {
            "logging": LOGGED
            | {"statistics": [{"name": "moved", "source": "info.moved", "reduction": "mean"}]}
        },
        {},
        [("logging.statistics", "moved", "[]")],
    ),
    "an event of the config": ({"events": [EVENT]}, {}, [("events", "early_stop", None)]),
    "an event from Python": (
        {},
        {"events": [Event("probe", every(16), probe)]},
        [("events", "Event probe", "[]")],
    ),
    "a seed": ({}, {"seed": 4}, [("seed", "4", "3")]),
    "num_seeds": ({}, {"num_seeds": 3}, [("num_seeds", "3", "2")]),
    "some of its seeds": ({}, {"seeds": [1]}, [("seeds", "(1,)", "(0, 1)")]),
    "a run that is shorter than what is done": (
        {"updates": 2, "checkpoint": {"every": 8}},
        {},
        [("total_env_steps", "16", "32")],
    ),
    "several at once": (
        {"algorithm": Drift(gamma=0.5, learning_rate=0.3), "on_nan": "raise"},
        {},
        [
            ("algorithm.gamma", "0.5", "0.9"),
            ("algorithm.learning_rate", "0.3", "0.1"),
            ("on_nan", "'raise'", "'freeze'"),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_another_run_is_refused_with_field_and_both_values_and_nothing_changes(run, case):
    given, asked, wanted = CASES[case]
    config = config_of(**given)
    before = listing(run, but=["lock"])
    with pytest.raises(ConfigError) as error:
        launch(config, run, events=asked.pop("events", ()), cache=False, **asked)
    lines = str(error.value).splitlines()
    for field, new, old in wanted:
        (line,) = [line for line in lines if line.startswith((f"{field} = ", f"{field}: "))]
        assert new is None or new in line.partition(":")[0] or new in line, line
        assert old is None or old in line.partition(": ")[2], line
    assert listing(run, but=["lock"]) == before


@pytest.mark.parametrize("killed_early", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_another_network_or_optimizer_is_refused_by_its_fields(original, tmp_path, killed_early):
    def config_with(**given):
        return config_of(2, algorithm=tiny_ppo(**given), checkpoint={"every": 0})

    run = tmp_path / "run"
    if killed_early:  # before its first checkpoint: a config, and nothing else to compare
        run.mkdir()
        shutil.copy(original / "run.json", run)
        (run / "config.yaml").write_text(jaxtrain.dump(config_with()))
    else:
        launch(config_with(), run, cache=False)
    before = listing(run, but=["lock"])
    network = dataclasses.replace(tiny_ppo().network, hidden_sizes=(8,))
    for given, field, new, old in [
        ({"network": network}, "algorithm.network.hidden_sizes", "8", "4"),
        ({"max_grad_norm": 0.25}, "algorithm.max_grad_norm", "0.25", "0.5"),
        ({"num_epochs": 2}, "algorithm.num_epochs", "2", "1"),
        ({"anneal_learning_rate": False}, "algorithm.anneal_learning_rate", "False", "True"),
        ({"normalize_observations": True}, "algorithm.normalize_observations", "True", "False"),
    ]:
        with pytest.raises(ConfigError) as error:
            launch(config_with(**given), run, cache=False)
        (line,) = [line for line in str(error.value).splitlines() if line.startswith(field)]
        assert new in line.partition(": ")[0] and old in line.partition(": ")[2], line
        assert listing(run, but=["lock"]) == before


def test_a_checkpoint_whose_arrays_are_others_is_refused_with_a_line_for_each(run):
    """LoadedRun by hand: every byte fits its manifest, and the config is the same."""
    newest = list(manager.found(run / "checkpoints").values())[-1]
    held, manifest = checkpoint.load(newest)
    policy = next(name for name in held if "policy" in name and name.startswith("state.agent"))
    value = next(name for name in held if "value" in name and name.startswith("state.agent"))
    held[policy] = held[policy].astype(np.float64)
    held[value] = np.zeros((2, 5), np.float32)
    held["state.agent['more']"] = np.zeros(3, np.int32)
    del held["state.clock"]
    shutil.rmtree(newest)
    facts = {name: x for name, x in manifest.items() if name not in ("format", "arrays", "files")}
    checkpoint.save(newest, held, facts)
    before = listing(run, but=["lock"])
    with pytest.raises(ConfigError) as error:
        launch(config_of(), run, cache=False)
    message = str(error.value)
    for line in (
        f"{policy}: the checkpoint has float64[2, 1, 2], the config makes float32[2, 1, 2]",
        f"{value}: the checkpoint has float32[2, 5], the config makes float32[2, 1]",
        "state.agent['more']: the checkpoint has int32[3], the config makes nothing",
        "state.clock: the checkpoint has nothing, the config makes int32[]",
    ):
        assert line in message, message
    assert listing(run, but=["lock"]) == before


def test_an_environment_of_the_same_name_with_another_state_is_refused_before_anything_is_touched(
    tmp_path, monkeypatch
):
    """Code that was edited between two starts: the config is the same, the arrays are not."""
    from tests import helpers

    directory = tmp_path / "run"
    launch(config_of(2, checkpoint={"every": 0}), directory, cache=False)
    before = listing(directory, but=["lock"])

    class Edited(helpers.Walk):
        def reset(self, key, params):
            obs, state = super().reset(key, params)
            return obs, state._replace(position=state.position[None])

        def step(self, key, state, action, params):
            out = super().step(key, state._replace(position=state.position[0]), action, params)
            return out._replace(state=out.state._replace(position=out.state.position[None]))

    monkeypatch.setattr(helpers, "Walk", Edited)
    with pytest.raises(ConfigError, match=r"position.*the checkpoint has float32\[2\], the config makes"):
        launch(config_of(2, checkpoint={"every": 0}), directory, cache=False)
    assert listing(directory, but=["lock"]) == before


def test_resume_never_refuses_a_run_and_changes_nothing(run):
    before = listing(run, but=["lock"])
    with pytest.raises(ConfigError, match="already holds a run; give another"):
        launch(config_of(), run, resume="never", cache=False)
    assert listing(run, but=["lock"]) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--algorithm.learning-rate", "0.2"],
        ["--env.num-envs", "4"],
        ["--total-env-steps", "16"],
        ["--algorithm.name", "ppo"],
    ],
)
def test_the_command_line_refuses_with_2_and_the_same_lines(run, capsys, words):
    before = listing(run, but=["lock"])
    assert cli.main(["resume", str(run), *words, "--no-cache"]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err and words[0][2:].replace("-", "_") in said.err
    assert listing(run, but=["lock"]) == before


def test_what_moves_no_bit_of_what_was_learned_may_change(run, original):
    """Length, logging and what is kept: taken, and what was done before stays as it was."""
    unbroken = rows(original)
    config = config_of(
        8,
        logging={"every": 16, "sinks": ["jsonlines", "tensorboard"]},
        checkpoint={"every": 16, "keep_last": 1, "keep_every": 24, "best": "none", "reaction_seconds": 1},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ending = launch(config, run, cache=False)
    assert ending.resumed_at == 32 and int(ending.result.state.clock) == 8
    logged = rows(run)
    assert logged[: len(unbroken)] == unbroken
    assert [row["update"] for row in logged[len(unbroken) :]] == [6, 8]
    assert set(manager.found(run / "checkpoints")) == {24, 48, 64}
    assert list((run / "tensorboard").glob("*tfevents*"))
    assert jaxtrain.load_config(run / "config.yaml").checkpoint.keep_every == 24
    before = arrays(run)
    assert launch(config, run, cache=False).resumed_at == 64  # nothing is left to do
    assert arrays(run) == before


def test_a_config_that_was_edited_in_the_directory_is_named_by_all_who_would_use_it(tmp_path):
    """The checkpoint knows what it is of; `config.yaml` is where a user would change a run by hand."""
    config = config_of()
    launch(config, tmp_path / "run", cache=False)
    path = tmp_path / "run" / "config.yaml"
    whole = path.read_text()
    assert whole.count("gamma: 0.9\n") == 1
    path.write_text(whole.partition("\n")[2].replace("gamma: 0.9\n", "gamma: 0.5\n"))
    edited = dataclasses.replace(config, algorithm=Drift(gamma=0.5))
    with pytest.raises(ConfigError, match=r"algorithm.gamma = 0.5: the run has 0.9"):
        launch(edited, tmp_path / "run", cache=False)
    for use in (partial(load_policy, which="last"), replay):
        with pytest.raises(ConfigError, match=r"(?s)algorithm.gamma = 0.5: the run has 0.9.*put it back"):
            use(tmp_path / "run")
    assert "gamma: 0.5" in path.read_text()
    path.write_text(whole)
    assert launch(config, tmp_path / "run", cache=False).resumed_at == config.total_env_steps


def test_a_run_made_longer_in_its_config_file_anneals_over_the_length_that_it_had(run, capsys):
    path = run / "config.yaml"
    whole = path.read_text()
    assert whole.count("total_env_steps: 32\n") == 1
    edited = whole.replace("total_env_steps: 32\n", "total_env_steps: 64\n")
    path.write_text(edited)
    assert cli.main(["resume", str(run)]) == 2
    assert "config.yaml: has changed since it was written" in capsys.readouterr().err
    path.write_text(edited.partition("\n")[2])  # the line with its sha256 is gone
    assert cli.main(["resume", str(run)]) == 0
    assert "total_env_steps is 64, was 32: rates that anneal" in capsys.readouterr().err
    assert "anneal_env_steps: 32\n" in path.read_text()
