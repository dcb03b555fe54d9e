"""The host side of one run: hands its records to sinks, each behind its own bounded queue and thread.

In: what a program reports, and when it begins. Out: `Record`s. `loop/callback.py` calls it from the program.
"""

from __future__ import annotations

import dataclasses
import errno
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.sinks.worker import SinkWorker
from jaxtrain.types import Record, RunInfo, Sink


class Dispatcher:
    """The host side of one run: hands records to sinks, each behind its own bounded queue and thread.

    A sink that raises, stays full for `PATIENCE_SECONDS` in all, or is not done `deadline_seconds` after
    `wait` began is left out: named on the log at once, by one `RuntimeWarning` from `wait`, and in `losses`
    with the records it lost. Training and the other sinks go on.

    Args:
      sinks: opened by the first call of `on_start`; never closed, whoever made them does that.
      info: of the run; `num_seeds` is what the program says.
      records: how many the run had made before this process; `Record.index` goes on from there.
      elapsed_seconds: how long it had run by then.
      capacity: records that may wait for one sink.
      deadline_seconds: how long `wait` waits for all sinks together.
      needed: one of the sinks, which is waited for `NEEDED_SECONDS` longer each time before it is left out.
      id: the number by which a program reaches it.
      barrier: returns once programs under way have handed over what they had to hand over.
      forget: called when it has finished.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        info: RunInfo,
        *,
        records: int = 0,
        elapsed_seconds: float = 0.0,
        capacity: int = 1024,
        deadline_seconds: float = 10.0,
        needed: Sink | None = None,
        id: int = 0,
        barrier: Callable[[], object] = lambda: None,
        forget: Callable[[], object] = lambda: None,
    ) -> None:
        self._info = info
        self.records = records
        self._earlier = elapsed_seconds
        self._deadline_seconds = deadline_seconds
        self._workers = [SinkWorker(sink, capacity, needed=sink is needed) for sink in sinks]
        self._begun: float | None = None  # when the first update began
        self._mark = (0, 0.0)  # the update last reported, and when its last record had been handed on
        self._speed: float | None = None
        self.id, self._barrier, self._forget = id, barrier, forget
        self.caught: Sequence[int] = ()  # signals so far that ask the run to stop; read at each record
        self._finished = False

    @property
    def losses(self) -> list[str]:
        """A sentence for each sink left out so far: which, why, and how many records it lost."""
        return [worker.sentence for worker in self._workers if worker.problem is not None]

    @property
    def failed(self) -> list[Sink]:
        """The sinks left out so far."""
        return [worker.sink for worker in self._workers if worker.problem is not None]

    def error_of(self, sink: Sink) -> Exception | None:
        """Why a sink has been left out; None while it has not."""
        worker = next(worker for worker in self._workers if worker.sink is sink)
        if worker.problem is None:
            return None
        if isinstance(worker.error, Exception):
            return worker.error
        path = getattr(sink, "path", None)
        return TimeoutError(errno.ETIMEDOUT, worker.sentence, *([] if path is None else [str(path)]))

    @property
    def begun(self) -> bool:
        """Whether the program runs or has run: before that it is traced and compiled."""
        return self._begun is not None

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
        workers = [worker for worker in self._workers if hasattr(worker.sink, "files")]
        asked = [(worker, worker.ask_lengths()) for worker in workers]

        def lengths() -> dict[Path, int]:
            deadline = time.monotonic() + self._deadline_seconds
            problem = f"was not done {self._deadline_seconds:g} s after a checkpoint was due"
            return {
                path: size for worker, box in asked for path, size in worker.lengths(box, deadline, problem)
            }

        return lengths

    def wait(self) -> None:
        """Return once every sink has written and flushed what it was given, or has been left out."""
        try:
            self._barrier()
        finally:  # of a program that failed the records before the failure still arrive
            self._settle()

    def _settle(self) -> None:
        deadline = time.monotonic() + self._deadline_seconds
        if self._begun is not None:
            for worker in self._workers:
                worker.ask_flush()
            for worker in self._workers:
                worker.settle(deadline, f"was not done {self._deadline_seconds:g} s after the program was")
        for worker in self._workers:
            if worker.problem is not None and not worker.warned:
                worker.warned = True
                warnings.warn(f"jaxtrain: {worker.sentence}", RuntimeWarning, stacklevel=3)

    def finish(self) -> list[str]:
        """Wait, end the threads and forget the run; the losses. A second call changes nothing."""
        try:
            if not self._finished:
                self.wait()
        finally:
            self._finished = True
            self._forget()
            for worker in self._workers:
                worker.stop()
        return self.losses

    def on_start(self, clock: Any, *, num_seeds: int) -> None:
        """What a program calls as it begins."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun = now
            self._info = dataclasses.replace(self._info, num_seeds=num_seeds)
            for worker in self._workers:
                worker.start(self._info)
        self._mark = (int(clock), now)

    def on_record(self, clock: Any, values: dict[str, Any], *, name: str, seeds: bool) -> None:
        """What a program calls for each record."""
        now, update = time.perf_counter(), int(clock)
        # An evaluation's record comes after the time that it took. Only what lies between the last record
        # of one update and the metrics of a later one was training and nothing else.
        if update > self._mark[0] and name == "metrics":
            steps = self._env_steps(update - self._mark[0]) * self._info.num_seeds
            self._speed = steps / (now - self._mark[1])
        clocks = {"unix_seconds": time.time(), "elapsed_seconds": self._earlier + now - (self._begun or now)}
        if self._speed is not None:
            clocks["env_steps_per_second"] = self._speed
        arrays = {key: _own(value if seeds else np.asarray(value)[None]) for key, value in values.items()}
        env_steps, index = self._env_steps(update), self.records
        self.records += 1
        for worker in self._workers:  # each has dicts of its own, which it may change
            worker.give(Record(name, update, env_steps, dict(arrays), dict(clocks), index))
        self._mark = (update, time.perf_counter())

    def _env_steps(self, updates: int) -> int:
        return updates * self._info.env_steps_per_update


def _own(value: Any) -> np.ndarray:
    """A copy, as the program may use the memory again, that no sink can change under the others' hands."""
    array = np.array(value)
    array.flags.writeable = False
    return array
