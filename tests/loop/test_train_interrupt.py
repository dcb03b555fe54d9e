"""Ctrl-C in `train`: heard at the next report, and what has been trained is kept. Real signals."""

from __future__ import annotations

import os
import signal
from functools import partial

import jax
import numpy as np
import pytest

from jaxtrain import Event, Trainer, startup
from jaxtrain.loop.train import Interrupted, train
from jaxtrain.sinks import Memory
from tests.helpers import differing, keys, tiny

UPDATES, EVERY = 40_000, 200
CONFIG = tiny(UPDATES, logging={"every": 8 * EVERY})


class Pressed(Memory):
    """Ctrl-C as soon as the first record is there."""

    def write(self, record):
        super().write(record)
        if len(self.records) == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("seeds", [pytest.param(0, marks=pytest.mark.slow), 3], ids=["a key", "3 seeds"])
def test_ctrl_c_stops_at_a_report_and_the_error_has_the_run_so_far(seeds, caplog):
    def run(sink):
        one = partial(train, CONFIG, sinks=[sink])
        return jax.vmap(one)(keys(seeds)) if seeds else one(jax.random.key(0))

    sink = Pressed()
    with pytest.raises(KeyboardInterrupt) as error:
        run(sink)
    assert isinstance(error.value, Interrupted) and error.value.result is not None
    result, whole = error.value.result, run(Memory())
    done = int(np.max(result.state.clock))
    assert done == sink.records[-1].update < UPDATES and done % EVERY == 0
    assert result.state.clock.shape == whole.state.clock.shape and result.marks == whole.marks
    for rows, all_rows in zip(*(r.history["metrics"].values() for r in (result, whole)), strict=True):
        np.testing.assert_array_equal(rows[..., : done // EVERY], all_rows[..., : done // EVERY])
        assert not np.isfinite(rows[..., done // EVERY :]).any() or rows.dtype.kind != "f"
    assert "SIGINT: stopping at the next chance; again to leave at once" in caplog.text
    if not seeds:  # what is left of it can be done
        rest = jax.jit(Trainer(CONFIG).run, static_argnums=1)(result.state, UPDATES - done)
        assert differing(rest, whole.state) == []


def press(trainer, state, key):
    """Ctrl-C while the program is traced."""
    os.kill(os.getpid(), signal.SIGINT)
    return state, {}


def test_ctrl_c_before_the_program_runs_is_heard_at_once_and_there_is_no_result():
    with pytest.raises(Interrupted) as error:
        train(CONFIG, jax.random.key(0), events=[Event("press", startup(), press)], sinks=[Memory()])
    assert error.value.result is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_left_in_its_place():
    seen = []
    old = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        config = tiny(2, logging={"every": 8})
        train(config, jax.random.key(0), events=[Event("press", startup(), press)], sinks=[Memory()])
    finally:
        signal.signal(signal.SIGINT, old)
    assert set(seen) == {signal.SIGINT}
