"""The door: the only place where the compiled program speaks to the host.

In: what `started` and `emit` hand out of a program. Out: `Record`s, one queue and one thread a sink.
Knows nothing of events, of algorithms, or of what a sink does with a record.

A program carries the number of a run, as an operand, and never its objects. So which sinks watch is
no part of what is compiled, and can neither compile anything again nor change a bit of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from jaxtrain.sinks.worker import Lane
from jaxtrain.tree import Packing
from jaxtrain.types import Record, RunInfo, Sink

SMALL = 1024  # entries of an array that is worth packing
_log = logging.getLogger("jaxtrain")
_ids = itertools.count(1)
_doors: dict[int, Door] = {}
_faulty = False  # whether a fault of the door's own has been reported


def started(run: jax.Array, clock: jax.Array, *, num_seeds: int) -> None:
    """Tell the door that the program runs: compilation is over, the speed is measured from here.

    Call it once at a program's beginning, while tracing. The first call opens the sinks.

    Args:
      run: i32[], `Door.id`.
      clock: i32[], updates done so far.
      num_seeds: seeds in the program.
    """

    def receive(*given: Any) -> None:
        _call(partial(Door.on_start, num_seeds=num_seeds), lambda: given)

    io_callback(receive, None, run, clock, ordered=True)


def emit(run: jax.Array, clock: jax.Array, values: dict[str, jax.Array], *, name: str, seeds: bool) -> None:
    """Hand one record to the sinks, by one ordered host call, while tracing.

    Args:
      run: i32[], `Door.id`; the number of a finished run is no error, the record goes nowhere.
      clock: i32[], updates done.
      values: small arrays, [S, ...] if `seeds`, else [...]: the door adds the axis.
      name: the event's.
    """
    # Sixteen scalars one by one took eight times as long as in one array (CPU; on a GPU each is a transfer).
    packing = Packing([run, clock, *values.values()], SMALL)

    def receive(*packed: Any) -> None:
        def act(door: Door, clock: Any, *rest: Any) -> None:
            door.on_record(clock, dict(zip(values, rest, strict=True)), name=name, seeds=seeds)

        _call(act, lambda: packing.unpack(packed))

    io_callback(receive, None, *packing.pack([run, clock, *values.values()]), ordered=True)


def wait() -> None:
    """Wait for every run whose door is open: inside `jax.jit` a call returns before its program has run."""
    for door in list(_doors.values()):
        door.wait()


def _call(act: Callable[..., None], given: Callable[[], Sequence[Any]]) -> None:
    """What the program calls. An exception would end it, so none leaves, not even a fault of the door."""
    global _faulty
    try:
        run, *args = given()
        door = _doors.get(int(run))
        if door is not None:
            act(door, *args)
    except Exception:
        if not _faulty:
            _faulty = True
            _log.exception("a record was lost inside jaxtrain; training goes on, later ones go unreported")


class Door:
    """The host side of one run: hands records to sinks, each behind its own bounded queue and thread.

    A sink that raises, stays full for `PATIENCE_SECONDS` in all, or is not done `deadline_seconds` after
    `wait` began is left out: named on the log at once, by one `RuntimeWarning` from `wait`, and in `losses`
    with the records it lost. Training and the other sinks go on.

    Args:
      sinks: opened by the program's first call of `started`; never closed, whoever made them does that.
      info: of the run; `num_seeds` is what the program says.
      records: how many the run had made before this process; `Record.index` goes on from there.
      elapsed_seconds: how long it had run by then.
      capacity: records that may wait for one sink.
      deadline_seconds: how long `wait` waits for all sinks together.
    """

    id: int

    def __init__(
        self,
        sinks: Sequence[Sink],
        info: RunInfo,
        *,
        records: int = 0,
        elapsed_seconds: float = 0.0,
        capacity: int = 1024,
        deadline_seconds: float = 10.0,
    ) -> None:
        self._info = info
        self.records = records
        self._earlier = elapsed_seconds
        self._deadline_seconds = deadline_seconds
        self._lanes = [Lane(sink, capacity) for sink in sinks]
        self._begun: float | None = None  # when the first update began
        self._mark = (0, 0.0)  # the update last reported, and when its last record had been handed on
        self._speed: float | None = None
        self.id = next(_ids)
        _doors[self.id] = self

    @property
    def losses(self) -> list[str]:
        """A sentence for each sink left out so far: which, why, and how many records it lost."""
        return [lane.sentence for lane in self._lanes if lane.problem is not None]

    @property
    def failed(self) -> list[Sink]:
        """The sinks left out so far."""
        return [lane.sink for lane in self._lanes if lane.problem is not None]

    def error_of(self, sink: Sink) -> Exception | None:
        """Why a sink has been left out; None while it has not."""
        lane = next(lane for lane in self._lanes if lane.sink is sink)
        if lane.problem is None:
            return None
        return lane.error if isinstance(lane.error, Exception) else RuntimeError(lane.sentence)

    @property
    def elapsed_seconds(self) -> float:
        """Since the first update began, the time of earlier processes included."""
        return self._earlier + (0.0 if self._begun is None else time.perf_counter() - self._begun)

    def mark(self) -> Callable[[], dict[Path, int]]:
        """Ask how long the sinks' files are once they hold all records so far and no later one.

        Returns:
          A function that waits for the answer: path -> bytes. Call it from any thread, within the
          deadline of `wait` for sinks that are slow; one that is not done by then is left out.
        """
        lanes = [lane for lane in self._lanes if hasattr(lane.sink, "files")]
        asked = [(lane, lane.ask_lengths()) for lane in lanes]

        def lengths() -> dict[Path, int]:
            deadline = time.monotonic() + self._deadline_seconds
            problem = f"was not done {self._deadline_seconds:g} s after a checkpoint was due"
            return {path: size for lane, box in asked for path, size in lane.lengths(box, deadline, problem)}

        return lengths

    def wait(self) -> None:
        """Return once every sink has written and flushed what it was given, or has been left out."""
        try:
            jax.effects_barrier()
        finally:  # of a program that failed the records before the failure still arrive
            self._settle()

    def _settle(self) -> None:
        deadline = time.monotonic() + self._deadline_seconds
        if self._begun is not None:
            for lane in self._lanes:
                lane.ask_flush()
            for lane in self._lanes:
                lane.settle(deadline, f"was not done {self._deadline_seconds:g} s after the program was")
        for lane in self._lanes:
            if lane.problem is not None and not lane.warned:
                lane.warned = True
                warnings.warn(f"jaxtrain: {lane.sentence}", RuntimeWarning, stacklevel=3)

    def finish(self) -> list[str]:
        """Wait, end the threads and forget the run; the losses. A second call changes nothing."""
        try:
            if self.id in _doors:
                self.wait()
        finally:
            _doors.pop(self.id, None)
            for lane in self._lanes:
                lane.stop()
        return self.losses

    def on_start(self, clock: Any, *, num_seeds: int) -> None:
        """What `started` calls, from the program."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun = now
            self._info = dataclasses.replace(self._info, num_seeds=num_seeds)
            for lane in self._lanes:
                lane.start(self._info)
        self._mark = (int(clock), now)

    def on_record(self, clock: Any, values: dict[str, Any], *, name: str, seeds: bool) -> None:
        """What `emit` calls, from the program."""
        now, update = time.perf_counter(), int(clock)
        # An evaluation's record comes after the time that it took. Only what lies between the last record
        # of one update and the metrics of a later one was training and nothing else.
        if update > self._mark[0] and name == "metrics":
            steps = self._env_steps(update - self._mark[0]) * self._info.num_seeds
            self._speed = steps / (now - self._mark[1])
        clocks = {"unix_seconds": time.time(), "elapsed_seconds": self._earlier + now - (self._begun or now)}
        if self._speed is not None:
            clocks["env_steps_per_second"] = self._speed
        # A copy: the program may use the memory again once this call returns.
        arrays = {key: np.array(value) if seeds else np.array(value)[None] for key, value in values.items()}
        record = Record(name, update, self._env_steps(update), arrays, clocks, self.records)
        self.records += 1
        for lane in self._lanes:
            lane.give(record)
        self._mark = (update, time.perf_counter())

    def _env_steps(self, updates: int) -> int:
        return updates * self._info.env_steps_per_update
