"""A run of very many records: what it holds of the machine stays what it was at the start.

In: the real loop with one record an update, chunk after chunk, into real sinks. Out: memory, file
descriptors, threads and temporary files along the way.
Knows nothing of how fast that is.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import Event, Trainer, every
from jaxtrain.loop import callback
from jaxtrain.loop.train import emitter, run_info
from jaxtrain.sinks import Console, JsonLines, TensorBoard
from jaxtrain.sinks.base import Closing
from jaxtrain.types import Record, RunInfo
from tests.helpers import Reinforce, tiny

CHUNK = 1000  # records between two waits; fewer than a queue takes, so none is full


class Count(Closing):
    """How many records came, and whether each came after the one before it."""

    def __init__(self) -> None:
        self.records, self.last, self.in_order = 0, 0, True

    def open(self, run: RunInfo) -> None: ...

    def write(self, record: Record) -> None:
        self.records += 1
        self.in_order &= record.update == self.last + 1
        self.last = record.update

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Held(NamedTuple):
    """What the process holds."""

    resident_bytes: int
    python_blocks: int  # of the interpreter's allocator: what a leak of small objects adds to
    descriptors: int
    python_threads: int
    system_threads: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE"),
            sys.getallocatedblocks(),
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(os.listdir("/proc/self/task")),
        )


def look(trainer: Trainer, state: Any, key: Any) -> Any:
    return state, {"weight": state.agent["value"][0]}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty directory for everything temporary that anyone makes meanwhile."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what was found before
    assert tempfile.gettempdir() == str(place)
    return place


def long_run(records: int, every_samples: int, directory: Path) -> tuple[Held, list[Held], Held, Count]:
    """What was held before the first sink, at every so many records, and after the last."""
    per = 1
    config = tiny(records, num_envs=1, algorithm=Reinforce(rollout_length=per))
    trainer = Trainer(config, [Event("look", every(per), look)])

    @partial(jax.jit, static_argnames="length")
    def chunk(state: Any, run: jax.Array, length: int) -> Any:
        callback.started(run, state.clock, num_seeds=1)
        return trainer.scan(state, None, length, emitter(run, False))[0]

    fresh = trainer.new(jax.random.key(0))
    jax.block_until_ready(chunk(fresh, jnp.int32(0), CHUNK))  # compiled, and no run listens
    jax.effects_barrier()
    before, samples, count = Held.now(), [], Count()
    with (
        (directory / "screen.txt").open("w") as screen,
        Console(file=screen) as console,
        TensorBoard(directory / "board") as board,
        JsonLines(directory / "metrics.jsonl") as lines,
    ):
        outlet = callback.connect([console, lines, board, count], run_info(trainer))
        state = fresh
        for done in range(CHUNK, records + 1, CHUNK):
            state = chunk(state, jnp.int32(outlet.id), CHUNK)
            outlet.wait()
            if done % every_samples == 0:
                samples.append(Held.now())
        assert outlet.finish() == []
    assert outlet.id not in callback._runs
    del outlet, state
    return before, samples, Held.now(), count


def hold_flat(records: int, every_samples: int, directory: Path, temporary: Path) -> None:
    before, samples, after, count = long_run(records, every_samples, directory)
    warm, later = samples[0], samples[1:]
    for name in Held._fields:
        print(f"{name}: before {getattr(before, name):,}", end="")
        print(f", first {getattr(warm, name):,}, last {getattr(later[-1], name):,}, ", end="")
        print(f"most {max(getattr(x, name) for x in later):,}, after {getattr(after, name):,}")

    assert (count.records, count.last, count.in_order) == (records, records, True)
    log = directory / "metrics.jsonl"
    with log.open("rb") as file:
        assert sum(1 for _ in file) == records
    assert len(list((directory / "board").iterdir())) == 1

    for held in later:
        assert held.descriptors == warm.descriptors
        assert held.python_threads == warm.python_threads == before.python_threads + 4
        assert held.system_threads <= warm.system_threads
        # Whatever the length: fewer blocks than records of the short form, so no record leaves even one.
        assert held.python_blocks - warm.python_blocks < 3000
        # A record is some kilobytes; an allocator's own ups and downs are a few megabytes.
        assert held.resident_bytes - warm.resident_bytes < 12 * 2**20
    assert after.descriptors == before.descriptors
    assert after.python_threads == before.python_threads
    assert list(temporary.iterdir()) == []
    kinds = Counter(path.name.split(".")[0] for path in directory.iterdir() if path != temporary)
    assert kinds == {"screen": 1, "board": 1, "metrics": 1}


def test_eight_thousand_records_leave_memory_descriptors_and_threads_flat(tmp_path, temporary):
    hold_flat(8_000, 1000, tmp_path, temporary)


@pytest.mark.slow
def test_a_million_records_leave_memory_descriptors_and_threads_flat(tmp_path, temporary):
    hold_flat(1_000_000, 20_000, tmp_path, temporary)
    for path in [tmp_path / "metrics.jsonl", *(tmp_path / "board").iterdir()]:
        path.unlink()  # hundreds of megabytes
