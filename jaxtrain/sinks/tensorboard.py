"""Write records as TensorBoard event files.

In: `Record`s. Out: scalar curves over env steps.
Knows nothing of TensorBoard itself, which is not needed to write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxtrain.paths import as_path
from jaxtrain.sinks.base import Closing, Seeds, check_choice, curves, naming
from jaxtrain.types import Record, RunInfo

_FLUSH_SECONDS = 5.0  # how old what TensorBoard shows may be


class TensorBoard(Closing):
    """Write scalar curves: step is env steps, wall time is the record's.

    Tags are those of `jaxtrain.sinks.curves`: `rollout/return_mean`, `evaluation/return_mean`, and with
    several seeds `…/mean`, `…/std`, `…/min`, `…/max`.

    Each `open` begins a new event file, which readers take after all older ones. That of a resumed run
    begins by taking back what older files hold beyond the point of the resume, so that a TensorBoard that
    has read it already shows no point twice.

    Args:
      directory: where the event file goes; created by `open`.
      seeds: "aggregate", one set of curves for all seeds, or "separate", a sub-directory for each
        (`seed_0003`). A single run has its curves in `directory` either way.

    Methods raise OSError, naming the path.
    """

    def __init__(self, directory: str | Path, *, seeds: Seeds = "aggregate") -> None:
        check_choice("TensorBoard: seeds", seeds, ("aggregate", "separate"))
        self.directory = as_path("directory", directory)
        self.seeds = seeds
        self._writers: list[tuple[Path, Any]] = []
        self._files: list[Path] = []
        self._flush_at = 0.0

    def open(self, run: RunInfo) -> None:
        # The writer below SummaryWriter, for it has a thread of its own between, which ends at the first
        # error and says nothing; then its queue of 10 is full and every call blocks for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self.close()
        self._files = []
        separate = self.seeds == "separate" and run.num_seeds > 1
        places = [self.directory / f"seed_{seed:04d}" for seed in range(run.num_seeds)]
        for place in places if separate else [self.directory]:
            place.mkdir(parents=True, exist_ok=True)
            old = sorted(place.glob("events.*"))
            # Readers go by name. With no more than the seconds that EventsWriter puts into it, two processes
            # of one second could share a file, and one whose clock is behind would be read first.
            counts = [int(part) for file in old if (part := file.name.split(".")[1]).isdigit()]
            count = max([time.time_ns(), *(n + 1 for n in counts)])
            writer: Any = EventsWriter(str(place / f"events.{count:019d}"))
            self._writers.append((place, writer))
            self._files.append(Path(writer._file_name))
            if run.resumed_at is not None:
                self._files += old
                # What was logged at the resume was logged before the checkpoint, and stays.
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=time.time(), step=run.resumed_at + 1, session_log=start)
                with naming(place):
                    writer.write_event(event)
        self.flush()

    def files(self) -> Sequence[Path]:
        """The run's event files, earlier processes' too. After `flush` all that was written is in them."""
        return tuple(self._files)

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
                os.stat(writer._file_name)  # a deleted file takes all that is written without an error
        self._flush_at = time.monotonic() + _FLUSH_SECONDS

    def close(self) -> None:
        writers, self._writers = self._writers, []
        with ExitStack() as stack:  # each of them, whatever another raises
            for place, writer in writers:
                stack.enter_context(naming(place))
                stack.callback(writer.close)
