"""What is written is whole or not there, whatever ends the writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtrain.tools.files import whole

ROOT = Path(__file__).parents[2]
# Waits within the block for a signal.
PROGRAM = """
import sys, time
from pathlib import Path
from jaxtrain.tools.files import whole

with whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("begun", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_it_is_there_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with whole(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and [*tmp_path.iterdir()] == [path]


def test_a_directory_takes_the_place_of_an_empty_one(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    with whole(path) as part:
        part.mkdir()
        (part / "in.txt").write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["a", "a/in.txt"]


def test_after_an_error_what_was_there_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), whole(path) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def test_after_a_signal_nothing_is_left_and_the_process_ends_by_it(tmp_path):
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        place = tmp_path / number.name
        place.mkdir()
        program = [sys.executable, "-c", PROGRAM, str(place / "a.txt")]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started[number] = place, subprocess.Popen(program, **pipes, env=env)
    for number, (place, process) in started.items():
        assert process.stdout.readline() == b"begun\n" and [*place.iterdir()]
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number and not [*place.iterdir()]
