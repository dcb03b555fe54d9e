"""The console says how far, how fast, how long and how good."""

from __future__ import annotations

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from jaxtrain import sinks
from jaxtrain.types import Record, RunInfo
from tests.sinks.written import NAN, put, record


def console(*records: Record, num_seeds: int = 1, total: int = 10_000) -> list[str]:
    out = io.StringIO()
    put(sinks.Console(file=out), *records, num_seeds=num_seeds, total=total)
    return out.getvalue().splitlines()


def test_console_says_how_far_how_fast_how_long_and_how_good():
    lines = console(
        record("evaluation", 0, env_steps=0, return_mean=9.5),
        record("metrics", 5, env_steps=2000, rollout__return_mean=NAN),
        record("metrics", 10, env_steps=4000, rollout__return_mean=143.21),
        record("evaluation", 20, env_steps=10_000, return_mean=201.0),
    )
    assert lines == [
        "probe: 10,000 env steps (env steps/s: training only)",
        "     0 / 10,000 env steps    0 %  1,000 env steps/s  0:10 left  evaluation 9.500",
        " 2,000 / 10,000 env steps   20 %  1,000 env steps/s  0:20 left  evaluation 9.500",
        " 4,000 / 10,000 env steps   40 %  1,000 env steps/s  0:15 left  return 143.2  evaluation 9.500",
        "10,000 / 10,000 env steps  100 %  1,000 env steps/s  return 143.2  evaluation 201.0",
    ]


def test_a_name_gives_no_orders_to_a_terminal():
    out = io.StringIO()
    sink = sinks.Console(file=out)
    sink.open(RunInfo("\x1b[2J\n\x9b1m", 8, 8, 1))
    sink.close()
    assert out.getvalue().startswith(r"\x1b[2J\n\x9b1m: 8 env steps")


def test_console_shows_mean_and_spread_over_the_seeds_that_have_a_return():
    *_, last = console(
        record(env_steps=10_000, rollout__return_mean=[1, 3, NAN]),
        record("evaluation", env_steps=10_000, return_mean=[100, 100, 130]),
        num_seeds=3,
    )
    assert last.endswith("return 2.000 ± 1.000  evaluation 110.0 ± 14.1")


def test_a_file_that_takes_ascii_alone_is_given_other_signs():
    out = io.BytesIO()
    sink = sinks.Console(file=io.TextIOWrapper(out, encoding="ascii", write_through=True))
    records = [record("metrics", 10, env_steps=10_000, rollout__return_mean=[1.0, 3.0])]
    put(sink, *records, num_seeds=2, total=10_000)
    first, *_, last = out.getvalue().decode("ascii").splitlines()
    assert "10,000 env steps x 2 seeds" in first and "return 2.000 +- 1.000" in last


def test_console_keeps_to_one_line_in_five_seconds_whatever_the_run_does():
    lines = console(*[record(update=u, env_steps=u, loss=1.0) for u in range(1, 101)], total=100)
    assert len(lines) == 1 + 20 + 1


def read_all(terminal: int) -> str:
    shown = b""
    with suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    return shown.decode()


def test_console_draws_a_bar_in_a_terminal_and_gives_the_cursor_back():
    import pty

    parent, child = pty.openpty()
    screen = ThreadPoolExecutor().submit(read_all, parent)
    with open(child, "w", encoding="utf-8") as terminal, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.setenv("COLUMNS", "80")
        put(
            sinks.Console(file=terminal),
            record("metrics", 5, env_steps=2500, rollout__return_mean=12.5),
            record("evaluation", 5, env_steps=2500, return_mean=20.0),
            total=10_000,
        )
    shown = screen.result()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").splitlines()[-3:]
    assert re.search(r"probe ━+╸? *━* +25 % 0:00 elapsed 0:08 left", last[0])
    assert last[1].strip() == "2,500 / 10,000 env steps   1,000 env steps/s (training only)"
    assert last[2].strip() == "return 12.5   evaluation 20.0"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_the_console_names_the_seed_and_metric_that_is_not_finite():
    out = io.StringIO()
    with sinks.Console(file=out) as console:
        console.open(RunInfo("run", 100, 10, 3))
        flags = {"train/loss": np.array([False, True, False]), "train/entropy": np.zeros(3, bool)}
        console.write(Record("non_finite", 4, 40, flags))
    assert "not finite: train/loss of seed 1 at update 4 (40 env steps)" in out.getvalue()
