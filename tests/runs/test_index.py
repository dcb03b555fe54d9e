"""`jaxtrain runs`: what became of every run below a directory.

In: runs that finish, stop, are killed, fail, and directories that are none. Out: a row for each run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from numpy import nan

from jaxtrain.runs import index, manager
from jaxtrain.runs.launch import launch
from jaxtrain.tools import cli
from tests import made as fake
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


SAID = {
    "id": "a",
    "seed": 0,
    "key": None,
    "num_seeds": 3,
    "seeds": None,
    "start_from": None,
    "starts": [{"started": "2026-11-28T07:00:00+00:00", "exit": "finished"}],
}
ROW = {"name": "evaluation", "env_steps": 32, "values": {"return_mean": 5.0}}


def made(place, about=SAID, config="total_env_steps: 32\n", row=ROW):
    """The files of a run, as a table is made of them."""
    place.mkdir(parents=True)
    for name, content in (("run.json", about), ("config.yaml", config), ("metrics.jsonl", row)):
        text = content if isinstance(content, str | bytes) else json.dumps(content) + "\n"
        (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return place


def hostile(root):
    """Runs whose files are of nobody who means well."""
    start = SAID["starts"][0]
    for i, wrong in enumerate(
        ({"num_seeds": 10**30}, {"starts": [start | {"started": {}}]}, {"seeds": "abc"})
    ):
        made(root / f"wrong{i}", about=SAID | wrong)
    for i, text in enumerate(("[" * 100_000, '{"starts":' * 100_000, b"\xff\xfe", "", "3")):
        made(root / f"text{i}", about=text)
    for i, text in enumerate(("total_env_steps: x", "a: " * 90_000, "total_env_steps: 1e400", b"\xff", "[]")):
        made(root / f"config{i}", config=text)
    made(root / "log0", row=ROW | {"env_steps": 10**400})
    made(root / "log1", row=ROW | {"env_steps": "many"})
    made(root / "log2", row=[1])
    for name in ("run.json", "config.yaml", "metrics.jsonl"):
        (made(root / f"pipe {name}") / name).unlink()
        os.mkfifo(root / f"pipe {name}" / name)
        (made(root / f"endless {name}") / name).unlink()
        (root / f"endless {name}" / name).symlink_to("/dev/zero")
        (made(root / f"link {name}") / name).unlink()
        (root / f"link {name}" / name).symlink_to("/etc/hostname")
    os.mkfifo(made(root / "locked") / "lock")
    os.truncate(made(root / "huge") / "run.json", 1 << 40)
    os.truncate(made(root / "huger") / "config.yaml", 1 << 40)


def test_hostile_runs_are_rows_of_their_own_and_hide_no_other(tmp_path, capsys):
    made(tmp_path / "sound")
    hostile(tmp_path / "hostile")
    made(tmp_path / "odd", row="[" * 100_000 + "\n" + json.dumps(ROW) + "\n")
    assert cli.main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    sound = [line for line in lines if "unreadable" not in line]
    assert [line.split()[0] for line in sound] == [str(tmp_path / name) for name in ("odd", "sound")]
    assert all(line.split()[1:3] == ["3", "finished"] and " 5 (evaluation)" in line for line in sound)
    assert len(lines) - len(sound) == len(list((tmp_path / "hostile").iterdir()))


def test_directories_that_go_deeper_than_a_walk_of_pythons_own_hide_no_run():
    place = Path(tempfile.mkdtemp())  # as pytest could not clear it up either
    made(place / "sound")
    deep = place / "/".join("d" * 1500)
    try:
        for length in range(100, 1501, 100):
            os.makedirs(place / "/".join("d" * length), exist_ok=True)
        assert [row.state for row in index.rows(place)] == ["finished"]
    finally:
        os.removedirs(deep)
        shutil.rmtree(place)


def test_a_name_gives_no_orders_to_a_terminal_and_makes_no_row(tmp_path, capsys):
    names = ["\x1b[2J\x1b]0;title\x07", "a\nrun  3 finished", "\u202egnp", os.fsdecode(b"\xff"), "\x9b1m"]
    for name in names:
        made(tmp_path / name)
    made(
        tmp_path / "started",
        about=SAID | {"starts": [{"started": "\x1b[8m" + "x" * 999, "exit": "finished"}]},
    )
    assert cli.main(["runs", str(tmp_path)]) == 0
    for command in (["verify"], ["resume"], ["evaluate"], ["train"]):
        assert cli.main([*command, str(tmp_path / names[0])]) in (1, 2)
        assert cli.main([*command, str(tmp_path / names[1] / "nothing")]) == 2
    said = capsys.readouterr()
    head, *lines = said.out.splitlines()
    assert [line for line in (*lines, *said.err.splitlines()) if not line.isprintable()] == []
    assert len([line for line in lines if "finished" in line and "100%" in line]) == len(names) + 1
    assert len(head) < 300 > max(map(len, lines))


def test_runs_say_their_best_return_and_what_differs_and_are_sorted(tmp_path, capsys):
    for name, rate, values in (
        ("a", 1, [1, 9, 2]),
        ("b", 2, [3, 4, 5]),
        ("c", 3, [[0, 2], [4, 6], [3, nan]]),
    ):
        fake.run(tmp_path / name, values, algorithm={"learning_rate": rate}, logging={"every": rate})
    found = {row.path.name: (row.last_return, row.best_return, row.label) for row in index.rows(tmp_path)}
    assert found == {
        "a": (2, 9, "learning_rate=1"),
        "b": (5, 5, "learning_rate=2"),
        "c": (3, 5, "learning_rate=3"),
    }
    assert index.rows(tmp_path)[0].differs == {"algorithm.learning_rate": 1, "logging.every": 1}
    for sort, names in (("last", "bca"), ("best", "abc"), ("seeds", "abc"), ("path", "abc")):
        assert cli.main(["runs", str(tmp_path), "--sort", sort]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert "".join(line.split()[0][-1] for line in lines) == names
        assert head.endswith("what differs") and all("learning_rate=" in line for line in lines)
    assert cli.main(["runs", str(tmp_path), "--sort", "worst"]) == 2
    assert "sort = 'worst': needs one of started, path" in capsys.readouterr().err


def test_a_run_that_raised_is_a_row_that_says_failed(tmp_path, capsys):
    config = config_of(4, params={"scale": 3e38}, algorithm=Reinforce(), on_nan="raise")
    with pytest.raises(FloatingPointError):
        launch(config, tmp_path / "run", cache=False)
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "failed" in capsys.readouterr().out
