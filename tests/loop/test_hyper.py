"""Rates are in the state, by name, and events move them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, OnReset, OnStep, Trainer, at, every, finish, train
from jaxtrain.loop.hyper import Rates, scale_rate
from jaxtrain.loop.state import ABANDONED, NON_FINITE, RUNNING
from jaxtrain.sinks import Memory
from tests.helpers import Reinforce, Walk, arrays, differing, keys, seed, tiny, tiny_ppo
from tests.loop.rates import LOOK, PER, Logged, add, every_kind, jump, push, setting

# ---- names


def test_every_float_of_the_config_and_of_events_from_python_has_a_name_in_the_order_of_the_config():
    given = [
        Event("late", finish(), add, {"unit": 3, "amount": 0.5}),
        OnReset("start", push, {"offset": 0.25, "amount": 2.0}),
        OnStep("step", jump, params={"far": 0.125}),
    ]
    names = [*Trainer(every_kind(), given).rates()]
    assert names == [
        "env.params.push",
        "algorithm.learning_rate",
        "algorithm.gamma",
        "evaluation.env.params.scale",
        "evaluation.events.inside.end.low",
        "evaluation.events.inside.end.high",
        "events.curriculum.marks.0",
        "events.curriculum.marks.1",
        "events.curriculum.values.0",
        "events.curriculum.values.1",
        "events.hook.amount",
        "events.hook.offset",
        "events.jump.far",
        "events.own.amount",
        "events.again.env.params.end",
        "events.late.amount",
        "events.start.offset",
        "events.start.amount",
        "events.step.far",
    ]


def test_events_from_python_have_one_name_in_the_config_and_beside_it():
    event = Event("late", finish(), add, {"amount": 0.5})
    inside, beside = Trainer(tiny(events=[event])), Trainer(tiny(), [event])
    assert differing(inside.rates(), beside.rates()) == []
    assert float(inside.rates()["events.late.amount"]) == 0.5


def test_a_whole_number_is_a_rate_where_the_environment_has_a_float_and_none_where_an_event_has_it():
    trainer = Trainer(tiny(params={"scale": 2}), [Event("e", finish(), add, {"amount": 0.5, "unit": 2})])
    rates = trainer.rates()
    assert float(rates["env.params.scale"]) == 2 and rates["env.params.scale"].dtype == jnp.float32
    assert "events.e.unit" not in rates


def test_a_fresh_state_has_the_rates_of_the_config_and_one_of_seeds_an_axis_in_front():
    trainer = Trainer(tiny())
    one, many = trainer.new(jax.random.key(0)).hyper, trainer.new(keys(3)).hyper
    assert differing(one, trainer.rates()) == []
    assert {name: x.shape for name, x in many.items()} == dict.fromkeys(one, (3,))
    assert [float(x[2]) for x in many.values()] == [float(x) for x in one.values()]


# ---- Rates


RATES = Rates({"b.learning_rate": jnp.float32(1), "a.gamma": jnp.float32(2)})


def test_rates_keep_their_order_through_transformations_and_have_paths():
    for made in (
        RATES,
        jax.tree.map(lambda x: x + 1, RATES),
        jax.jit(lambda r: r)(RATES),
        RATES.replace({"a.gamma": 5}),
    ):
        assert [*made] == ["b.learning_rate", "a.gamma"] and len(made) == 2
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(RATES)]
    assert paths == ["['b.learning_rate']", "['a.gamma']"]


@pytest.mark.parametrize("value", [0.5, 1, np.float64(0.5), jnp.bfloat16(0.5)])
def test_what_replaces_a_rate_takes_its_dtype_and_leaves_the_old_one_alone(value):
    made = RATES.replace({"a.gamma": value})
    assert made["a.gamma"].dtype == jnp.float32 and float(made["a.gamma"]) == float(value)
    assert float(RATES["a.gamma"]) == 2 and made["b.learning_rate"] is RATES["b.learning_rate"]


def test_a_name_that_is_no_rate_is_refused_with_the_nearest():
    state = Trainer(tiny()).new(jax.random.key(0))
    for use in (
        lambda name: state.hyper.replace({name: 1.0}),
        lambda name: scale_rate(state, name, 2.0),
    ):
        with pytest.raises(KeyError, match=r"'algorithm.learning_rat' is no rate.*algorithm.learning_rate"):
            use("algorithm.learning_rat")
        with pytest.raises(KeyError, match=r"'algorithm.rollout_length' is no rate"):
            use("algorithm.rollout_length")


@pytest.mark.parametrize("value", [jnp.zeros(1), jnp.zeros((2, 2)), [1.0, 2.0]])
def test_a_rate_of_another_shape_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"Rates.replace: \['a.gamma'\] was float32\[\], is float32\["):
        RATES.replace({"a.gamma": value})


@pytest.mark.parametrize("factor", [2.0, np.array([1.0, 2.0, 4.0])])
def test_scale_rate_multiplies_one_and_nothing_else(factor):
    state = Trainer(tiny()).new(keys(3))
    made = jax.jit(partial(scale_rate, name="algorithm.gamma"))(state, factor=factor)
    np.testing.assert_allclose(made.hyper["algorithm.gamma"], 0.9 * factor * np.ones(3), rtol=1e-6)
    assert differing(made, state) == [".hyper['algorithm.gamma']"]


# ---- what an event makes of a rate


def move(trainer, state, key, **rates):
    """Set rates of the algorithm to the event's own parameters."""
    rates = {f"algorithm.{name}": x for name, x in rates.items()}
    return state.replace(hyper=state.hyper.replace(rates)), {}


MOVED = {"learning_rate": 0.1, "gamma": 0.9}  # as they are


@pytest.fixture(scope="module", params=[0, 3], ids=["a key", "3 seeds"])
def moving(request):
    """Compiled: new states, a run of three updates with the event at its end, an update."""
    key = keys(request.param) if request.param else jax.random.key(0)
    trainer = Trainer(tiny(algorithm=Logged(**MOVED)), [Event("move", at(3 * PER), move, MOVED)])

    @jax.jit
    def third(**moved):
        rates = trainer.rates().replace({f"events.move.{name}": x for name, x in moved.items()})
        rates = jax.tree.map(lambda x: jnp.broadcast_to(x, key.shape), rates)
        return trainer.run(trainer.new(key, rates), 3)

    return third, jax.jit(trainer.update)


@pytest.mark.parametrize("name", MOVED)
def test_the_next_update_is_that_of_a_run_with_the_new_rate(name, moving):
    run, update = moving
    third, same = run(**MOVED | {name: 0.625}), run(**MOVED)
    assert (third.metrics[f"train/{name}"] != 0.625).all()  # of the update before the event
    fourth = update(third)
    assert (fourth.metrics[f"train/{name}"] == 0.625).all()
    rates = same.hyper.replace({f"algorithm.{name}": jnp.full(same.status.shape, 0.625)})
    expected = update(same.replace(hyper=rates))
    assert differing(fourth.replace(hyper=()), expected.replace(hyper=())) == []
    assert differing(fourth.agent, update(same).agent) != []


def scale(trainer, state, key, *, by):
    return scale_rate(state, "algorithm.learning_rate", by), {}


def test_the_learning_rate_of_ppo_is_seen_in_the_next_updates_metric():
    look = Event("look", every(PER), lambda t, s, k: (s, {"rate": s.metrics["train/learning_rate"]}))

    def rates(by):
        event = {"name": "scale", "run": f"{__name__}:scale", "at": [2 * PER], "params": {"by": by}}
        config = tiny(4, algorithm=tiny_ppo(learning_rate=0.25), events=[event])
        return train(config, jax.random.key(0), events=[look]).history["look"]["rate"]

    one, two = np.asarray(jax.vmap(rates)(jnp.array([1.0, 0.5])))
    np.testing.assert_array_equal(two[:2], one[:2])
    np.testing.assert_allclose(two[2:], one[2:] / 2, rtol=1e-6)
    assert (one > 0).all()


def test_an_evaluation_is_in_the_environment_of_the_rates():
    trainer = Trainer(tiny(params={"end": 0.0}, evaluation={"every": PER, "num_episodes": 8}))
    state = trainer.new(jax.random.key(0))
    assert trainer.evaluate(state)["length_mean"] == 6
    moved = setting("env.params.end", 1.0)(trainer, state, None)[0]
    assert trainer.evaluate(moved)["length_mean"] == 1
    there = tiny(evaluation={"num_episodes": 8, "env": {"id": Walk(), "params": {"end": 0.0}}})
    trainer = Trainer(there)
    state = trainer.new(jax.random.key(0))
    assert trainer.evaluate(state)["length_mean"] == 6
    moved = setting("evaluation.env.params.end", 1.0)(trainer, state, None)[0]
    assert trainer.evaluate(moved)["length_mean"] == 1


def test_an_event_moves_the_parameter_of_another_of_a_hook_and_of_itself():
    def grow(trainer, state, key, *, factor):
        names = ("events.grow.factor", "events.own.amount", "events.hook.amount")
        new = {name: state.hyper[name] * 2 for name in names}
        return state.replace(hyper=state.hyper.replace(new)), {"factor": factor}

    events = [
        Event("grow", every(PER), grow, {"factor": 1.0}),
        Event("own", every(PER), add, {"amount": 0.5}),
        OnReset("hook", push, {"amount": 1.0}),
        Event("look", every(PER), lambda t, s, k: (s, {"push": s.env_params.push})),
    ]
    result = train(tiny(4, params={"end": 1.0, "push": 1.0}), jax.random.key(0), events=events)
    assert result.history["grow"]["factor"].tolist() == [1, 2, 4, 8]
    assert result.history["own"]["amount"].tolist() == [1, 2, 4, 8]
    # A reset after each step: the nominal push is multiplied by 1, by 2, by 4, and by 8.
    pushed = np.asarray(result.history["look"]["push"])
    np.testing.assert_array_equal(pushed[:, 0], [1, 2, 4, 8])


def test_a_trainer_of_another_config_goes_on_with_the_rates_of_the_state():
    one, other = Trainer(tiny()), Trainer(tiny(params={}, algorithm=Reinforce(learning_rate=9.0, gamma=0.1)))
    state = one.init(keys(3))
    assert differing(other.update(state), one.update(state)) == []
    assert differing(other.update(other.init(keys(3))), other.update(state)) != []


# ---- what is not finite


def spoil(trainer, state, key):
    """The learning rate of the seeds whose episodes end more often is NaN."""
    rate = state.hyper["algorithm.learning_rate"]
    rate = jnp.where(state.hyper["env.params.end"] > 0.3, jnp.nan, rate)
    return state.replace(hyper=state.hyper.replace({"algorithm.learning_rate": rate})), {}


SPOIL = (Event("spoil", at(3 * PER), spoil), *LOOK)


def spoiled(on_nan, ends=(0.2, 0.4, 0.2)):
    sink = Memory()

    def one(end, key):
        return train(tiny(6, params={"end": end}, on_nan=on_nan), key, events=SPOIL, sinks=[sink])

    return jax.vmap(one)(jnp.array(ends), keys(3)), [r for r in sink.records if r.name == "non_finite"]


@pytest.mark.parametrize(("on_nan", "status"), [("freeze", NON_FINITE), ("skip", RUNNING)])
def test_a_rate_that_an_event_made_nan_is_dropped_and_the_event_named(on_nan, status):
    (result, (record,)), (sound, none) = spoiled(on_nan), spoiled(on_nan, (0.2, 0.2, 0.2))
    assert none == []
    assert record.update == 3
    assert {k: v.tolist() for k, v in record.values.items() if v.any()} == {
        "spoil/hyper": [False, True, False]
    }
    assert result.state.status.tolist() == [RUNNING, status, RUNNING]
    assert (np.asarray(result.state.hyper["algorithm.learning_rate"]) == np.float32(0.1)).all()
    assert all(np.isfinite(x).all() for _, x in arrays(result.state.agent))
    for i in (0, 2):
        assert differing(seed(i, result.state), seed(i, sound.state)) == []
    weights = np.asarray(result.history["look"]["[0]['policy']"])[1]
    assert (weights[3:] == weights[2]).all() == (status == NON_FINITE)


def test_a_rate_that_is_nan_ends_a_run_that_raises_and_none_that_ignores_it():
    with pytest.raises(FloatingPointError, match="spoil/hyper of seed 1 at update 3"):
        spoiled("raise")
    result, records = spoiled("ignore")
    assert records == [] and result.state.status.tolist() == [RUNNING] * 3
    assert np.isnan(result.state.hyper["algorithm.learning_rate"]).tolist() == [False, True, False]


def test_raise_abandons_the_others():
    trainer = Trainer(tiny(params={"end": 0.4}, on_nan="raise"), SPOIL)
    state = trainer.init(keys(2))
    state = state.replace(hyper=state.hyper.replace({"env.params.end": jnp.array([0.2, 0.4])}))
    state = trainer.run(state, 4)
    assert state.status.tolist() == [ABANDONED, NON_FINITE]
