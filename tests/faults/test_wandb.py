"""Weights & Biases for a run that is killed and resumed, and with a server that is away, slow or dies.

In: the real wandb and its own process, a server on loopback, SIGKILL. Out: the rows of a run that nothing
happened to, at the server or in wandb's own files; one warning; training and the other sinks are whole.
Knows nothing of checkpoints: `metrics.jsonl` is cut back by hand, as the launcher does before `open`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxtrain.sinks import Wandb
from jaxtrain.types import Record, RunInfo
from tests.faults.fake_wandb import API_KEY, FakeWandb
from tests.sinks.test_sinks import offline_runs, wandb_rows

# A server has seconds to answer in, and wandb a process of its own to start: no test for a busy machine.
pytestmark = pytest.mark.slow

RECORDS, PER = 20, 2**32 - 1
ID = "0123abcd"
SOON = {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}  # seconds, a whole number; 15 if not said

# Go on with a run, in `metrics.jsonl` and then in Weights & Biases, up to some record; close, or be killed.
CHILD = """if True:
    import logging, sys, time
    from jaxtrain.sinks import JsonLines, Wandb
    from tests.faults.test_wandb import info, record
    where, seeds, num_seeds, begin, end, closes = *sys.argv[1:3], *map(int, sys.argv[3:])
    logging.basicConfig(format="LOG %(message)s")
    log = JsonLines(where + "/metrics.jsonl")
    sink = Wandb(directory=where, seeds=seeds, timeout_seconds=2)
    log.open(info(num_seeds, begin))
    sink.open(info(num_seeds, begin))
    for index in range(begin, end):
        for each in (log, sink):
            each.write(record(index, num_seeds))
    sink.flush()
    if closes:
        sink.close()
    print("written", flush=True)
    time.sleep(0 if closes else 600)
"""

# A real run beside other sinks. It stops halfway until a line comes in, and says how it went.
TRAIN = """if True:
    import json, logging, sys, warnings
    import jax
    from jaxtrain import train
    from jaxtrain.sinks import JsonLines, Memory, Wandb
    from tests.helpers import tiny
    logging.basicConfig(format="LOG %(message)s")
    done = []
    class Watched(Wandb):
        rows = 0
        def open(self, run):
            super().open(run)
            done.append("opened")
        def write(self, record):
            super().write(record)
            self.rows += 1
            if self.rows == 6:
                print("half", flush=True)
                sys.stdin.readline()
    class Last(Memory):
        def write(self, record):
            super().write(record)
            if len(self.records) == 12:
                done.append("trained")
    log, memory = JsonLines(sys.argv[1] + "/metrics.jsonl"), Last()
    sink = Watched(directory=sys.argv[1], timeout_seconds=6, finish_seconds=float(sys.argv[2]))
    config = tiny(12, logging={"every": 8})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(config, jax.random.key(0), sinks=[sink, log, memory])
    sink.close()
    print(json.dumps({
        "updates": int(result.state.clock), "done": done, "memory": [r.update for r in memory.records],
        "warned": [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)],
    }), flush=True)
"""


def record(index: int, num_seeds: int) -> Record:
    """What is drawn depends on nothing but the index; a NaN, an infinity, an int and arrays among it."""
    value = np.float32([np.sin(index + seed) for seed in range(num_seeds)])
    values = {
        "x": value,
        "pair": np.stack([value, np.where(index % 3, value, np.nan).astype(np.float32)], -1),
        "n": np.arange(num_seeds) + index,
        "edge": np.full(num_seeds, [np.nan, np.inf, -np.inf, 0.1][index % 4], np.float32),
    }
    update = 1 + index // 2
    clocks = {"unix_seconds": 1.7e9 + index, "env_steps_per_second": 1000.0 + index}
    return Record(("metrics", "evaluation")[index % 2], update, update * PER, values, clocks, index)


def info(num_seeds: int, begin: int) -> RunInfo:
    config = {"gamma": 0.99}
    return RunInfo("probe", RECORDS * PER, PER, num_seeds, config, ID, begin // 2 * PER if begin else None)


def environment(tmp_path: Path, *more: dict[str, str]) -> dict[str, str]:
    (tmp_path / "home").mkdir(exist_ok=True)
    env = {**os.environ, "HOME": str(tmp_path / "home"), "WANDB_ERROR_REPORTING": "false"}
    # wandb's own process, once there is one: that of this process would outlive a child that is killed.
    env.pop("WANDB_SERVICE", None)
    for one in more:
        env |= one
    return env


@contextmanager
def child(code: str, *given: Any, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed when its test fails or hangs for two minutes."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, given)],
        env=env,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        timer = threading.Timer(120, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def go_on(where: Path, begin: int, end: int, env: dict[str, str], *, seeds: tuple[str, int]) -> str:
    """A process from one record to another that closes its sink; its log."""
    cut(where, begin)
    with child(CHILD, where, *seeds, begin, end, 1, env=env) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "written\n"), err
    return err


def cut(where: Path, records: int) -> None:
    log = where / "metrics.jsonl"
    if log.exists():
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:records]))


def ids(seeds: str, num_seeds: int) -> list[str]:
    return [f"{ID}-{i:04d}" for i in range(num_seeds)] if seeds == "separate" else [ID]


@pytest.mark.parametrize(
    "seeds",
    [
        ("aggregate", 1),
        pytest.param(("aggregate", 3), marks=pytest.mark.slow),
        pytest.param(("separate", 2), marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_twice_has_the_rows_of_an_unbroken_one_at_the_server(tmp_path, seeds):
    with FakeWandb() as whole:
        (tmp_path / "whole").mkdir()
        go_on(tmp_path / "whole", 0, RECORDS, environment(tmp_path, whole.environment), seeds=seeds)
    where = tmp_path / "broken"
    where.mkdir()
    with FakeWandb() as server:
        env = environment(tmp_path, server.environment)
        # Killed when the server is ahead of the checkpoint, at record 6, and when it is behind, at 14.
        for begin, end, more, arrived in ((0, 10, SOON, 10), (6, 16, {}, 10)):
            cut(where, begin)
            with child(CHILD, where, *seeds, begin, end, 0, env=env | more) as process:
                assert process.stdout.readline() == "written\n"
                for run in ids(*seeds):
                    server.wait_for_rows(run, arrived)
                process.kill()
            assert process.returncode == -9
        go_on(where, 14, RECORDS, env, seeds=seeds)
    assert sorted(server.runs) == sorted(whole.runs) == ids(*seeds)
    for run in ids(*seeds):
        assert whole.runs[run].steps == [*range(RECORDS)]
        assert server.runs[run].rows == whole.runs[run].rows
        assert server.runs[run].replaced == []
        assert server.runs[run].complete
        begun = server.runs[run].begun
        assert len(begun) >= 3
        assert {one["groupName"] for one in begun[:1]} == {ID if seeds[0] == "separate" else None}
        assert {one["groupName"] for one in begun} <= {begun[0]["groupName"], None}


def test_a_run_begun_without_a_server_and_resumed_with_one_has_all_rows_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "WANDB_API_KEY": API_KEY}
    seeds = ("aggregate", 1)
    env = environment(tmp_path, away, {"WANDB_MODE": "online"})
    said = go_on(tmp_path, 0, 10, env, seeds=seeds)
    assert len(re.findall("^LOG .*going offline", said, re.MULTILINE)) == 1
    with FakeWandb() as server:
        assert "LOG" not in go_on(
            tmp_path, 6, RECORDS, environment(tmp_path, server.environment), seeds=seeds
        )
    assert server.runs[ID].steps == [*range(RECORDS)]
    assert server.runs[ID].replaced == []


def test_the_step_of_a_row_is_the_index_of_its_record_even_where_earlier_rows_cannot_be_found(tmp_path):
    with Wandb(mode="offline", directory=tmp_path) as sink:
        sink.open(info(1, 6))
        for index in (6, 7, 7, 9):  # a record that came already adds nothing
            sink.write(record(index, 1))
    (run,) = offline_runs(tmp_path)
    assert [row["_step"] for row in wandb_rows(run)] == [6, 7, 9]


@pytest.mark.slow
def test_wandb_sync_of_a_run_killed_offline_sends_the_rows_of_an_unbroken_one(tmp_path):
    offline, seeds = environment(tmp_path, {"WANDB_MODE": "offline"}), ("aggregate", 1)
    with child(CHILD, tmp_path, *seeds, 0, 10, 0, env=offline) as process:
        assert process.stdout.readline() == "written\n"
        process.kill()
    go_on(tmp_path, 6, RECORDS, offline, seeds=seeds)
    assert len(offline_runs(tmp_path)) == 2
    newest = [wandb_rows(run) for run in offline_runs(tmp_path) if not [*run.glob("*.synced")]]
    assert [row["env_steps"] for row in newest[0]] == [(1 + i // 2) * PER for i in range(RECORDS)]
    assert len(newest) == 1
    with FakeWandb() as server, FakeWandb() as whole:
        sync = [shutil.which("wandb", path=Path(sys.executable).parent), "sync", "--yes"]
        env = environment(tmp_path, server.environment)
        subprocess.run(sync, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=120)
        (tmp_path / "whole").mkdir()
        go_on(tmp_path / "whole", 0, RECORDS, environment(tmp_path, whole.environment), seeds=seeds)
    assert server.runs[ID].rows == whole.runs[ID].rows
    assert server.runs[ID].steps == [*range(RECORDS)]
    assert server.runs[ID].replaced == []


def train_beside(tmp_path: Path, server: FakeWandb, dies: bool) -> tuple[dict[str, Any], list[str]]:
    """A real run with real sinks; how it went, and what was logged. All but wandb has every row."""
    env = environment(tmp_path, server.environment, SOON)
    with child(TRAIN, tmp_path, 2 if dies else 60, env=env) as process:
        assert process.stdout.readline() == "half\n"
        if dies:
            ((run,),) = [list(server.runs)]
            server.wait_for_rows(run, 6)
            server.dead = True
        out, err = process.communicate("\n")
    assert process.returncode == 0, err
    said = json.loads(out)
    assert said["updates"] == 12
    assert said["memory"] == [*range(1, 13)]
    log = [json.loads(line)["update"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert log == [*range(1, 13)]
    return said, re.findall("^LOG .*", err, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["unreachable", "hangs"])
def test_a_server_that_does_not_answer_costs_no_row_and_training_does_not_wait_for_it(tmp_path, fault):
    with FakeWandb(delay=600 if fault == "hangs" else 0) as server:
        server.dead = fault == "unreachable"
        said, logged = train_beside(tmp_path, server, dies=False)
    assert said["done"] == ["trained", "opened"]
    assert said["warned"] == []
    (warning,) = logged
    assert "going offline" in warning
    (run,) = offline_runs(tmp_path)
    assert [row["update"] for row in wandb_rows(run)] == [*range(1, 13)]


@pytest.mark.slow
def test_a_server_that_dies_midway_costs_no_row_and_one_warning(tmp_path):
    with FakeWandb() as server:
        said, logged = train_beside(tmp_path, server, dies=True)
    assert said["warned"] == []
    (warning,) = logged
    (run,) = (tmp_path / "wandb").glob("run-*")
    assert f"the rows are kept in {run}" in warning
    assert [row["update"] for row in wandb_rows(run)] == [*range(1, 13)]
    ((arrived,),) = [[run.steps for run in server.runs.values()]]
    assert arrived == [*range(6)]


@pytest.mark.slow
def test_a_slow_server_gets_every_row_and_training_does_not_wait_for_it(tmp_path):
    with FakeWandb(delay=1.0) as server:
        said, logged = train_beside(tmp_path, server, dies=False)
    assert said["done"] == ["trained", "opened"]
    assert said["warned"] == logged == []
    ((rows,),) = [[run.rows for run in server.runs.values()]]
    assert [row["update"] for row in rows] == [*range(1, 13)]
