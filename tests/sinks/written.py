"""Records to write, and what each backend's own reader finds afterwards."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.types import Record, RunInfo, Sink

INFO = RunInfo(
    "probe", total_env_steps=2**40, env_steps_per_update=2**10, num_seeds=1, config={"gamma": 0.99}
)

NAN = float("nan")


def record(name: str = "metrics", update: int = 1, *, env_steps: int = 1024, **values: Any) -> Record:
    arrays = {key.replace("__", "/"): np.atleast_1d(np.asarray(v, np.float32)) for key, v in values.items()}
    time = {"unix_seconds": 1.7e9 + update, "elapsed_seconds": float(update), "env_steps_per_second": 1000.0}
    return Record(name, update, env_steps, arrays, time)


def put(sink: Sink, *records: Record, num_seeds: int = 1, total: int = 2**40) -> None:
    sink.open(RunInfo("probe", total, 1024, num_seeds, {"gamma": 0.99}))
    for one in records:
        sink.write(one)
    sink.flush()
    sink.close()


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def events(directory: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Tag -> (step, value, wall time), by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def wandb_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of one offline run, once wandb's own process has written the record that ends it."""
    (path,) = directory.glob("*.wandb")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        messages = wandb_messages(path.read_bytes())
        if any(message.HasField("exit") for message in messages):
            break
        time.sleep(0.05)
    rows = [message.history.item for message in messages if message.HasField("history")]
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


def wandb_messages(data: bytes) -> list[Any]:
    """The records written so far: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    at, parts, found = 7, b"", []
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # no room for a header: the block is padded
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        if at + 7 + length > len(data):
            break  # still being written
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            found.append(Message.FromString(parts))
            parts = b""
    return found


def offline_runs(directory: Path) -> list[Path]:
    return sorted((directory / "wandb").glob("offline-run-*"))
