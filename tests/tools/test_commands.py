"""What the commands do to a run and say of it, each through the command line."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.tools import commands
from jaxtrain.tools.cli import main


def test_a_run_is_begun_listed_resumed_for_longer_evaluated_and_verified(file, tmp_path, capsys):
    """The README's section on runs, in one process."""
    out = tmp_path / "runs" / "one"

    def say(*arguments):
        code = main([*map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, ended, err = say("train", file, "--out", out)
    assert code == 0 and err == "jaxtrain: compiling\n"
    returns = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    returns = [row["values"]["return_mean"] for row in returns if row["name"] == "evaluation"]
    assert f"return: last {returns[-1]:.3g}, best {max(returns):.3g} (evaluation)\n" in ended
    best = next(line for line in ended.splitlines() if line.startswith("best policy: "))
    assert best.removeprefix("best policy: ").startswith(f"{out}/checkpoints/0")
    assert best.endswith(", by evaluation/return_mean")
    first = ended.index("next: ")
    following = [line[6:] for line in ended[first:].splitlines()]
    assert following == [
        f"jaxtrain plot {out}",
        f"jaxtrain evaluate {out}",
        f"jaxtrain resume {out} --total-env-steps 768 --anneal-env-steps 768",
    ]
    code, _, err = say("train", file, "--out", out)
    assert code == 0 and "has done its 384 env steps: nothing is left to do" in err
    code, table, _ = say("runs", tmp_path / "runs")
    assert (
        code == 0 and "finished" in table and "100%" in table and "384" in table and "(evaluation)" in table
    )
    code, _, err = say("resume", out, "--total-env-steps", 768)
    assert code == 0 and "rates that anneal" in err and "going on from 384 of 768 env steps" in err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["env_steps"] == 768
    code, report, _ = say("evaluate", out, "--which", "last")
    assert code == 0
    evaluation = next(row for row in reversed(rows) if row["name"] == "evaluation")["values"]
    logged = f"{evaluation['return_mean']:g}"
    assert [f"return_mean {logged} {logged}"] == [
        " ".join(line.split()) for line in report.splitlines() if line.startswith("return_mean")
    ]
    assert "logged at 768" in report
    code, report, _ = say("evaluate", out, "--which", "last", "--member", 0, "--json")
    made = json.loads(report)
    assert made["values"]["return_mean"] == evaluation["return_mean"] and made["members"] == [0]
    assert np.mean(made["returns"]) == pytest.approx(made["values"]["return_mean"])
    assert len(made["returns"]) == len(made["lengths"]) == made["values"]["episodes"]
    assert made["env"]["id"] == "tests.probes.envs:Cycle" and made["env_steps"] == 768
    code, table, _ = say("runs", tmp_path / "runs", "--json")
    (row,) = json.loads(table)
    assert (row["path"], row["env_steps"]) == (str(out), 768)
    assert row["last_return"] == rows[-1]["values"]["return_mean"] and row["differs"] == {}
    assert row["best_return"] == max(r["values"]["return_mean"] for r in rows if r["name"] == "evaluation")
    code, verdict, _ = say("verify", out, "--replay")
    assert code == 0 and "the same bits" in verdict
    for old in ("--seed", "--seeds", "--num-seeds"):
        code, _, err = say("resume", out, old, 3)
        assert code == 2 and f"{old}: a run keeps the seeds that it has; --member I, or --members I,J" in err
    code, _, err = say("evaluate", out, "--seeds", 3)
    assert code == 2 and "--seeds: a run keeps the seeds that it has; --member I, or --members I,J" in err
    code, _, err = say("evaluate", out, "--env.num-envs", 3)
    assert code == 2 and "env.num_envs: belongs to the run; `evaluate` takes --env.id and" in err
    code, _, err = say("resume", out, "--members", "0,a", "--out", tmp_path / "some")
    assert code == 2 and "members = [0, 'a']: needs different ints >= 0" in err
    for words in (["--seed", -1], ["--seed", "all"], ["--num-episodes", 0]):
        code, _, err = say("evaluate", out, *words)
        assert code == 2 and f"{words[0][2:].replace('-', '_')} = " in err and ": needs an int >= " in err
    code, _, err = say("train", out)
    assert code == 2 and f"jaxtrain resume {out}" in err
    code, _, err = say("resume", out, "--algorithm.gamma", 0.5, "--total-env-steps", 1152)
    assert code == 2 and "algorithm.gamma = 0.5: the run has 0.99" in err


def test_a_run_does_not_begin_among_files_that_are_no_runs(file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert main(["train", file, "--out", str(out)]) == 2
    assert "holds no run, but notes.txt" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_directory_that_is_no_run_is_named_by_every_command_that_needs_one(tmp_path, capsys):
    for command in ("resume", "evaluate", "verify"):
        assert main([command, str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_overrides_reach_the_run_and_its_files_are_named(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", file, "total_env_steps=1.92e2", "--seed=1", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["env_steps"] == 192
    assert json.loads((out / "run.json").read_text())["seed"] == 1
    assert f"files: {out}/" in capsys.readouterr().out


def test_a_part_of_the_seeds_needs_a_directory_of_its_own(tmp_path, file):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(file, run / "config.yaml")
    said = {
        "id": "a",
        "seed": 0,
        "key": None,
        "num_seeds": 2,
        "seeds": None,
        "start_from": None,
        "starts": [],
    }
    (run / "run.json").write_text(json.dumps(said))
    for members, out in (([1], None), (None, str(tmp_path / "some"))):
        options = argparse.Namespace(directory=str(run), members=members, out=out, no_cache=True)
        with pytest.raises(ConfigError, match="--members and --out go together"):
            commands.resume([], options)
    assert not (tmp_path / "some").exists() and len([*run.iterdir()]) == 2


def test_runs_that_begin_in_the_same_second_have_a_directory_each_and_an_empty_one_goes(
    tmp_path, monkeypatch, file, capsys
):
    monkeypatch.chdir(tmp_path)
    with commands._new_directory("a") as one, commands._new_directory("a") as two:
        assert one != two and one.is_dir() and two.is_dir()
        (two / "mine").write_text("")
    assert [*(tmp_path / "runs").iterdir()] == [tmp_path / two]
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", file, "--seed", "none"]) == 2 and "seed = 'none'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert [commands._claimed("b").name for _ in range(3)] == ["b", "b-2", "b-3"]
