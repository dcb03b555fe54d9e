"""A path is read as a shell reads it, by everything that takes one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtrain
from jaxtrain.paths import as_path
from jaxtrain.runs.evaluate import evaluate_run
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import replay, verdicts
from jaxtrain.sinks import JsonLines, TensorBoard, Wandb
from jaxtrain.tools.cli import main
from tests.helpers import tiny

ROOT = Path(__file__).parents[1]


def test_only_a_first_letter_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("out", "~/x") == as_path("out", Path("~/x")) == tmp_path / "x"
    assert as_path("out", "~") == tmp_path
    for same in ("x", "a/~", "a~", "/a", "."):
        assert as_path("out", same) == Path(same)
    here = as_path("out", "./~/x")
    assert here == as_path("out", here) == Path.cwd() / "~" / "x"


@pytest.mark.parametrize("given", [3, None, b"x", ["x"]])
def test_what_is_no_path_is_named(given):
    with pytest.raises(jaxtrain.ConfigError, match=r"out = .*: needs a path"):
        as_path("out", given)


CONFIG = tiny(updates=2)


@pytest.mark.parametrize(
    "use",
    [
        lambda: launch(CONFIG, "~/x", resume="must", cache=False),
        lambda: launch(CONFIG, "~/y", start_from="~/x", cache=False),
        lambda: launch(CONFIG, "~/y", init_from="~/x@last", cache=False),
        lambda: jaxtrain.load("~/x"),
        lambda: jaxtrain.load_policy("~/x"),
        lambda: evaluate_run("~/x"),
        lambda: verdicts("~/x"),
        lambda: replay("~/x"),
        lambda: jaxtrain.load_config("~"),
    ],
)
def test_python_takes_a_path_from_the_home_directory(use, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(jaxtrain.ConfigError, match=f"{tmp_path}|~: is a directory"):
        use()
    assert list(tmp_path.iterdir()) == []


def test_sinks_take_a_path_from_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert JsonLines("~/a.jsonl").path == tmp_path / "a.jsonl"
    assert TensorBoard("~/a").directory == Wandb(directory="~/a").directory == tmp_path / "a"


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "~/x"],
        ["resume", "~/x", "--members", "0", "--out=~/y", "--no-cache"],
        ["evaluate", "~/x"],
        ["verify", "~/x"],
        ["runs", "~/x"],
        ["train", "~"],
        ["train", "FILE", "--out=~/x", "--resume", "must", "--no-cache"],
    ],
)
def test_the_command_line_takes_a_path_from_the_home_directory(words, monkeypatch, tmp_path, capsys):
    home, file = tmp_path / "home", tmp_path / "c.yaml"
    home.mkdir()
    file.write_text("env: {id: 'tests.helpers:Walk'}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert main([str(file) if word == "FILE" else word for word in words]) == 2
    assert str(home) in capsys.readouterr().err or words == ["train", "~"]
    assert sorted(tmp_path.iterdir()) == [file, home] and list(home.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become a user that passwd does not know")
def test_without_a_home_directory_there_is_no_cache_and_a_path_in_it_is_refused():
    program = """
import os
import jaxtrain
from jaxtrain.paths import as_path
from jaxtrain.runs.program import _cache_directory
os.environ.pop("HOME"), os.environ.pop("XDG_CACHE_HOME", None)
os.setuid(54321)
assert _cache_directory() is None
try:
    as_path("out", "~/x")
except jaxtrain.ConfigError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("out = '~/x': its home directory is not known here")
