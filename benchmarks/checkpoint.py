"""What a checkpoint of a run with a large replay costs: memory of the device, and time that training waits.

In: how many transitions the replay holds. Out: JSON: bytes of the ring, the device's peak in a run that saves
nothing, in one that does and in one that goes on from its last checkpoint, and what training waited.

    JAX_PLATFORMS=cuda,cpu python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --capacity 100000 --num-seeds 4

DQN on CartPole, each run in a process of its own, since a peak only ever rises. After the stall training
waits here until the checkpoint is on disk: else the next stall would, and tell of the disk. A CPU does not
say what memory is in use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from throughput import about

import jaxtrain
from jaxtrain.runs import launch
from jaxtrain.tools import short
from jaxtrain.tree import in_place

SAVED = 4  # checkpoints after the first


def config_of(capacity: int, updates: int, between: int) -> jaxtrain.Config:
    """`updates` of 1,024 env steps, a checkpoint after every so many."""
    return jaxtrain.Config(
        env={"id": "CartPole-v1", "num_envs": 64},
        algorithm=jaxtrain.DQN(
            rollout_length=16,
            buffer_size=capacity,
            batch_size=256,
            learning_starts=2_048,
            target_update_interval=2_048,
        ),
        total_env_steps=1_024 * updates,
        evaluation={"every": 0},
        logging={"every": 0, "sinks": []},
        checkpoint={"every": 1_024 * between, "keep_last": 1, "best": "none"},
    )


class Watch:
    """Waits for each checkpoint, and notes for how long; or sees to it that there is none."""

    def __init__(self, saves: bool) -> None:
        self.disk: list[float] = []
        commit = launch.TrainLoop._commit

        def commit_and_wait(this: Any, *given: Any) -> None:
            commit(this, *given)
            begun = time.perf_counter()
            this._checkpoints.wait()
            self.disk.append(time.perf_counter() - begun)

        launch.TrainLoop._commit = commit_and_wait if saves else lambda *_: None  # type: ignore[method-assign]


def measured(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in this process."""
    capacity = options.capacity or (10**6 if jax.default_backend() == "cpu" else 10**7)
    updates = options.between * (SAVED + 1 if run == "resumed" else SAVED)
    config = config_of(capacity, updates, options.between)
    watch = Watch(saves=run != "unsaved")
    directory = Path(options.directory) / ("unsaved" if run == "unsaved" else "saved")
    ending = jaxtrain.launch(config, directory, num_seeds=options.num_seeds)
    stats: dict[str, int] = jax.devices()[0].memory_stats() or {}
    return {
        "ring_bytes": sum(x.nbytes for x in in_place(ending.result.state.agent)),
        "state_bytes": sum(x.nbytes for x in jax.tree.leaves(ending.result.state)),
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "resumed_at": ending.resumed_at,
        "stalls": ending.stalls,
        "on_disk_seconds": watch.disk,
        "about": about(),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capacity", type=int, help="transitions of a seed; 10^7 on a GPU, 10^6 on a CPU")
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--between", type=int, default=3, help="updates between two checkpoints")
    parser.add_argument("--run", choices=["unsaved", "saved", "resumed"], help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.num_seeds, options.between = map(short.repeats, (options.num_seeds, options.between))
    if options.run:
        print(json.dumps(measured(options.run, options)))
        return
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for run in ("unsaved", "saved", "resumed"):
            # This process does not look for a device, of which it would take most of the memory.
            command = [sys.executable, *sys.argv, "--run", run, "--directory", directory]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[run] = json.loads(done.stdout.splitlines()[-1])
    peaks = {run: said["peak_bytes"] for run, said in runs.items()}
    known = peaks["unsaved"] is not None
    saved, ring = runs["saved"], runs["saved"]["ring_bytes"]
    stall = statistics.median(saved["stalls"][1:])  # the first is before all training
    result = {
        **saved["about"],
        "command": " ".join(sys.argv),
        "ring_bytes": ring,
        "state_bytes": saved["state_bytes"],
        "peak_bytes": peaks if known else "not known on this device",
        "peak_ratio": peaks["saved"] / peaks["unsaved"] if known else None,
        "peak_ratio_resumed": peaks["resumed"] / peaks["unsaved"] if known else None,
        "resumed_at": runs["resumed"]["resumed_at"],
        "stalls": saved["stalls"],
        "stall_seconds_median": stall,
        "gigabytes_per_second": ring / stall / 1e9,
        "on_disk_seconds_median": statistics.median(saved["on_disk_seconds"]),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
