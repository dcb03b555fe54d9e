"""A run after a power cut: whatever POSIX does not promise to be there is gone, and the run goes on.

In: a real run in a process of its own, in which each `fsync` is noted with what it brought to disk. Out: for
each of these instants a directory with what a machine would find that lost its power then. Knows nothing of
kills, after which all that was written is there.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jaxtrain import Config
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.directory import RunDirectory, read_about
from jaxtrain.runs.launch import launch
from jaxtrain.runs.resume import rewind
from tests.faults.processes import Drift, arrays, call, rows
from tests.helpers import tiny


def config_of(updates, *sinks):
    """A log line and a checkpoint at each update."""
    logging, settings = {"every": 8, "sinks": list(sinks)}, {"every": 8, "keep_last": 2}
    return tiny(updates, env="tests.helpers:Walk", algorithm=Drift(), logging=logging, checkpoint=settings)


CONFIG = config_of(3, "jsonlines", "tensorboard")


@dataclass
class Disk:
    """What is on disk of a tree, by inode, and the instants at which that changed.

    Promised is a file's content as of its last `fsync`, and a directory's names as of its own.
    """

    root: Path
    files: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    kinds: dict[int, bool] = field(default_factory=dict)  # whether it is a directory
    # Of each instant: all that is promised, what directories had by then, and the newest checkpoint.
    instants: list[tuple[dict[int, bytes], dict[int, Any], dict[int, Any], int]] = field(default_factory=list)
    saved: int = -1  # env steps of the newest checkpoint that `save` has returned of
    held: list[int] = field(default_factory=list)  # all of it, open: an inode in use is given to nothing else

    def seen(self, path: Path) -> dict[str, int]:
        """The names in a directory, as a process sees them."""
        found: dict[str, int] = {}
        for entry in os.scandir(path):
            inode = entry.inode()
            if inode not in self.kinds:
                self.held.append(os.open(entry, os.O_PATH | os.O_NOFOLLOW))
                self.kinds[inode] = entry.is_dir()
            found[entry.name] = inode
        return found

    def synced(self, file: int) -> None:
        """Note that a file or a directory is on disk."""
        about, path = os.fstat(file), Path(os.readlink(f"/proc/self/fd/{file}"))
        if not path.is_relative_to(self.root):
            return
        if stat.S_ISDIR(about.st_mode):
            self.names[about.st_ino] = self.seen(path)
        else:
            self.files[about.st_ino] = path.read_bytes()
        now = {path.stat().st_ino: self.seen(path) for path in (self.root, *dirs(self.root))}
        self.instants.append((dict(self.files), dict(self.names), now, self.saved))

    def after_a_loss(self, instant: int, place: Path, *, all_names: bool) -> int:
        """Build what is there after a loss of power at an instant; the newest checkpoint that was promised.

        Args:
          all_names: names may have come to disk before anybody asked for it, and contents not.
        """
        files, promised, seen, saved = self.instants[instant]
        names = seen if all_names else promised

        def build(inode: int, path: Path) -> None:
            path.mkdir()
            for name, child in names.get(inode, {}).items():
                if self.kinds[child]:
                    build(child, path / name)
                else:
                    (path / name).write_bytes(files.get(child, b""))

        build(self.root.stat().st_ino, place)
        return saved


def dirs(root: Path) -> list[Path]:
    return [Path(at) / name for at, below, _ in os.walk(root) for name in below]


def recorded(root: Path, config: Config) -> Disk:
    """Run in a directory below `root`, and note each `fsync`."""
    disk, fsync, save = Disk(root), os.fsync, checkpoint.save

    def noting(file: int) -> None:
        fsync(file)
        disk.synced(file)

    def saying(place: Path, *given: Any, **named: Any) -> dict[str, Any]:
        manifest = save(place, *given, **named)
        disk.saved = manifest["env_steps"]
        return manifest

    os.fsync, checkpoint.save = noting, saying
    launch(config, root / "a" / "run", seed=3, cache=False)
    disk.held.clear()
    return disk


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    root = tmp_path_factory.mktemp("disk") / "root"
    root.mkdir()
    return call(recorded, root, CONFIG)


def wrong_after(lost: Disk, place: Path, *, all_names: bool) -> list[Any]:
    """What is not as it was said at each `fsync`: between two of them nothing comes to be promised."""
    wrong, begun = list[Any](), 0
    for instant in range(len(lost.instants)):
        promised = lost.after_a_loss(instant, place, all_names=all_names)
        run = place / "a" / "run"
        try:
            with RunDirectory(run) as held:  # it can be written to, whatever is left of it
                about = read_about(run) if held.holds_run else {}
                said = [checkpoint.verify(path) for path in manager.found(run / "checkpoints").values()]
                newest = max((manifest["env_steps"] for manifest in said), default=-1)
                missing = rewind(run, said[-1]["logs"]) if said else []
            if newest < promised or missing or (said and not about["starts"]):
                wrong.append((instant, promised, newest, missing))
            begun += newest >= 0
        except Exception as error:
            wrong.append((instant, promised, repr(error)))
        shutil.rmtree(place)
    print(f"\n{len(lost.instants)} losses of power, {begun} after the first checkpoint, {len(wrong)} wrong")
    assert begun > 20 and lost.instants[-1][-1] > 0
    return wrong


@pytest.mark.parametrize("all_names", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_said_that_it_was_saved_is_there_after_a_loss_of_power(tmp_path, lost, all_names):
    assert wrong_after(lost, tmp_path / "left", all_names=all_names) == []


def test_a_run_without_logs_is_there_after_a_loss_of_power(tmp_path):
    (tmp_path / "root").mkdir()
    lost = call(recorded, tmp_path / "root", config_of(1))
    assert wrong_after(lost, tmp_path / "left", all_names=False) == []


def test_a_run_that_lost_its_power_ends_as_one_that_did_not(tmp_path, lost):
    last = next(i for i, (*_, saved) in enumerate(lost.instants) if saved >= 16)
    assert lost.after_a_loss(last, tmp_path / "left", all_names=False) == 16
    ending = launch(CONFIG, tmp_path / "left" / "a" / "run", cache=False)
    assert ending.resumed_at == 16
    whole = lost.root / "a" / "run"
    assert (arrays(ending.directory), rows(ending.directory)) == (arrays(whole), rows(whole))
    assert manager.found(ending.directory / "checkpoints").keys() == {16, 24}
