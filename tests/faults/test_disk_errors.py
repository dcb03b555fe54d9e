"""A disk that fails: one message with path and reason, and nothing of what libraries print of it.

In: a full, a read-only and a broken file system, a limit on files, directories without permissions. Out: what
stands on standard error, and the traceback that Python shows. Knows nothing of what is saved and goes on:
`test_disk_full.py` has that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import subprocess
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.launch import launch
from tests.faults.processes import Drift, call, ended, main, start
from tests.helpers import tiny

HELD = {f"x{i}": np.random.default_rng(i).random(60_000) for i in range(5)}  # 2.4 MB
LINES = 10  # of the traceback of one exception with two frames


@contextmanager
def mounted(place, *words):
    """A mount at `place` while it lasts; skips where this process may not mount."""
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        yield place


def saved(place):
    """How Python shows what a save raises, and its errno."""
    try:
        checkpoint.save(place, HELD, {})
    except OSError as error:
        return traceback.format_exception(error), error.errno
    return None


def is_short(shown, place, number):
    lines = "".join(shown).splitlines()
    return len(lines) <= LINES and lines[-1] == f"OSError: [Errno {number}] {os.strerror(number)}: '{place}'"


def test_an_error_of_a_save_has_no_librarys_traceback_and_nothing_else_is_printed(disk, capfd):
    place, failed = disk / "checkpoints" / "one", 0
    place.parent.mkdir()
    for leave in range(590, 610):  # pages: orbax begins, and meets the end at each of its steps
        with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while os.statvfs(disk).f_bavail > leave:
                file.write(bytes(4096))
        found = saved(place)
        (disk / "ballast").unlink()
        shutil.rmtree(place, ignore_errors=True)
        if found is not None and "needs " not in found[0][-1]:
            assert found[1] == errno.ENOSPC and is_short(found[0], place, errno.ENOSPC), "".join(found[0])
            failed += 1
    assert failed > 3
    assert capfd.readouterr() == ("", "")


def limited(place, most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    return saved(place)


def test_a_file_that_may_not_be_so_large_is_named_likewise(tmp_path, capfd):
    shown, number = call(limited, tmp_path / "one", 100_000)
    assert number == errno.EFBIG and is_short(shown, tmp_path / "one", number), "".join(shown)
    assert capfd.readouterr().err == "" and [*tmp_path.iterdir()] == []


def test_a_read_only_place_is_named_likewise(disk, capfd):
    with mounted(disk, "--bind", str(disk)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
        shown, number = saved(disk / "one")
    assert number == errno.EROFS and is_short(shown, disk / "one", number), "".join(shown)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small run."""
    config = tiny(
        4,
        env="tests.helpers:Walk",
        algorithm=Drift(),
        evaluation={"every": 32, "num_episodes": 2},
        logging={"every": 8, "sinks": ["jsonlines"]},
        checkpoint={"every": 16},
    )
    directory = tmp_path_factory.mktemp("whole") / "run"
    launch(config, directory, seed=3, cache=False)
    return directory


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def as_anybody(*words):
    """The command line without what root may do: no directory is readable that its mode keeps closed."""
    none = (ctypes.c_uint32 * 6)()
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(head, none) == 0
    main(*words)


COMMANDS = {
    "verify": (),
    "evaluate": ("--which", "last"),
    "resume": ("--total-env-steps", "40", "--no-cache"),
}


def said(function, words, output):
    code = ended(start(output, function, *words))
    return code, output.read_text().splitlines()


@pytest.mark.parametrize("part", ["checkpoints", "."])
def test_what_may_not_be_read_is_one_line_that_names_it(run, tmp_path, part):
    (run / part).chmod(0)
    for command, more in COMMANDS.items():
        code, lines = said(as_anybody, [command, str(run), *more], tmp_path / command)
        assert code in (1, 2) and len(lines) == 1 and str(run) in lines[0], (command, lines)
        assert re.search("Permission denied|cannot be written", lines[0]), (command, lines)


def test_a_checkpoint_on_a_disk_that_fails_to_read_is_one_line(run, tmp_path):
    newest = manager.place(run / "checkpoints", 32)
    # The memory of a process, at the address 0: each read of it is an error of input and output.
    with mounted(newest / "manifest.json", "--bind", f"/proc/{os.getpid()}/mem"):
        code, lines = said(main, ["verify", str(run)], tmp_path / "verify")
        words = ["evaluate", str(run), "--which", "32"]
        other, more = said(main, words, tmp_path / "evaluate")
    why = "manifest.json cannot be read (Input/output error)"
    assert (code, lines[-1]) == (1, f"0000000000032  {why}")
    assert other == 2 and len(more) == 1 and why in more[0], more


@pytest.mark.parametrize("name", ["manifest.json", "arrays"])
def test_a_checkpoint_that_lacks_a_part_is_one_line(run, tmp_path, name):
    path = manager.place(run / "checkpoints", 32) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, lines = said(main, ["evaluate", str(run), "--which", "32"], tmp_path / "output")
    assert code == 2 and len(lines) == 1 and "checkpoint 0000000000032: is damaged" in lines[0], lines
