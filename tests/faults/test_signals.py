"""Runs that are told to stop: they save, say so by their exit code, and go on later as if never stopped.

In: SIGTERM and SIGINT to the command line's process, at instants drawn over all of a run. Out: a checkpoint
that can be verified, exit code 143 or 130, the bits and the log of a run that was never stopped.
Knows nothing of kills, which leave no time to save.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jaxtrain
from jaxtrain import Config
from jaxtrain.algorithms.ppo import NetworkConfig
from tests.faults.processes import (
    Watch,
    alive,
    arrays,
    call,
    command,
    ended,
    left_over,
    main,
    rows,
    start,
    until,
)
from tests.helpers import tiny, tiny_ppo

EVALUATED = 4  # updates between two evaluations, each of which takes far longer than they do


def config_of(updates: int, episodes: int, **given: Any) -> Config:
    """A config that a YAML file can hold; a checkpoint after every update says how far it is."""
    return tiny(
        updates,
        env="tests.helpers:Walk",
        logging={"every": 8, "sinks": ["jsonlines"]},
        evaluation={"every": 8 * EVALUATED, "num_episodes": episodes},
        checkpoint={"every": 8, "keep_last": 2, "reaction_seconds": 1},
        **given,
    )


def written(config: Config, path: Path) -> str:
    path.write_text(jaxtrain.dump(config))
    return str(path)


@dataclass(frozen=True)
class Whole:
    """A run that was never stopped."""

    file: str
    seconds: float  # from the moment when its directory says what it is to its end
    arrays: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, config: Config, directory: Path) -> Whole:
        call(int)  # the server is up
        file, place = written(config, directory / "config.yaml"), directory / "whole"
        process = start(directory / "whole.log", main, "train", file, "--out", str(place), "--no-cache")
        until((place / "run.json").exists, process)
        begun = time.monotonic()
        assert ended(process) == 0, (directory / "whole.log").read_text()
        return cls(file, time.monotonic() - begun, arrays(place), rows(place))


@dataclass(frozen=True)
class Stop:
    """A process that was told to stop, and what came of it."""

    place: str  # what it was at
    code: int
    latency: float  # seconds until it was gone
    differs: list[str]  # in the end, from a run that was never stopped


def doing(watch: Watch) -> str:
    """What a process is at, by the newest checkpoint: evaluations come before one that is due with them."""
    place = watch.place()
    if place != "between saves":
        return place
    return "evaluation" if (watch.saved() // 8 + 1) % EVALUATED == 0 else "update"


def stopped(
    whole: Whole, directory: Path, number: int, draw: random.Random, *, aimed: bool, real: bool
) -> Stop:
    """Stop a run at some instant, and go on with it; one that had already ended is begun anew.

    Args:
      aimed: during an evaluation, else at an instant drawn over all of the run.
      real: start Python anew, as a user does; else begin where everything is imported.
    """
    for attempt in range(10):
        place = directory.with_name(f"{directory.name}-{attempt}")
        log, watch = place.with_suffix(".log"), Watch(place)
        arguments = ("train", whole.file, "--out", str(place), "--no-cache")
        process = command(*arguments, output=log) if real else start(log, main, *arguments)
        until((place / "run.json").exists, process)
        if aimed:
            behind = 8 * draw.randrange(2 * EVALUATED)
            until(lambda: watch.saved() >= behind and doing(watch) == "evaluation", process)  # noqa: B023
            time.sleep(0.1 * draw.random())
        else:
            time.sleep(whole.seconds * draw.random())
        at, begun, pid = doing(watch), time.monotonic(), process.pid
        if alive(process) and pid is not None:
            os.kill(pid, number)
        code, latency = ended(process), time.monotonic() - begun
        done = json.loads((place / "run.json").read_text())["starts"][-1]["exit"]
        if done == "finished":  # and if it was killed, then as any other process
            assert (arrays(place), rows(place)) == (whole.arrays, whole.rows)
            continue
        assert (code, done) == (128 + number, f"signal {number}"), log.read_text()
        arrays(place)  # there is a checkpoint, and it is whole
        assert (
            f"stopped by {signal.Signals(number).name}, saved; to go on: jaxtrain resume {place}"
            in log.read_text()
        )
        assert ended(start(log, main, "resume", str(place), "--no-cache")) == 0, log.read_text()
        differs = [] if arrays(place) == whole.arrays else ["arrays"]
        differs += [] if rows(place) == whole.rows else ["rows"]
        return Stop(at, code, latency, [*differs, *left_over(place)])
    raise AssertionError("ten runs ended before they could be stopped")


def stop_often(trials: int, config: Config, directory: Path) -> None:
    whole, numbers = Whole.of(config, directory), (signal.SIGTERM, signal.SIGINT)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        jobs = [
            pool.submit(
                stopped,
                whole,
                directory / f"run-{i}",
                numbers[i % 2],
                random.Random(i),
                aimed=i % 3 == 2,
                real=i % 3 == 0,
            )
            for i in range(trials)
        ]
        stops = [job.result() for job in jobs]
    latencies = sorted(stop.latency for stop in stops)
    passed = sum(not stop.differs for stop in stops)
    print(f"\nsignals: {passed}/{trials} saved, left and went on to the same bits and log; ", end="")
    print(", ".join(f"{n} during {place}" for place, n in Counter(s.place for s in stops).most_common()))
    print(f"  exit codes {dict(Counter(s.code for s in stops))}; ", end="")
    print(f"latency p50 {latencies[trials // 2]:.2f} s, max {latencies[-1]:.2f} s")
    assert [(i, stop) for i, stop in enumerate(stops) if stop.differs] == []
    assert {"compile", "evaluation"} <= {stop.place for stop in stops}  # else less was tested than is said


def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_bits(tmp_path):
    stop_often(6, config_of(12, 100_000), tmp_path)


@pytest.mark.slow
def test_forty_runs_that_are_told_to_stop_save_and_go_on_to_the_same_bits(tmp_path):
    stop_often(40, config_of(24, 50_000), tmp_path)


def leave_at_once(process: Any, place: Path, log: Path, first: int, second: int) -> None:
    """Two signals, the second while the first cannot be answered yet."""
    assert alive(process)
    time.sleep(0.2)
    saved = Watch(place).saved()
    os.kill(process.pid, first)
    time.sleep(0.3)
    assert alive(process)  # it waits for what is under way
    begun = time.monotonic()
    os.kill(process.pid, second)
    assert ended(process) == 128 + second
    assert f"{signal.Signals(second).name} again: left at once" in log.read_text()
    print(f"\nsecond signal: gone after {time.monotonic() - begun:.3f} s")
    assert Watch(place).saved() == saved  # nothing was waited for
    assert json.loads((place / "run.json").read_text())["starts"][-1]["exit"] is None


@pytest.mark.parametrize("at", ["tracing start", "jaxpr to MLIR module conversion jit(advance)"])
def test_a_second_signal_ends_a_run_at_once_while_it_compiles(tmp_path, at):
    """At once is also within XLA, where Python would call no handler; that takes ten times these instants."""
    layers = NetworkConfig(hidden_sizes=(16,) * 12)
    file = written(config_of(12, 2, algorithm=tiny_ppo(network=layers)), tmp_path / "config.yaml")
    place, log = tmp_path / "run", tmp_path / "log"
    arguments = ("train", file, "--out", str(place), "--no-cache")
    process = command(*arguments, output=log, JAX_LOG_COMPILES="1")
    until(lambda: f"Finished {at}" in log.read_text(), process)
    leave_at_once(process, place, log, signal.SIGTERM, signal.SIGTERM)
    assert "XLA compilation of jit(advance)" not in log.read_text()


def test_a_second_signal_ends_a_run_at_once_while_it_evaluates_and_costs_only_what_was_not_saved(tmp_path):
    file, place, log = (
        written(config_of(4, 500_000), tmp_path / "config.yaml"),
        tmp_path / "run",
        tmp_path / "log",
    )
    process, watch = start(log, main, "train", file, "--out", str(place), "--no-cache"), Watch(place)
    until(lambda: doing(watch) == "evaluation", process)
    leave_at_once(process, place, log, signal.SIGINT, signal.SIGTERM)
    assert ended(start(log, main, "resume", str(place), "--no-cache")) == 0, log.read_text()
    assert ended(start(log, main, "train", file, "--out", str(tmp_path / "whole"), "--no-cache")) == 0
    assert (arrays(place), rows(place)) == (arrays(tmp_path / "whole"), rows(tmp_path / "whole"))
