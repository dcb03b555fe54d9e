"""Events: what one may be, what it may do, and what it is told when it does something else."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Trainer, at, every, startup, train, when
from jaxtrain.events.event import Event, OnReset, OnStep
from jaxtrain.random import stream
from jaxtrain.sinks import Memory
from tests.helpers import differing, keys, tiny

PER = tiny().env_steps_per_update
SEEDS = 3


def nothing(trainer, state, key):
    return state, {}


# ---- a run in which events do everything that they may


def draw(trainer, state, key):
    return state, {"draw": jax.random.uniform(key)}


def count(trainer, state, key):
    """Remembers how often it fired."""
    fired = state.events["count"]["fired"] + 1
    return state.replace(events={**state.events, "count": {"fired": fired}}), {"fired": fired}


def grow(trainer, state, key):
    """Seed by seed another number, read by the triggers."""
    return state, {"level": state.clock * (1 + state.env_params.end[0])}


def is_high(state):
    return state.metrics["grow/level"] >= 6.0


def copy_best(trainer, state, key):
    """Population-based training at its least: all take the weights of the one with the lowest sum."""
    weights = state.agent["policy"]
    best = weights.sum((1, 2)).argmin()
    agent = {**state.agent, "policy": jnp.broadcast_to(weights[best], weights.shape)}
    before = weights[:, 0]
    return state.replace(agent=agent), {"before": before, "after": agent["policy"][:, 0], "best": best}


def look(trainer, state, key):
    values = {"critic": state.agent["value"], "runner": state.runner.obs, "returns": state.episodes.returns}
    return state, {"weights": state.agent["policy"][0]} | values


EVENTS = (
    Event("draw", every(4 * PER), draw),
    Event("count", every(5 * PER), count, init=lambda trainer: {"fired": jnp.int32(0)}),
    Event("grow", every(PER) | startup(), grow, keep_latest=True),
    Event("high", when(is_high, every=2 * PER), look),
    Event("first_high", when(is_high, every=2 * PER, once=True), look),
    Event("best", at(8 * PER), copy_best, scope="population"),
    Event("look", every(PER), look),
)
ENDS = [0.0, 0.6, 1.5]  # `level` reaches 6 at updates 6, 4 and 3: seen at the marks 6, 4 and 4


def run(end, key, sinks=(), events=EVENTS):
    return train(tiny(params={"end": end}), key, events=events, sinks=sinks)


@pytest.fixture(scope="module")
def many():
    sink = Memory()
    return jax.vmap(partial(run, sinks=[sink]))(jnp.array(ENDS), keys(SEEDS)), sink.records


@pytest.fixture(scope="module")
def single():
    sink = Memory()
    return run(ENDS[1], keys(SEEDS)[1], [sink]), sink.records


def test_a_trigger_runs_at_its_marks_for_the_seeds_that_satisfy_it(many):
    result, records = many
    assert result.marks["high"] == tuple(PER * u for u in (2, 4, 6, 8, 10, 12))
    high = [[mark >= first for mark in (2, 4, 6, 8, 10, 12)] for first in (6, 4, 4)]
    np.testing.assert_array_equal(result.history["high"]["fired"], high)
    np.testing.assert_array_equal(~np.isnan(result.history["high"]["weights"]).any(-1), high)
    assert [r.update for r in records if r.name == "high"] == [4, 6, 8, 10, 12]
    assert [r.values["fired"].tolist() for r in records if r.name == "high"][:2] == [
        [False, True, True],
        [True, True, True],
    ]


def test_once_is_a_single_time_for_each_seed(many, single):
    once = np.asarray(many[0].history["first_high"]["fired"])
    assert once.sum(1).tolist() == [1, 1, 1]
    assert once.argmax(1).tolist() == [2, 1, 1]
    assert [r.update for r in many[1] if r.name == "first_high"] == [4, 6]
    assert [r.update for r in single[1] if r.name == "first_high"] == [4]


def test_a_population_event_sees_all_seeds_and_may_move_one_to_the_others(many):
    history = many[0].history["best"]
    before, best = np.asarray(history["before"][:, 0]), int(history["best"][0, 0])
    assert len({row.tobytes() for row in before}) == SEEDS
    assert best == before.sum(1).argmin()
    assert (np.asarray(history["after"][:, 0]) == before[best]).all()
    assert history["best"].shape == (SEEDS, 1)  # a number about all of them stands with each
    weights = np.asarray(many[0].history["look"]["weights"])
    assert (weights[:, 7] == before[best]).all()  # the look of that update comes after it
    assert len({row.tobytes() for row in weights[:, 8]}) == SEEDS


def test_a_population_of_one_seed_has_an_axis_within_and_none_without(single):
    history = single[0].history["best"]
    assert history["before"].shape == (1, 2)
    assert history["best"].tolist() == [0]
    np.testing.assert_array_equal(history["before"], history["after"])


def test_seeds_together_are_close_to_one_by_one(many, single):
    for name in ("look", "grow"):
        for metric, rows in single[0].history[name].items():
            np.testing.assert_allclose(many[0].history[name][metric][1, :3], rows[:3], atol=1e-5)


def test_an_event_remembers_from_one_firing_to_the_next(many):
    assert many[0].history["count"]["fired"].tolist() == [[1, 2]] * SEEDS
    assert many[0].state.events["count"]["fired"].tolist() == [2] * SEEDS


def test_the_last_report_of_a_sticky_event_is_a_metric(many):
    np.testing.assert_array_equal(
        many[0].state.metrics["grow/level"], many[0].history["grow"]["level"][:, -1]
    )


def test_what_an_event_draws_is_another_at_each_mark_and_seed_and_the_same_without_the_others(many):
    drawn = np.asarray(many[0].history["draw"]["draw"])
    assert len(set(drawn.flat)) == drawn.size == 9
    alone = jax.vmap(partial(run, events=EVENTS[:1]))(jnp.array(ENDS), keys(SEEDS))
    assert differing(alone.history["draw"], many[0].history["draw"]) == []


# ---- the state of one seed is enough from here on


@pytest.fixture(scope="module")
def state():
    return Trainer(tiny()).new(jax.random.key(0))


def fire(event, state):
    trainer = Trainer(tiny(), [event])
    return trainer._report(trainer.events[0], state)


def wide(state):
    return state.agent | {"policy": jnp.zeros((2, 2))}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda s: s, "run gave TrainState, needs"),
        (lambda s: (s, [1.0]), "the report is list, needs a flat dict"),
        (lambda s: (s, {"a": "text"}), r"report\['a'\] is no array: 'text'"),
        (lambda s: (s.agent, {}), "run gave dict as state, needs a TrainState"),
        (lambda s: (s.replace(agent={}), {}), r"the state is another tree .*lacks \.agent\['policy'\]"),
        (
            lambda s: (s.replace(agent=wide(s)), {}),
            r"\.agent\['policy'\] was float32\[1, 2\], is float32\[2, 2\]",
        ),
        (lambda s: (s.replace(status=jnp.float32(0)), {}), r"\.status was int32\[\], is float32\[\]"),
    ],
)
def test_an_event_that_gives_back_something_else_is_named(state, result, words):
    with pytest.raises(TypeError, match=rf"event 'bad': .*{words}"):
        fire(Event("bad", every(PER), lambda trainer, state, key: result(state)), state)


def test_no_event_moves_the_clock_or_the_key(state):
    def move(trainer, state, key):
        return state.replace(clock=state.clock + 5, key=key), {}

    assert differing(fire(Event("move", every(PER), move), state)[0], state) == []


def test_no_name_of_an_event_gives_it_the_draws_of_the_training(state):
    """`split(key)[i]` is `fold_in(key, i)`: sources of randomness that share a name would share draws."""
    trainer, names = Trainer(tiny()), ("agent", "environment", "update")
    training = {name: jax.random.fold_in(stream(state.key, name), state.clock) for name in names}
    seen = {name: jax.random.key_data(key) for name, key in training.items()}
    for name in (*names, "evaluation"):
        event = Event(name, startup(), lambda t, s, key: (s, {"key": jax.random.key_data(key)}))
        seen[f"event {name}"] = fire(event, state)[1]["key"]
        seen[f"evaluation {name}"] = jax.random.key_data(trainer.evaluation_key(state, name))
    assert len({np.asarray(key).tobytes() for key in seen.values()}) == len(seen)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, "Event name ''"),
        ({"name": "non_finite"}, "other than 'non_finite'"),
        ({"schedule": 1000}, "event 'probe': schedule = 1000: needs every"),
        ({"run": "look"}, "event 'probe': run = 'look': needs a function"),
        ({"scope": "seeds"}, "event 'probe': scope = 'seeds': needs 'seed' or 'population'"),
        ({"scope": "population", "schedule": when(is_high, every=8)}, "needs scope='seed'"),
    ],
)
def test_what_is_no_event_is_refused_when_it_is_made(given, words):
    with pytest.raises(ValueError, match=words):
        Event(**({"name": "probe", "schedule": every(PER), "run": nothing} | given))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OnReset("", min), "OnReset name '': needs a text"),
        (
            lambda: OnReset("draw", "randomize"),
            r"OnReset 'draw': run = 'randomize': needs a function of \(key, params\)",
        ),
        (
            lambda: OnStep("push", None),
            r"OnStep 'push': run = None: needs a function of \(key, state, params\)",
        ),
        (lambda: OnStep("push", min, 3), r"OnStep 'push': every = 3: needs 1 <= low <= high"),
        (lambda: OnStep("push", min, (0.5, 2)), r"OnStep 'push': every = \(0.5, 2\): needs 1 <= low <= high"),
    ],
)
def test_what_is_no_hook_is_refused_when_it_is_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_predicate_of_more_than_one_answer_is_named(state):
    event = Event("high", when(lambda s: s.env_params.end > 0, every=PER), nothing)
    with pytest.raises(TypeError, match=r"event 'high': its predicate gave shape \(2,\), needs one bool"):
        Trainer(tiny(), [event])._fire(event, state, None, 0, None)
