"""The callback: what a compiled program hands out arrives, and no sink can hurt the run or another sink."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.loop import callback
from jaxtrain.sinks import JsonLines, Memory, dispatch, worker
from jaxtrain.sinks.dispatch import Dispatcher
from jaxtrain.types import Record, RunInfo

INFO = RunInfo("probe", total_env_steps=96, env_steps_per_update=8, num_seeds=1)
UPDATES = 12


@partial(jax.jit, static_argnames="seeds")
def program(run: jax.Array, begin: jax.Array, params: jax.Array, *, seeds: int) -> jax.Array:
    """A loop like the real one: 12 updates of params f32[S], metrics every 2, an evaluation every 4."""
    program.traces += 1  # pyright: ignore[reportFunctionMemberAccess]
    callback.started(run, begin, num_seeds=seeds)

    def body(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        clock, params = carry
        clock, params = clock + 1, jnp.sin(params * 1.7) + 0.1

        def metrics() -> None:
            callback.emit(run, clock, {"loss": params}, name="metrics", seeds=True)

        def evaluation() -> None:
            callback.emit(run, clock, {"mean": params.mean()}, name="evaluation", seeds=False)

        jax.lax.cond((clock - begin) % 2 == 0, metrics, lambda: None)
        jax.lax.cond((clock - begin) % 4 == 0, evaluation, lambda: None)
        return (clock, params), None

    return jax.lax.scan(body, (begin, params), None, length=UPDATES)[0][1]


program.traces = 0  # pyright: ignore[reportFunctionMemberAccess]


def run(door: Dispatcher, *, seeds: int = 3, begin: int = 0) -> np.ndarray:
    params = jnp.linspace(0.1, 0.9, seeds)
    return np.asarray(program(jnp.int32(door.id), jnp.int32(begin), params, seeds=seeds))


class Broken(Memory):
    """Raises at the n-th record, or at `open` or `flush`."""

    def __init__(self, at: int | str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def open(self, run: RunInfo) -> None:
        if self.at == "open":
            raise self.error

    def write(self, record: Record) -> None:
        super().write(record)
        if len(self.records) == self.at:
            raise self.error

    def flush(self) -> None:
        if self.at == "flush":
            raise self.error


class Stuck(Memory):
    """Blocks in `write` until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.release = threading.Event(), threading.Event()

    def write(self, record: Record) -> None:
        self.reached.set()
        self.release.wait()
        super().write(record)


@pytest.mark.parametrize("seeds", [1, 3])
def test_records_arrive_in_order_with_exact_counts_and_the_seed_axis(seeds):
    memory = Memory()
    door = callback.connect([memory], INFO)
    final = run(door, seeds=seeds)
    assert door.finish() == []
    want = [
        (u, n) for u in range(2, 13, 2) for n in ("metrics", "evaluation") if u % 4 == 0 or n == "metrics"
    ]
    assert [(r.update, r.name) for r in memory.records] == want
    assert all(r.env_steps == 8 * r.update for r in memory.records)
    last = {r.name: r.values for r in memory.records}
    np.testing.assert_array_equal(last["metrics"]["loss"], final)
    assert last["evaluation"]["mean"].shape == (1,)
    assert memory.run is not None
    assert memory.run.num_seeds == seeds


def test_which_sinks_watch_changes_no_bit_and_traces_nothing(tmp_path):
    doors = [
        callback.connect([], INFO),
        callback.connect([Memory()], INFO),
        callback.connect([JsonLines(tmp_path / "metrics.jsonl"), Memory()], INFO),
    ]
    first = run(doors[0])
    traces = program.traces
    for door in doors[1:]:
        np.testing.assert_array_equal(run(door), first)
    assert program.traces == traces
    assert [door.finish() for door in doors] == [[], [], []]


def test_a_run_that_is_over_or_never_was_gets_nothing_and_does_no_harm():
    memory = Memory()
    door = callback.connect([memory], INFO)
    before = run(door)
    door.finish()
    seen = len(memory.records)
    np.testing.assert_array_equal(run(door), before)
    jax.effects_barrier()
    assert len(memory.records) == seen
    assert door.finish() == []


@pytest.mark.parametrize("env_steps_per_update", [8, 2**20, 10**12 + 1])
def test_counters_do_not_wrap(env_steps_per_update):
    begin = 2**31 - 1 - UPDATES
    memory = Memory()
    door = callback.connect([memory], RunInfo("probe", 0, env_steps_per_update, 1))
    run(door, begin=begin)
    door.finish()
    last = memory.records[-1]
    assert (last.update, last.env_steps) == (2**31 - 1, (2**31 - 1) * env_steps_per_update)


@pytest.mark.parametrize(
    ("at", "lost"), [("open", "9 of 9"), (1, "9 of 9"), (5, "5 of 9"), (9, "1 of 9"), ("flush", "9 of 9")]
)
def test_a_sink_that_raises_is_named_once_with_its_loss_and_hurts_nobody(at, lost, caplog):
    sink, memory = Broken(at, OSError(28, "No space left on device", "/full/disk")), Memory()
    door = callback.connect([sink, memory], INFO)
    quiet = run(callback.connect([], INFO))
    np.testing.assert_array_equal(run(door), quiet)
    with pytest.warns(RuntimeWarning, match="sink Broken failed with OSError") as caught:
        losses = door.finish()
    sentence = (
        "sink Broken failed with OSError: [Errno 28] No space left on device: '/full/disk'; "
        f"{lost} records lost"
    )
    assert losses == [sentence]
    assert len(caught) == 1
    assert len(caplog.records) == 1
    assert len(memory.records) == 9


def test_a_sink_that_ends_its_thread_is_a_sink_that_failed():
    door = callback.connect([Broken(2, SystemExit(3))], INFO)
    run(door)
    with pytest.warns(RuntimeWarning):
        assert door.finish() == ["sink Broken failed with SystemExit: 3; 8 of 9 records lost"]


def test_a_second_wait_does_not_warn_again_and_counts_on():
    door = callback.connect([Broken(1, ValueError("no"))], INFO)
    run(door)
    with pytest.warns(RuntimeWarning):
        door.wait()
    run(door)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert door.finish() == ["sink Broken failed with ValueError: no; 18 of 18 records lost"]


def test_a_sink_that_never_returns_is_left_out_at_the_deadline_while_the_others_complete():
    stuck, memory = Stuck(), Memory()
    door = callback.connect([stuck, memory], INFO, deadline_seconds=0.2)
    run(door)
    with pytest.warns(RuntimeWarning, match="sink Stuck"):
        losses = door.finish()
    assert losses == ["sink Stuck was not done 0.2 s after the program was; 9 of 9 records lost"]
    assert len(memory.records) == 9
    stuck.release.set()
    assert door.losses == losses  # what it does afterwards changes no report


def test_a_sink_that_never_returns_does_not_keep_the_process_alive():
    code = """if True:
        import threading, jax, jax.numpy as jnp
        from jaxtrain import sinks
        from jaxtrain.loop import callback
        from jaxtrain.types import RunInfo
        class Stuck(sinks.Memory):
            def open(self, run):
                threading.Event().wait()
        door = callback.connect([Stuck()], RunInfo("probe", 8, 8, 1), deadline_seconds=0.1)
        jax.jit(lambda run: callback.started(run, jnp.int32(0), num_seeds=1))(jnp.int32(door.id))
        print(*door.finish())
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == "sink Stuck was not done 0.1 s after the program was; 0 of 0 records lost\n"


def test_a_full_queue_holds_training_up_once_and_never_again(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.1)
    stuck, memory = Stuck(), Memory()
    door = callback.connect([stuck, memory], INFO, capacity=2)
    run(door)
    with pytest.warns(RuntimeWarning, match="sink Stuck"):
        losses = door.finish()
    assert losses == ["sink Stuck kept its queue of 2 records full for 0.1 s; 9 of 9 records lost"]
    assert len(memory.records) == 9
    stuck.release.set()


def test_a_slow_sink_loses_nothing_while_its_queue_has_room():
    stuck = Stuck()
    door = callback.connect([stuck], INFO)
    final = run(door)
    assert stuck.reached.wait(10)
    stuck.release.set()
    assert door.finish() == []
    np.testing.assert_array_equal(stuck.records[-2].values["loss"], final)


def test_a_program_that_never_began_opens_no_sink():
    memory = Memory()
    assert callback.connect([memory], INFO).finish() == []
    assert memory.run is None


def test_waiting_between_chunks_leaves_every_record_written():
    memory = Memory()
    door = callback.connect([memory], INFO)
    for chunk in range(3):
        run(door, begin=chunk * UPDATES)
        door.wait()
        assert len(memory.records) == 9 * (chunk + 1)
    assert door.finish() == []


def test_waiting_for_every_run_reaches_those_that_only_a_compiled_program_knows():
    memory = Memory()
    door = callback.connect([memory], INFO)
    run(door)
    callback.wait()
    assert len(memory.records) == 9
    door.finish()


def test_a_fault_of_the_door_itself_does_not_reach_the_program(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "Record", None)
    door = callback.connect([Memory()], INFO)
    run(door)
    monkeypatch.undo()
    assert door.finish() == []
    assert [r.levelname for r in caplog.records] == ["ERROR"]
