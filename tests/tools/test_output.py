"""Lines that nobody can read end nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from jaxtrain.errors import shown
from jaxtrain.runs import manager
from jaxtrain.tools import cli, output
from tests.faults.processes import Drift, ended, main, rows, start
from tests.helpers import tiny


def test_lines_go_to_where_they_belong_and_every_character_is_shown(capfd, monkeypatch):
    output.say("done")
    output.warn("not done")
    monkeypatch.setattr(sys, "stdout", None)  # as of a process whose output was closed before it began
    output.say("nobody")
    output.settle()
    assert capfd.readouterr() == ("done\n", "not done\n")
    ascii_only = os.fdopen(os.dup(1), "w", encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    output.say("1 ± 2 in \udcff")
    ascii_only.close()
    assert capfd.readouterr().out == "1 \\xb1 2 in \\udcff\n"
    output.say("closed")
    output.settle()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "runs/a",
            "-rf Ünï 🙂 %s{0}$(touch x);'\"~!",
            "a\nb\t'\\x",
            "\x1b[2J",
            os.fsdecode(b"\xff"),
            "*",
            "a b",
        ),
    ],
)
def test_a_command_that_is_printed_is_read_by_a_shell_as_it_was_meant_and_by_a_terminal_as_text(name):
    text = output.typed("printf", r"%s\0", name, "--total-env-steps", "3")
    assert text.isprintable() and text == shown(text)
    said = subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout
    first = f"./{name}" if name.startswith("-") else name
    assert said == b"".join(os.fsencode(word) + b"\0" for word in (first, "--total-env-steps", "3"))


def unheard(kind, *words):
    """The command line, where every line that it prints is an error."""
    if kind == "a full disk":
        place = os.open("/dev/full", os.O_WRONLY)
    else:
        terminal, place = pty.openpty()
        os.close(terminal)
    os.dup2(place, 1)
    os.dup2(place, 2)
    main(*words)


@pytest.mark.parametrize("kind", ["a full disk", "a closed terminal"])
def test_a_run_whose_lines_nobody_can_read_trains_and_ends_well(tmp_path, kind):
    import jaxtrain

    logging = {"every": 8, "sinks": ["jsonlines", "console"]}
    config = tiny(2, env="tests.helpers:Walk", algorithm=Drift(), logging=logging)
    (tmp_path / "config.yaml").write_text(jaxtrain.dump(config))
    words = ["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--no-cache"]
    assert ended(start(None, unheard, kind, *words)) == 0
    assert len(rows(tmp_path / "run")) == 2
    assert max(manager.found(tmp_path / "run" / "checkpoints")) == config.total_env_steps
    assert cli.main(["verify", str(tmp_path / "run")]) == 0
    assert ended(start(None, unheard, kind, "train", "no such file")) == 2
