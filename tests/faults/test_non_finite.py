"""A number that is not finite, put into one of three seeds at update k.

In: a reward, an observation, a loss, a gradient or an event that gives NaN or an infinity. Out: it is
noticed in that update, what `on_nan` says is done, the state stays finite, no other seed moves a bit.
Knows nothing of checkpoints: what is finite in the state is finite in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, every, startup, train
from jaxtrain.config import field
from jaxtrain.loop.state import ABANDONED, NON_FINITE, RUNNING
from jaxtrain.loop.train import program
from jaxtrain.sinks import Memory
from tests.helpers import Reinforce, Walk, arrays, differing, equations, keys, seed, tiny

UPDATES, PER = 12, tiny().env_steps_per_update
SEEDS, VICTIM = 3, 1
NOTHING, REWARD, OBSERVATION, LOSS, METRIC, GRADIENT, EVENT = range(7)
PLACES = {
    "reward": REWARD,
    "observation": OBSERVATION,
    "loss": LOSS,  # and with it the gradient of every parameter
    "metric": METRIC,  # the number reported, no parameter
    "gradient": GRADIENT,  # of one weight, after the loss was taken
}
VALUES = {"nan": 1, "inf": 2, "-inf": 3}


class Params(NamedTuple):
    """Where, with what and when is data, so that every case below is one compiled program."""

    scale: Any = 1.0
    end: Any = 0.2
    push: Any = 0.1
    place: Any = 0.0  # what is poisoned in update `at`
    value: Any = 1.0  # with which number, one of `VALUES`
    at: Any = 0.0  # negative: in every update from -at on
    now: Any = 0.0  # `place` during that update, else 0


def poison(x, place, now, value):
    """`x`, or the number that is not finite in its place."""
    bad = jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf])[jnp.asarray(value, jnp.int32)]
    return jnp.where(now == place, bad, x)


@dataclass(frozen=True)
class Poisoned(Walk):
    """A walk whose rewards or observations may be told to be not finite; its own state always is finite."""

    @property
    def default_params(self) -> Any:
        return Params()

    def step(self, key, state, action, params):
        out = super().step(key, state, action, params)
        return out._replace(
            reward=poison(out.reward, REWARD, params.now, params.value),
            obs=poison(out.obs, OBSERVATION, params.now, params.value),
        )


@field.config
class Poisonable(Reinforce):
    """`Reinforce` whose loss or gradient may be told to be not finite, by what its agent carries."""

    def make(self, spec):
        made = super().make(spec)

        def init(key):
            return made.init(key) | {"now": jnp.float32(0), "value_of": jnp.float32(1)}

        def update(agent, runner, experience, clock, key):
            mark, weights = ({name: agent[name] for name in names} for names in (MARK, WEIGHTS))
            new, runner, metrics = made.update(weights, runner, experience, clock, key)
            spoil = partial(poison, now=mark["now"], value=mark["value_of"])
            policy, value = spoil(new["policy"], LOSS), spoil(new["value"], LOSS)
            policy = policy.at[0, 1].set(spoil(policy[0, 1], GRADIENT))
            loss = spoil(spoil(metrics["loss"], LOSS), METRIC)
            return {**mark, "policy": policy, "value": value}, runner, {"loss": loss}

        return made._replace(init=init, update=update)


MARK, WEIGHTS = ("now", "value_of"), ("policy", "value")


def arm(trainer, state, key):
    """Poison the next update, if it is the one, and only that one."""
    params = state.env_params
    due = (state.clock + 1 == params.at) | ((params.at < 0) & (state.clock + 1 >= -params.at))
    now = jnp.where(due & (params.place != EVENT), params.place, 0.0)
    agent = {**state.agent, "now": now[0], "value_of": params.value[0]}
    return state.replace(env_params=params._replace(now=now), agent=agent), {}


def spoil(trainer, state, key):
    """An event that itself makes the agent not finite, after update `at`."""
    params = jax.tree.map(lambda x: x[0], state.env_params)
    now = jnp.where(state.clock == params.at, params.place, 0.0)
    policy = state.agent["policy"]
    policy = policy.at[0, 1].set(poison(policy[0, 1], EVENT, now, params.value))
    return state.replace(agent={**state.agent, "policy": policy}), {"now": now}


def look(trainer, state, key):
    return state, {"policy": state.agent["policy"], "value": state.agent["value"], "obs": state.runner.obs}


EVENTS = (
    Event("arm", startup() | every(PER), arm),
    Event("spoil", every(PER), spoil),
    Event("look", startup() | every(PER), look),
)


def config_of(on_nan, place, value, at):
    params = {"place": place, "value": value, "at": at}
    return tiny(UPDATES, env=Poisoned(), params=params, algorithm=Poisonable(), on_nan=on_nan)


def one(on_nan, place, value, at, key, sinks=()):
    return train(config_of(on_nan, place, value, at), key, events=EVENTS, sinks=sinks)


def over_seeds(run, place, value, at):
    """Three seeds, the middle one of which is poisoned."""
    plan = jnp.zeros(SEEDS).at[VICTIM].set(place)
    return jax.vmap(run, in_axes=(0, None, None, 0))(plan, float(value), float(at), keys(SEEDS))


def inject(on_nan, place=NOTHING, value=1, at=5, *, sinks=()):
    return over_seeds(partial(one, on_nan, sinks=sinks), place, value, at)


def stopped(place=NOTHING, value=1, at=5):
    """The state and the history that `train` has when it raises, of the very program that it runs."""

    def run(place, value, at, key):
        trainer = Trainer(config_of("raise", place, value, at), EVENTS)
        whole, rates = program(trainer, EVENTS, observed=True)
        return whole(rates, key, jnp.int32(0))

    state, history = over_seeds(run, place, value, at)
    return state, history["look"]


@cache
def clean(on_nan):
    return inject(on_nan)


@cache
def clean_until_the_end():
    return stopped()


def non_finite_leaves(state):
    """Of all but the metrics, in which NaN means nothing to report."""
    return [path for path, x in arrays(state.replace(metrics={})) if not np.isfinite(x).all()]


def rows(look, index):
    """What the seed was after each update, the start first."""
    return {name: np.asarray(column[index]) for name, column in look.items()}


def assert_equal(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def unarmed(state):
    """The state less what only tells where the poison was to be."""
    nowhere = jnp.zeros_like(state.env_params.now)
    params = state.env_params._replace(place=nowhere, value=nowhere, at=nowhere, now=nowhere)
    agent = {name: state.agent[name] for name in ("policy", "value")}
    return state.replace(env_params=params, agent=agent, metrics={}, hyper=())


cases = pytest.mark.parametrize("at", [1, 5, UPDATES])
places = pytest.mark.parametrize("place", [place for place in PLACES if place != "metric"])
# What is named of an update whose fault is in a place.
NAMED = {
    "reward": {"reward", "agent", "train/loss"},
    "observation": {"observation", "agent", "train/loss"},
    "loss": {"agent", "train/loss"},
    "gradient": {"agent"},
}
values = pytest.mark.parametrize("value", VALUES)


@values
@places
@cases
@pytest.mark.parametrize("on_nan", ["freeze", "skip"])
def test_it_is_noticed_in_its_update_dropped_and_touches_no_other_seed(on_nan, place, value, at):
    sink = Memory()
    result = inject(on_nan, PLACES[place], VALUES[value], at, sinks=[sink])
    sound = clean(on_nan)

    (record,) = [r for r in sink.records if r.name == "non_finite"]
    assert (record.update, record.env_steps) == (at, at * PER)
    flags = {name: flag.tolist() for name, flag in record.values.items()}
    mine, none = [i == VICTIM for i in range(SEEDS)], [False] * SEEDS
    assert flags == {name: mine if name in NAMED[place] else none for name in flags}
    assert flags.keys() == {"agent", "observation", "reward", "extras", "train/loss"}

    for i in {0, 1, 2} - {VICTIM}:
        assert differing(unarmed(seed(i, result.state)), unarmed(seed(i, sound.state))) == []
        assert result.state.status[i] == RUNNING
        assert_equal(rows(result.history["look"], i), rows(sound.history["look"], i))

    assert non_finite_leaves(result.state) == []
    victim, unhurt = rows(result.history["look"], VICTIM), rows(sound.history["look"], VICTIM)
    for name in victim:
        np.testing.assert_array_equal(victim[name][:at], unhurt[name][:at])
        np.testing.assert_array_equal(victim[name][at], victim[name][at - 1])
    if on_nan == "freeze":
        assert result.state.status[VICTIM] == NON_FINITE
        assert result.state.stopped_at[VICTIM] == at
        assert all((column[at:] == column[at]).all() for column in victim.values())
    else:
        assert result.state.status[VICTIM] == RUNNING
        assert result.state.stopped_at[VICTIM] == -1
        if at < UPDATES:  # it goes on at once, with other draws than those of the update dropped
            assert (victim["policy"][at + 1] != victim["policy"][at]).any()
            assert (victim["obs"][at + 1] != unhurt["obs"][at]).any()


@values
@places
@cases
def test_raise_stops_every_seed_with_its_last_finite_state(place, value, at):
    state, _ = stopped(PLACES[place], VALUES[value], at)
    assert state.status.tolist() == [ABANDONED, NON_FINITE, ABANDONED]
    assert state.stopped_at.tolist() == [at] * SEEDS
    assert non_finite_leaves(state) == []
    sound, look = clean_until_the_end()
    assert sound.status.tolist() == [RUNNING] * SEEDS
    for i in range(SEEDS):
        last = at - 1 if i == VICTIM else at  # the others keep the update in which it was noticed
        for name in ("policy", "value"):
            np.testing.assert_array_equal(state.agent[name][i], rows(look, i)[name][last])


@pytest.mark.parametrize(
    ("place", "metric"),
    [("reward", "agent, reward, train/loss"), ("loss", "agent, train/loss"), ("gradient", "agent")],
)
def test_raise_names_what_was_not_finite_in_the_update_it_became_so(place, metric):
    words = rf"^not finite: {metric} of seed 1 at update 5 \(40 env steps\)"
    with pytest.raises(FloatingPointError, match=words):
        inject("raise", PLACES[place])


@values
@pytest.mark.parametrize("on_nan", ["freeze", "skip"])
def test_a_metric_alone_is_no_fault(on_nan, value):
    """It may mean nothing, as a division by a count of zero does; what is learned is as before."""
    sink = Memory()
    result = inject(on_nan, METRIC, VALUES[value], sinks=[sink])
    assert [r for r in sink.records if r.name == "non_finite"] == []
    for i in range(SEEDS):
        assert differing(unarmed(seed(i, result.state)), unarmed(seed(i, clean(on_nan).state))) == []


# ---- a single seed, without the seed axis


@places
def test_a_seed_alone_keeps_the_same_promise(place):
    sink = Memory()
    result = one("freeze", float(PLACES[place]), 2.0, 5.0, keys(1)[0], [sink])
    (record,) = [r for r in sink.records if r.name == "non_finite"]
    assert record.update == 5
    assert all(flag.shape == (1,) for flag in record.values.values())
    assert non_finite_leaves(result.state) == []
    assert int(result.state.status) == NON_FINITE


# ---- skip


def test_skip_makes_a_record_at_every_update_that_is_dropped():
    sink = Memory()
    result = inject("skip", REWARD, at=-5, sinks=[sink])
    assert [r.update for r in sink.records if r.name == "non_finite"] == list(range(5, UPDATES + 1))
    assert result.state.status.tolist() == [RUNNING] * SEEDS
    assert non_finite_leaves(result.state) == []
    victim = rows(result.history["look"], VICTIM)
    assert all((column[4:] == column[4]).all() for column in victim.values())


def test_the_update_after_a_skipped_one_is_that_of_the_moved_clock():
    """By hand: the state before the bad update, its clock moved on."""
    config = tiny(env=Poisoned(), algorithm=Poisonable(), on_nan="skip")
    trainer = Trainer(config)
    update = jax.jit(trainer.update)
    before = update(trainer.new(jax.random.key(0)))
    armed = before.replace(agent={**before.agent, "now": jnp.float32(GRADIENT)})
    after = update(armed)
    assert differing(after, armed.replace(clock=before.clock + 1)) == []
    on = update(after.replace(agent=before.agent))
    assert differing(on, update(before.replace(clock=before.clock + 1))) == []
    assert differing(on.agent, update(before).agent) != []


# ---- an event


@values
@pytest.mark.parametrize("on_nan", ["freeze", "skip", "raise"])
def test_an_agent_that_an_event_made_not_finite_is_dropped_there_and_the_event_named(on_nan, value):
    sink = Memory()
    run = partial(inject, on_nan, EVENT, VALUES[value], sinks=[sink])
    if on_nan == "raise":
        with pytest.raises(FloatingPointError, match=r"^not finite: spoil/agent of seed 1 at update 5 "):
            run()
        state, _ = stopped(EVENT, VALUES[value], 5)
        status, stopped_at = [ABANDONED, NON_FINITE, ABANDONED], [5, 5, 5]
    else:
        state = run().state
        status = [RUNNING, NON_FINITE if on_nan == "freeze" else RUNNING, RUNNING]
        stopped_at = [-1, 5 if on_nan == "freeze" else -1, -1]
    (record,) = [r for r in sink.records if r.name == "non_finite"]
    assert record.update == 5
    assert {name: flag.tolist() for name, flag in record.values.items()} == {
        "spoil/agent": [False, True, False]
    }
    assert state.status.tolist() == status
    assert state.stopped_at.tolist() == stopped_at
    assert non_finite_leaves(state) == []
    if on_nan == "skip":  # only what the event made is dropped, so the run is the one without it
        for i in range(SEEDS):
            assert differing(unarmed(seed(i, state)), unarmed(seed(i, clean("skip").state))) == []


# ---- cost


def looks(on_nan, events=()):
    """How often a program of two updates asks whether something is finite."""
    trainer = Trainer(tiny(2, on_nan=on_nan), events)
    state = trainer.new(keys(SEEDS))
    jaxpr = jax.make_jaxpr(lambda state: trainer.scan(state, None, 2, None))(state)
    return sum(eqn.primitive.name == "is_finite" for eqn, _ in equations(jaxpr.jaxpr))


def test_every_leaf_and_metric_is_looked_at_once_and_an_event_that_leaves_the_agent_alone_adds_nothing():
    collected = ["obs", "next_obs", "reward"]
    assert looks("freeze") == len(["policy", "value", "train/loss", *collected])
    assert looks("freeze", [Event("look", every(PER), look)]) == looks("freeze")


def double(trainer, state, key):
    return state.replace(agent=jax.tree.map(lambda x: 2 * x, state.agent)), {}


def test_ignore_looks_at_nothing():
    events = [Event("double", every(PER), double)]
    assert looks("freeze", events) > looks("freeze")
    assert looks("ignore", events) == 0
