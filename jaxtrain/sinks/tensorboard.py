"""Write records as TensorBoard event files.

In: `Record`s. Out: scalar curves over env steps.
Knows nothing of TensorBoard itself, which is not needed to write.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxtrain.sinks import Closing, Seeds, check_choice, curves, naming
from jaxtrain.types import Record, RunInfo

_FLUSH_SECONDS = 5.0  # how old what TensorBoard shows may be


class TensorBoard(Closing):
    """Write scalar curves: step is env steps, wall time is the record's.

    Tags are those of `jaxtrain.sinks.curves`: `rollout/return_mean`, `evaluation/return_mean`, and with
    several seeds `…/mean`, `…/std`, `…/min`, `…/max`.

    Args:
      directory: where the event file goes; created by `open`.
      seeds: "aggregate", one set of curves for all seeds, or "separate", a sub-directory for each
        (`seed_0003`). A single run has its curves in `directory` either way.

    Methods raise OSError, naming the path.
    """

    def __init__(self, directory: str | Path, *, seeds: Seeds = "aggregate") -> None:
        check_choice("TensorBoard: seeds", seeds, ("aggregate", "separate"))
        self.directory = Path(directory)
        self.seeds = seeds
        self._writers: list[tuple[Path, Any]] = []
        self._flush_at = 0.0

    def open(self, run: RunInfo) -> None:
        # The writer below SummaryWriter, for it has a thread of its own between, which ends at the first
        # error and says nothing; then its queue of 10 is full and every call blocks for ever.
        from tensorboardX.event_file_writer import EventsWriter

        self.close()
        separate = self.seeds == "separate" and run.num_seeds > 1
        places = [self.directory / f"seed_{seed:04d}" for seed in range(run.num_seeds)]
        for place in places if separate else [self.directory]:
            place.mkdir(parents=True, exist_ok=True)
            # Two writers that open within one second would share a file name without the suffix.
            self._writers.append((place, EventsWriter(str(place / "events"), f".{uuid.uuid4().hex[:8]}")))
        self.flush()

    def write(self, record: Record) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        wall = record.time.get("unix_seconds", time.time())
        for seed, (place, writer) in enumerate(self._writers):
            for tag, value in curves(record, seed if len(self._writers) > 1 else None).items():
                with naming(place):
                    writer.write_event(
                        Event(wall_time=wall, step=record.env_steps, summary=scalar(tag, value))
                    )
        if time.monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        for place, writer in self._writers:
            with naming(place):
                writer.flush()
        self._flush_at = time.monotonic() + _FLUSH_SECONDS

    def close(self) -> None:
        writers, self._writers = self._writers, []
        with ExitStack() as stack:  # each of them, whatever another raises
            for place, writer in writers:
                stack.enter_context(naming(place))
                stack.callback(writer.close)
