"""Runs that go on: from every checkpoint, twenty times in a row, for longer, and with fewer seeds.

In: directories whose newest checkpoints are deleted, other totals, other seeds. Out: the bits and the log of
a run that was never stopped, and a process that holds no more after twenty resumes than after a few.
Knows nothing of kills and signals, which have tests of their own.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxtrain import Config, ConfigError
from jaxtrain.runs import manager
from jaxtrain.runs.launch import launch
from jaxtrain.types import Record, RunInfo
from tests.faults.processes import Drift, arrays, call, left_over, points, rows
from tests.helpers import differing, tiny, tiny_ppo

SINKS = {"every": 8, "sinks": ["jsonlines", "tensorboard"]}
SAVED = {"every": 8, "keep_last": 1000}  # after every update, and all stay
EVALUATED = {"every": 16, "num_episodes": 2}


class Held(NamedTuple):
    """What the process holds."""

    resident_mebibytes: float
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what compilers have freed is no longer held
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
        )


class Stopwatch:
    """A sink that notes when its first record came."""

    def __init__(self) -> None:
        self.begun, self.first = time.perf_counter(), 0.0

    def open(self, run: RunInfo) -> None: ...

    def write(self, record: Record) -> None:
        self.first = self.first or time.perf_counter() - self.begun

    def flush(self) -> None: ...

    def close(self) -> None: ...


def forget(directory: Path, env_steps: int) -> None:
    """Leave of the checkpoints those up to here, as if the process had been killed then."""
    for steps, path in manager.found(directory / "checkpoints").items():
        if steps > env_steps:
            shutil.rmtree(path)


def copy(source: Path, directory: Path, env_steps: int) -> Path:
    """A run as it would be, had it been killed after that checkpoint and some rows."""
    shutil.copytree(source, directory)
    forget(directory, env_steps)
    return directory


def chain(config: Config, directory: Path) -> list[tuple[list[str], Held, float]]:
    """Run, then go on from every checkpoint in turn, each but the first written by the process before.

    Returns:
      For each: what differs from the first time, what the process holds, and seconds to the first record.
    """
    launch(config, directory, seed=3, cache=False)
    wanted = arrays(directory), rows(directory), points(directory)
    found: list[tuple[list[str], Held, float]] = []
    for update in range(config.num_updates):
        env_steps = update * config.env_steps_per_update
        forget(directory, env_steps)
        watch = Stopwatch()
        ending = launch(config, directory, cache=False, more_sinks=[watch])
        assert ending.resumed_at == env_steps
        got = arrays(directory), rows(directory), points(directory)
        names = ("arrays", "rows", "points")
        differs = [name for name, x, y in zip(names, got, wanted, strict=True) if x != y]
        del ending
        found.append(([*differs, *left_over(directory)], Held.now(), watch.first))
    return found


def holds(found: list[tuple[list[str], Held, float]]) -> None:
    passed = sum(not differs for differs, _, _ in found)
    print(f"\nresumed in a chain: {passed}/{len(found)} with the same bits, log and curves")
    for number in (0, 1, len(found) // 2, len(found) - 1):
        print(f"  resume {number + 1}: {found[number][1]}, first record after {found[number][2]:.2f} s")
    assert [(i, differs) for i, (differs, _, _) in enumerate(found) if differs] == []
    middle = len(found) // 2
    assert {(x.descriptors, x.threads) for _, x, _ in found[1:]} == {(found[1][1].descriptors, 1)}
    # A program that stayed would be megabytes; a save leaves some kilobytes in the library that writes it.
    assert found[-1][1].resident_mebibytes - found[middle][1].resident_mebibytes < 0.8 * (len(found) - middle)
    # Three times as long would be no fluctuation; what came first had to import and to warm up.
    assert min(s for *_, s in found[middle:]) < 3 * min(s for *_, s in found[1:middle])


@pytest.mark.slow
def test_twenty_resumes_in_a_row_one_from_each_checkpoint_end_in_the_same_bits_and_hold_no_more(tmp_path):
    config = tiny(updates=20, algorithm=Drift(), logging=SINKS, checkpoint=SAVED, on_nan="ignore")
    holds(call(chain, config, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"algorithm": tiny_ppo()}], ids=["reinforce", "ppo"])
def test_twenty_resumes_in_a_row_of_a_run_that_learns_and_is_evaluated(tmp_path, given):
    config = tiny(updates=20, logging=SINKS, evaluation=EVALUATED, checkpoint=SAVED, **given)
    holds(call(chain, config, tmp_path / "run"))


def extended(directory: Path) -> None:
    """A run of 6 updates that is made one of 12, and one of 12."""
    short, long = (
        tiny(updates=n, logging=SINKS, evaluation=EVALUATED, checkpoint={"every": 24}) for n in (6, 12)
    )
    whole = launch(long, directory / "whole", seed=3, num_seeds=2, cache=False)
    launch(short, directory / "run", seed=3, num_seeds=2, cache=False)
    ending = launch(long, directory / "run", cache=False)
    assert ending.resumed_at == short.total_env_steps
    assert differing(ending.result, whole.result) == []  # the state, and every row of the history
    assert arrays(directory / "run") == arrays(directory / "whole")
    assert rows(directory / "run") == rows(directory / "whole")


def test_a_run_that_is_made_longer_is_the_longer_run(tmp_path):
    call(extended, tmp_path)


class Notes(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def annealed(directory: Path) -> None:
    """PPO's learning rate falls to 0 over 6 updates, and the run is made one of 9."""
    notes = Notes()
    logging.getLogger("jaxtrain").addHandler(notes)
    short, long = (
        tiny(updates=n, logging=SINKS, algorithm=tiny_ppo(), checkpoint={"every": 8}) for n in (6, 9)
    )
    launch(short, directory / "run", seed=3, cache=False)
    assert notes.messages == []
    shutil.copytree(directory / "run", directory / "other")
    before = arrays(directory / "run")
    launch(long, directory / "run", cache=False)
    said = [m for m in notes.messages if "48 env steps" in m and "stay at their final value" in m]
    assert len(said) == 1, notes.messages
    weights = [name for name in before if name.startswith("state.agent") and "params" in name]
    assert weights
    after = arrays(directory / "run")
    assert [after[name] for name in weights] == [before[name] for name in weights]  # at a rate of 0
    assert after["state.clock"] != before["state.clock"]

    notes.messages.clear()
    longer = tiny(
        updates=9,
        logging=SINKS,
        algorithm=tiny_ppo(),
        checkpoint={"every": 8},
        anneal_env_steps=long.total_env_steps,
    )
    launch(longer, directory / "other", cache=False)
    assert notes.messages == []  # it was said how
    after = arrays(directory / "other")
    assert any(after[name] != before[name] for name in weights)


def test_a_rate_that_has_annealed_stays_at_its_final_value_when_the_run_is_made_longer(tmp_path):
    call(annealed, tmp_path)


def few_seeds(directory: Path) -> None:
    """Eight seeds, stopped half-way: all of them go on, one alone, two of them; and two from the start."""
    config = tiny(updates=8, logging=SINKS, evaluation=EVALUATED, checkpoint=SAVED)
    whole = launch(config, directory / "whole", seed=3, num_seeds=8, cache=False)
    half = copy(directory / "whole", directory / "half", config.total_env_steps // 2)

    def close(ending: Any, seeds: Any) -> None:
        assert int(ending.result.state.clock) == config.num_updates
        for got, all_of_them in zip(
            jax.tree.leaves((ending.result.state.agent, ending.result.history)),
            jax.tree.leaves((whole.result.state.agent, whole.result.history)),
            strict=True,
        ):
            np.testing.assert_allclose(got, np.asarray(all_of_them)[seeds], rtol=1e-4, atol=1e-5)

    close(launch(config, directory / "one", start_from=half, seeds=[3], cache=False), 3)
    close(launch(config, directory / "two", start_from=half, seeds=[3, 7], cache=False), [3, 7])
    with pytest.raises(ConfigError, match=r"total_env_steps = 16: the run in .*half' has done 32 env steps"):
        short = tiny(updates=2, logging=SINKS, evaluation=EVALUATED, checkpoint=SAVED)
        launch(short, directory / "short", start_from=half, seeds=[3], cache=False)
    assert not (directory / "short").exists()
    close(launch(config, directory / "fresh", seed=3, num_seeds=8, seeds=[3, 7], cache=False), [3, 7])
    assert next(row["update"] for row in rows(directory / "one") if row["name"] == "metrics") == 5
    assert arrays(half)["state.clock"] != arrays(directory / "whole")["state.clock"]  # only read from
    ending = launch(config, half, cache=False)
    assert ending.resumed_at == config.total_env_steps // 2
    assert differing(ending.result, whole.result) == []
    assert arrays(half) == arrays(directory / "whole")
    assert rows(half) == rows(directory / "whole")
    # Of a run that is finished some seeds are only taken out, and that is said.
    notes = Notes()
    logging.getLogger("jaxtrain").addHandler(notes)
    close(launch(config, directory / "out", start_from=directory / "whole", seeds=[7], cache=False), 7)
    assert any("only to save is left" in message for message in notes.messages), notes.messages
    assert list(manager.found(directory / "out" / "checkpoints")) == [config.total_env_steps]
    # Those of fewer seeds can be stopped too.
    wanted = arrays(directory / "two"), rows(directory / "two")
    forget(directory / "two", 6 * config.env_steps_per_update)
    assert launch(config, directory / "two", cache=False).resumed_at == 6 * config.env_steps_per_update
    assert (arrays(directory / "two"), rows(directory / "two")) == wanted


@pytest.mark.slow
def test_some_seeds_of_many_go_on_as_they_would_have_in_company(tmp_path):
    call(few_seeds, tmp_path)
