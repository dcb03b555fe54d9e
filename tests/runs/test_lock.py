"""Who holds a directory: one process, and nobody once it is gone."""

from __future__ import annotations

import os
import signal
import time
import warnings

import pytest

from jaxtrain.runs import lock as locks
from jaxtrain.runs.lock import owner_of
from tests.faults.processes import ended, start, until


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
