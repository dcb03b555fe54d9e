"""README.md runs from top to bottom, in one directory and one Python.

Commands run under `JAXTRAIN_SHORT=1`. In Python blocks nothing reads that variable, so `jaxtrain.train` and
`jaxtrain.launch` stand for themselves with the config cut by the same function, and its events with it: the
text of a block stays as it is printed, and so do its numbers of seeds. Benchmarks, which need nothing of what
stands above them, are run by `test_elsewhere.py`, beside this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import time
import types
from pathlib import Path

import jax
import pytest

import jaxtrain
from jaxtrain.tools import short
from tests.docs import commands, printed
from tests.docs.printed import ROOT, Block


def cut(run):
    """`jaxtrain.train` or `launch`, for two updates."""

    def shorter(config, *args, events=(), **given):
        n = len(config.events)
        whole = short.cut(dataclasses.replace(config, events=(*config.events, *events)))
        return run(
            dataclasses.replace(whole, events=whole.events[:n]), *args, events=whole.events[n:], **given
        )

    return shorter


@pytest.fixture
def module(monkeypatch):
    """Where the Python blocks run, one after the other."""
    made = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", made)
    for name in ("train", "launch"):
        monkeypatch.setattr(jaxtrain, name, cut(getattr(jaxtrain, name)))
    return made


def python(block, module):
    """Run it; every config that it makes fits its environment."""
    before = dict(vars(module))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.text, block.place, "exec"), vars(module))
    for name, value in vars(module).items():
        if isinstance(value, jaxtrain.Config) and value is not before.get(name):
            jaxtrain.Trainer(value).timetable  # noqa: B018


def yaml(block, module):
    """It is a config, whole or with defaults for the rest, that fits its environment."""
    path = Path("block.yaml")
    path.write_text(block.text, encoding="utf-8")
    jaxtrain.Trainer(jaxtrain.load_config(path)).timetable  # noqa: B018


def as_json(block, module):
    """It is a record as a run has written them."""
    rows = [json.loads(line) for line in Path("runs/cartpole/metrics.jsonl").read_text().splitlines()]
    for shown in map(json.loads, block.text.splitlines()):
        like = [row for row in rows if row["name"] == shown["name"]]
        assert like and all(row.keys() == shown.keys() for row in like)
        assert shown["time"].keys() <= like[-1]["time"].keys()
        assert shown["values"].keys() <= like[-1]["values"].keys()


def text(block, module):
    """What is said to each command is what stands below it."""
    for shown in block.text.split("$ ")[1:]:
        line, _, answer = shown.partition("\n")
        (command,) = printed.shell(block.place, line)
        _, said = commands.in_process(command.words[1:])
        assert said == answer, f"{command} says:\n{said}"


RUNS = {"python": python, "yaml": yaml, "json": as_json, "text": text}


@pytest.mark.docs
def test_readme_runs_from_top_to_bottom(in_short, module):
    wrong: list[str] = []
    on_cpu = jax.default_backend() == "cpu"
    blocks = printed.in_order(ROOT / "README.md")
    # A record is shown before the run that writes it.
    for item in sorted(blocks, key=lambda item: isinstance(item, Block) and item.language == "json"):
        begun = time.perf_counter()
        try:
            if isinstance(item, Block):
                RUNS[item.language](item, module)
            elif not (item.gpu and on_cpu) and commands.kind(item) != "benchmark":
                commands.run(item)
        except (Exception, SystemExit) as error:
            wrong.append(f"{item.place}: {type(error).__name__}: {error}")
        print(f"{time.perf_counter() - begun:6.1f} s  {item if not isinstance(item, Block) else item.place}")
    assert not wrong, "\n".join(wrong)
