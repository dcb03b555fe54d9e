"""What logs and checkpoints cost the training: `launch` beside the bare loop, in one process, in turn.

In: a YAML file and overrides. Out: a line a round, then JSON with medians, versions and device.

    python benchmarks/lifecycle.py experiments/cartpole_ppo.yaml --rounds 3
    python benchmarks/lifecycle.py experiments/cartpole_ppo.yaml env.num_envs=2048 \\
        evaluation.every=0 total_env_steps=2147483648  # on a GPU
    python benchmarks/lifecycle.py experiments/cartpole_ppo.yaml --checkpoints 4 env.num_envs=64 \\
        algorithm.rollout_length=32 algorithm.network.hidden_sizes=6656,6656,6656 \\
        evaluation.every=0 logging.every=0 total_env_steps=1228800  # on a GPU

bare: `Trainer.run`, no event, nothing leaves the device. evaluated: the same with an evaluation every
5 %. launch: that in a directory, with logs every 1 % and a checkpoint every 10 %. Its loss is
(launch - evaluated) / bare: seconds of the loop, without compilation and without what happens after the
last update. Stalls are what the training thread waits at a checkpoint; the first and the last, before and
after all training, are apart, as is how long each took to be on disk.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

import jaxtrain
from jaxtrain.runs import launch, manager
from jaxtrain.tools import short


def bare(config: jaxtrain.Config) -> Callable[[int], float]:
    """Seconds of the loop with the events of `config`, and nobody to report to."""
    trainer = jaxtrain.Trainer(config)
    begin = jax.jit(trainer.init)
    run = jax.jit(lambda state: trainer.run(state, trainer.num_updates), donate_argnums=0)
    program = run.lower(jax.eval_shape(begin, jax.random.key(0))).compile()

    def seconds(seed: int) -> float:
        state = jax.block_until_ready(begin(jax.random.key(seed)))
        begun = time.perf_counter()
        jax.block_until_ready(program(state))
        return time.perf_counter() - begun

    return seconds


class Watch:
    """Times the loop of `launch` from outside, and what its checkpoints took."""

    def __init__(self) -> None:
        self.loop = 0.0
        self.disk: list[float] = []
        run, commit = launch.TrainLoop.run, manager.CheckpointManager._commit

        def timed_run(this: Any, *args: Any, **given: Any) -> Any:
            # From after the first checkpoint to the last update: what comes then is no training.
            found = this._commit

            def note(clock: int, *rest: Any) -> None:
                if clock == this._trainer.num_updates:
                    self.loop = time.perf_counter() - self.begun
                found(clock, *rest)
                if clock == 0:
                    this._checkpoints.wait()
                    self.begun = time.perf_counter()

            this._commit = note
            return run(this, *args, **given)

        def timed_commit(this: Any, *args: Any) -> None:
            begun = time.perf_counter()
            commit(this, *args)
            self.disk.append(time.perf_counter() - begun)

        launch.TrainLoop.run, manager.CheckpointManager._commit = timed_run, timed_commit  # type: ignore[method-assign]


def launched(config: jaxtrain.Config, seed: int, watch: Watch, place: Path) -> dict[str, Any]:
    """One run in a directory; seconds of its loop and of its checkpoints."""
    watch.disk = []
    ending = jaxtrain.launch(config, place / str(seed), seed=seed)
    size = sum(p.stat().st_size for p in ending.checkpoint.rglob("*"))  # type: ignore[union-attr]
    rows = (place / str(seed) / "metrics.jsonl").read_text().count("\n")
    shutil.rmtree(place / str(seed))
    return {"seconds": watch.loop, "stalls": ending.stalls, "disk": watch.disk, "bytes": size, "rows": rows}


def scheduled(config: jaxtrain.Config, checkpoints: int) -> jaxtrain.Config:
    """The config with logs every 1 %, evaluations every 5 %, and that many checkpoints."""

    def share(count: int) -> int:
        return max(1, config.num_updates // count) * config.env_steps_per_update

    return replace(
        config,
        evaluation=replace(config.evaluation, every=share(20)),
        logging=replace(config.logging, every=share(100), sinks=("jsonlines", "tensorboard")),
        checkpoint=replace(config.checkpoint, every=share(checkpoints), best="none"),
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=10)
    options = parser.parse_intermixed_args()
    options.rounds = short.repeats(options.rounds)
    given = short.config(jaxtrain.load_config(options.file, options.overrides))
    config = scheduled(given, options.checkpoints)
    per, updates = config.env_steps_per_update, config.num_updates
    evaluated = replace(config, logging=replace(config.logging, every=0))
    programs = {
        "bare": bare(replace(evaluated, evaluation=replace(config.evaluation, every=0))),
        "evaluated": bare(evaluated),
    }
    watch, place = Watch(), Path(tempfile.mkdtemp())
    # Imports, and the first look at the disk.
    launched(scheduled(short.config(jaxtrain.Config(env={"id": "CartPole-v1"})), 2), 0, watch, place)
    rounds: list[dict[str, Any]] = []
    for seed in range(1, options.rounds + 1):
        one: dict[str, Any] = {name: seconds(seed) for name, seconds in programs.items()}
        one["launch"] = launched(config, seed, watch, place)
        one["loss"] = (one["launch"]["seconds"] - one["evaluated"]) / one["bare"]
        rounds.append(one)
        print(
            f"bare {one['bare']:.3f} s  evaluated {one['evaluated']:.3f} s  "
            f"launch {one['launch']['seconds']:.3f} s  loss {one['loss']:.2%}",
            flush=True,
        )
    shutil.rmtree(place, ignore_errors=True)
    stalls = sorted(1000 * s for one in rounds for s in one["launch"]["stalls"][1:-1])
    disk = sorted(s for one in rounds for s in one["launch"]["disk"])
    device = jax.devices()[0].device_kind
    result = {
        "env_steps": updates * per,
        "num_envs": config.env.num_envs,
        "seconds_median": {
            "bare": statistics.median(one["bare"] for one in rounds),
            "evaluated": statistics.median(one["evaluated"] for one in rounds),
            "launch": statistics.median(one["launch"]["seconds"] for one in rounds),
        },
        "loss": [one["loss"] for one in rounds],
        "loss_median": statistics.median(one["loss"] for one in rounds),
        "stall_ms_p50": statistics.median(stalls),
        "stall_ms_max": max(stalls),
        "checkpoints": len(stalls),
        "checkpoint_bytes": rounds[-1]["launch"]["bytes"],
        "on_disk_seconds_p50": statistics.median(disk),
        "on_disk_seconds_max": max(disk),
        "log_rows": rounds[-1]["launch"]["rows"],
        "device": device,
        "versions": {
            "jaxtrain": jaxtrain.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
