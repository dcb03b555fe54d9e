"""Sinks: what is written is what was reported, readable by each backend's own reader."""

from __future__ import annotations

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import sinks
from jaxtrain.loop import callback
from jaxtrain.types import Sink
from tests.sinks.written import INFO, NAN, events, offline_runs, put, record, rows, wandb_rows


@pytest.mark.parametrize("seeds", [1, 3])
def test_tensorboard_and_wandb_hold_the_numbers_of_the_json_lines(tmp_path, seeds):
    @jax.jit
    def program(run: jax.Array) -> None:
        callback.started(run, jnp.int32(0), num_seeds=seeds)

        def body(clock: jax.Array, _: None) -> tuple[jax.Array, None]:
            clock = clock + 1
            loss = jnp.sin(clock * (1.0 + jnp.arange(seeds)))
            jax.lax.cond(
                clock % 2 == 0,
                lambda: callback.emit(run, clock, {"losses/value": loss}, name="metrics", seeds=True),
                lambda: callback.emit(run, clock, {"return_mean": loss}, name="evaluation", seeds=True),
            )
            return clock, None

        jax.lax.scan(body, jnp.int32(0), None, length=6)

    lines, memory = sinks.JsonLines(tmp_path / "metrics.jsonl"), sinks.Memory()
    with (
        sinks.TensorBoard(tmp_path / "tb") as board,
        sinks.Wandb(mode="offline", directory=tmp_path) as remote,
    ):
        door = callback.connect([lines, memory, board, remote], INFO)
        program(jnp.int32(door.id))
        assert door.finish() == []
    log = rows(lines.path)
    assert len(log) == len(memory.records) == 6
    curves = events(tmp_path / "tb")
    (run,) = offline_runs(tmp_path)
    sent = wandb_rows(run)
    for event, metric in {"metrics": "losses/value", "evaluation": "return_mean"}.items():
        tag = metric if event == "metrics" else f"{event}/{metric}"
        if seeds == 1:
            want = {tag: [(r["env_steps"], r["values"][metric]) for r in log if r["name"] == event]}
        else:
            want = {
                f"{tag}/{part}": [
                    (r["env_steps"], float(getattr(np, part)(r["values"][metric])))
                    for r in log
                    if r["name"] == event
                ]
                for part in ("mean", "std", "min", "max")
            }
        for name, points in want.items():
            assert [step for step, *_ in curves[name]] == [step for step, _ in points]
            drawn = np.array([value for _, value, _ in curves[name]], np.float32)
            np.testing.assert_allclose(drawn, np.float32([value for _, value in points]), rtol=2e-7)
            logged = [(row["env_steps"], row[name]) for row in sent if name in row]
            np.testing.assert_allclose(logged, points, rtol=2e-7)
        walls = [wall for _, _, wall in curves[next(iter(want))]]
        assert walls == [r["time"]["unix_seconds"] for r in log if r["name"] == event]


def test_counters_are_exact_in_every_sink(tmp_path, capsys):
    big = record(update=2**31 - 1, env_steps=2**40, loss=1.0)
    memory = sinks.Memory()
    put(memory, big)
    put(sinks.JsonLines(tmp_path / "metrics.jsonl"), big)
    put(sinks.TensorBoard(tmp_path / "tb"), big)
    put(sinks.Wandb(mode="offline", directory=tmp_path), big)
    put(sinks.Console(), big)
    (line,) = rows(tmp_path / "metrics.jsonl")
    (sent,) = wandb_rows(*offline_runs(tmp_path))
    assert {memory.records[0].env_steps, line["env_steps"], sent["env_steps"]} == {2**40}
    assert {memory.records[0].update, line["update"], sent["update"]} == {2**31 - 1}
    assert events(tmp_path / "tb")["loss"] == [(2**40, 1.0, big.time["unix_seconds"])]
    assert "1,099,511,627,776 / 1,099,511,627,776 env steps  100 %" in capsys.readouterr().out


def test_a_value_that_is_nan_for_every_seed_is_left_out_by_every_sink(tmp_path, capsys):
    rec = record(rollout__return_mean=[NAN, NAN], loss=[NAN, 2.0])
    memory = sinks.Memory()
    put(memory, rec, num_seeds=2)
    put(sinks.JsonLines(tmp_path / "metrics.jsonl"), rec, num_seeds=2)
    put(sinks.TensorBoard(tmp_path / "tb"), rec, num_seeds=2)
    put(sinks.Wandb(mode="offline", directory=tmp_path), rec, num_seeds=2)
    put(sinks.Console(), rec, num_seeds=2)
    assert set(memory.records[0].values) == {"loss"}
    assert rows(tmp_path / "metrics.jsonl")[0]["values"] == {"loss": [None, 2.0]}
    parts = {"loss/mean": 2.0, "loss/std": 0.0, "loss/min": 2.0, "loss/max": 2.0}
    drawn = {tag: points[0][1] for tag, points in events(tmp_path / "tb").items() if "loss" in tag}
    assert drawn == parts
    (sent,) = wandb_rows(*offline_runs(tmp_path))
    assert {key: value for key, value in sent.items() if "loss" in key} == parts
    assert not any("return" in key for key in [*events(tmp_path / "tb"), *sent])
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize("make", [sinks.JsonLines, sinks.TensorBoard])
def test_a_place_that_cannot_be_written_is_an_error_of_open_that_names_it(tmp_path, make):
    (tmp_path / "file").write_text("")
    memory = sinks.Memory()
    door = callback.connect([make(tmp_path / "file" / "run" / "log"), memory], INFO)
    program = jax.jit(lambda run: callback.started(run, jnp.int32(0), num_seeds=1))
    program(jnp.int32(door.id))
    with pytest.warns(RuntimeWarning):
        (loss,) = door.finish()
    assert re.search(rf"{make.__name__} failed with NotADirectoryError: .Errno 20. .*{tmp_path}/file", loss)


def test_separate_seeds_are_one_directory_or_one_run_each(tmp_path):
    rec = record(loss=[1.0, 2.0, 3.0])
    put(sinks.TensorBoard(tmp_path / "tb", seeds="separate"), rec, num_seeds=3)
    assert [d.name for d in sorted((tmp_path / "tb").iterdir())] == ["seed_0000", "seed_0001", "seed_0002"]
    assert events(tmp_path / "tb" / "seed_0002")["loss"][0][1] == 3.0
    put(sinks.Wandb(mode="offline", directory=tmp_path, seeds="separate"), rec, num_seeds=3)
    sent = [wandb_rows(run)[0] for run in offline_runs(tmp_path)]
    assert sorted(row["loss"] for row in sent) == [1.0, 2.0, 3.0]


def test_every_sink_can_be_made_by_name(tmp_path):
    made = {name: sinks.make(name, tmp_path) for name in sinks.NAMES}
    assert all(isinstance(sink, Sink) for sink in made.values())
    assert [type(sink).__name__ for sink in made.values()] == list(sinks._CLASSES)
    with pytest.raises(ValueError, match=r"sink 'tensorbord': unknown.*the nearest is tensorboard"):
        sinks.make("tensorbord", tmp_path)
    with pytest.raises(ValueError, match=r"sink 'memory': .*unexpected keyword argument 'size'"):
        sinks.make("memory", tmp_path, size=3)
    with pytest.raises(ValueError, match="TensorBoard: seeds = 'all': needs one of aggregate, separate"):
        sinks.make("tensorboard", tmp_path, seeds="all")


def test_no_backend_is_imported_before_it_is_asked_for(tmp_path):
    code = (
        "import sys, jaxtrain.sinks as s; s.JsonLines('x'); s.TensorBoard('x'); s.Wandb(); s.Console()\n"
        "sys.exit(', '.join({'tensorboardX', 'wandb', 'tensorboard', 'rich.live'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
