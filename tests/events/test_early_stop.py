"""A seed that reached its mark stops, and nothing else of it or of others changes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, every, finish, train, when
from jaxtrain.events.early_stop import early_stop
from jaxtrain.known import Readings
from jaxtrain.loop.state import RUNNING, STOPPED
from jaxtrain.sinks import Memory
from tests.helpers import arrays, keys, tiny

PER = tiny().env_steps_per_update


def level(trainer, state, key):
    """Reaches 6 after 6 / scale updates."""
    return state, {"level": state.clock * state.env_params.scale[0], "weights": state.agent["policy"]}


@pytest.fixture(scope="module")
def stopping():
    """`scales -> (result, records)`, of one compiled program."""
    events = (
        Event("probe", every(PER), level, keep_latest=True),
        Event("solved", every(PER), early_stop, {"metric": "probe/level", "threshold": 6}),
        Event("late", when(lambda state: state.clock >= 8, every=4 * PER), level),
        Event("end", finish(), level),
    )

    def run(scales):
        sink = Memory()

        def one(scale, key):
            return train(tiny(params={"scale": scale}), key, events=events, sinks=[sink])

        return jax.vmap(one)(jnp.array(scales), keys(3)), sink.records

    return run


def test_a_seed_that_reached_its_mark_is_frozen_and_the_others_go_on(stopping):
    result, records = stopping([1.0, 0.1, 2.0])
    assert result.state.status.tolist() == [STOPPED, RUNNING, STOPPED]
    assert result.state.stopped_at.tolist() == [6, -1, 3]
    weights = np.asarray(result.history["probe"]["weights"])
    for seed, last in ((0, 6), (2, 3)):
        assert (weights[seed, last:] == weights[seed, last - 1]).all()
        assert (np.diff(weights[seed, :last], axis=0) != 0).any((1, 2)).all()
        assert (np.asarray(result.state.agent["policy"][seed]) == weights[seed, last - 1]).all()
    assert (np.diff(weights[1], axis=0) != 0).any((1, 2)).all()
    assert [r.update for r in records if r.name == "solved"] == list(range(1, 13))
    assert np.stack([r.values["stopped"] for r in records if r.name == "solved"]).sum(0).tolist() == [
        7,
        0,
        10,
    ]


def test_no_trigger_fires_for_a_frozen_seed(stopping):
    fired = stopping([1.0, 0.1, 2.0])[0].history["late"]["fired"]
    assert fired.tolist() == [[False] * 3, [False, True, True], [False] * 3]


def test_a_trigger_that_is_due_where_an_earlier_event_stops_a_seed_does_not_fire_for_it(stopping):
    result, records = stopping([0.75, 0.1, 0.1])
    assert result.state.stopped_at.tolist() == [8, -1, -1]
    assert result.history["late"]["fired"][0].tolist() == [False] * 3
    assert np.isnan(result.history["late"]["level"][0]).all()
    (due,) = [r for r in records if r.name == "late" and r.update == 8]
    assert due.values["fired"].tolist() == [False, True, True]


def test_a_frozen_seed_changes_no_bit_of_the_others(stopping):
    first, second = stopping([1.0, 0.1, 2.0])[0].state, stopping([0.1, 0.1, 0.1])[0].state
    for (path, a), (_, b) in zip(arrays(first), arrays(second), strict=True):
        if a.ndim:
            assert a[1].tobytes() == b[1].tobytes(), path


def test_once_all_are_frozen_nothing_runs_but_the_end(stopping):
    result, records = stopping([1.0, 1.5, 2.0])
    assert result.state.stopped_at.tolist() == [6, 4, 3]
    assert result.state.clock.tolist() == [12, 12, 12]
    # The end belongs to every event that is due there.
    assert [r.update for r in records if r.name == "probe"] == [1, 2, 3, 4, 5, 6, 12]
    assert [r.update for r in records if r.name == "solved"] == [1, 2, 3, 4, 5, 6, 12]
    assert [r.update for r in records if r.name == "end"] == [12]
    assert np.isnan(result.history["probe"]["level"][:, 6:-1]).all()
    np.testing.assert_array_equal(result.history["probe"]["weights"][:, -1], result.state.agent["policy"])


def test_early_stop_below_a_mark_and_nothing_reached_by_nan():
    trainer = Trainer(tiny())
    state = trainer.new(jax.random.key(0))
    stop = partial(early_stop, metric="train/loss", threshold=1.0, below=True)
    for loss, status in ((0.5, STOPPED), (1.0, STOPPED), (1.5, RUNNING), (jnp.nan, RUNNING)):
        new, report = stop(
            trainer, state.replace(metrics=Readings.of({"train/loss": jnp.float32(loss)})), state.key
        )
        assert int(new.status) == status
        assert bool(report["stopped"]) == (status == STOPPED)
