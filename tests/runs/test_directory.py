"""Who holds a directory, and what it says of itself. Runs and kills are in `tests/faults/`."""

from __future__ import annotations

import os
import time

import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import directory as rundir
from tests.faults.processes import ended, start


def test_a_lock_that_was_taken_away_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    """A process that was refused takes its lock with it, while another may have opened that file."""
    flock, asked = rundir.fcntl.flock, []

    def too_late(file, how):
        if not asked:
            (tmp_path / "lock").unlink()
        asked.append(how)
        flock(file, how)

    monkeypatch.setattr(rundir.fcntl, "flock", too_late)
    with rundir.RunDirectory(tmp_path):
        assert len(asked) == 2
        assert rundir.owner_of(tmp_path).startswith(f"process {os.getpid()} on ")


def test_a_directory_that_goes_while_a_run_waits_for_it_is_made_again(tmp_path, monkeypatch):
    """A refused process takes with it what it made; this one is between making it and locking it."""
    acquire = rundir.RunDirectory._acquire

    def too_late(directory):
        directory.path.rmdir()
        acquire(directory)

    monkeypatch.setattr(rundir.RunDirectory, "_acquire", too_late)
    with rundir.RunDirectory(tmp_path / "run"):
        assert rundir.owner_of(tmp_path / "run").startswith(f"process {os.getpid()} on ")


def probing(directory, until):
    """Ask again and again who holds a directory."""
    while time.time() < until:
        rundir.owner_of(directory)


def test_a_look_at_who_holds_a_directory_keeps_nobody_out(tmp_path):
    """`jaxtrain runs` in a loop, as a user watches it, while runs begin."""
    directory = tmp_path / "run"
    with rundir.RunDirectory(directory):
        pass
    begun = time.time()
    processes = [start(None, probing, directory, begun + 2.5) for _ in range(2)]
    tried, refused = 0, []
    time.sleep(0.5)
    while time.time() < begun + 2.0:
        tried += 1
        try:
            rundir.RunDirectory(directory).release()
        except ConfigError as error:
            refused.append(str(error))
    for process in processes:
        assert ended(process) == 0
    print(f"\n{tried - len(refused)}/{tried} starts while two processes looked")
    assert not refused, refused[:1]


def test_what_a_run_says_of_itself_is_read_back_and_what_says_nothing_is_named(tmp_path):
    with rundir.RunDirectory(tmp_path / "run") as run:
        run.write_about({"seed": 3, "starts": []})
        run.describe("env: {}\n")
    assert rundir.read_about(tmp_path / "run") == {"seed": 3, "starts": []}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "config.yaml",
        "README.md",
        "lock",
    }
    with pytest.raises(ConfigError, match="holds no run: there is no such directory"):
        rundir.read_about(tmp_path / "nowhere")
    for text, words in (
        ("{", "is not that of a run"),
        ("[]", "has no starts"),
        ('{"starts": 1}', "no starts"),
    ):
        (tmp_path / "run" / "run.json").write_text(text)
        with pytest.raises(ConfigError, match=words):
            rundir.read_about(tmp_path / "run")


@pytest.mark.parametrize("error", [ConfigError([]), TypeError(), OSError(), KeyboardInterrupt()])
def test_what_failed_before_its_first_write_leaves_nothing(error, tmp_path):
    with pytest.raises(type(error)), rundir.RunDirectory(tmp_path / "a" / "b"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_failed_after_its_first_write_leaves_that(tmp_path):
    with pytest.raises(TypeError), rundir.RunDirectory(tmp_path / "a") as run:
        (run.path / "run.json").write_text("{}")
        raise TypeError
    assert (tmp_path / "a" / "run.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["..", "../other", "link", "link/x", "/etc"])
def test_a_name_that_leads_out_of_a_directory_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of it"):
        rundir.inside(tmp_path / "run", name)
    assert rundir.inside(tmp_path / "run", "a/../b") == tmp_path / "run" / "a" / ".." / "b"


def test_a_start_says_the_flags_and_no_secret(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--some")
    monkeypatch.setenv("JAX_API_KEY", "5ec2e7")
    about = rundir.this_start(8, {"jax": "1"}, {"kind": "cpu"})
    assert about["flags"]["XLA_FLAGS"] == "--some" and "5ec2e7" not in str(about)
    assert (about["pid"], about["resumed_at"], about["exit"]) == (os.getpid(), 8, None)
