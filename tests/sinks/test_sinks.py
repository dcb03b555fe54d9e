"""Sinks: what is written is what was reported, readable by each backend's own reader."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxtrain import sinks
from jaxtrain.loop import callback
from jaxtrain.sinks.base import curves
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


@pytest.mark.parametrize("seeds", [1, 3])
def test_tensorboard_and_wandb_hold_the_numbers_of_the_json_lines(tmp_path, seeds):
    @jax.jit
    def program(run: jax.Array) -> None:
        callback.started(run, jnp.int32(0), num_seeds=seeds)

        def body(clock: jax.Array, _: None) -> tuple[jax.Array, None]:
            clock = clock + 1
            loss = jnp.sin(clock * (1.0 + jnp.arange(seeds)))
            jax.lax.cond(
                clock % 2 == 0,
                lambda: callback.emit(run, clock, {"losses/value": loss}, name="metrics", seeds=True),
                lambda: callback.emit(run, clock, {"return_mean": loss}, name="evaluation", seeds=True),
            )
            return clock, None

        jax.lax.scan(body, jnp.int32(0), None, length=6)

    lines, memory = sinks.JsonLines(tmp_path / "metrics.jsonl"), sinks.Memory()
    with (
        sinks.TensorBoard(tmp_path / "tb") as board,
        sinks.Wandb(mode="offline", directory=tmp_path) as remote,
    ):
        door = callback.connect([lines, memory, board, remote], INFO)
        program(jnp.int32(door.id))
        assert door.finish() == []
    log = rows(lines.path)
    assert len(log) == len(memory.records) == 6
    curves = events(tmp_path / "tb")
    (run,) = offline_runs(tmp_path)
    sent = wandb_rows(run)
    for event, metric in {"metrics": "losses/value", "evaluation": "return_mean"}.items():
        tag = metric if event == "metrics" else f"{event}/{metric}"
        if seeds == 1:
            want = {tag: [(r["env_steps"], r["values"][metric]) for r in log if r["name"] == event]}
        else:
            want = {
                f"{tag}/{part}": [
                    (r["env_steps"], float(getattr(np, part)(r["values"][metric])))
                    for r in log
                    if r["name"] == event
                ]
                for part in ("mean", "std", "min", "max")
            }
        for name, points in want.items():
            assert [step for step, *_ in curves[name]] == [step for step, _ in points]
            drawn = np.array([value for _, value, _ in curves[name]], np.float32)
            np.testing.assert_allclose(drawn, np.float32([value for _, value in points]), rtol=2e-7)
            logged = [(row["env_steps"], row[name]) for row in sent if name in row]
            np.testing.assert_allclose(logged, points, rtol=2e-7)
        walls = [wall for _, _, wall in curves[next(iter(want))]]
        assert walls == [r["time"]["unix_seconds"] for r in log if r["name"] == event]


def test_counters_are_exact_in_every_sink(tmp_path, capsys):
    big = record(update=2**31 - 1, env_steps=2**40, loss=1.0)
    memory = sinks.Memory()
    put(memory, big)
    put(sinks.JsonLines(tmp_path / "metrics.jsonl"), big)
    put(sinks.TensorBoard(tmp_path / "tb"), big)
    put(sinks.Wandb(mode="offline", directory=tmp_path), big)
    put(sinks.Console(), big)
    (line,) = rows(tmp_path / "metrics.jsonl")
    (sent,) = wandb_rows(*offline_runs(tmp_path))
    assert {memory.records[0].env_steps, line["env_steps"], sent["env_steps"]} == {2**40}
    assert {memory.records[0].update, line["update"], sent["update"]} == {2**31 - 1}
    assert events(tmp_path / "tb")["loss"] == [(2**40, 1.0, big.time["unix_seconds"])]
    assert "1,099,511,627,776 / 1,099,511,627,776 env steps  100 %" in capsys.readouterr().out


def test_a_value_that_is_nan_for_every_seed_is_left_out_by_every_sink(tmp_path, capsys):
    rec = record(rollout__return_mean=[NAN, NAN], loss=[NAN, 2.0])
    memory = sinks.Memory()
    put(memory, rec, num_seeds=2)
    put(sinks.JsonLines(tmp_path / "metrics.jsonl"), rec, num_seeds=2)
    put(sinks.TensorBoard(tmp_path / "tb"), rec, num_seeds=2)
    put(sinks.Wandb(mode="offline", directory=tmp_path), rec, num_seeds=2)
    put(sinks.Console(), rec, num_seeds=2)
    assert set(memory.records[0].values) == {"loss"}
    assert rows(tmp_path / "metrics.jsonl")[0]["values"] == {"loss": [None, 2.0]}
    parts = {"loss/mean": 2.0, "loss/std": 0.0, "loss/min": 2.0, "loss/max": 2.0}
    drawn = {tag: points[0][1] for tag, points in events(tmp_path / "tb").items() if "loss" in tag}
    assert drawn == parts
    (sent,) = wandb_rows(*offline_runs(tmp_path))
    assert {key: value for key, value in sent.items() if "loss" in key} == parts
    assert not any("return" in key for key in [*events(tmp_path / "tb"), *sent])
    assert "nan" not in capsys.readouterr().out


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 3)), elements=st.floats(width=32)))
def test_json_lines_read_back_to_the_same_float32(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    put(sinks.JsonLines(path), record(metric=values), num_seeds=len(values))
    (row,) = rows(path)
    if np.isnan(values).all():
        assert row["values"] == {}
    else:
        read = np.atleast_1d(np.array(row["values"]["metric"], float)).astype(np.float32)
        np.testing.assert_array_equal(read, values)


def test_json_lines_keep_arrays_integers_and_short_numbers(tmp_path):
    values = {"a": np.float32([[0.1, NAN]]), "n": np.int32([7]), "flag": np.array([True])}
    path = tmp_path / "new" / "metrics.jsonl"
    put(sinks.JsonLines(path), Record("event", 1, 8, values))
    put(sinks.JsonLines(path), Record("event", 2, 16, {}))
    first, second = path.read_text().splitlines()
    assert '"values": {"a": [0.1, null], "n": 7, "flag": 1}' in first
    assert json.loads(second)["update"] == 2  # opened again: appended


def test_a_full_disk_names_the_file_and_leaves_whole_lines_alone(tmp_path):
    # A limit on the size of files takes the part of a write that fits, and refuses the rest.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numpy as np\n"
        "from jaxtrain.sinks import JsonLines\n"
        "from jaxtrain.types import Record\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "sink = JsonLines(sys.argv[1])\n"
        "for update in range(99): sink.write(Record('metrics', update, update, {'x': np.ones(1)}))\n"
    )
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert f"OSError: [Errno 27] File too large: '{path}'" in done.stderr
    log = rows(path)
    assert [row["update"] for row in log] == list(range(len(log)))
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("make", [sinks.JsonLines, sinks.TensorBoard])
def test_a_place_that_cannot_be_written_is_an_error_of_open_that_names_it(tmp_path, make):
    (tmp_path / "file").write_text("")
    memory = sinks.Memory()
    door = callback.connect([make(tmp_path / "file" / "run" / "log"), memory], INFO)
    program = jax.jit(lambda run: callback.started(run, jnp.int32(0), num_seeds=1))
    program(jnp.int32(door.id))
    with pytest.warns(RuntimeWarning):
        (loss,) = door.finish()
    assert re.search(rf"{make.__name__} failed with NotADirectoryError: .Errno 20. .*{tmp_path}/file", loss)


def test_tensorboard_reports_an_error_in_the_middle_and_still_closes(tmp_path):
    board = sinks.TensorBoard(tmp_path)
    board.open(INFO)
    board.write(record(loss=1.0))
    (_, writer), *_ = board._writers
    file = writer._py_recordio_writer._writer
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), file.fileno())
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        for update in range(1000):  # far more than tensorboardX's own queue would take
            board.write(record(update=update, loss=1.0))
        board.flush()
    with pytest.raises(OSError, match="No space left"):
        board.close()
    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_tensorboard_opened_twice_within_a_second_overwrites_nothing(tmp_path):
    put(sinks.TensorBoard(tmp_path), record(update=1, env_steps=1, loss=1.0))
    put(sinks.TensorBoard(tmp_path), record(update=2, env_steps=2, loss=2.0))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert sorted(v for f in files for _, v, _ in events(f)["loss"]) == [1.0, 2.0]


def test_separate_seeds_are_one_directory_or_one_run_each(tmp_path):
    rec = record(loss=[1.0, 2.0, 3.0])
    put(sinks.TensorBoard(tmp_path / "tb", seeds="separate"), rec, num_seeds=3)
    assert [d.name for d in sorted((tmp_path / "tb").iterdir())] == ["seed_0000", "seed_0001", "seed_0002"]
    assert events(tmp_path / "tb" / "seed_0002")["loss"][0][1] == 3.0
    put(sinks.Wandb(mode="offline", directory=tmp_path, seeds="separate"), rec, num_seeds=3)
    sent = [wandb_rows(run)[0] for run in offline_runs(tmp_path)]
    assert sorted(row["loss"] for row in sent) == [1.0, 2.0, 3.0]


def test_small_arrays_become_curves_and_large_ones_are_skipped():
    values = {"small": np.arange(4.0).reshape(2, 2), "large": np.zeros((2, 99)), "inf": np.full(2, np.inf)}
    tags = curves(Record("event", 1, 1, values))
    assert tags["event/small/1/mean"] == 2.0
    assert len(tags) == 8
    assert curves(Record("event", 1, 1, values), seed=1)["event/small/0"] == 2.0


SECRETS = {"WANDB_API_KEY": "5ec2e7" * 7, "AWS_SECRET_ACCESS_KEY": "5ec2e7-aws", "MY_TOKEN": "5ec2e7-token"}

ONLINE = """if True:
    import logging, sys
    import numpy as np
    from jaxtrain import sinks
    from jaxtrain.types import Record, RunInfo
    logging.basicConfig(format="LOG %(message)s")
    with sinks.Wandb(mode="online", directory=sys.argv[1], seeds="separate", timeout_seconds=1) as sink:
        sink.open(RunInfo("probe", 100, 1, 2))
        sink.write(Record("metrics", 1, 8, {"loss": np.float32([1.0, 2.0])}))
    """


@pytest.mark.parametrize("credentials", [True, False])
def test_wandb_without_a_server_goes_offline_keeping_rows_and_secrets(tmp_path, credentials):
    env = {**os.environ, **SECRETS, "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path / "home")}
    if not credentials:
        del env["WANDB_API_KEY"]
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ONLINE, tmp_path], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^LOG .*going offline", done.stderr, re.MULTILINE)) == 1
    sent = [wandb_rows(run)[0] for run in offline_runs(tmp_path)]
    assert sorted(row["loss"] for row in sent) == [1.0, 2.0]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"5ec2e7" in path.read_bytes() for path in files)
    assert "5ec2e7" not in done.stdout + done.stderr


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


def test_console_shows_mean_and_spread_over_the_seeds_that_have_a_return():
    *_, last = console(
        record(env_steps=10_000, rollout__return_mean=[1, 3, NAN]),
        record("evaluation", env_steps=10_000, return_mean=[100, 100, 130]),
        num_seeds=3,
    )
    assert last.endswith("return 2.000 ± 1.000  evaluation 110.0 ± 14.1")


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


def test_every_sink_can_be_made_by_name(tmp_path):
    made = {name: sinks.make(name, tmp_path) for name in sinks.NAMES}
    assert all(isinstance(sink, Sink) for sink in made.values())
    assert [type(sink).__name__ for sink in made.values()] == list(sinks._CLASSES)
    with pytest.raises(ValueError, match=r"sink 'tensorbord': unknown.*the nearest is tensorboard"):
        sinks.make("tensorbord", tmp_path)
    with pytest.raises(ValueError, match=r"sink 'memory': .*unexpected keyword argument 'size'"):
        sinks.make("memory", tmp_path, size=3)
    with pytest.raises(ValueError, match="TensorBoard: seeds = 'all': needs one of aggregate, separate"):
        sinks.make("tensorboard", tmp_path, seeds="all")


def test_no_backend_is_imported_before_it_is_asked_for(tmp_path):
    code = (
        "import sys, jaxtrain.sinks as s; s.JsonLines('x'); s.TensorBoard('x'); s.Wandb(); s.Console()\n"
        "sys.exit(', '.join({'tensorboardX', 'wandb', 'tensorboard', 'rich.live'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_sink_serves_one_run_after_another(tmp_path):
    with sinks.TensorBoard(tmp_path) as board:
        for update in (1, 2):
            board.open(INFO)
            board.write(record(update=update, env_steps=update, loss=1.0))
    assert sum(len(events(path)["loss"]) for path in tmp_path.iterdir()) == 2


def test_the_console_names_the_seed_and_metric_that_is_not_finite():
    out = io.StringIO()
    with sinks.Console(file=out) as console:
        console.open(RunInfo("run", 100, 10, 3))
        flags = {"train/loss": np.array([False, True, False]), "train/entropy": np.zeros(3, bool)}
        console.write(Record("non_finite", 4, 40, flags))
    assert "not finite: train/loss of seed 1 at update 4 (40 env steps)" in out.getvalue()
