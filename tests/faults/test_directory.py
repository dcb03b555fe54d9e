"""The directory of a run: one that cannot be used is named before anything compiles; one process holds it.

In: read-only mounts, files in the way, processes started together, real kills. Out: errors, owners and
`run.json`. Knows nothing of what is in a checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import yaml
from jax import monitoring

import jaxtrain
from jaxtrain import ConfigError
from jaxtrain.config.schema import CheckpointConfig
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import manager
from jaxtrain.runs.launch import launch
from jaxtrain.runs.lock import owner_of
from jaxtrain.tools import cli
from tests.faults.processes import Drift, alive, arrays, ended, rows, run, start, until
from tests.helpers import tiny

ENV = "tests.helpers:Walk"
LOGGED = {"every": 8, "sinks": ["jsonlines"]}


def config_of(updates=4, **given):
    given = {"logging": LOGGED, "checkpoint": {"every": 0}} | given
    return tiny(updates, env=ENV, **({"algorithm": Drift()} | given))


@contextmanager
def nothing_compiles():
    """Fails if the body makes XLA compile anything beyond the constants that a config is read into."""
    compiled, on = [], [True]
    jaxtrain.Trainer(config_of()).timetable  # noqa: B018

    def listen(event, duration, **_):
        if on[0] and "backend_compile" in event:
            compiled.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        on[0] = False
    assert compiled == []


def test_the_watch_for_compilations_sees_one():
    with pytest.raises(AssertionError), nothing_compiles():
        jax.jit(lambda x: x * 3.25 + 1)(2.0)


@contextmanager
def mounted(place, *words):
    """A filesystem at `place` while it lasts; skips where this process may not mount."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)  # lazily: a test that failed may hold a file


def read_only(place):
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


# ---- directories that cannot be used


def test_a_read_only_directory_is_named_before_anything_compiles(tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        (disk / "empty").mkdir()
        read_only(disk)
        for place in (disk / "new", disk / "empty"):
            with nothing_compiles(), pytest.raises(ConfigError) as error:
                launch(config_of(), place, cache=False)
            assert f"directory {str(place)!r}" in str(error.value)
            assert "cannot be written (Read-only file system)" in str(error.value)


def test_a_run_on_a_disk_that_became_read_only_is_refused_and_still_whole(tmp_path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        launch(config_of(2), disk / "run", cache=False)
        before = arrays(disk / "run")
        read_only(disk)
        with nothing_compiles(), pytest.raises(ConfigError, match="Read-only file system"):
            launch(config_of(4), disk / "run", cache=False)
        assert arrays(disk / "run") == before
        assert cli.main(["verify", str(disk / "run")]) == 0  # what only reads goes on
        assert jaxtrain.load_policy(disk / "run", "last").env_steps == 16


@pytest.mark.parametrize("below", ["", "run", "a/b/run"])
def test_a_file_in_the_way_is_named_before_anything_compiles_and_stays(tmp_path, below):
    (tmp_path / "file").write_text("precious")
    with nothing_compiles(), pytest.raises(ConfigError, match=r"file.*cannot be written \("):
        launch(config_of(), tmp_path / "file" / below, cache=False)
    assert (tmp_path / "file").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "checkpoints", "lock"])
def test_something_else_under_the_name_of_a_part_is_named_before_anything_compiles(tmp_path, name):
    """A directory where a file belongs, or a file where a directory does."""
    place = tmp_path / "run"
    place.mkdir()
    (place / name).write_text("precious") if name == "checkpoints" else (place / name).mkdir()
    with nothing_compiles(), pytest.raises(ConfigError, match="run"):
        launch(config_of(), place, cache=False)
    assert sorted({path.name for path in place.iterdir()} - {"lock"}) == sorted({name} - {"lock"})


def test_missing_parents_are_made(tmp_path):
    ending = launch(config_of(2), tmp_path / "a" / "b" / "run", cache=False)
    assert ending.directory == tmp_path / "a" / "b" / "run"
    assert manager.found(ending.directory / "checkpoints").keys() == {0, 16}


def test_a_relative_directory_stays_where_it_was_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Mover:
        def open(self, info):
            os.chdir("/")

        def write(self, record): ...
        def flush(self): ...
        def close(self): ...

    ending = launch(config_of(2), "run", cache=False, more_sinks=[Mover()])
    assert ending.directory == tmp_path / "run" and len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("name", ["hidden_sizes=[64,64]", b"*?\n\xff".decode(errors="surrogateescape")])
def test_a_run_in_a_directory_of_any_name_saves_goes_on_and_is_read(tmp_path, name, capfd):
    """Of its parent too. The second name is no UTF-8."""
    file, place = tmp_path / "config.yaml", tmp_path / name / "run"
    file.write_text(jaxtrain.dump(config_of(2, logging={"every": 8, "sinks": ["jsonlines", "tensorboard"]})))
    assert cli.main(["train", str(file), "--out", str(place), "--no-cache"]) == 0
    assert cli.main(["resume", str(place), "--total-env-steps", "32", "--no-cache"]) == 0
    assert cli.main(["verify", str(place)]) == 0
    assert manager.found(place / "checkpoints").keys() == {16, 32}
    assert jaxtrain.load(place, "last").env_steps == 32 and len(rows(place)) == 4
    assert "Traceback" not in capfd.readouterr().err


def test_a_name_that_orbax_misreads_is_refused_before_anything_compiles_where_no_link_can_be_made(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[temporary]"))
    (tmp_path / "[temporary]").mkdir()
    with nothing_compiles(), pytest.raises(ConfigError, match=r"directory .*cannot be written .*set TMPDIR"):
        launch(config_of(2), tmp_path / "[64,64]", cache=False)
    assert [path.name for path in tmp_path.iterdir()] == ["[temporary]"]


@pytest.mark.parametrize("stuck", [".", "arrays"])
def test_a_checkpoint_that_cannot_be_deleted_is_named_once_tried_again_and_ends_no_run(
    tmp_path, caplog, stuck
):
    """A mount point is EBUSY to `rename`, and below a directory to `rmdir`, as a file in use is on NFS."""
    checkpoints = manager.CheckpointManager(tmp_path, CheckpointConfig(keep_last=1), None, {})

    def save(env_steps):
        said = {"env_steps": env_steps, "best": None}
        arrays = {"state.agent": np.arange(3.0)}
        checkpoints.submit(manager.PendingSave(env_steps, lambda: arrays, dict, lambda arrays: said, None))
        checkpoints.wait()

    save(8)
    place, part = manager.place(checkpoints.directory, 8), checkpoints.directory / ".part-8"
    with mounted(place / stuck, *(["--bind", str(place)] if stuck == "." else ["-t", "tmpfs", "tmpfs"])):
        for env_steps in (16, 24, 32):
            save(env_steps)
        (said,) = [line for line in caplog.messages if "cannot be deleted" in line]
        assert str(checkpoints.directory) in said and "Device or resource busy" in said
        assert {8, 32} >= manager.found(checkpoints.directory).keys() >= {32}
        if stuck == "arrays":  # its directory had another name by then, and the mount with it
            part.rename(place)
    if stuck == "arrays":
        place.rename(part)
    save(40)
    assert [path.name for path in checkpoints.directory.iterdir()] == [manager.place(place, 40).name]
    checkpoints.close()


# ---- one process at a time


def together(directory, at, output):
    """Two processes that call `launch` at the same moment."""

    def begin():
        return start(output, held_until, config_of(200), directory, at)

    return begin(), begin()


def held_until(config, directory, at):
    """`launch` at an instant of the clock; prints how it ended."""
    from jaxtrain.runs.launch import launch

    time.sleep(max(0.0, at - time.time()))
    try:
        launch(config, directory, cache=False)
        print(f"{os.getpid()} ran")
    except ConfigError as error:
        print(f"{os.getpid()} refused {error}")


@pytest.mark.parametrize("trials", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_of_two_processes_started_together_one_runs_and_the_other_names_it(tmp_path, trials):
    passed, wrong = 0, []
    for trial in range(trials):
        directory, output = tmp_path / f"{trial}" / "run", tmp_path / f"{trial}.txt"
        processes = together(directory, time.time() + 0.3, output)
        pids = {process.pid for process in processes}
        assert [ended(process) for process in processes] == [0, 0], output.read_text()
        lines = output.read_text().splitlines()
        ran = [int(line.split()[0]) for line in lines if line.endswith(" ran")]
        refused = [line for line in lines if " refused " in line]
        ok = len(ran) == len(refused) == 1 and pids == {*ran, int(refused[0].split()[0])}
        ok = ok and f"is in use by process {ran[0]} on {platform.node()}" in refused[0]
        ok = ok and [row["update"] for row in rows(directory)] == list(range(1, 201))
        passed += ok
        if not ok:
            wrong.append((trial, pids, lines))
        shutil.rmtree(directory)
    print(f"\n{passed}/{trials} times exactly one ran and the other named it")
    assert not wrong, wrong[:3]


def test_the_owner_is_named_while_it_runs_and_its_lock_is_free_after_kill_9(tmp_path):
    directory = tmp_path / "run"
    config = config_of(20_000, checkpoint={"every": 8, "keep_last": 2})
    process = start(tmp_path / "output", run, config, directory)
    until(lambda: len(manager.found(directory / "checkpoints")) > 1, process)
    assert alive(process), (tmp_path / "output").read_text()
    pid = process.pid
    with nothing_compiles(), pytest.raises(ConfigError, match=f"is in use by process {pid} on "):
        launch(config, directory, cache=False)
    assert owner_of(directory).startswith(f"process {pid} on ")
    os.kill(pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
    assert f"process {pid}" in (directory / "lock").read_text()  # stale, and nobody minds
    assert owner_of(directory) is None
    with rundir.RunDirectory(directory):
        assert owner_of(directory).startswith(f"process {os.getpid()} on ")
    assert owner_of(directory) is None


@pytest.mark.parametrize("text", ["precious", '{"update": 0, "mine": 1}\n', "one\ntwo\n"])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "lock"])
def test_a_file_that_has_the_name_of_a_runs_and_is_no_runs_is_refused_and_left_as_it_is(tmp_path, name, text):
    mine = tmp_path / "run" / name
    mine.parent.mkdir()
    mine.write_text(text)
    before = mine.stat()
    with nothing_compiles(), pytest.raises(ConfigError, match=r"holds a \w|its log goes on"):
        launch(config_of(4), tmp_path / "run")
    assert mine.read_text() == text and mine.stat().st_mtime_ns == before.st_mtime_ns
    if name == "lock":
        assert list(mine.parent.iterdir()) == [mine]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "autotune"])
def test_a_directory_that_has_what_a_run_would_write_to_is_refused_and_left_as_it_is(tmp_path, name):
    mine = tmp_path / "run" / name / "events.out.tfevents.1.mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    (tmp_path / "run" / "slurm-1.out").write_text("what a scheduler writes is in nobody's way")
    (tmp_path / "run" / ".part-two").mkdir()  # looks like what a killed run leaves
    with pytest.raises(ConfigError, match=f"holds {name}/, which is no run's"):
        launch(config_of(4), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"slurm-1.out", ".part-two", name}
    assert mine.read_text() == "precious"
    shutil.rmtree(mine.parent)
    assert launch(config_of(4), tmp_path / "run").signal is None
    assert (tmp_path / "run" / ".part-two").is_dir()


# ---- what a run says of itself


def test_run_json_has_the_seed_the_commit_versions_flags_device_and_how_each_start_ended(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    repository = tmp_path / "code"
    repository.mkdir()
    monkeypatch.chdir(repository)
    directory = tmp_path / "run"
    launch(config_of(2), directory, seed=3, num_seeds=2, cache=False)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    launch(config_of(4), directory, cache=False)
    (repository / "new.py").write_text("")
    with jax.threefry_partitionable(False):
        launch(config_of(6), directory, cache=False)
    (said,) = (text for text in caplog.messages if "its bits may be others" in text)
    assert said.endswith(": jax_threefry_partitionable was True, is False")
    about = json.loads((directory / "run.json").read_text())
    assert (about["seed"], about["num_seeds"]) == (3, 2)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    clean, dirty = {"commit": commit, "dirty": False}, {"commit": commit, "dirty": True}
    assert [begun["git"] for begun in about["starts"]] == [None, clean, dirty]
    assert [begun["resumed_at"] for begun in about["starts"]] == [None, 16, 32]
    for begun in about["starts"]:
        assert begun["exit"] == "finished" and begun["started"] <= begun["ended"]
        assert begun["pid"] == os.getpid() and begun["host"] == platform.node()
        assert begun["versions"] == {
            "jaxtrain": jaxtrain.__version__,
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "python": platform.python_version(),
        }
        assert begun["flags"].items() >= {
            ("XLA_FLAGS", "--xla_backend_optimization_level=0"),
            ("CUDA_VISIBLE_DEVICES", ""),
        }
        device = jax.devices()[0]
        assert begun["device"] == {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
        }
    assert yaml.safe_load((directory / "config.yaml").read_text())["total_env_steps"] == 48
