"""The host side of a run: clocks and counts."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from jaxtrain.sinks import Memory, dispatch, worker
from jaxtrain.sinks.dispatch import Dispatcher
from jaxtrain.types import RunInfo

INFO = RunInfo("probe", total_env_steps=96, env_steps_per_update=8, num_seeds=1)


def test_speed_is_env_steps_of_all_seeds_over_training_time_alone(monkeypatch):
    # Times are set, so that what is divided by what is exact.
    now = [0.0]
    monkeypatch.setattr(dispatch.time, "perf_counter", lambda: now[0])
    memory = Memory()
    door = Dispatcher([memory], INFO)

    def at(seconds: float, act: Any, *args: Any, **static: Any) -> None:
        now[0] = seconds
        act(door, *args, **static)

    record = partial(Dispatcher.on_record, seeds=True)
    at(100, Dispatcher.on_start, 0, num_seeds=4)
    at(101, record, 0, {}, name="evaluation")  # before the first update
    at(103, record, 10, {}, name="metrics")  # 10 updates in 2 s
    at(150, record, 10, {}, name="evaluation")  # 47 s of evaluation
    at(154, record, 30, {}, name="metrics")  # 20 updates in 4 s
    at(190, record, 40, {}, name="evaluation")  # evaluated and trained for: no telling
    at(190, record, 40, {}, name="metrics")
    door.wait()
    at(500, Dispatcher.on_start, 40, num_seeds=4)  # the next chunk, much later
    at(501, record, 50, {}, name="metrics")
    door.finish()
    speeds = [r.time.get("env_steps_per_second") for r in memory.records]
    assert speeds == [None, 160.0, 160.0, 160.0, 160.0, 160.0, 320.0]
    assert [r.time["elapsed_seconds"] for r in memory.records] == [1, 3, 50, 54, 90, 90, 401]


def test_records_and_time_go_on_from_those_of_earlier_starts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(dispatch.time, "perf_counter", lambda: now[0])
    memory = Memory()
    door = Dispatcher([memory], INFO, records=5, elapsed_seconds=1000.0)
    assert (door.records, door.elapsed_seconds) == (5, 1000.0)  # of a checkpoint before the first update
    door.on_start(40, num_seeds=1)
    for seconds, update in ((103.0, 50), (107.0, 60)):
        now[0] = seconds
        door.on_record(update, {}, name="metrics", seeds=False)
    assert (door.records, door.elapsed_seconds) == (7, 1007.0)
    door.finish()
    assert [(r.index, r.time["elapsed_seconds"]) for r in memory.records] == [(5, 1003.0), (6, 1007.0)]


class Slow(Memory):
    """Takes its time for a file until it is let go."""

    path = "log"

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def write(self, record):
        assert self.go.wait(60)
        super().write(record)

    def files(self):
        return []


@pytest.mark.parametrize("full", [False, True], ids=["at a checkpoint", "as its queue is full"])
def test_a_sink_that_the_run_needs_is_waited_for_and_loses_nothing(caplog, monkeypatch, full):
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.05)
    slow, other = Slow(), Slow()
    sinks = [slow, other]
    door = Dispatcher(sinks, INFO, needed=slow, capacity=2 if full else 99, deadline_seconds=0.05)
    door.on_start(0, num_seeds=1)
    letting_go = threading.Timer(0.5, slow.go.set)
    letting_go.start()
    for update in range(1, 9):
        door.on_record(update, {}, name="metrics", seeds=False)
    door.mark()()
    assert len(slow.records) == 8 and door.error_of(slow) is None
    assert door.failed == [other]
    assert len([line for line in caplog.messages if "sink Slow" in line and "waits" in line]) == 1
    letting_go.join()
    other.go.set()
    with pytest.warns(RuntimeWarning, match="sink Slow"):
        door.finish()


def test_a_sink_that_the_run_needs_and_that_hangs_for_good_is_an_error_that_names_its_file(monkeypatch):
    monkeypatch.setattr(worker, "NEEDED_SECONDS", 0.05)
    slow = Slow()
    door = Dispatcher([slow], INFO, needed=slow, deadline_seconds=0.05)
    door.on_start(0, num_seeds=1)
    door.on_record(1, {}, name="metrics", seeds=False)
    door.mark()()
    error = door.error_of(slow)
    assert isinstance(error, TimeoutError) and error.filename == "log"
    assert "not done 0.05 s after a checkpoint was due, and 0.05 s later" in str(error)
    slow.go.set()
    with pytest.warns(RuntimeWarning, match="sink Slow"):
        door.finish()


class Spoiling(Memory):
    """Changes whatever of a record can be changed."""

    refused = 0

    def write(self, record):
        for value in record.values.values():
            try:
                value += 1
            except ValueError:
                self.refused += 1
        record.values.clear()
        record.time.clear()
        super().write(record)


@pytest.mark.parametrize("seeds", [True, False])
def test_a_sink_that_changes_its_record_changes_no_other_sinks(seeds):
    spoiling, memory = Spoiling(), Memory()
    dispatcher = Dispatcher([spoiling, memory], INFO)
    given = np.arange(2.0) if seeds else np.float64(1.0)
    dispatcher.on_start(0, num_seeds=2 if seeds else 1)
    dispatcher.on_record(1, {"loss": given}, name="metrics", seeds=seeds)
    given += 5  # as the program may do with its memory
    assert dispatcher.finish() == [] and spoiling.refused == 1
    (record,) = memory.records
    np.testing.assert_array_equal(record.values["loss"], np.arange(2.0) if seeds else [1.0])
    assert record.time and record.index == spoiling.records[0].index == 0
