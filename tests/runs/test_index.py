"""`jaxtrain runs`: what became of every run below a directory.

In: runs that finish, stop, are killed, fail, and directories that are none. Out: a row for each run.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from jaxtrain.runs import index, manager
from jaxtrain.runs.launch import launch
from jaxtrain.tools import cli
from tests.faults.processes import Drift, alive, ended, run, start, until
from tests.helpers import Reinforce, tiny

LOGGED = {"every": 8, "sinks": ["jsonlines"]}


def config_of(updates=4, **given):
    given = {"logging": LOGGED, "checkpoint": {"every": 0}} | given
    return tiny(updates, env="tests.helpers:Walk", **({"algorithm": Drift()} | given))


def test_runs_has_a_row_for_every_run_whatever_became_of_it(tmp_path, capsys):
    root = tmp_path / "root"
    launch(config_of(4), root / "finished", num_seeds=3, cache=False)
    launch(config_of(4), root / "some", start_from=root / "finished", seeds=[2, 0], cache=False)
    endless = config_of(100_000, checkpoint={"every": 80, "reaction_seconds": 1})
    processes = {
        name: start(tmp_path / name, run, endless, root / "deeper" / name)
        for name in ("stopped", "killed", "running")
    }
    for name, process in processes.items():
        place = root / "deeper" / name / "checkpoints"
        until(lambda place=place: len(manager.found(place)) > 1, process)
        assert alive(process), (tmp_path / name).read_text()
    os.kill(processes["stopped"].pid, signal.SIGTERM)
    os.kill(processes["killed"].pid, signal.SIGKILL)
    assert ended(processes["stopped"]) == 0 and ended(processes["killed"]) == -signal.SIGKILL
    shutil.copytree(root / "finished", root / "unreadable")
    (root / "unreadable" / "run.json").write_text("{")
    shutil.copytree(root / "finished", root / "headless")
    (root / "headless" / "config.yaml").unlink()
    (root / "notes").mkdir()
    (root / "notes" / "metrics.jsonl").write_text("none of ours")

    assert cli.main(["runs", str(root)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "seeds", "state"]
    said = {line.split()[0]: line.split()[1:] for line in lines}
    assert {os.path.relpath(name, root): words[1] for name, words in said.items()} == {
        "finished": "finished",
        "some": "finished",
        "deeper/stopped": "stopped",
        "deeper/killed": "killed",
        "deeper/running": "running",
        "unreadable": "unreadable",
        "headless": "unreadable",
    }
    found = {os.path.relpath(row.path, root): row for row in index.rows(root)}
    assert {name: row.state for name, row in found.items()} == {
        os.path.relpath(name, root): words[1] for name, words in said.items()
    }
    assert found["finished"].progress == 1.0 and found["finished"].checkpoint == 32
    assert 0 < found["deeper/killed"].progress < 1
    assert said[str(root / "finished")][2:4] == ["100%", "32"]
    assert [said[str(root / name)][0] for name in ("finished", "some", "deeper/killed")] == ["3", "2", "1"]
    newest = max(manager.found(root / "deeper" / "stopped" / "checkpoints"))
    assert said[str(root / "deeper" / "stopped")][3] == f"{newest:,}"

    os.kill(processes["running"].pid, signal.SIGINT)
    assert ended(processes["running"]) == 0
    assert cli.main(["runs", str(root / "deeper" / "running")]) == 0
    assert "stopped" in capsys.readouterr().out
    assert cli.main(["runs", str(root / "notes")]) == 0
    assert capsys.readouterr().out == f"no runs in {root / 'notes'}\n"


def test_a_run_that_raised_is_a_row_that_says_failed(tmp_path, capsys):
    config = config_of(4, params={"scale": 3e38}, algorithm=Reinforce(), on_nan="raise")
    with pytest.raises(FloatingPointError):
        launch(config, tmp_path / "run", cache=False)
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "failed" in capsys.readouterr().out
