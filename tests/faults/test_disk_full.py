"""A full disk: an error that names path and errno, the last checkpoint whole, and the run ends as unbroken.

In: a small tmpfs that is really full, at a save or at a row of the log. Out: what `save`, `launch` and the
command line make of it. Knows nothing of kills; skips where this process may not mount.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import jaxtrain
from jaxtrain import ConfigError
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.launch import launch
from jaxtrain.tools import cli
from tests.faults.processes import Drift, alive, arrays, ended, left_over, main, rows, start, until
from tests.helpers import tiny

PAGE = 4096
ENV = "tests.helpers:Walk"


@pytest.fixture
def disk(tmp_path):
    """A filesystem of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # lazily: a test that failed may hold a file


def fill(disk, leave=0):
    """Use all of a disk but so many pages, whoever else writes meanwhile."""
    with (disk / "ballast").open("ab", buffering=0) as file, suppress(OSError):
        while os.statvfs(disk).f_bavail > leave:
            file.write(bytes(PAGE))


def clear(disk):
    (disk / "ballast").unlink()


@dataclass
class Fills:
    """A sink that fills the disk as soon as a record of update `at` has come."""

    disk: Path
    at: int
    leave: int = 0
    done: bool = False

    def open(self, info): ...

    def write(self, record):
        if record.update >= self.at and not self.done:
            self.done = True
            fill(self.disk, self.leave)

    def flush(self): ...
    def close(self): ...


def config_of(updates=60, **given):
    given = {"logging": {"every": 8, "sinks": ["jsonlines"]}, "checkpoint": {"every": 160}} | given
    return tiny(updates, env=ENV, algorithm=Drift(), **given)


# The log is 200 bytes a row. With one an update, and no save, it is the first to meet the end of the disk.
CASES = {
    "at a save": config_of(logging={"every": 0, "sinks": ["jsonlines"]}, evaluation={"every": 80}),
    "at a row": config_of(600, checkpoint={"every": 0}),
    "at a row or a save": config_of(checkpoint={"every": 8}),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """sha256 of the last state, and the log, of each."""
    found = {}
    for case, config in CASES.items():
        directory = tmp_path_factory.mktemp("unbroken") / "run"
        launch(config, directory, seed=3, cache=False)
        found[case] = arrays(directory), rows(directory)
    return found


def refused(*args, **given):
    """The error that `launch` raises; the warning that its log failed is the same news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "jaxtrain: sink JsonLines failed", RuntimeWarning)
        with pytest.raises((OSError, ConfigError)) as caught:
            launch(*args, **given, cache=False)
    return caught.value


def is_named(error, directory):
    """Whether it says what happened and to which file of the run."""
    named = Path(error.filename) if error.filename else None
    return error.errno == errno.ENOSPC and named is not None and named.is_relative_to(directory)


LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "leave"),
    [
        ("at a row", 0),
        ("at a save", 3),  # orbax gets to write
        pytest.param("at a save", 0, marks=LONG),
        pytest.param("at a row or a save", 0, marks=LONG),
        *(
            pytest.param(case, leave, marks=LONG)
            for case in CASES
            for leave in (1, 2, 5, 8)
            if leave < 2 or "save" in case
        ),
    ],
)
def test_the_error_names_path_and_errno_and_once_there_is_space_the_run_ends_as_unbroken(
    disk, unbroken, case, leave
):
    directory, config = disk / "run", CASES[case]
    error = refused(config, directory, seed=3, more_sinks=[Fills(disk, 22, leave)])
    assert isinstance(error, OSError)
    assert is_named(error, directory), repr(error)
    if case == "at a save":
        assert Path(error.filename).parent == directory / "checkpoints"
    if case == "at a row" and leave == 0:
        assert error.filename == str(directory / "metrics.jsonl")
    held, manifest, bad = manager.newest_good(directory / "checkpoints")
    assert not bad and held and manifest["update"] < config.num_updates
    assert left_over(directory) == []
    clear(disk)
    ending = launch(config, directory, cache=False)
    assert ending.resumed_at == manifest["env_steps"]
    assert (arrays(directory), rows(directory)) == unbroken[case]


def test_a_disk_that_is_still_full_gives_the_same_error_again_and_changes_no_checkpoint(disk, unbroken):
    directory, config = disk / "run", CASES["at a save"]
    refused(config, directory, seed=3, more_sinks=[Fills(disk, 22)])
    newest = max(manager.found(directory / "checkpoints"))
    for _ in range(2):
        fill(disk)
        error = refused(config, directory)
        assert str(directory) in str(error) and re.search("No space left on device", str(error)), repr(error)
        assert max(manager.found(directory / "checkpoints")) == newest
        assert manager.newest_good(directory / "checkpoints")[2] == {}
    clear(disk)
    launch(config, directory, cache=False)
    assert (arrays(directory), rows(directory)) == unbroken["at a save"]


def test_a_run_that_begins_on_a_full_disk_says_so_and_begins_once_there_is_space(disk):
    directory, config = disk / "run", config_of(2, checkpoint={"every": 0})
    for leave in (0, 1, 2, 3, 5, 8):  # pages: a file takes one at least
        fill(disk, leave)
        error = refused(config, directory, seed=3)
        assert str(directory) in str(error), (leave, repr(error))
        assert "No space left on device" in str(error), (leave, repr(error))
        clear(disk)
    ending = launch(config, directory, seed=3, cache=False)
    assert ending.resumed_at in (None, 0)
    assert [row["update"] for row in rows(directory)] == [1, 2]
    assert left_over(directory) == []


def test_the_command_line_says_which_file_and_how_to_go_on_and_exits_with_1(disk, tmp_path, capsys):
    directory, output = disk / "run", tmp_path / "output"
    config = config_of(100_000, logging={"every": 0, "sinks": ["jsonlines"]}, checkpoint={"every": 800})
    (tmp_path / "config.yaml").write_text(jaxtrain.dump(config))
    words = ["train", str(tmp_path / "config.yaml"), "--out", str(directory), "--no-cache"]
    process = start(output, main, *words)
    until(lambda: len(manager.found(directory / "checkpoints")) > 1, process)
    assert alive(process), output.read_text()
    fill(disk)
    assert ended(process) == 1
    begun, what, how = output.read_text().splitlines()
    assert begun == "jaxtrain: compiling"
    assert what.startswith("jaxtrain: [Errno 28] ") and f"'{directory}/checkpoints/" in what
    assert "No space left on device" in what
    assert how == f"jaxtrain: the last checkpoint is whole; jaxtrain resume {directory}"
    assert cli.main(["verify", str(directory)]) == 0
    clear(disk)
    newest = max(manager.found(directory / "checkpoints"))
    more = ["--total-env-steps", str(newest + 80), "--no-cache"]
    assert cli.main(["resume", str(directory), *more]) == 0
    assert max(manager.found(directory / "checkpoints")) == newest + 80


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_checkpoint_on_a_disk_with_any_space_left_is_saved_whole_or_not_at_all(disk, size):
    """From no page to as many as it takes: orbax's own writes meet the end of the disk too."""
    held = {"x": np.random.default_rng(0).random(size), "y": np.arange(3)}
    failed, saved, leave = 0, 0, 0
    place = disk / "checkpoints" / "one"
    place.parent.mkdir()
    step = 1 if size < 1000 else 37
    while saved < 2:
        fill(disk, leave)
        try:
            checkpoint.save(place, held, {})
            assert checkpoint.load(place)[0]["x"].tobytes() == held["x"].tobytes()
            (place / "manifest.json").unlink()
            saved += 1
            subprocess.run(["rm", "-r", str(place)], check=True)
        except OSError as error:
            assert error.errno == errno.ENOSPC, repr(error)
            assert error.filename == str(place)
            failed += 1
        assert list(place.parent.iterdir()) == []
        clear(disk)
        leave += step
    print(f"\n{failed}/{failed} saves on a full disk named it and left nothing; {saved} with space are whole")
    assert failed > 5
