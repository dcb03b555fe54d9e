"""Those who look at a run while it goes on see whole checkpoints, or newer ones, and never a damaged one.

In: a real run in a process of its own, which saves at each update and deletes what is older. Out: what its
readers get. Knows nothing of checkpoints that are damaged: see `test_corruption.py`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from pathlib import Path

import jaxtrain
from jaxtrain.runs import load, manager
from jaxtrain.runs.init_from import open_source, requested
from jaxtrain.tools import cli
from tests.faults.processes import Drift, alive, call, ended, run, start, until
from tests.helpers import tiny

CONFIG = tiny(
    100_000,
    env="tests.helpers:Walk",
    algorithm=Drift(),
    logging={"every": 0, "sinks": []},
    checkpoint={"every": 8, "keep_last": 1, "best": "none"},
)
SECONDS = 6.0


def look(directory: Path) -> tuple[int, set[int], str]:
    """Read for some seconds: how often, the last checkpoints that were seen, and what `verify` printed."""
    looks, seen, printed = 0, set[int](), io.StringIO()
    readers = {
        "verify": lambda: dict(load.verdicts(directory)),
        "command": lambda: cli.main(["verify", str(directory)]),
        "last": lambda: load.open_run(directory, "last", config=CONFIG).manifest["env_steps"],
        "start_from": lambda: manager.newest_good(directory / "checkpoints")[1:],
        "init_from": lambda: open_source(requested(f"{directory}@last", None, None)),
    }
    end = time.monotonic() + SECONDS
    with contextlib.redirect_stdout(printed):
        for name, read in itertools.cycle(readers.items()):
            found = read()
            looks += 1
            if name == "verify":
                assert [problem for problem in found.values() if problem is not None] == []
            elif name == "last":
                seen.add(found)
            elif name == "start_from":
                assert found[1] == {}
            if time.monotonic() > end:
                return looks, seen, printed.getvalue()
    raise AssertionError


def test_readers_beside_a_run_that_deletes_its_checkpoints_see_none_that_is_damaged(tmp_path):
    """In a process of their own: TensorStore's threads say at its end what they could not read."""
    directory = tmp_path / "run"
    process = start(tmp_path / "output", run, CONFIG, directory)
    until(lambda: len(manager.manifests(directory / "checkpoints")) > 0, process)
    try:
        looks, seen, said = call(look, directory)
        assert alive(process), (tmp_path / "output").read_text()
    finally:
        process.kill()
        ended(process)
    assert "whole" in said and "cannot be read" not in said and "not there" not in said
    print(f"\n{looks} looks at a run, whose last checkpoint was another one {len(seen)} times")
    assert len(seen) > 1  # else this has tested less than it says
    assert jaxtrain.load(directory, "last", config=CONFIG).env_steps >= max(seen)
