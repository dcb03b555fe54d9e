"""What a run in a directory promises: the bits of `train`, and no data touched by a bad request."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtrain
from jaxtrain import Event
from jaxtrain.config import field
from jaxtrain.runs import checkpoint
from jaxtrain.runs.launch import launch
from jaxtrain.runs.manager import best_metric
from jaxtrain.runs.program import Programs
from jaxtrain.runs.train_loop import ChunkLength
from jaxtrain.schedule import every, startup
from jaxtrain.sinks import JsonLines, Memory
from jaxtrain.tools.cli import main
from tests.faults.processes import Drift, points, rows
from tests.helpers import Reinforce, differing, tiny, tiny_ppo


@field.config
class Sometimes(Reinforce):
    """`Reinforce` whose agent is not finite after about every third update."""

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            agent, runner, metrics = made.update(agent, runner, experience, clock, key)
            bad = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.3)
            return jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), agent), runner, metrics

        return made._replace(update=update)


@pytest.mark.parametrize(("on_nan", "num_seeds"), [("skip", 1), ("freeze", 3)])
def test_what_is_due_or_goes_wrong_within_a_chunk_does_so_at_its_update(
    tmp_path, monkeypatch, on_nan, num_seeds
):
    """Nothing but the growing chunks cuts this run: marks and faults lie anywhere in them."""
    lengths, advance = [], Programs.advance

    def note(compiled, state, history, num_updates):
        lengths.append(num_updates)
        return advance(compiled, state, history, num_updates)

    monkeypatch.setattr(Programs, "advance", note)
    config = tiny(
        updates=40,
        algorithm=Sometimes(),
        on_nan=on_nan,
        evaluation={"every": 24, "num_episodes": 2},
        logging={"every": 56, "sinks": []},
        checkpoint={"every": 0, "best": "none"},
    )
    launched, trained = Memory(), Memory()
    ending = launch(config, tmp_path / "run", num_seeds=num_seeds, more_sinks=[launched])
    one = partial(jaxtrain.train, config, sinks=[trained])
    key = jax.random.key(0)
    result = one(key) if num_seeds == 1 else jax.vmap(one)(jax.random.split(key, num_seeds))
    assert max(lengths) >= 16
    assert differing(ending.result.history, result.history) == []
    assert differing(ending.result.state, result.state.replace(clock=ending.result.state.clock)) == []
    told = [(r.name, r.update, r.env_steps) for r in trained.records]
    assert [(r.name, r.update, r.env_steps) for r in launched.records] == told
    assert len([name for name, *_ in told if name == "non_finite"]) > 2


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_launched_run_ends_in_the_bits_of_train_and_its_log_holds_the_history(tmp_path, num_seeds):
    config = tiny(updates=12, evaluation={"every": 24, "num_episodes": 2}, logging={"sinks": ["jsonlines"]})
    ending = launch(config, tmp_path / "run", seed=3, num_seeds=num_seeds)
    key = jax.random.key(3)
    if num_seeds == 1:
        result = jaxtrain.train(config, key)
    else:
        result = jax.vmap(jaxtrain.train, in_axes=(None, 0))(config, jax.random.split(key, num_seeds))
        result = dataclasses.replace(result, state=result.state.replace(clock=result.state.clock[0]))
    assert differing(ending.result, result) == []
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row["values"]["return_mean"] for row in rows if row["name"] == "evaluation"]
    np.testing.assert_array_equal(np.array(logged, np.float32).T, result.history["evaluation"]["return_mean"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["starts"][-1]["exit"] == "finished"


@given(st.floats(1e-6, 1e3), st.integers(1, 100))
def test_chunks_grow_to_a_quarter_of_the_reaction_time_and_never_beyond_it(seconds_per_update, reaction):
    pace = ChunkLength(reaction)
    for _ in range(30):
        pace.took(pace.updates, pace.updates * seconds_per_update)
    fits = reaction / 4 / seconds_per_update
    assert pace.updates == pytest.approx(max(1.0, fits), abs=1)
    assert pace.updates == 1 or pace.updates * seconds_per_update <= 1.001 * reaction / 4
    pace.took(pace.updates, pace.updates * seconds_per_update * 8)  # eight times as slow: the next fits again
    assert pace.updates == 1 or pace.updates * seconds_per_update * 8 <= 1.001 * reaction / 4


def test_a_run_of_stopped_seeds_ends_in_the_bits_of_train(tmp_path):
    """The host jumps over what is left of it; `train` goes through."""
    stop = {
        "name": "stop",
        "run": "early_stop",
        "at": [24],
        "params": {"metric": "train/loss", "threshold": -1e9},
    }
    config = tiny(updates=12, events=[stop], logging={"every": 16, "sinks": ["jsonlines"]})
    ending = launch(config, tmp_path / "run")
    assert differing(ending.result, jaxtrain.train(config, jax.random.key(0))) == []
    config = dataclasses.replace(config, logging=dataclasses.replace(config.logging, every=0))
    ending = launch(config, tmp_path / "quiet")
    assert differing(ending.result, jaxtrain.train(config, jax.random.key(0))) == []


def test_an_old_style_key_a_typed_one_and_its_seed_are_one_run(tmp_path):
    config = tiny(updates=2, logging={"every": 0, "sinks": []})
    ends = [
        launch(config, tmp_path / "seed", seed=7),
        launch(config, tmp_path / "key", key=jax.random.key(7)),
        launch(config, tmp_path / "old", key=jax.random.PRNGKey(7)),
    ]
    assert differing(ends[0].result, ends[1].result) == differing(ends[0].result, ends[2].result) == []
    assert launch(config, tmp_path / "key").resumed_at == 16  # found again without saying it


def test_what_a_run_logged_before_its_first_checkpoint_is_logged_once_however_it_was_killed(tmp_path):
    look = Event("look", startup() | every(8), lambda trainer, state, key: (state, {"clock": state.clock}))
    config = tiny(4, logging={"every": 8, "sinks": ["jsonlines", "tensorboard"]})
    given = {"events": [look], "cache": False}
    for name in ("whole", "killed"):
        launch(config, tmp_path / name, **given)
    log = tmp_path / "killed" / "metrics.jsonl"
    first = log.read_text().splitlines(keepends=True)[0]
    assert json.loads(first)["update"] == 0
    log.write_text(first)  # as of a process that was killed before it had saved anything
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    assert launch(config, tmp_path / "killed", **given).resumed_at is None
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert points(tmp_path / "killed") == points(tmp_path / "whole")


def test_a_run_that_started_from_another_and_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    config = tiny(4, logging={"every": 0, "sinks": []}, checkpoint={"every": 16})
    launch(config, tmp_path / "whole", num_seeds=2, cache=False)
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / f"{32:013d}")
    first = launch(config, tmp_path / "run", start_from=tmp_path / "whole", cache=False)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = launch(config, tmp_path / "run", cache=False)
    assert again.resumed_at is None and differing(again.result, first.result) == []
    assert json.loads((tmp_path / "run" / "run.json").read_text())["start_from"]["env_steps"] == 16
    same = launch(config, tmp_path / "run", start_from=tmp_path / "run" / ".." / "whole", cache=False)
    assert same.resumed_at == 32
    for directory, source, began in (("run", "elsewhere", "whole'?"), ("whole", "run", "no other")):
        with pytest.raises(
            jaxtrain.ConfigError, match=rf"start_from = .*{source}': the run in .* began from .*{began}"
        ):
            launch(config, tmp_path / directory, start_from=tmp_path / source, cache=False)


def test_fewer_env_steps_than_are_done_are_named_before_what_follows_from_them(tmp_path, capsys):
    """The run's own intervals, which are longer then."""
    run, given = tmp_path / "run", {"env": "tests.helpers:Walk", "algorithm": tiny_ppo()}
    launch(tiny(4, checkpoint={"every": 32}, **given), run, cache=False)
    rule = r"^total_env_steps = 16: the run in .* has done 32 env steps; needs at least that[^\n]*$"
    for more in ({"directory": run}, {"directory": tmp_path / "new", "start_from": run}):
        with pytest.raises(jaxtrain.ConfigError, match=rule):
            launch(tiny(2, **given), cache=False, **more)
    assert main(["resume", str(run), "--total-env-steps", "16"]) == 2
    assert "total_env_steps = 16: the run in" in (said := capsys.readouterr().err) and "every" not in said


def test_a_run_that_is_stopped_between_two_checkpoints_is_saved_where_it_is(tmp_path, monkeypatch, caplog):
    config = tiny(40, logging={"every": 0, "sinks": []}, checkpoint={"every": 0, "best": "none"})
    whole, advance = jaxtrain.train(config, jax.random.key(0)), Programs.advance

    def stopping(compiled, state, history, num_updates):
        state, history = advance(compiled, state, history, num_updates)
        if int(state.clock) >= 5 and "SIGTERM" not in caplog.text:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 60
            while "SIGTERM: saving" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
        return state, history

    monkeypatch.setattr(Programs, "advance", stopping)
    stopped = launch(config, tmp_path / "run")
    monkeypatch.undo()
    clock = int(stopped.result.state.clock)
    assert stopped.signal == signal.SIGTERM and 5 <= clock < 40
    assert checkpoint.read_manifest(stopped.checkpoint)["update"] == clock
    ended = launch(config, tmp_path / "run")
    assert ended.resumed_at == clock * config.env_steps_per_update
    assert differing(ended.result, whole) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 0, "key": jax.random.key(0)}, "seed = 0: give a seed or a key, not both"),
        ({"num_seeds": 0}, "num_seeds = 0: needs an int >= 1"),
        ({"seeds": [1, 1], "num_seeds": 2}, r"seeds = \[1, 1\]: needs different ints >= 0"),
        ({"seed": 2**32}, "seed = 4294967296: needs an int >= 0 and <= 4294967295"),
        ({"seed": 1.5, "num_seeds": "4"}, "(?s)num_seeds = '4': needs an int.*seed = 1.5: needs an int"),
        ({"seeds": [2], "num_seeds": 2}, r"seeds = \[2\]: needs ints below num_seeds = 2"),
        ({"resume": "maybe"}, "resume = 'maybe': needs one of auto, never, must"),
        ({"resume": "must"}, "holds no run to resume"),
        ({"start_from": "nowhere"}, "nowhere"),
    ],
)
def test_a_request_that_cannot_be_met_is_named_and_leaves_nothing_behind(tmp_path, given, message):
    with pytest.raises(jaxtrain.ConfigError, match=message):
        launch(tiny(updates=2), tmp_path / "a" / "run", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_the_run_has_not_cannot_be_the_best(tmp_path):
    config = tiny(updates=2, checkpoint={"best": "train/los"})
    with pytest.raises(jaxtrain.ConfigError, match=r"checkpoint.best = 'train/los': no such.*'train/loss'"):
        launch(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("best", "evaluations", "metric"),
    [
        ("auto", 12, "evaluation/return_mean"),
        ("auto", 0, None),
        (None, 12, "evaluation/return_mean"),
        ("none", 12, None),
        ("train/loss", 0, "train/loss"),
    ],
)
def test_the_best_checkpoint_is_by_the_metric_asked_for_or_by_none(best, evaluations, metric):
    trainer = jaxtrain.Trainer(tiny(checkpoint={"best": best}, evaluation={"every": evaluations}))
    assert best_metric(trainer) == metric


def test_a_directory_that_holds_a_run_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(jaxtrain.ConfigError, match="its log goes on, but checkpoints/ is empty"):
        launch(tiny(updates=2), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n"


def test_a_config_of_the_users_own_is_not_replaced(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(jaxtrain.ConfigError, match=r"a config\.yaml that is no run"):
        launch(tiny(updates=2), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"


def test_a_directory_that_cannot_be_made_is_named_before_anything_compiles(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxtrain.ConfigError, match=r"file/run.*cannot be written \(Not a directory\)"):
        launch(tiny(updates=2), tmp_path / "file" / "run")


def test_a_lost_mirror_is_named_and_the_log_stays_whole(tmp_path):
    logging = {"every": 16, "sinks": ["jsonlines"]}
    launch(tiny(updates=2, logging=logging), tmp_path)
    logging["sinks"].append("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="TensorBoard"):
        ending = launch(tiny(updates=4, logging=logging), tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["update"] for row in rows] == [2, 4]
    assert any("TensorBoard" in loss and "tensorboard" in loss for loss in ending.losses)


@pytest.mark.slow
def test_a_row_of_the_log_that_takes_12_s_ends_no_run_and_is_not_lost(tmp_path, monkeypatch, caplog):
    write = JsonLines.write

    def stalls(sink, record):
        if record.update == 2:
            time.sleep(12)
        write(sink, record)

    monkeypatch.setattr(JsonLines, "write", stalls)
    config = tiny(4, algorithm=Drift(), logging={"every": 8, "sinks": ["jsonlines"]}, checkpoint={"every": 8})
    ending = launch(config, tmp_path / "run", cache=False)
    assert ending.losses == [] and [row["update"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert "the run needs it and waits" in caplog.text
