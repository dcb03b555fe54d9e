"""The command line as a user meets it: real processes, real signals, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain import load_config
from jaxtrain.config.schema import resolved
from jaxtrain.rl import field
from jaxtrain.tools.cli import main
from tests.helpers import Reinforce

ROOT = Path(__file__).parents[2]


def process(*arguments, before=""):
    """A real process; `before` is a shell command that sets its limits."""
    return subprocess.Popen(
        ["bash", "-c", f'{before}\nexec "$0" "$@"', sys.executable, "-m", "jaxtrain", *arguments],
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


@field.config
class Nothing(Reinforce):
    """Its `make` gives nothing."""

    def make(self, spec):
        del spec


def test_an_algorithm_that_breaks_the_contract_is_one_line_and_nothing_is_made(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(
        f"algorithm: {{name: '{__name__}:Nothing'}}\nenv: {{id: 'tests.helpers:Walk', num_envs: 2}}\n"
        "total_env_steps: 16\nevaluation: {every: 0}\nlogging: {every: 0}\n"
    )
    code = main(["train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 2 and not (tmp_path / "out").exists()
    assert "Nothing.make gave NoneType, needs a jaxtrain.types.Algorithm" in message
    assert [line for line in message.splitlines() if line.startswith(("jaxtrain: ", "Traceback"))] == [
        message.splitlines()[-1]
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "missing.yaml"], "missing.yaml: there is no such file; needs one of YAML"),
        (
            ["train", "cartpole_pp"],
            "cartpole_pp: there is no such file; needs one of YAML, or the",
        ),
        (["train", "cartpole_pp"], "the nearest known is 'cartpole_ppo'"),
        (["train", "--help", "optimizer"], "--help optimizer: no such section; there are env, algorithm,"),
        (["train", "--algorithm.name", "pppo", "--help"], "algorithm.name = 'pppo': no such algorithm"),
        (["evalute", "run"], "evalute: no such command; the nearest known is 'evaluate'"),
        (["train", "FILE", "--learning-rate", "1"], "there is --algorithm.learning-rate"),
        (
            ["train", "FILE", "--every", "8"],
            "there is --evaluation.every, --logging.every, --checkpoint.every",
        ),
        (["train", "FILE", "algorithm.gama=1"], "algorithm.gama: unknown key; the nearest known is 'gamma'"),
        (["train", "FILE", "--out", "FILE"], "cannot be written (is a file); needs a directory"),
        (["train", "CartPole-v1"], "an environment needs none: jaxtrain train --env.id CartPole-v1"),
        (["train", "cartpole-v1"], "an environment needs none: jaxtrain train --env.id CartPole-v1"),
        (["train", "--seed", "3"], "train: needs FILE, the name of an experiment, or --env.id with one of"),
        (["train", "--env", "CartPole-v1", "--env.id=x:y"], "env = 'CartPole-v1'"),
        (
            ["train", "FILE", "env=CartPole-v1"],
            "env = 'CartPole-v1': needs a mapping of id, num_envs, params, as",
        ),
        (["train", "FILE", "evaluation.env=CartPole-v1"], "as in {id: CartPole-v1}"),
        (["train", "FILE", "loose"], "needs a field in front of it"),
        (["train", "FILE", "--env.num-envs"], "needs a value"),
        (["train", "FILE", "--env.num-envs", "three"], "env.num_envs = 'three': needs an int"),
        (["train", "FILE", "--seed", "-1"], "seed = -1: needs an int >= 0 and <= 4294967295"),
        (["train", "FILE", "--seed", "4294967296"], "seed = 4294967296: needs an int >= 0"),
        (["train", "FILE", "--num-seeds", "two"], "num_seeds = 'two': needs an int >= 1"),
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


def shown_in_ascii(*words):
    """What a command shows on a terminal that knows ASCII alone."""
    shown = io.BytesIO()
    terminal = io.TextIOWrapper(shown, encoding="ascii", write_through=True)
    with contextlib.redirect_stdout(terminal), contextlib.suppress(SystemExit):
        assert main(words) == 0
    assert terminal.errors == "strict"  # as it was
    return shown.getvalue().decode("ascii")


@pytest.mark.parametrize("words", [["train", "--help"], ["plan", "--help"], ["list", "algorithms"]])
def test_a_terminal_that_knows_ascii_alone_is_shown_other_signs(words):
    assert "--field.name" in shown_in_ascii(*words) or words[0] == "list"


def test_without_docstrings_what_there_is_to_name_is_listed():
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "jaxtrain", "list", "events"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "randomize" in done.stdout, done.stderr


def test_the_plan_names_each_event_with_its_env_steps_and_the_memory(file):
    text = shown_in_ascii("plan", file, "--logging.every", "32")
    assert "32 64 96 ... 352 384" in text
    assert "12 of 32 env steps" in text
    assert "96 192 288 384" in text
    assert "a seed" in text


def test_a_config_is_printed_whole_and_is_one_that_means_the_same(file, tmp_path, capsys):
    overrides = ["--algorithm.gamma", "0.9", "env.params={}"]
    assert main(["config", file, *overrides]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    given = load_config(file, ["algorithm.gamma=0.9"])
    assert load_config(tmp_path / "printed.yaml") == resolved(given)
    assert main(["config", str(tmp_path / "printed.yaml")]) == 0 and capsys.readouterr().out == printed
    assert main(["config", file, "--env.params.gone", "1"]) == 2
    assert "env.params.gone" in capsys.readouterr().err
    assert main(["config"]) == 0 and "id: CartPole-v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("algorithms", "ppo"),
        ("events", "randomize"),
        ("events", "params: metric, threshold, below=False"),
        ("sinks", "wandb"),
        ("envs", "CartPole-v1"),
        ("experiments", "pendulum_ppo"),
        ("algorithms", "module:Class"),
    ],
)
def test_what_can_be_named_in_a_config_is_listed(what, name, capsys):
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


def test_help_all_lists_every_field_and_says_how_one_is_set(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help", "all"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for named in (
        "--env.num-envs",
        "--algorithm.learning-rate",
        "--evaluation.num-episodes",
        "--total-env-steps",
        "jaxtrain train --env.id CartPole-v1",
        "{schedule: linear, from: 1e-3, to: 0, over: 1e6}",
        "exit codes: 0 done",
    ):
        assert named in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", str(ROOT / "examples" / "reinforce.yaml"), "--help", "algorithm"],
        ["plan", "--help", "algorithm", "--num-seeds", "2", str(ROOT / "examples" / "reinforce.yaml")],
        ["train", "FILE", "--algorithm.name=reinforce:Reinforce", "-h", "all"],
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


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))],
)
def test_a_signal_ends_a_run_at_a_chunk_with_a_whole_log_and_its_exit_code(file, tmp_path, number):
    out = tmp_path / "out"
    long = ["--total-env-steps", "96_000_000", "--evaluation.every", "960_000"]
    long += ["--checkpoint.signals", "SIGUSR1"]
    run = process("train", file, *long, "--out", str(out))
    log = out / "metrics.jsonl"
    try:
        while run.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        run.send_signal(number)
        _, err = run.communicate(timeout=120)
    finally:
        run.kill()  # one that does not hear would take minutes of a core
    assert run.returncode == 128 + number, err
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows and rows[-1]["env_steps"] < 96_000_000
    assert json.loads((out / "run.json").read_text())["starts"][-1]["exit"] == f"signal {int(number)}"


def test_a_reader_that_goes_away_is_no_traceback():
    with process("list", "envs", before="trap '' PIPE") as listing:
        listing.stdout.close()
        assert listing.wait(60) == 141 and listing.stderr.read() == ""


def test_a_table_that_cannot_be_written_is_a_failure():
    with process("list", "envs", before="exec >/dev/full") as listing:
        assert listing.wait(60) == 1
        why = "standard output cannot be written (No space left on device)"
        assert listing.stderr.read() == f"jaxtrain: {why}\n"


def test_a_log_that_cannot_be_written_to_its_end_is_exit_code_1_and_the_checkpoints_stay(file, tmp_path):
    out = tmp_path / "out"
    more = ["--total-env-steps", "3840", "--logging.every", "32"]
    run = process("train", file, *more, "--out", str(out), before="ulimit -f 24")  # KiB in a file
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1, err
    assert "File too large" in err and str(out) in err and f"jaxtrain resume {out}" in err
    assert main(["verify", str(out)]) == 0
