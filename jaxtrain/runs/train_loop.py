"""One process's part of a run: chunks of the program, and between two of them what the host looks after.

In: programs, a state, checkpoints, signals so far. Out: the last state, which is saved.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtrain.loop.state import TrainState
from jaxtrain.loop.trainer import History, Trainer
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import manager
from jaxtrain.runs.manager import best_metric, due, minutes
from jaxtrain.runs.program import Programs
from jaxtrain.sinks.dispatch import Dispatcher
from jaxtrain.types import Sink


class ChunkLength:
    """How many updates fit between two looks at the host, by the speed of the last ones."""

    def __init__(self, reaction_seconds: float) -> None:
        # A quarter: a chunk with an evaluation in it takes longer, and then there is a checkpoint to write.
        self._target = reaction_seconds / 4
        self.updates = 1

    def took(self, updates: int, seconds: float) -> None:
        fits = int(self._target * updates / max(seconds, 1e-9))
        self.updates = max(1, min(fits, 4 * self.updates))


class TrainLoop:
    """One process's part of a run.

    Args:
      log: the sink without whose rows there must be no checkpoint; when it fails, the run ends.
      caught: signals so far, see `signals.listening`.
      facts: for every manifest.
    """

    def __init__(
        self,
        trainer: Trainer,
        compiled: Programs,
        outlet: Dispatcher,
        checkpoints: manager.CheckpointManager,
        log: Sink | None,
        caught: list[int],
        facts: Mapping[str, Any],
    ) -> None:
        self._trainer, self._compiled, self._outlet = trainer, compiled, outlet
        self._checkpoints, self._log, self._caught, self._facts = checkpoints, log, caught, dict(facts)
        self._settings = trainer.config.checkpoint
        self._metric = best_metric(trainer)
        self._due = due(trainer)
        self._judged = set(self._fresh_at())
        self._committed: int | None = None  # the clock of the last checkpoint
        self._saved = 0.0  # when, by the monotonic clock
        self.stalls: list[float] = []  # seconds that training waited for each checkpoint

    def run(self, state: TrainState, history: History, *, saved: bool) -> tuple[TrainState, History]:
        """Advance to the end, or to the first chunk's end after a signal; the last state is saved.

        Args:
          saved: whether this state is that of a checkpoint of this run.

        Raises:
          OSError: a log or a checkpoint could not be written.
        """
        clock, end = int(state.clock), self._trainer.num_updates
        stops = sorted({*self._due, *(self._judged if self._metric else ()), end})
        pace = ChunkLength(self._settings.reaction_seconds)
        self._committed, self._saved = clock, time.monotonic()
        if not saved:
            self._commit(clock, state, history, "start")
            self._checkpoints.wait()  # from here on there always is one
        while clock < end and not self._caught:
            length = min(pace.updates, stops[bisect_right(stops, clock)] - clock)
            begun = time.perf_counter()
            state, history = self._compiled.advance(state, history, length)
            pace.took(length, time.perf_counter() - begun)
            clock += length
            self._check_log()
            self._checkpoints.check()
            reason = self._reason(clock, state)
            if reason is not None:
                self._commit(clock, state, history, reason)
        if self._committed != clock:
            reason = "finish" if clock == end else f"signal {self._caught[0]}"
            self._commit(clock, state, history, reason)
        self._checkpoints.wait()
        self._check_log()
        return state, history

    def _check_log(self) -> None:
        error = self._outlet.error_of(self._log) if self._log is not None else None
        if error is not None:
            raise error

    def _reason(self, clock: int, state: TrainState) -> str | None:
        """Why to save now, if there is a reason."""
        if clock == self._trainer.num_updates:
            return "finish"
        if clock in self._due:
            return "every"
        if clock in self._judged and self._better(state):
            return "best"
        old = minutes(self._settings)
        return "time" if old is not None and time.monotonic() - self._saved > 60 * old else None

    def _better(self, state: TrainState) -> bool:
        """Whether the metric that was just measured is the best so far."""
        assert self._metric is not None  # else nothing is judged
        value = manager.over_seeds(state.metrics[self._metric])
        self._checkpoints.wait()  # what is being saved may be better
        said = manager.manifests(self._checkpoints.directory)
        best = manager.best(said, self._metric, self._settings.best_mode)
        if value is None or best is None:
            return value is not None
        sign = 1 if self._settings.best_mode == "max" else -1
        return sign * value > sign * said[best]["best"]["value"]

    def _commit(self, clock: int, state: TrainState, history: History, reason: str) -> None:
        begun = time.perf_counter()
        self._checkpoints.wait()  # else the host would hold two copies of what is `InPlace`
        copies = self._compiled.copy(state, history)
        lengths = self._outlet.mark()
        env_steps = clock * self._trainer.env_steps_per_update
        facts = {
            **self._facts,
            "update": clock,
            "env_steps": env_steps,
            "reason": reason,
            "records": self._outlet.records,
            "elapsed_seconds": self._outlet.elapsed_seconds,
        }
        fresh = clock in self._judged or not self._judged

        def complete(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
            metrics = {name: manager.over_seeds(arrays[f"state.metrics[{name!r}]"]) for name in state.metrics}
            value = metrics[self._metric] if self._metric and fresh else None
            best = None if self._metric is None else {"metric": self._metric, "value": value}
            return {**facts, "written": rundir.now(), "metrics": metrics, "best": best}

        needed = getattr(self._log, "path", None)
        in_place = self._compiled.in_place
        save = manager.PendingSave(env_steps, copies, lengths, complete, needed, in_place)
        self._checkpoints.submit(save)
        self._committed, self._saved = clock, time.monotonic()
        self.stalls.append(time.perf_counter() - begun)

    def _fresh_at(self) -> tuple[int, ...]:
        """The updates at which the metric of the best is measured; none if it is so at each."""
        event = (self._metric or "").partition("/")[0]
        return self._trainer.timetable.get(event, ())
