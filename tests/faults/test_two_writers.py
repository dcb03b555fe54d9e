"""A run whose directory is taken from under it ends and says so; another run that is there is left alone.

In: a real run in a process of its own, whose directory or lock is moved or deleted. Out: its error, and what
is in both directories. Knows nothing of processes that are started together: see `test_directory.py`.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

import pytest

from jaxtrain.runs import manager
from jaxtrain.runs.directory import DirectoryLost, RunDirectory
from jaxtrain.runs.launch import launch
from tests.faults.processes import Drift, alive, arrays, ended, left_over, rows, run, start, until
from tests.helpers import tiny


def config_of(updates):
    """A log line and a checkpoint at each update."""
    logging = {"every": 8, "sinks": ["jsonlines", "tensorboard"]}
    return tiny(
        updates,
        env="tests.helpers:Walk",
        algorithm=Drift(),
        logging=logging,
        checkpoint={"every": 8, "keep_last": 2},
    )


def move(directory):
    directory.rename(directory.with_name("old"))


def delete(directory):
    for _ in range(1000):  # the run may be making a file meanwhile
        if not directory.exists():
            return
        with suppress(OSError):
            shutil.rmtree(directory)


def delete_the_lock(directory):
    (directory / "lock").unlink()


def replace_the_lock(directory):
    (directory / "new").write_text("")
    (directory / "new").rename(directory / "lock")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """What a run leaves that is alone in its directory."""
    directory = tmp_path_factory.mktemp("second") / "run"
    launch(config_of(4), directory, seed=5, cache=False)
    return arrays(directory), rows(directory)


SAID = {
    move: "it was moved; what the run had saved is in '{old}'",
    delete: "was deleted",  # the lock first, or all of it
    delete_the_lock: "its lock was deleted or replaced; what the run had saved is in it",
    replace_the_lock: "its lock was deleted or replaced; what the run had saved is in it",
}


@pytest.mark.parametrize("taken", SAID, ids=lambda f: f.__name__)
def test_a_run_whose_directory_is_taken_ends_and_says_where_what_it_had_is(tmp_path, second, taken):
    directory, old, output = tmp_path / "run", tmp_path / "old", tmp_path / "output"
    process = start(output, run, config_of(50_000), directory, seed=3)
    until(lambda: len(manager.found(directory / "checkpoints")) > 1, process)
    assert alive(process), output.read_text()
    taken(directory)
    if taken in (move, delete):  # where the run is no more, another begins
        launch(config_of(4), directory, seed=5, cache=False)
    assert ended(process) == 1
    error = output.read_text().strip().splitlines()[-1]
    assert f"DirectoryLost: directory '{directory}' is no longer this run's: " in error
    assert SAID[taken].format(old=old) in error
    if taken in (move, delete):
        assert (arrays(directory), rows(directory)) == second and left_over(directory) == []
    if taken is not delete:
        place = old if taken is move else directory
        assert manager.newest_good(place / "checkpoints")[2] == {}
        updates = [row["update"] for row in rows(place)]
        assert updates == list(range(1, len(updates) + 1)) and updates


def test_nothing_is_made_where_a_directory_was(tmp_path):
    with RunDirectory(tmp_path / "run") as held:
        held.write_about({"starts": []})
        checkpoints = manager.CheckpointManager(held.path, config_of(4).checkpoint, None, {}, held.check)
        (tmp_path / "run").rename(tmp_path / "old")
        checkpoints.submit(manager.PendingSave(8, dict, dict, lambda arrays: {"best": None}, None))
        with pytest.raises(DirectoryLost, match=f"it was moved; .* '{tmp_path / 'old'}'"):
            checkpoints.wait()
        with pytest.raises(DirectoryLost):
            held.describe("env: {}")
        checkpoints.close()
        with (
            RunDirectory(tmp_path / "run") as other,
            pytest.raises(DirectoryLost, match=r"process .* holds it"),
        ):
            assert other.path == held.path
            held.write_about({"starts": []})
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_refused_start_takes_no_lock_away_that_is_no_longer_its_own(tmp_path):
    with pytest.raises(KeyError), RunDirectory(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "old")
        RunDirectory(tmp_path / "run").release()
        raise KeyError
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
