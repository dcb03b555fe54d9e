"""Rates are in the state, by name: events move them, sweeps map over them, and nobody reads the config's."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import (
    ConfigError,
    Event,
    OnReset,
    OnStep,
    Trainer,
    at,
    every,
    finish,
    train,
)
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.config import field
from jaxtrain.events.event import mean_return
from jaxtrain.loop.hyper import ELSEWHERE, Rates, scale_rate
from jaxtrain.loop.state import ABANDONED, AXES, NON_FINITE, RUNNING
from jaxtrain.loop.train import program
from jaxtrain.runs.launch import launch
from jaxtrain.sinks import Memory
from tests.helpers import Reinforce, Walk, arrays, differing, equations, keys, seed, tiny, tiny_ppo

PER = tiny().env_steps_per_update


@field.config
class Logged(Reinforce):
    """Its metrics are the rates that it used."""

    name: str = field.text("logged")

    def make(self, spec):
        made = super().make(spec)

        def update(*args):
            agent, runner, metrics = made.update(*args)
            rates = {"learning_rate": self.learning_rate, "gamma": self.gamma}
            return agent, runner, metrics | {name: jnp.asarray(x) for name, x in rates.items()}

        return made._replace(update=update)


def push(key, params, *, amount, offset=0.0):
    """An `OnReset` hook."""
    return params._replace(push=params.push * amount + offset)


def jump(key, state, params, *, far):
    """An `OnStep` hook."""
    return state._replace(position=state.position + far)


def add(trainer, state, key, *, amount, unit=1):
    """An event that moves the policy by its own parameter, and says by how much."""
    moved = state.agent["policy"] + amount * unit
    return state.replace(agent=state.agent | {"policy": moved}), {"amount": jnp.asarray(amount)}


def setting(name, value):
    """The `run` of an event that sets one rate."""

    def run(trainer, state, key):
        return state.replace(hyper=state.hyper.replace({name: value})), {}

    return run


HERE = "tests.loop.test_hyper"
STOCK = {"name": "curriculum", "every": PER, "params": {"field": "scale", "marks": [0.0, 48.0]}}


def every_kind(**rates):
    """A config with rates of every kind, which `rates` changes; keywords are names with `__` for a dot."""
    given = {
        "learning_rate": 0.1,
        "push": 0.2,
        "scale": 0.5,
        "end": 0.3,
        "low": 0.1,
        "last": 2.0,
        "offset": 0.1,
        "far": 0.01,
        "amount": 0.05,
    } | rates
    assert len(given) == 9
    low = {"low": given["low"], "high": 0.9}
    curriculum = STOCK | {"params": STOCK["params"] | {"values": [1.0, given["last"]]}}
    return tiny(
        6,
        params={"push": given["push"]},
        algorithm=Logged(learning_rate=given["learning_rate"]),
        evaluation={
            "every": 2 * PER,
            "num_episodes": 2,
            "max_episode_steps": 7,
            "env": {"id": Walk(), "params": {"scale": given["scale"]}},
            "events": [
                {"name": "inside", "run": "randomize", "on": "reset", "params": {"end": low}},
            ],
        },
        events=[
            curriculum,
            {
                "name": "hook",
                "run": f"{HERE}:push",
                "on": "reset",
                "params": {"amount": 1.1, "offset": given["offset"]},
            },
            {"name": "jump", "run": f"{HERE}:jump", "on": "step", "params": {"far": given["far"]}},
            {"name": "own", "run": f"{HERE}:add", "every": PER, "params": {"amount": given["amount"]}},
            {
                "name": "again",
                "run": "evaluation",
                "every": 3 * PER,
                "params": {
                    "num_episodes": 2,
                    "max_episode_steps": 7,
                    "env": {"id": Walk(), "params": {"end": given["end"]}},
                },
            },
        ],
    )


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


@pytest.mark.parametrize("name", ["learning_rate", "gamma"])
@pytest.mark.parametrize("seeds", [0, 3])
def test_the_next_update_is_that_of_a_run_with_the_new_rate(name, seeds):
    key, path = keys(seeds) if seeds else jax.random.key(0), f"algorithm.{name}"
    before, after = tiny(algorithm=Logged()), tiny(algorithm=Logged(**{name: 0.625}))
    moved = Trainer(before, [Event("move", at(3 * PER), setting(path, jnp.full(key.shape[1:], 0.625)))])
    plain, other = Trainer(before), Trainer(after)
    third = jax.jit(moved.run, static_argnums=1)(moved.init(key), 3)
    assert (third.metrics[f"train/{name}"] != 0.625).all()  # of the update before the event
    fourth = jax.jit(moved.update)(third)
    assert (fourth.metrics[f"train/{name}"] == 0.625).all()
    same = jax.jit(plain.run, static_argnums=1)(plain.init(key), 3)
    rates = jax.tree.map(lambda x: jnp.broadcast_to(x, key.shape), other.rates())
    expected = jax.jit(other.update)(same.replace(hyper=rates))
    assert differing(fourth.replace(events={}), expected.replace(events={})) == []
    assert differing(fourth.agent, jax.jit(plain.update)(same).agent) != []


def test_the_learning_rate_of_ppo_is_seen_in_the_next_updates_metric():
    algorithm = tiny_ppo(learning_rate=0.25)
    halve = Event("halve", at(2 * PER), lambda t, s, k: (scale_rate(s, "algorithm.learning_rate", 0.5), {}))
    look = Event("look", every(PER), lambda t, s, k: (s, {"rate": s.metrics["train/learning_rate"]}))
    one, two = (
        np.asarray(
            train(tiny(4, algorithm=algorithm), jax.random.key(0), events=events).history["look"]["rate"]
        )
        for events in ([look], [halve, look])
    )
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
    # A reset after each step: the push is multiplied by 1 four times, by 2, by 4, and by 8.
    pushed = np.asarray(result.history["look"]["push"])
    np.testing.assert_array_equal(pushed[:, 0], [1, 2**4, 2**12, 2**24])


def test_a_trainer_of_another_config_goes_on_with_the_rates_of_the_state():
    one, other = Trainer(tiny()), Trainer(tiny(params={}, algorithm=Reinforce(learning_rate=9.0, gamma=0.1)))
    state = one.init(keys(3))
    assert differing(other.update(state), one.update(state)) == []
    assert differing(other.update(other.init(keys(3))), other.update(state)) != []


# ---- sweeps


KINDS = {
    "learning_rate": (0.0, 0.1, 0.3),
    "push": (0.0, 0.1, 0.5),
    "scale": (0.5, 1.0, 3.0),
    "end": (0.05, 0.5, 1.0),
    "low": (0.05, 0.5, 0.9),
    "last": (1.0, 2.0, 4.0),
    "offset": (0.0, 0.1, 1.0),
    "far": (0.0, 0.1, -0.1),
    "amount": (0.0, 0.1, -0.2),
}


def look(trainer, state, key):
    leaves = jax.tree_util.tree_leaves_with_path((state.agent, state.runner, state.env_params))
    return state, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


LOOK = (Event("look", every(PER), look),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_the_single_runs_whatever_kind_of_rate_it_is_over(kind):
    def one(value):
        return train(every_kind(**{kind: value}), jax.random.key(0), events=LOOK).history

    together = jax.vmap(one)(jnp.array(KINDS[kind]))
    apart = [one(value) for value in KINDS[kind]]
    for i, alone in enumerate(apart):
        for (path, x), (_, y) in zip(arrays(together), arrays(alone), strict=True):
            np.testing.assert_allclose(x[i], y, atol=1e-5, rtol=1e-5, err_msg=f"{i}{path}")
    assert differing(apart[0], apart[2]) != []  # else the rate does nothing, and this shows nothing


def constants(jaxpr, consts=()):
    """Every array and number that stands in a program."""
    yield from consts
    for eqn, _ in equations(jaxpr):
        for x in eqn.invars:
            if hasattr(x, "val"):
                yield x.val
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "consts")):
            yield from getattr(inner, "consts", ())


def marked(config, events):
    """Whether a number that can only come from what stands in a config for its rates is in the program."""
    whole, rates = program(Trainer(config, events), events, observed=True)
    closed = jax.make_jaxpr(whole)(rates, jax.random.key(0), jnp.int32(0))
    found = False
    for x in constants(closed.jaxpr, closed.consts):
        if jnp.issubdtype(jnp.result_type(x), jnp.floating):
            size = np.abs(np.asarray(x, np.float64))
            found |= bool(((size > ELSEWHERE / 100) & (size < ELSEWHERE * 100)).any())
    return found


GIVEN = (
    *LOOK,
    Event("late", finish(), add, {"amount": 0.5}),
    OnReset("start", push, {"amount": 2.0}),
    OnStep("step", jump, params={"far": 0.125}),
)


def test_nothing_in_the_program_reads_a_rate_from_the_config():
    assert not marked(every_kind(), GIVEN)


@pytest.mark.parametrize("algorithm", [tiny_ppo(), DQN(buffer_size=64, batch_size=8, learning_starts=8)])
def test_no_algorithm_reads_a_rate_from_the_config(algorithm):
    assert not marked(tiny(algorithm=algorithm, params={"scale": 0.5}), ())


def test_a_reader_of_the_config_is_found_by_its_mark():
    def read(trainer, state, key):
        return state, {"rate": state.hyper["algorithm.gamma"] * trainer.config.algorithm.learning_rate}

    assert marked(tiny(), (Event("reader", finish(), read),))


# ---- arrays of several


SEVERAL = np.array([0.1, 0.2])
REFUSED = {
    "algorithm.learning_rate": tiny(algorithm=Reinforce(learning_rate=SEVERAL)),
    "env.params.push": tiny(params={"push": SEVERAL}),
    "evaluation.env.params.scale": tiny(evaluation={"env": {"id": Walk(), "params": {"scale": SEVERAL}}}),
    "events.0.params.amount": tiny(
        events=[{"name": "own", "run": f"{HERE}:add", "every": PER, "params": {"amount": SEVERAL}}]
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rate_of_several_values_is_refused_by_name_before_anything_compiles(name, tmp_path, monkeypatch):
    config = REFUSED[name]
    monkeypatch.setattr(jax, "jit", None)
    for use in (
        lambda: train(config, jax.random.key(0)),
        lambda: Trainer(config),
        lambda: launch(config, tmp_path / "run", num_seeds=2),
    ):
        with pytest.raises(ConfigError, match=rf"{name} = .*needs one number") as error:
            use()
        assert len(error.value.problems) == 1
    assert list(tmp_path.iterdir()) == []


# ---- populations


def mixed(trainer, state, key, *, share):
    """Every seed takes a share of the mean of all."""
    agent = jax.tree.map(lambda x: (1 - share) * x + share * x.mean(0), state.agent)
    return state.replace(agent=agent), {"share": jnp.asarray(share)}


def population(share, rate=0.1, more=0.5):
    params = {"share": share}
    event = {"name": "mix", "run": f"{HERE}:mixed", "at": [2 * PER], "scope": "population", "params": params}
    other = {"name": "own", "run": f"{HERE}:add", "every": PER, "params": {"amount": more}}
    return tiny(4, algorithm=Reinforce(learning_rate=rate), events=[event, other])


@pytest.mark.parametrize("nested", [False, True])
def test_a_swept_parameter_of_a_population_event_is_refused_by_name(nested):
    run = jax.vmap(lambda share: train(population(share), jax.random.key(0)))
    if nested:
        run = jax.vmap(lambda key: jax.vmap(lambda s: train(population(s), key))(jnp.array([0.1, 0.2])))
    with pytest.raises(ValueError, match=r"events\.mix\.share: the event sees all seeds at once"):
        run(keys(2) if nested else jnp.array([0.1, 0.2]))


def test_other_rates_may_be_swept_beside_a_population_event():
    rates, more = jnp.array([0.0, 0.1]), jnp.array([0.5, 0.25])
    result = jax.vmap(lambda r, m: train(population(0.5, r, m), jax.random.key(0)))(rates, more)
    assert result.history["mix"]["share"].tolist() == [[0.5], [0.5]]
    assert result.history["own"]["amount"][:, 0].tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(result.state.hyper["algorithm.learning_rate"], rates)


def exploit(trainer, state, key):
    """The worst seed takes the agent of the best, and a rate near that of the best."""
    score = jnp.nan_to_num(jax.vmap(mean_return, (AXES,))(state), nan=-jnp.inf)
    best, worst = jnp.argmax(score), jnp.argmin(score)
    copy = partial(jax.tree.map, lambda x: x.at[worst].set(x[best]))
    rate = state.hyper["algorithm.learning_rate"]
    factor = jnp.where(jax.random.bernoulli(key), 0.8, 1.25)
    hyper = state.hyper.replace({"algorithm.learning_rate": rate.at[worst].set(rate[best] * factor)})
    return state.replace(agent=copy(state.agent), hyper=hyper), {"best": best, "worst": worst, "rate": rate}


def test_the_worst_of_eight_seeds_takes_the_agent_of_the_best_and_a_rate_near_its():
    config = tiny(6, algorithm=Logged())
    trainer = Trainer(config, [Event("exploit", at(3 * PER), exploit, scope="population")])
    plain, run = Trainer(config), partial(jax.jit, static_argnums=1)
    state, untouched = (run(t.run)(t.init(keys(8)), 3) for t in (trainer, plain))
    before, after = run(plain.run)(plain.init(keys(8)), 3), state
    score = np.asarray(before.episodes.returns.sum(1) / np.maximum(before.episodes.finished, 1))
    changed = [i for i in range(8) if differing(seed(i, before.agent), seed(i, after.agent))]
    (worst,) = changed
    best = next(
        i for i in range(8) if i != worst and not differing(seed(i, after.agent), seed(worst, after.agent))
    )
    assert score[best] == score.max() and score[worst] == score.min()
    rate = np.asarray(after.hyper["algorithm.learning_rate"])
    assert rate[worst] in (np.float32(0.1) * np.float32(0.8), np.float32(0.1) * np.float32(1.25))
    assert (np.delete(rate, worst) == np.float32(0.1)).all()
    on, off = (run(t.run)(s, 3) for t, s in ((trainer, after), (plain, untouched)))
    for i in range(8):
        same = differing(seed(i, on.replace(events={})), seed(i, off.replace(events={}))) == []
        assert same == (i != worst)
    assert on.metrics["train/learning_rate"][worst] == rate[worst]
    # As one program with `train`, to the bit.
    result = jax.vmap(partial(train, config, events=trainer.events[:]))(keys(8))
    assert differing(result.state.agent, on.agent) == []
    assert result.history["exploit"]["worst"].tolist() == [[worst]] * 8


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
