"""Runs that are killed, again and again, wherever they are: they end as if nothing had happened.

In: `kill -9` at instants drawn over all of a start, and aimed at saves. Out: the bits of the last
checkpoint, the log and the curves of a run that nobody killed.
Knows nothing of what a program does inside; only of what it leaves on disk.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jaxtrain
from jaxtrain import Config
from tests.faults.processes import (
    Drift,
    Watch,
    arrays,
    call,
    ended,
    kill,
    left_over,
    main,
    points,
    rows,
    run,
    start,
    until,
)
from tests.helpers import tiny, tiny_ppo

KILLS = 3  # at least, in every run
SINKS = {"every": 8, "sinks": ["jsonlines", "tensorboard"]}
EVALUATED = {"evaluation": {"every": 24, "num_episodes": 2}}
SAVED = {"checkpoint": {"every": 8, "keep_last": 2}}  # every update


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed."""

    config: Config
    num_seeds: int
    seconds: float  # of its one start
    arrays: dict[str, Any]
    rows: list[dict[str, Any]]
    points: dict[str, list[tuple[int, float]]]

    @classmethod
    def of(cls, config: Config, num_seeds: int, directory: Path) -> Whole:
        begun = time.monotonic()
        assert ended(start(None, run, config, directory, seed=3, num_seeds=num_seeds)) == 0
        seconds = time.monotonic() - begun
        return cls(config, num_seeds, seconds, arrays(directory), rows(directory), points(directory))


def kill_once(whole: Whole, directory: Path, draw: random.Random, kills: int) -> tuple[str, bool] | None:
    """Start or go on, and kill: where that was, and whether rows were lost with it; None if it came too late.

    Half of the kills are aimed at an instant of the start, a quarter at one during a save, a quarter at one
    shortly after a save. None is later than its share of the run, so that there is a rest to be killed.
    """
    config = whole.config
    share = config.total_env_steps * (kills + 1) // (KILLS + 1)
    watch, log = Watch(directory), directory.with_suffix(".log")
    aim, instant, moment = draw.randrange(4), whole.seconds * draw.random(), 0.03 * draw.random()
    saves = draw.randrange(3) * config.env_steps_per_update
    process = start(log, run, config, directory, seed=3, num_seeds=whole.num_seeds)

    def due() -> bool:
        passed = watch.saved() >= max(share, before + config.env_steps_per_update)
        if aim < 2:
            return passed or time.monotonic() - watch.begun >= instant
        if aim == 2:
            return passed or (watch.saved() >= before + saves and "save" in watch.place().split())
        return passed or watch.saved() > before + saves

    before = watch.saved()
    until(due, process)
    if aim >= 2:
        time.sleep(moment)
    place = watch.place()
    return (place, watch.unsaved_rows()) if kill(process) else None


def run_killed(whole: Whole, directory: Path, seed: int) -> tuple[list[tuple[str, bool]], list[str]]:
    """One run, killed at least `KILLS` times: where, and what of it differs from one that nobody killed.

    One that was faster than its kills is compared too, and then another one is begun.
    """
    draw, differs = random.Random(seed), list[str]()
    landed: list[tuple[str, bool]] = []
    for attempt in range(10):
        place, landed = directory.with_name(f"{directory.name}-{attempt}"), []
        wanted = KILLS + draw.randrange(2)
        while len(landed) < wanted and (found := kill_once(whole, place, draw, len(landed))) is not None:
            landed.append(found)
        if len(landed) == wanted:
            last = start(place.with_suffix(".log"), run, whole.config, place)  # the seeds are those it has
            assert ended(last) == 0, place.with_suffix(".log").read_text()
        differs += [] if arrays(place) == whole.arrays else ["arrays"]
        differs += [] if rows(place) == whole.rows else ["rows"]
        differs += [] if points(place) == whole.points else ["points"]
        differs += left_over(place)
        if differs or len(landed) >= KILLS:
            break
    return landed, differs


def survive(what: list[tuple[int, Config, int]], directory: Path) -> None:
    """So many runs of a config with so many seeds, each of them killed."""
    call(int)  # else the first run would wait for the server, and its kills be aimed too late
    jobs: list[Future[tuple[list[tuple[str, bool]], list[str]]]] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for kind, (runs, config, num_seeds) in enumerate(what):
            whole = Whole.of(config, num_seeds, directory / f"whole-{kind}")
            places = [directory / f"run-{kind}-{i}" for i in range(runs)]
            jobs += [pool.submit(run_killed, whole, place, i) for i, place in enumerate(places)]
        found = [job.result() for job in jobs]
    runs = len(found)
    landed = [kill for kills, _ in found for kill in kills]
    places = Counter(place for place, _ in landed)
    passed = sum(not differs and len(kills) >= KILLS for kills, differs in found)
    print(f"\nkill -9: {passed}/{runs} runs the same after {len(landed)} kills, ", end="")
    print(", ".join(f"{n} at {place}" for place, n in places.most_common()), end="")
    print(f"; rows behind the checkpoint at {sum(unsaved for _, unsaved in landed)}")
    assert [(i, differs) for i, (_, differs) in enumerate(found) if differs] == []
    assert passed == runs
    assert {"compile", "save", "between saves"} <= places.keys()  # else this has tested less than it says


def test_a_run_killed_at_random_instants_ends_in_the_same_bits_with_the_same_log(tmp_path):
    quick = tiny(updates=8, algorithm=Drift(), logging=SINKS, on_nan="ignore", **SAVED)
    learns = tiny(updates=8, logging=SINKS, **EVALUATED, **SAVED)
    survive([(7, quick, 1), (3, quick, 3), (2, learns, 3)], tmp_path)


@pytest.mark.slow
def test_two_hundred_runs_killed_at_random_instants_end_in_the_same_bits_with_the_same_log(tmp_path):
    learns = tiny(updates=24, logging=SINKS, **EVALUATED, **SAVED)
    ppo = tiny(updates=24, logging=SINKS, algorithm=tiny_ppo(), **EVALUATED, **SAVED)
    survive([(80, learns, 1), (40, learns, 3), (40, learns, 8), (40, ppo, 1)], tmp_path)


def killed_at(event: int, name: str, directory: Path, *words: str) -> None:
    """The command line, killed as it is about to open, rename, make or remove its n-th path in a directory.

    Args:
      name: only paths that end in it count.
    """
    left = [event]

    def watch(what: str, given: tuple[Any, ...]) -> None:
        changes = what.startswith("os.") or (what == "open" and given[2] & (os.O_WRONLY | os.O_RDWR))
        path = str(given[0]) if changes and given else ""
        if path.startswith(str(directory)) and path.endswith(name):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    main(*words)


@pytest.mark.parametrize("name", ["run.json", pytest.param("", marks=pytest.mark.slow)])
def test_a_command_killed_at_any_of_its_first_writes_goes_on_when_it_is_given_again(tmp_path, name):
    """As a scheduler does it: the same command, whatever the one before was killed at."""
    directory, file = tmp_path / "a" / "run", tmp_path / "config.yaml"
    file.write_text(jaxtrain.dump(tiny(2, env="tests.helpers:Walk", algorithm=Drift(), logging=SINKS)))
    words = ("train", str(file), "--out", str(directory), "--seed", "3", "--no-cache")
    left: list[set[str]] = []
    for event in range(1, 4 if name else 40):
        process = start(tmp_path / "log", killed_at, event, name, directory, *words)
        assert ended(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
        left.append({path.name for path in directory.glob("*")})
        if "checkpoints" in left[-1]:
            break
    print(f"\n{len(left)} kills before anything was trained")
    assert {"lock", ".part-run.json"} in left  # the first words that a run says of itself were cut off
    assert ended(start(tmp_path / "log", main, *words)) == 0, (tmp_path / "log").read_text()
    assert [row["update"] for row in rows(directory)] == [1, 2] and left_over(directory) == []
