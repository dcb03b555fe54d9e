"""Who holds a directory: one process, and nobody once it is gone."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import time
import warnings

import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import lock as locks
from jaxtrain.runs.directory import RunDirectory
from jaxtrain.runs.lock import owner_of
from tests.faults.processes import call, ended, start, until


def test_a_lock_that_was_taken_away_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    """A process that was refused takes its lock with it, while another may have opened that file."""
    flock, asked = locks.fcntl.flock, []

    def too_late(file, how):
        if not asked:
            (tmp_path / "lock").unlink()
        asked.append(how)
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", too_late)
    lock = locks.Lock(tmp_path)
    assert len(asked) == 2
    assert owner_of(tmp_path).startswith(f"process {os.getpid()} on ")
    lock.release()


def test_a_directory_that_goes_while_a_run_waits_for_it_is_made_again(tmp_path):
    """A refused process takes with it what it made; this one is between making it and locking it."""
    lock = locks.Lock(tmp_path / "run")
    assert owner_of(tmp_path / "run").startswith(f"process {os.getpid()} on ")
    lock.release()


def probing(directory, until):
    """Ask again and again who holds a directory."""
    while time.time() < until:
        owner_of(directory)


def test_a_look_at_who_holds_a_directory_keeps_nobody_out(tmp_path):
    """`jaxtrain runs` in a loop, as a user watches it, while runs begin."""
    directory = tmp_path / "run"
    locks.Lock(directory).release()
    begun = time.time()
    processes = [start(None, probing, directory, begun + 2.5) for _ in range(2)]
    tried, refused = 0, []
    time.sleep(0.5)
    while time.time() < begun + 2.0:
        tried += 1
        try:
            locks.Lock(directory).release()
        except locks.InUse as error:
            refused.append(str(error))
    for process in processes:
        assert ended(process) == 0
    print(f"\n{tried - len(refused)}/{tried} starts while two processes looked")
    assert not refused, refused[:1]


def test_a_lock_is_held_for_as_long_as_its_path_leads_to_it(tmp_path):
    lock = locks.Lock(tmp_path / "run")
    assert lock.is_held and lock.directory == tmp_path / "run"
    (tmp_path / "run").rename(tmp_path / "old")
    assert not lock.is_held and lock.directory == tmp_path / "old"
    (tmp_path / "old").rename(tmp_path / "run")
    assert lock.is_held
    (tmp_path / "run" / "lock").rename(tmp_path / "run" / "other")
    assert not lock.is_held and lock.directory == tmp_path / "run"
    (tmp_path / "run" / "other").unlink()
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("a file")
    assert not lock.is_held and lock.directory is None
    lock.release()
    assert not lock.is_held


def forks(directory, ready):
    """Hold a directory, with a child by `os.fork` that outlives this process."""
    lock = locks.Lock(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that threads run, which the child does not need
        child = os.fork()
    if child == 0:
        ready.with_name("child").write_text(str(lock.is_held))
        time.sleep(60)
        os._exit(0)
    ready.write_text(str(child))
    time.sleep(60)


def test_a_child_that_python_forked_holds_nothing_when_its_parent_is_gone(tmp_path):
    process = start(None, forks, tmp_path / "run", tmp_path / "ready")
    said = [tmp_path / "ready", tmp_path / "child"]
    until(lambda: all(path.exists() and path.read_text() for path in said), process)
    child = int((tmp_path / "ready").read_text())
    try:
        with pytest.raises(locks.InUse, match=f"process {process.pid} on "):
            locks.Lock(tmp_path / "run")  # that its child has let go of it takes nothing from the parent
        process.kill()
        assert ended(process) == -signal.SIGKILL
        os.kill(child, 0)  # it is still there
        assert owner_of(tmp_path / "run") is None
        locks.Lock(tmp_path / "run").release()
        assert (tmp_path / "child").read_text() == "False"
    finally:
        os.kill(child, signal.SIGKILL)


def without_flock(number, function, *args):
    """Call a function in this process, whose kernel knows no `flock` any more, and say what it raises."""

    def rule(code, yes, no, value):
        return struct.pack("HBBI", code, yes, no, value)

    known = {"x86_64": 73, "aarch64": 32}[platform.machine()]
    program = rule(0x20, 0, 0, 0) + rule(
        0x15, 0, 1, known
    )  # load the call's number; if it is that of flock …
    program += rule(0x06, 0, 0, 0x00050000 | number) + rule(0x06, 0, 0, 0x7FFF0000)  # … the error, else go on
    text = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", 4, ctypes.addressof(text))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head, 0, 0) == 0
    try:
        function(*args)
    except ConfigError as error:
        return str(error)
    return None


def taken(path, variable=""):
    """Take a run's directory, and let go of it."""
    os.environ[locks.VARIABLE] = variable
    with RunDirectory(path) as run:
        run.check()
        run.write_about({"starts": []})
        assert owner_of(path).startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_an_error_that_names_locking_and_what_works(tmp_path, number):
    error = call(without_flock, number, taken, tmp_path / "a" / "run")
    assert "file system without locks" in error and os.strerror(number) in error
    assert "JAXTRAIN_LOCK=file" in error
    assert list(tmp_path.iterdir()) == []
    assert call(without_flock, number, taken, tmp_path / "a" / "run", "file") is None
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["run.json"]
    assert "JAXTRAIN_LOCK = 'none'" in call(without_flock, number, taken, tmp_path / "b", "none")


def test_an_exclusive_lock_keeps_both_kinds_out_and_stays_behind_a_killed_process(tmp_path):
    lock = locks.Lock(tmp_path, exclusive=True)
    for exclusive in (False, True):
        with pytest.raises(locks.InUse, match=f"process {os.getpid()} on .*delete {lock.path}"):
            locks.Lock(tmp_path, exclusive=exclusive)
    lock.close()  # as at a kill
    with pytest.raises(locks.InUse):
        locks.Lock(tmp_path, exclusive=True)
    lock.path.unlink()
    held = locks.Lock(tmp_path)
    with pytest.raises(locks.InUse, match=f"process {os.getpid()} on "):
        locks.Lock(tmp_path, exclusive=True)
    held.release()
    again = locks.Lock(tmp_path, exclusive=True)
    assert again.is_held
    again.release()
    assert not again.is_held and [path.name for path in tmp_path.iterdir()] == ["lock"]
