"""The command line as a user meets it: real processes, real signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain.tools.cli import main

ROOT = Path(__file__).parents[2]
TINY = """
env: {id: "tests.probes.envs:Cycle", num_envs: 4}
algorithm: {rollout_length: 8, num_epochs: 1, num_minibatches: 2, network: {hidden_sizes: [4]}}
total_env_steps: 384
evaluation: {every: 96, num_episodes: 2}
logging: {sinks: [jsonlines]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def process(*arguments, before=""):
    """A real process; `before` is a shell command that sets its limits."""
    return subprocess.Popen(
        ["bash", "-c", f'{before}\nexec "$0" "$@"', sys.executable, "-m", "jaxtrain.tools.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_misspelt_field_and_a_wrong_total_are_named_together_and_nothing_is_made(file, tmp_path, capsys):
    out = tmp_path / "out"
    code = main(
        ["train", file, "--algorithm.lerning-rate", "1", "--total-env-steps", "100", "--out", str(out)]
    )
    message = capsys.readouterr().err
    assert code == 2
    assert "algorithm.lerning_rate: unknown key" in message and "learning_rate" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "missing.yaml"], "missing.yaml: there is no such file; needs one of YAML"),
        (
            ["train", "cartpole_pp"],
            "cartpole_pp: there is no such file; needs one of YAML, or the",
        ),
        (["train", "cartpole_pp"], "the nearest known is 'cartpole_ppo'"),
        (["train", "--algorithm.name", "pppo", "--help"], "algorithm.name = 'pppo': no such algorithm"),
        (["evalute", "run"], "evalute: no such command; the nearest known is 'evaluate'"),
        (["train", "FILE", "--learning-rate", "1"], "there is --algorithm.learning-rate"),
        (
            ["train", "FILE", "--every", "8"],
            "there is --evaluation.every, --logging.every, --checkpoint.every",
        ),
        (["train", "FILE", "algorithm.gama=1"], "algorithm.gama: unknown key; the nearest known is 'gamma'"),
        (["train", "FILE", "--out", "FILE"], "cannot be written (is a file); needs a directory"),
        (["train", "FILE", "loose"], "needs a field in front of it"),
        (["train", "FILE", "--env.num-envs"], "needs a value"),
        (["train", "FILE", "--env.num-envs", "three"], "env.num_envs = 'three': needs an int"),
        (["plan", "FILE", "--evaluation.every", "1e9"], "evaluation.every"),
        (["list", "envs", "more"], "takes no more arguments"),
        (
            ["train", "FILE", "--take", "agent"],
            "take = 'agent': needs init_from, the run that it is taken from",
        ),
        (["train", "FILE", "--init-from", "gone@last"], "'gone': holds no run: there is no such directory"),
        (
            ["train", "FILE", "--num_seed", "2"],
            "--num_seed: no such option or field of the config; the nearest",
        ),
    ],
)
def test_a_bad_request_is_one_readable_error_and_exit_code_2(file, capsys, arguments, words):
    assert main([file if word == "FILE" else word for word in arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message


def test_overrides_reach_the_run_and_its_files_are_named(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", file, "total_env_steps=1.92e2", "--seed=1", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["env_steps"] == 192
    assert json.loads((out / "run.json").read_text())["seed"] == 1
    assert f"files: {out}/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], (None, None)),
        (["--init-from", "runs/a@last", "--take", "agent"], ("runs/a@last", "agent")),
        (["--init-from=runs/a"], ("runs/a", None)),
    ],
)
def test_a_run_to_begin_from_reaches_launch(file, tmp_path, monkeypatch, arguments, given):
    asked: list[tuple[object, object]] = []

    def launch(config, directory, *, init_from, take, **rest):
        asked.append((init_from, take))
        raise OSError("enough")

    monkeypatch.setattr("jaxtrain.runs.launch.launch", launch)
    assert main(["train", *arguments, file, "--out", str(tmp_path / "out")]) == 1
    assert asked == [given]


def test_the_plan_names_each_event_with_its_env_steps_and_the_memory(file, capsys):
    assert main(["plan", file]) == 0
    text = capsys.readouterr().out
    assert "12 of 32 env steps" in text
    assert "96 192 288 384" in text
    assert "a seed" in text


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("algorithms", "ppo"),
        ("events", "randomize"),
        ("sinks", "wandb"),
        ("envs", "CartPole-v1"),
        ("experiments", "pendulum_ppo"),
        ("algorithms", "module:Class"),
    ],
)
def test_what_can_be_named_in_a_config_is_listed(what, name, capsys):
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for field in (
        "--env.num-envs",
        "--algorithm.learning-rate",
        "--evaluation.num-episodes",
        "--total-env-steps",
        "--init-from RUN[@best|last|ENV_STEPS]",
        "--take {params,agent}",
    ):
        assert field in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", str(ROOT / "examples" / "reinforce.yaml"), "--help"],
        ["plan", "--help", "--num-seeds", "2", str(ROOT / "examples" / "reinforce.yaml")],
        ["train", "FILE", "--algorithm.name=reinforce:Reinforce", "-h"],
    ],
)
def test_help_lists_the_fields_of_the_algorithm_that_is_named(file, arguments, capsys, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")  # for the last one; a file's own directory is looked in by itself
    with pytest.raises(SystemExit):
        main([file if word == "FILE" else word for word in arguments])
    text = capsys.readouterr().out
    assert "--algorithm.gamma" in text and "--algorithm.num-epochs" not in text
    sys.modules.pop("reinforce", None)


def test_an_experiment_goes_by_its_name_in_any_directory(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["env.num_envs=4", "total_env_steps=512", "logging.every=0", "evaluation.every=0"]
    assert main(["plan", "cartpole_ppo", *small]) == 0
    assert "CartPole-v1" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_at_a_chunk_with_a_whole_log_and_its_exit_code(file, tmp_path, number):
    out = tmp_path / "out"
    long = ["--total-env-steps", "96_000_000", "--evaluation.every", "960_000"]
    run = process("train", file, *long, "--out", str(out))
    log = out / "metrics.jsonl"
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    run.send_signal(number)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 128 + number, err
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows and rows[-1]["env_steps"] < 96_000_000
    assert json.loads((out / "run.json").read_text())["starts"][-1]["exit"] == f"signal {int(number)}"


def test_a_run_does_not_begin_among_files_that_are_no_runs(file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert main(["train", file, "--out", str(out)]) == 2
    assert "holds no run, but notes.txt" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_reader_that_goes_away_is_no_traceback():
    with process("list", "envs", before="trap '' PIPE") as listing:
        listing.stdout.close()
        assert listing.wait(60) == 141 and listing.stderr.read() == ""


def test_ctrl_c_where_there_is_nothing_to_save_is_no_traceback():
    program = (
        "import time; from jaxtrain.runs import signals\n"
        "with signals.leaving(): print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as begun:
        assert begun.stdout.readline() == "ready\n"
        begun.send_signal(signal.SIGINT)
        assert begun.wait(30) == 130 and begun.stderr.read() == ""


def test_a_log_that_cannot_be_written_to_its_end_is_exit_code_1_and_the_checkpoints_stay(file, tmp_path):
    out = tmp_path / "out"
    more = ["--total-env-steps", "3840", "--logging.every", "32"]
    run = process("train", file, *more, "--out", str(out), before="ulimit -f 24")  # KiB in a file
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1, err
    assert "File too large" in err and str(out) in err and f"jaxtrain resume {out}" in err
    assert main(["verify", str(out)]) == 0


def test_a_run_is_begun_listed_resumed_for_longer_evaluated_and_verified(file, tmp_path, capsys):
    """The README's section on runs, in one process."""
    out = tmp_path / "runs" / "one"

    def say(*arguments):
        code = main([*map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, _, err = say("train", file, "--out", out)
    assert code == 0 and err == "jaxtrain: compiling\n"
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
    code, verdict, _ = say("verify", out, "--replay")
    assert code == 0 and "the same bits" in verdict
    code, _, err = say("resume", out, "--seed", 3)
    assert code == 2 and "--seed: a run keeps the seeds that it has; --seeds I,J --out DIR" in err
    with pytest.raises(SystemExit) as ended:
        say("resume", out, "--seeds", "a", "--out", tmp_path / "some")
    assert ended.value.code == 2 and "'a': needs whole numbers, such as 3,7" in capsys.readouterr().err
    code, _, err = say("train", out)
    assert code == 2 and f"jaxtrain resume {out}" in err
    code, _, err = say("resume", out, "--algorithm.gamma", 0.5, "--total-env-steps", 1152)
    assert code == 2 and "algorithm.gamma = 0.5: the run has 0.99" in err


def test_a_directory_that_is_no_run_is_named_by_every_command_that_needs_one(tmp_path, capsys):
    for command in ("resume", "evaluate", "verify"):
        assert main([command, str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
