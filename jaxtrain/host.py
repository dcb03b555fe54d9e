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
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from jaxtrain.types import Record, RunInfo, Sink

PATIENCE_SECONDS = 1.0  # what one sink may hold training up for, in all, while its queue is full

_log = logging.getLogger("jaxtrain")
_ids = itertools.count(1)
_doors: dict[int, Door] = {}
_faulty: set[Callable[..., None]] = set()  # ways in whose fault has been reported


def started(run: jax.Array, clock: jax.Array, *, num_seeds: int) -> None:
    """Tell the door that the program runs: compilation is over, the speed is measured from here.

    Call it once at a program's beginning, while tracing. The first call opens the sinks.

    Args:
      run: i32[], `Door.id`.
      clock: i32[], updates done so far.
      num_seeds: seeds in the program.
    """
    io_callback(partial(_call, Door.on_start, num_seeds=num_seeds), None, run, clock, ordered=True)


def emit(run: jax.Array, clock: jax.Array, values: dict[str, jax.Array], *, name: str, seeds: bool) -> None:
    """Hand one record to the sinks, by one ordered host call, while tracing.

    Args:
      run: i32[], `Door.id`; the number of a finished run is no error, the record goes nowhere.
      clock: i32[], updates done.
      values: small arrays, [S, ...] if `seeds`, else [...]: the door adds the axis.
      name: the event's.
    """
    act = partial(_call, Door.on_record, name=name, seeds=seeds)
    io_callback(act, None, run, clock, values, ordered=True)


def wait() -> None:
    """Wait for every run whose door is open: inside `jax.jit` a call returns before its program has run."""
    for door in list(_doors.values()):
        door.wait()


def _call(act: Callable[..., None], run: Any, *args: Any, **static: Any) -> None:
    """What the program calls. An exception would end it, so none leaves, not even a fault of the door."""
    try:
        door = _doors.get(int(run))
        if door is not None:
            act(door, *args, **static)
    except Exception:
        if act not in _faulty:
            _faulty.add(act)
            _log.exception("a record was lost inside jaxtrain; training goes on, later ones go unreported")


class Door:
    """The host side of one run: hands records to sinks, each behind its own bounded queue and thread.

    A sink that raises, stays full for `PATIENCE_SECONDS` in all, or is not done `deadline_seconds` after
    `wait` began is left out: named on the log at once, by one `RuntimeWarning` from `wait`, and in `losses`
    with the records it lost. Training and the other sinks go on.

    Args:
      sinks: opened by the program's first call of `started`; never closed, whoever made them does that.
      info: of the run; `num_seeds` is what the program says.
      capacity: records that may wait for one sink.
      deadline_seconds: how long `wait` waits for all sinks together.
    """

    id: int

    def __init__(
        self, sinks: Sequence[Sink], info: RunInfo, *, capacity: int = 1024, deadline_seconds: float = 10.0
    ) -> None:
        self._info = info
        self._deadline_seconds = deadline_seconds
        self._lanes = [_Lane(sink, capacity) for sink in sinks]
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
        clocks = {"unix_seconds": time.time(), "elapsed_seconds": now - (self._begun or now)}
        if self._speed is not None:
            clocks["env_steps_per_second"] = self._speed
        # A copy: the program may use the memory again once this call returns.
        arrays = {key: np.array(value) if seeds else np.array(value)[None] for key, value in values.items()}
        record = Record(name, update, self._env_steps(update), arrays, clocks)
        for lane in self._lanes:
            lane.give(record)
        self._mark = (update, time.perf_counter())

    def _env_steps(self, updates: int) -> int:
        return updates * self._info.env_steps_per_update


class _Lane:
    """One sink, the tasks that wait for it, and the thread that does them in order.

    `_changed` guards everything here; the sink's own methods run outside of it.
    """

    def __init__(self, sink: Sink, capacity: int) -> None:
        self.problem: str | None = None  # the first; a lane that has one is left out for good
        self.warned = False
        self.sink = sink
        self._capacity = capacity
        self._patience = PATIENCE_SECONDS
        self._given = self._written = self._flushed = 0  # records
        self._tasks: deque[Callable[[], None]] = deque()
        self._asked = self._done = 0  # tasks, ever
        self._stopping = False
        self._changed = threading.Condition()
        # A daemon: a sink that hangs must not keep the process from ending.
        name = f"jaxtrain-{type(sink).__name__}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def sentence(self) -> str:
        lost = self._given - self._written
        return f"sink {type(self.sink).__name__} {self.problem}; {lost} of {self._given} records lost"

    def start(self, run: RunInfo) -> None:
        self._ask(partial(self.sink.open, run))
        self._thread.start()

    def give(self, record: Record) -> None:
        with self._changed:
            self._given += 1
            begun = time.monotonic()
            if not self._changed.wait_for(self._has_room, self._patience):
                self._leave_out(f"kept its queue of {self._capacity} records full for {PATIENCE_SECONDS:g} s")
            self._patience -= time.monotonic() - begun
            self._ask(partial(self._write, record))

    def ask_flush(self) -> None:
        self._ask(self._flush)

    def settle(self, deadline: float, problem: str) -> None:
        with self._changed:
            asked = self._asked
            left = deadline - time.monotonic()
            if not self._changed.wait_for(lambda: self.problem is not None or self._done >= asked, left):
                self._leave_out(problem)

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.problem is None and self._thread.ident is not None:
            self._thread.join(PATIENCE_SECONDS)  # idle by now: whoever closes the sink is alone with it

    def _has_room(self) -> bool:
        return self.problem is not None or len(self._tasks) < self._capacity

    def _ask(self, task: Callable[[], None]) -> None:
        with self._changed:
            if self.problem is None:
                self._tasks.append(task)
                self._asked += 1
                self._changed.notify_all()

    def _leave_out(self, problem: str) -> None:
        with self._changed:
            if self.problem is None:
                self.problem = problem
                self._tasks.clear()
                self._changed.notify_all()
                _log.error("%s so far; training goes on without it", self.sentence)

    def _write(self, record: Record) -> None:
        self.sink.write(record)
        with self._changed:
            self._written += self.problem is None

    def _flush(self) -> None:
        try:
            self.sink.flush()
        except BaseException:
            self._written = self._flushed  # what a failed flush held back is not known to be anywhere
            raise
        self._flushed = self._written

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._stopping or self.problem is not None)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._changed.notify_all()
            try:
                task()
            except BaseException as error:  # SystemExit as well: some clients end their thread by it
                self._leave_out(f"failed with {type(error).__name__}: {error}")
            with self._changed:
                self._done += 1
                self._changed.notify_all()
