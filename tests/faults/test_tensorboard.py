"""TensorBoard files of a run that is killed and resumed, and of a disk that goes wrong, by its own reader.

In: SIGKILL at some record, files cut back or not, a directory that vanishes, a file that blocks. Out: the
points of a run that nothing happened to; a broken sink is named once and costs nobody else a row.
Knows nothing of checkpoints: what the launcher does before `open` is done here by hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxtrain import train
from jaxtrain.loop import callback
from jaxtrain.sinks import JsonLines, Memory, TensorBoard
from jaxtrain.types import Record, RunInfo
from tests.helpers import tiny

RECORDS, PER = 24, 2**32 - 1  # env steps an update: more than a float32 or an int32 counts

# Go on with a run: open, write until `commit`, flush, say how long the files are, write until killed.
CHILD = """if True:
    import json, sys, time
    from tests.faults.test_tensorboard import TensorBoard, info, record
    where, seeds, num_seeds, begin, commit = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    board = TensorBoard(where, seeds=seeds)
    board.open(info(num_seeds, begin))
    for index in range(begin, commit):
        board.write(record(index, num_seeds))
    board.flush()
    print(json.dumps([[str(file), file.stat().st_size] for file in board.files()]), flush=True)
    for index in range(commit, commit + 6):
        board.write(record(index, num_seeds))
        if index % 2:
            board.flush()
        print(index, flush=True)
    time.sleep(600)
"""


def record(index: int, num_seeds: int) -> Record:
    """Two records an update, as metrics and an evaluation are; what holds them depends on nothing else."""
    update = 1 + index // 2
    value = np.float32([np.sin(index + seed) for seed in range(num_seeds)])
    clocks = {"unix_seconds": 1.7e9 + index}
    return Record(("metrics", "evaluation")[index % 2], update, update * PER, {"x": value}, clocks, index)


def info(num_seeds: int, begin: int) -> RunInfo:
    return RunInfo("probe", RECORDS * PER, PER, num_seeds, {}, "id", begin // 2 * PER if begin else None)


def reader(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()


def points(found: Any) -> dict[str, list[tuple[int, float, float]]]:
    return {
        tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def places(directory: Path, seeds: str, num_seeds: int) -> list[Path]:
    return [directory / f"seed_{i:04d}" for i in range(num_seeds)] if seeds == "separate" else [directory]


def run_and_kill(where: Path, seeds: str, num_seeds: int, begin: int, commit: int, written: int) -> Any:
    """Real SIGKILL once `written` records after the commit are said to be written; the lengths it had."""
    given = [str(where), seeds, *map(str, (num_seeds, begin, commit))]
    with subprocess.Popen([sys.executable, "-c", CHILD, *given], stdout=subprocess.PIPE, text=True) as child:
        lengths = json.loads(child.stdout.readline())
        for _ in range(written):
            child.stdout.readline()
        child.kill()
    assert child.returncode == -9
    return lengths


@pytest.mark.slow
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(("seeds", "num_seeds"), [("aggregate", 3), ("separate", 2)])
def test_a_run_killed_three_times_has_the_points_of_an_unbroken_one(tmp_path, seeds, num_seeds, cut):
    with TensorBoard(tmp_path / "whole", seeds=seeds) as board:
        board.open(info(num_seeds, 0))
        for index in range(RECORDS):
            board.write(record(index, num_seeds))
    want = [points(reader(place)) for place in places(tmp_path / "whole", seeds, num_seeds)]
    broken, begin, live = tmp_path / "broken", 0, []
    for commit, written in ((6, 5), (8, 0), (16, 3)):
        lengths = run_and_kill(broken, seeds, num_seeds, begin, commit, written)
        begin = commit
        if not live:  # as of a TensorBoard that watches from here on
            live = [reader(place) for place in places(broken, seeds, num_seeds)]
        for found in live:
            found.Reload()
        if cut:
            for name, length in lengths:
                os.truncate(name, length)
    with TensorBoard(broken, seeds=seeds) as board:
        board.open(info(num_seeds, begin))
        for index in range(begin, RECORDS):
            board.write(record(index, num_seeds))
    assert len(want[0]["x" if seeds == "separate" else "x/mean"]) == RECORDS // 2
    assert [points(reader(place)) for place in places(broken, seeds, num_seeds)] == want
    assert [points(found.Reload()) for found in live] == want


def test_files_are_those_of_every_process_and_after_a_flush_their_length_is_final(tmp_path):
    lengths: list[dict[Path, int]] = []
    board = TensorBoard(tmp_path)
    for begin in (0, 4, 8):
        board.open(info(1, begin))
        for index in range(begin, begin + 4):
            board.write(record(index, 1))
        board.flush()
        lengths.append({file: file.stat().st_size for file in board.files()})
        board.close()
        assert {file: file.stat().st_size for file in board.files()} == lengths[-1]
        assert set(lengths[-1]) == set(tmp_path.iterdir())
    for before, after in pairwise(lengths):
        assert before.items() < after.items()


def test_a_process_whose_clock_is_behind_is_still_read_last(tmp_path, monkeypatch):
    names = []
    for begin, clock in ((0, 2e18), (4, 1e18), (8, 1e18)):
        monkeypatch.setattr("time.time_ns", lambda clock=clock: int(clock))
        with TensorBoard(tmp_path) as board:
            board.open(info(1, begin))
            for index in range(begin, begin + 6):
                board.write(record(index, 1))
            names.append(sorted(set(board.files()) - set(names))[0])
    assert names == sorted(tmp_path.iterdir())
    assert [step for step, *_ in points(reader(tmp_path))["x"]] == [PER * n for n in range(1, 8)]


class Vanishing(TensorBoard):
    """Its directory is deleted after the third record, or replaced by a file."""

    replaced = False
    written = 0

    def write(self, record: Record) -> None:
        super().write(record)
        self.written += 1
        if self.written == 3:
            shutil.rmtree(self.directory)
            if self.replaced:
                self.directory.write_text("")


class Blocking(TensorBoard):
    """Its event file becomes a pipe that is full and that nobody reads."""

    def open(self, run: RunInfo) -> None:
        super().open(run)
        self.read, write = os.pipe()
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
        (_, writer), *_ = self._writers
        self.file = writer._py_recordio_writer._writer
        os.dup2(write, self.file.fileno())
        os.close(write)

    def free(self) -> None:
        """Let the thread go that hangs in `flush`."""
        os.close(self.read)


def trained_beside(board: TensorBoard, tmp_path: Path, caplog: Any) -> str:
    """A real run: every other sink has every row, one error, one warning; the warning."""
    log, memory = JsonLines(tmp_path / "metrics.jsonl"), Memory()
    config = tiny(12, logging={"every": 8}, evaluation={"every": 16, "num_episodes": 2})
    with pytest.warns(RuntimeWarning) as caught:
        result = train(config, jax.random.key(0), sinks=[board, log, memory])
    assert int(result.state.clock) == 12
    lines = [json.loads(line)["update"] for line in log.path.read_text().splitlines()]
    assert lines == [r.update for r in memory.records]
    assert {r.update for r in memory.records if r.name == "metrics"} == {*range(1, 13)}
    (warning,) = caught
    (error,) = caplog.records
    assert error.levelname == "ERROR"
    return str(warning.message)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_that_vanishes_is_named_once_and_costs_nobody_else_a_row(tmp_path, caplog, replaced):
    board = Vanishing(tmp_path / "tb")
    board.replaced = replaced
    message = trained_beside(board, tmp_path, caplog)
    reason = "NotADirectoryError: .Errno 20" if replaced else "FileNotFoundError: .Errno 2"
    assert re.search(rf"sink Vanishing failed with {reason}.*{tmp_path}/tb/events", message)
    board.close()


def test_a_path_that_is_a_pipe_is_named_once_and_costs_nobody_else_a_row(tmp_path, caplog):
    os.mkfifo(tmp_path / "tb")
    message = trained_beside(TensorBoard(tmp_path / "tb"), tmp_path, caplog)
    assert f"sink TensorBoard failed with FileExistsError: [Errno 17] File exists: '{tmp_path}/tb'" in message


def test_a_file_that_blocks_is_named_once_and_costs_nobody_else_a_row(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(callback.Dispatcher.__init__.__kwdefaults__, "deadline_seconds", 1.0)
    board = Blocking(tmp_path / "tb")
    message = trained_beside(board, tmp_path, caplog)
    assert "sink Blocking was not done 1 s after the program was" in message
    board.free()
    with pytest.raises(OSError, match=r"Broken pipe|Invalid argument"):
        board.close()
    with suppress(OSError):
        board.file.close()
