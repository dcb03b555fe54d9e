"""What the programs of a run copy for a checkpoint: the bits of that moment, big arrays not on the device."""

from __future__ import annotations

import itertools
import logging
import math
import time
import weakref
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import field
from jaxtrain.loop.trainer import Trainer
from jaxtrain.runs import checkpoint, manager, snapshot, transfer
from jaxtrain.runs.launch import launch
from jaxtrain.runs.program import Programs, compilation_cache
from jaxtrain.runs.transfer import Transfer
from jaxtrain.tree import InPlace, in_place
from jaxtrain.types import Algorithm
from tests.faults.processes import Drift, arrays
from tests.helpers import keys, tiny

PER = 8  # env steps an update, see `tiny`
PIECE = 256  # bytes; some arrays of a `Hoard` are several, some are one


@field.config
class Hoard(Drift):
    """Writes rows in place at each update, and keeps a key there as well."""

    name: str = field.text("tests.runs.test_program:Hoard")
    room: int = field.integer(50, low=1)

    def make(self, spec):
        made = super().make(spec)

        def init(key):
            rows = {"obs": jnp.zeros((self.room, 3)), "flag": jnp.zeros((self.room, 2), bool), "key": key}
            return {"inner": made.init(key), "rows": InPlace(rows)}

        def update(agent, runner, experience, clock, key):
            inner, runner, metrics = made.update(agent["inner"], runner, experience, clock, key)
            rows = agent["rows"].value
            row = jnp.where(experience.running, clock % self.room + jnp.arange(1), self.room)
            obs = rows["obs"].at[row].set(jax.random.normal(key, (1, 3)), mode="drop")
            flag = rows["flag"].at[row].set(True, mode="drop")
            return {"inner": inner, "rows": InPlace({"obs": obs, "flag": flag, "key": key})}, runner, metrics

        return Algorithm(
            init=init,
            policy=lambda agent, clock: made.policy(agent["inner"], clock),
            sample=lambda agent, clock: made.sample(agent["inner"], clock),
            update=update,
        )


def config(room=50, **given):
    quiet = {"logging": {"every": 0, "sinks": []}, "checkpoint": {"every": 4 * PER, "keep_last": 99}}
    return tiny(12, algorithm=Hoard(room=room), **(quiet | given))


@cache
def programs(seeds, room=50, piece=PIECE):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "piece_bytes", lambda: piece)
        key = keys(seeds) if seeds else jax.random.key(0)
        return Programs(config(room), (), key, 0, fresh=True)


def held(state, history):
    """The bytes of every array, read from the device one by one."""
    return {name: np.asarray(x).tobytes() for name, x in snapshot.to_arrays(state, history).items()}


def pointers(state):
    rows = jax.tree.leaves({name: x for name, x in state.agent["rows"].value.items() if name != "key"})
    return [x.unsafe_buffer_pointer() for x in rows]


@pytest.mark.parametrize(("seeds", "piece"), [(0, None), (0, PIECE), (3, PIECE)])
def test_a_copy_is_of_its_moment_though_training_goes_on(seeds, piece):
    compiled = programs(seeds, piece=piece)
    state, history = compiled.advance(*compiled.start(), 3)
    bring, then = compiled.copy(state, history), held(state, history)
    state, history = compiled.advance(state, history, 5)
    copied, now = bring(), held(state, history)
    assert list(copied) == sorted(then)
    assert {name: x.tobytes() for name, x in copied.items()} == then
    changed = {name for name in now if now[name] != then[name]}
    assert {f"state.agent['rows'].value[{name!r}]" for name in ("obs", "flag", "key")} <= changed


@pytest.mark.parametrize(("seeds", "piece"), [(0, None), (0, PIECE), (3, PIECE)])
def test_training_goes_on_in_the_memory_of_what_was_copied_and_nothing_compiles(seeds, piece, caplog):
    """Who holds a view of an array keeps its memory from being written to again."""
    compiled = programs(seeds, piece=piece)
    state, history = compiled.advance(*compiled.start(), 1)
    before = pointers(state)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        copied = compiled.copy(state, history)
        state, history = compiled.advance(state, history, 1)
    assert not [r for r in caplog.records if "ompiling" in r.getMessage()]
    assert pointers(state) == before
    assert copied()


@pytest.mark.parametrize("seeds", [0, 3])
def test_what_a_copy_takes_on_the_device_does_not_grow_with_what_is_in_place(seeds):
    taken, sizes = [], []
    for room in (50, 5000):
        compiled = programs(seeds, room)
        memory = compiled._copy.memory_analysis()
        taken.append(memory.output_size_in_bytes + memory.temp_size_in_bytes)
        state = jax.eval_shape(compiled.start)[0]
        sizes.append(sum(math.prod(x.shape) * x.dtype.itemsize for x in in_place(state.agent)))
        for cut in compiled._transfer._cuts.values():
            memory = cut.piece.memory_analysis()
            assert memory.output_size_in_bytes + memory.temp_size_in_bytes <= PIECE
    assert abs(taken[1] - taken[0]) < 0.01 * (sizes[1] - sizes[0])


def test_checkpoints_hold_what_is_in_place_as_it_was_and_a_run_goes_on_from_them(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "piece_bytes", lambda: PIECE)
    place = tmp_path / "run" / "checkpoints"
    launch(config(), tmp_path / "run", num_seeds=3, cache=False)
    trainer = Trainer(config())
    state, run = jax.jit(trainer.init)(keys(3)), jax.jit(trainer.run, static_argnums=1)
    for update in (4, 8, 12):
        state = run(state, 4)
        found, _ = checkpoint.load(manager.place(place, PER * update))
        for name, x in snapshot.to_arrays(state, {}).items():
            if name.startswith("state.agent"):
                np.testing.assert_array_equal(found[name], x, err_msg=f"{name} at {update}")
    whole = arrays(tmp_path / "run")
    manager.set_aside(manager.place(place, 12 * PER))
    loaded, newest_good, copy = [], manager.newest_good, Programs.copy

    def note(directory):
        found = newest_good(directory)
        loaded.extend(weakref.ref(x) for name, x in found[0].items() if "rows" in name)
        return found

    def look(*given):
        assert [x for x in loaded if x() is not None] == [], "the host holds what training began from"
        return copy(*given)

    monkeypatch.setattr(manager, "newest_good", note)
    monkeypatch.setattr(Programs, "copy", look)
    assert launch(config(), tmp_path / "run", cache=False).resumed_at == 8 * PER
    assert loaded and arrays(tmp_path / "run") == whole


def test_stalls_have_the_time_of_the_transfer_which_begins_when_no_save_is_under_way(tmp_path, monkeypatch):
    """So that the host never holds two of them."""
    saving, save, to_host = [], checkpoint.save, Transfer.to_host

    def slow_save(*given, **more):
        saving.append(True)
        time.sleep(0.3)
        try:
            return save(*given, **more)
        finally:
            saving.pop()

    def slow_transfer(*given):
        assert not saving
        time.sleep(0.1)
        return to_host(*given)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    monkeypatch.setattr(Transfer, "to_host", slow_transfer)
    ending = launch(config(), tmp_path / "run", num_seeds=3, cache=False)
    assert len(ending.stalls) == 4
    assert min(ending.stalls) >= 0.1


def setting():
    return jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir


def test_launches_in_two_threads_leave_the_compilation_cache_as_it_was(tmp_path, monkeypatch):
    """In each order of their ends, and nothing is kept while one of them wants that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_enable_compilation_cache", True)
    before = setting()
    try:
        for wishes in itertools.product((True, False), repeat=2):
            for last_first in (True, False):
                one, two = (compilation_cache(wish, tmp_path) for wish in wishes)
                place = str(tmp_path / "jaxtrain" / "xla")
                one.__enter__()
                assert setting() == ((True, place) if wishes[0] else (False, None))
                two.__enter__()
                assert setting() == ((True, place) if all(wishes) else (False, None))
                for context in (two, one) if last_first else (one, two):
                    context.__exit__(None, None, None)
                assert setting() == before
    finally:
        jax.config.update("jax_enable_compilation_cache", False)
