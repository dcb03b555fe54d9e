"""A sink behind a queue and a thread of its own.

In: records, and requests to flush or to measure files. Out: the same to one sink, in order, until its first
problem. Knows nothing of JAX or of other sinks; `host.py` has one lane for each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jaxtrain.types import Record, RunInfo, Sink

PATIENCE_SECONDS = 1.0  # what one sink may hold training up for, in all, while its queue is full
NEEDED_SECONDS = 600.0  # how much longer each time for one that the run does not go on without
_log = logging.getLogger("jaxtrain")


class SinkWorker:
    """One sink, the tasks that wait for it, and the thread that does them in order.

    Args:
      capacity: tasks that may wait.
      needed: whether to wait for `NEEDED_SECONDS` more, and say so, where another sink would be left out.

    `_changed` guards everything here; the sink's own methods run outside of it.
    """

    def __init__(self, sink: Sink, capacity: int, *, needed: bool = False) -> None:
        self.problem: str | None = None  # the first; a lane that has one is left out for good
        self.error: BaseException | None = None  # what the sink raised, if that was it
        self.warned = False
        self.sink = sink
        self._capacity, self._needed = capacity, needed
        self._said = False  # that it is waited for
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
            problem = f"kept its queue of {self._capacity} records full for {PATIENCE_SECONDS:g} s"
            self._wait_for(self._has_room, begun + self._patience, problem)
            self._patience -= time.monotonic() - begun
            self._ask(partial(self._write, record))

    def ask_flush(self) -> None:
        self._ask(self._flush)

    def settle(self, deadline: float, problem: str) -> None:
        with self._changed:
            asked = self._asked
            self._wait_for(lambda: self._done >= asked, deadline, problem)

    def ask_lengths(self) -> list[list[tuple[Path, int]]]:
        """Where the lengths of the sink's files will be, once all that was asked before is done."""
        box: list[list[tuple[Path, int]]] = []

        def measure() -> None:
            self._flush()
            found = [(path, path.stat().st_size) for path in self.sink.files()]  # type: ignore[attr-defined]
            with self._changed:
                box.append(found)

        self._ask(measure)
        return box

    def lengths(
        self, box: list[list[tuple[Path, int]]], deadline: float, problem: str
    ) -> list[tuple[Path, int]]:
        """What `ask_lengths` gave, waited for; none of a sink that has been left out."""
        with self._changed:
            self._wait_for(lambda: bool(box), deadline, problem)
            return box[0] if box else []

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.problem is None and self._thread.ident is not None:
            self._thread.join(PATIENCE_SECONDS)  # idle by now: whoever closes the sink is alone with it

    def _wait_for(self, done: Callable[[], bool], deadline: float, problem: str) -> None:
        """Return once the sink is so far, or has a problem; by the deadline, that it has been waited for."""

        def over() -> bool:
            return self.problem is not None or done()

        if self._changed.wait_for(over, deadline - time.monotonic()):
            return
        if self._needed:
            if not self._said:
                self._said = True
                _log.warning("sink %s %s; the run needs it and waits", type(self.sink).__name__, problem)
            if self._changed.wait_for(over, NEEDED_SECONDS):
                return
            problem = f"{problem}, and {NEEDED_SECONDS:g} s later"
        self._leave_out(problem)

    def _has_room(self) -> bool:
        return len(self._tasks) < self._capacity

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
                self.error = self.error or error
                self._leave_out(f"failed with {type(error).__name__}: {error}")
            with self._changed:
                self._done += 1
                self._changed.notify_all()
