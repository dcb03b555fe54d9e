"""Runs are read from their files, whatever these are: what can be had is, the rest is named, none is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import curves
from jaxtrain.runs.lock import Lock
from jaxtrain.tools import cli
from tests import made
from tests.faults.test_corruption import listing
from tests.runs.test_index import hostile

nan = np.nan


def test_curves_events_and_what_was_asked_for_are_as_the_run_has_them(tmp_path):
    values = [[1, 2], [3, nan]]
    place = made.run(tmp_path / "run", values, events=[made.row("gravity", 150, x=[1, 2])])
    (run,) = curves.read(place)
    curve = run.curves["evaluation/return_mean"]
    assert curve.env_steps.tolist() == [100, 200] and curve.seconds.tolist() == [10, 20]
    np.testing.assert_array_equal(curve.values, values)
    assert {name: at.tolist() for name, at in run.events.items()} == {"gravity": [150]}
    assert (run.seeds, run.state, run.seconds, run.speed) == (2, "finished", 20, 10)
    assert run.facts["algorithm.learning_rate"] == 0.001 and run.facts["device"] == "cpu"
    assert run.problems == () and run.curves["gravity/x"].values.shape == (1, 2)


def test_a_seed_that_has_stopped_keeps_its_last_value_and_before_its_first_it_has_none():
    values = np.array([[nan, 1.0, nan], [2.0, nan, nan], [3.0, nan, nan]])
    carried = [[nan, 1.0, nan], [2.0, 1.0, nan], [3.0, 1.0, nan]]
    np.testing.assert_array_equal(curves.carried(values), carried)


def test_what_is_no_finite_number_is_unknown_and_what_has_more_axes_is_no_curve(tmp_path):
    place = made.run(tmp_path / "run", [1.0, 2.0])
    with (place / "metrics.jsonl").open("a") as file:
        for value in ("Infinity", None, [1, 2], "x", {"a": 1}, 10**400, 1.7e308, True):
            row = made.row("evaluation", 300) | {"values": {"return_mean": value, "vector": [1, 2]}}
            file.write(json.dumps(row) + "\n")
    (run,) = curves.read(place)
    np.testing.assert_array_equal(run.curves["evaluation/return_mean"].values[:2, 0], [1.0, 2.0])
    assert run.curves.keys() == {"evaluation/return_mean"}


def test_every_run_below_a_directory_is_read_once(tmp_path):
    for name in ("a", "b", "deeper/c"):
        made.run(tmp_path / name, [1.0])
    assert [run.name for run in curves.read([tmp_path / "b", tmp_path])] == ["b", "a", "c"]
    with pytest.raises(ConfigError, match="no such directory"):
        curves.read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        curves.read([tmp_path / "a", tmp_path / "empty"])
    with pytest.raises(ConfigError, match="needs the directory of a run"):
        curves.read([])


def test_of_a_damaged_run_there_is_what_can_be_read_and_a_sentence_on_the_rest(tmp_path):
    sound = made.run(tmp_path / "sound", [[1.0, 2.0], [3.0, 4.0]])

    def damaged(name, content):
        place = tmp_path / f"{name} {len(list(tmp_path.iterdir()))}"
        shutil.copytree(sound, place)
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        return curves.read(place)[0]

    rows = (sound / "metrics.jsonl").read_bytes()
    for name in ("run.json", "config.yaml"):
        for content in (b"{", b"\xff", b"[" * 10_000):
            run = damaged(name, content)
            assert run.curves["evaluation/return_mean"].values.tolist() == [[1, 2], [3, 4]] and run.seeds == 2
            assert len(run.problems) == 1 and name in run.problems[0]
    for content in (None, b"", b"\0" * 9 + b"\n", b"3\n[]\n"):
        run = damaged("metrics.jsonl", content)
        assert not run.curves and run.facts["env.id"] == "CartPole-v1"
        assert len(run.problems) == (content != b"")
    run = damaged("metrics.jsonl", rows.replace(b"\n", b"\nnonsense\n") + b'{"name": "eva')
    assert len(run.curves["evaluation/return_mean"].values) == 2
    assert run.problems == ("metrics.jsonl: 2 of its lines are no records (2, 4)",)


def test_hostile_runs_take_nothing_from_the_others_and_nothing_is_changed(tmp_path):
    made.run(tmp_path / "sound", [1.0, 2.0])
    hostile(tmp_path / "hostile")
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    found = {run.path.name: run for run in curves.read(tmp_path)}
    assert {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert found["sound"].problems == ()
    assert len(found) == 1 + len(list((tmp_path / "hostile").iterdir()))
    sound = {name for name, run in found.items() if not run.problems}
    assert sound == {"sound", "config0", "config2"}  # what is wrong with two is only so for who runs them


def test_of_another_version_there_is_all_that_this_one_knows(tmp_path):
    place = made.run(
        tmp_path / "run", [1.0, 2.0], mesh={"devices": [{"kind": "later"}]}, env={"suite": "later"}
    )
    about = made.about(
        later={"a": 1}, starts=[{"started": "x", "versions": {"jaxtrain": "9.0"}, "later": []}]
    )
    (place / "run.json").write_text(json.dumps(about))
    rows = [json.loads(line) | {"later": 1} for line in (place / "metrics.jsonl").read_text().splitlines()]
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = curves.read(place)
    assert run.problems == () and run.curves["evaluation/return_mean"].values.tolist() == [[1], [2]]
    assert run.facts["jaxtrain"] == "9.0" and run.facts["device"] is None
    assert run.facts["mesh.devices.0.kind"] == run.facts["env.suite"] == "later"


def test_a_run_that_goes_on_is_read_and_its_files_stay_as_they_are(tmp_path):
    place = made.run(tmp_path / "run", [1.0, 2.0])
    lock = Lock(place)
    try:
        before = listing(place)
        (run,) = curves.read(place)
        assert run.state == "running" and len(run.curves["evaluation/return_mean"].values) == 2
        assert listing(place) == before
    finally:
        lock.release()


def test_nothing_that_a_run_names_is_imported_nor_found_in_its_directory(tmp_path, monkeypatch):
    """Of processes that are in the run's directory; one of its own still has all to import."""
    for name in ("planted", "matplotlib", "yaml", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    place = made.run(
        tmp_path / "run", [1.0], env={"id": "planted:Env"}, algorithm={"name": "planted:Algorithm"}
    )
    for path in tmp_path.glob("*.py"):
        shutil.copy(path, place)
    (place / "matplotlibrc").write_text("backend: module://planted\ntext.usetex: True\n")
    root = Path(curves.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "jaxtrain", "plot", ".", "--out", str(tmp_path / "a.png")],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(place)
    for words in (["runs", "."], ["compare", "."], ["compare", ".", "--json"]):
        assert cli.main(words) == 0
    assert not (tmp_path / "ran").exists() and (tmp_path / "a.png").is_file()


def test_the_return_of_evaluations_is_meant_or_of_training_where_there_are_none(tmp_path):
    runs = [
        *curves.read(made.run(tmp_path / "a", [1.0])),
        *curves.read(made.run(tmp_path / "b", [1.0], metric="other")),
    ]
    metric, having, notes = curves.with_metric(runs, None)
    assert metric == "evaluation/return_mean" and having == runs[:1]
    assert notes == [f"{tmp_path / 'b'}: has no evaluation/return_mean, and is left out"]
    log = tmp_path / "b" / "metrics.jsonl"
    log.write_text(json.dumps(made.row("metrics", 10, **{"rollout/return_mean": 1})) + "\n")
    assert curves.with_metric(curves.read(tmp_path / "b"), None)[0] == "rollout/return_mean"
    with pytest.raises(
        ConfigError, match=r"no run has it; there are evaluation/other, evaluation/return_mean"
    ):
        curves.with_metric(runs, "evaluation/return")
