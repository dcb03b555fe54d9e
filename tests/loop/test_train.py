"""`train` is one program with the same promises for one seed and for many, under any transformation."""

from __future__ import annotations

import dataclasses
import logging
import threading
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, at, every, finish, startup, train
from jaxtrain.config import field
from jaxtrain.loop import callback
from jaxtrain.loop.state import ABANDONED, NON_FINITE, RUNNING
from jaxtrain.loop.train import program
from jaxtrain.sinks import Memory
from tests.helpers import Reinforce, arrays, differing, equations, keys, seed, tiny, tiny_ppo

PER = tiny().env_steps_per_update
LEARNED = ("agent", "runner", "env_params", "episodes", "status")


def learned(state):
    return {name: getattr(state, name) for name in LEARNED}


def probe(trainer, state, key):
    """Marked in the program by a primitive that nothing else uses."""
    draw = jax.random.uniform(key)
    marked = jnp.sign(jax.scipy.special.i1e(draw))
    return state, {
        "draw": draw,
        "marked": marked,
        "weights": state.agent["policy"][0],
        "episodes": state.episodes.finished,
    }


def due(n, updates=12):
    return [u for u in range(1, updates + 1) if u % n == 0]


EVENTS = (
    *(Event(f"every {n}", every(n * PER), probe) for n in (1, 4, 5)),
    Event("ends", startup() | finish(), probe),
)
WATCHED = tiny(logging={"every": 3 * PER}, evaluation={"every": 4 * PER, "num_episodes": 3})


@pytest.fixture(scope="module", params=[0, 3], ids=["a key", "3 seeds"])
def watched(request):
    """`(result, records, number of seeds, its function of a config, events and sinks)`."""
    sink, seeds = Memory(), request.param

    def run(config, **kwargs):
        one = partial(train, config, **kwargs)
        return jax.vmap(one)(keys(seeds)) if seeds else one(jax.random.key(0))

    return run(WATCHED, events=EVENTS, sinks=[sink]), sink.records, max(seeds, 1), run


# ---- records and history


def test_a_due_event_runs_once_and_makes_one_record_however_many_seeds_run(watched):
    _, records, seeds, _ = watched
    for n in (1, 4, 5):
        made = [r for r in records if r.name == f"every {n}"]
        assert [r.update for r in made] == due(n)
        assert [r.env_steps for r in made] == [PER * u for u in due(n)]
        assert all(r.values["draw"].shape == (seeds,) for r in made)
        assert all(r.values["weights"].shape == (seeds, 2) for r in made)
    assert [r.update for r in records if r.name == "ends"] == [0, 12]
    assert [r.update for r in records if r.name == "metrics"] == due(3)
    assert [r.update for r in records if r.name == "evaluation"] == due(4)
    assert sorted(r.update for r in records) == [r.update for r in records]


def test_the_history_holds_what_the_records_hold_and_its_marks_are_exact_ints(watched):
    result, records, seeds, _ = watched
    for name, rows in result.history.items():
        made = [r for r in records if r.name == name]
        assert result.marks[name] == tuple(r.env_steps for r in made)
        assert all(type(mark) is int for mark in result.marks[name])
        for metric in {m for r in made for m in r.values}:
            column = np.asarray(rows[metric])
            column = column if result.state.key.ndim else column[None]
            assert column.shape[:2] == (seeds, len(made))
            for i, record in enumerate(made):
                if metric in record.values:  # a value that is NaN for all is no value
                    np.testing.assert_array_equal(column[:, i], record.values[metric])


def test_watching_changes_no_bit_of_what_is_learned(watched):
    result, _, _, run = watched
    assert differing(learned(run(tiny()).state), learned(result.state)) == []


def test_no_sink_and_one_more_observer_change_no_bit(watched):
    result, _, _, run = watched
    if not result.state.key.ndim:
        more = run(WATCHED, events=(*EVENTS, Event("more", every(2 * PER), probe)))
        assert differing(more.state, result.state) == []
        history = {name: rows for name, rows in more.history.items() if name != "more"}
        assert differing(history, result.history) == []


def test_a_seed_learns_with_others_what_it_learns_alone():
    one = partial(train, tiny(3), events=[Event("look", every(PER), look)])
    alone, together = one(keys(3)[2]), jax.vmap(one)(keys(3))
    for (path, x), (_, y) in zip(arrays(together.history), arrays(alone.history), strict=True):
        np.testing.assert_allclose(x[2], y, atol=1e-5, err_msg=path)


def look(trainer, state, key):
    leaves = jax.tree_util.tree_leaves_with_path(learned(state))
    return state, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


# ---- transformations


@pytest.fixture(scope="module")
def nested():
    """`(result, records)` over 2 learning rates x 3 keys."""
    sink = Memory()

    def one(rate, key):
        return train(with_rate(rate), key, events=EVENTS, sinks=[sink])

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(jnp.array([0.0, 0.1]), keys(3)), sink.records


def with_rate(rate):
    return tiny(algorithm=Reinforce(learning_rate=rate))


def test_nested_maps_are_one_loop_over_all_seeds(nested):
    result, records = nested
    made = [r for r in records if r.name == "every 4"]
    assert [r.update for r in made] == due(4)
    assert [r.values["draw"].shape for r in made] == [(6,)] * 3
    assert result.history["every 4"]["weights"].shape == (2, 3, 3, 2)
    np.testing.assert_array_equal(
        result.history["every 4"]["weights"][:, :, -1].reshape(6, 2), made[-1].values["weights"]
    )
    assert result.marks["every 4"] == (4 * PER, 8 * PER, 12 * PER)


def test_every_seed_of_nested_maps_has_its_own_rate_and_key(nested):
    result = nested[0]
    weights = np.asarray(result.history["every 1"]["weights"])
    assert (weights[0] == weights[0][:, :1]).all()  # with a learning rate of 0 nothing is learned
    assert (np.diff(weights[1], axis=1) != 0).any(-1).all()
    np.testing.assert_array_equal(jax.random.key_data(result.state.key[0]), jax.random.key_data(keys(3)))
    np.testing.assert_array_equal(result.history["ends"]["draw"][0], result.history["ends"]["draw"][1])
    assert len(set(np.asarray(result.history["ends"]["draw"][0]).flat)) == 6


def test_a_map_over_a_rate_alone_is_the_same_key_with_other_rates(nested):
    config = with_rate(jnp.array([0.0, 0.1]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, config)
    result = jax.vmap(partial(train, events=EVENTS[:1]), in_axes=(axes, None))(config, keys(3)[0])
    expected = nested[0].history["every 1"]
    for metric, rows in result.history["every 1"].items():
        np.testing.assert_allclose(rows[:, :3], expected[metric][:, 0, :3], atol=1e-5)


def test_inside_jit_it_is_the_same_in_bits():
    inside, outside = Memory(), Memory()
    run = jax.jit(partial(train, WATCHED, events=EVENTS, sinks=[inside]))
    jitted = run(jax.random.key(0))
    callback.wait()
    plain = train(WATCHED, jax.random.key(0), events=EVENTS, sinks=[outside])
    assert differing(jitted, plain) == []
    assert jitted.marks == plain.marks
    assert [(r.name, r.update) for r in inside.records] == [(r.name, r.update) for r in outside.records]


@pytest.mark.parametrize("jit", [False, True], ids=["", "jit"])
@pytest.mark.parametrize("maps", ["none", "keys", "rates", "both", "nested"])
def test_the_body_of_an_event_stays_under_a_condition(maps, jit):
    def one(rate, key):
        return train(with_rate(rate), key, events=EVENTS, sinks=[Memory()])

    rate, key, rates, many = 0.1, jax.random.key(0), jnp.array([0.1, 0.2, 0.3]), keys(3)
    run, args = {
        "none": (one, (rate, key)),
        "keys": (jax.vmap(one, (None, 0)), (rate, many)),
        "rates": (jax.vmap(one, (0, None)), (rates, key)),
        "both": (jax.vmap(one), (rates, many)),
        "nested": (jax.vmap(jax.vmap(one, (None, 0)), (0, None)), (rates, many)),
    }[maps]
    found = list(equations(jax.make_jaxpr(jax.jit(run) if jit else run)(*args).jaxpr))
    # Twice in a program: the startup event also stands before the scan, where it needs no condition.
    bodies = [around for eqn, around in found if eqn.primitive.name == "bessel_i1e"]
    scanned = [around for around in bodies if "scan" in around]
    assert len(bodies) == len(EVENTS) + 1
    assert len(scanned) == len(EVENTS)
    # Is any due, and is this one.
    assert all(around[around.index("scan") :].count("cond") >= 2 for around in scanned)
    doors = [around for eqn, around in found if eqn.primitive.name == "io_callback" and "scan" in around]
    assert len(doors) == len(EVENTS) + 1  # and the one of what is not finite
    assert all("cond" in around for around in doors)


# ---- rates are data


def test_neither_a_rate_nor_a_sink_traces_again():
    traces = []

    def traced(trainer, state, key):
        traces.append(1)
        return state, {"scale": state.env_params.scale[0]}

    events = (Event("traced", finish(), traced),)

    def run(scale=1.0, sink=None, **rates):
        config = tiny(params={"scale": scale}, algorithm=Reinforce(**rates))
        return train(config, jax.random.key(0), events=events, sinks=[sink or Memory()])

    run()
    first = len(traces)
    assert first > 0
    assert run(scale=2.5).history["traced"]["scale"] == 2.5
    for rates in (
        {"learning_rate": 0.2},
        {"gamma": 1},
        {"learning_rate": np.float32(0.3)},
        {"sink": Memory()},
    ):
        run(**rates)
    run(learning_rate=jnp.float32(0.3), gamma=np.float64(0.4))
    assert len(traces) == first


def test_no_rate_of_ppo_traces_again():
    traces = []

    def traced(trainer, state, key):
        traces.append(1)
        return state, {}

    events = (Event("traced", finish(), traced),)
    made = [
        train(tiny(2, algorithm=tiny_ppo(**rates)), jax.random.key(0), events=events).state.agent.params
        for rates in ({}, {"learning_rate": 0.1}, {"gamma": 0.5}, {"clip_range": 1e-4}, {"entropy_coef": 1.0})
    ]
    assert len({tuple(x.tobytes() for _, x in arrays(params)) for params in made}) == 5
    first = len(traces)
    train(tiny(2, algorithm=tiny_ppo(max_grad_norm=1e-3)), jax.random.key(0), events=events)
    assert len(traces) == first <= 4


@field.config
class Counted(Reinforce):
    """Notes each time that it is made."""

    name: str = field.text("counted")

    def make(self, spec):
        MADE.append(spec)
        return super().make(spec)


MADE: list[Any] = []


def test_one_traced_vmap_makes_the_algorithm_at_most_three_times():
    interval = {"every": 2 * PER}
    config = tiny(4, algorithm=Counted(), logging=interval, evaluation=interval | {"num_episodes": 2})
    MADE.clear()
    jax.make_jaxpr(jax.vmap(partial(train, config)))(keys(3))
    assert 1 <= len(MADE) <= 3


# ---- memory


def test_memory_does_not_grow_with_the_updates():
    def bytes_of(updates):
        interval = updates // 10 * PER
        config = tiny(updates, logging={"every": interval}, evaluation={"every": interval, "num_episodes": 2})
        trainer = Trainer(config, EVENTS[-1:])
        whole, rates = program(trainer, EVENTS[-1:], observed=False)
        lowered = whole.lower(rates, jax.random.key(0), jnp.int32(0))
        analysis = lowered.compile().memory_analysis()
        return analysis.temp_size_in_bytes, analysis.output_size_in_bytes

    (temp, out), (temp_longer, out_longer) = bytes_of(20), bytes_of(200)
    assert out == out_longer
    assert abs(temp - temp_longer) <= 64


# ---- NaN


def poison(trainer, state, key):
    """The rewards of the seed whose episodes end more often are NaN from here on."""
    scale = jnp.where(state.env_params.end > 0.3, jnp.nan, state.env_params.scale)
    return state.replace(env_params=state.env_params._replace(scale=scale)), {}


POISON = (Event("poison", at(5 * PER), poison), Event("look", every(PER), look))


def poisoned(ends, on_nan):
    sink = Memory()

    def one(end, key):
        return train(tiny(params={"end": end}, on_nan=on_nan), key, events=POISON, sinks=[sink])

    return jax.vmap(one)(jnp.array(ends), keys(3)), sink.records


@pytest.fixture(scope="module")
def frozen():
    return poisoned([0.2, 0.4, 0.2], "freeze")


def test_a_seed_that_is_not_finite_keeps_its_last_finite_state(frozen):
    result, _ = frozen
    assert result.state.status.tolist() == [RUNNING, NON_FINITE, RUNNING]
    assert result.state.stopped_at.tolist() == [-1, 6, -1]
    for metric, rows in result.history["look"].items():
        if metric not in ("['status']", "['env_params'].scale"):
            assert (np.asarray(rows)[1, 5:] == np.asarray(rows)[1, 4]).all(), metric
    assert all(np.isfinite(x[1]).all() for _, x in arrays(result.state.agent))


def test_a_seed_that_is_not_finite_changes_no_bit_of_the_others(frozen):
    sound = poisoned([0.2, 0.2, 0.2], "freeze")[0]
    assert sound.state.status.tolist() == [RUNNING] * 3
    for i in (0, 2):
        assert differing(seed(i, frozen[0].state), seed(i, sound.state)) == []


def test_a_seed_that_is_not_finite_is_recorded_once_by_name(frozen):
    (record,) = [r for r in frozen[1] if r.name == "non_finite"]
    assert record.update == 6
    assert record.values["train/loss"].tolist() == [False, True, False]


def test_raise_names_the_seed_the_metric_and_the_update():
    with pytest.raises(FloatingPointError, match=r"train/loss of seed 1 at update 6 \(48 env steps\)"):
        poisoned([0.2, 0.4, 0.2], "raise")


def test_raise_stops_every_seed_of_a_run_inside_jit_too():
    def one(end, key):
        return train(tiny(params={"end": end}, on_nan="raise"), key, events=POISON)

    state = jax.jit(jax.vmap(one))(jnp.array([0.2, 0.4, 0.2]), keys(3)).state
    callback.wait()
    assert state.status.tolist() == [ABANDONED, NON_FINITE, ABANDONED]
    assert state.stopped_at.tolist() == [6, 6, 6]


def test_ignore_goes_on():
    result, records = poisoned([0.2, 0.4, 0.2], "ignore")
    assert result.state.status.tolist() == [RUNNING] * 3
    assert np.isnan(result.state.agent["value"][1]).all()
    assert [r.name for r in records if r.name == "non_finite"] == []


# ---- the issue's own case


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3, 64])
def test_all_promises_hold_for_cartpole(seeds):
    ppo = tiny_ppo(rollout_length=16, num_minibatches=4, num_epochs=2)
    bare = tiny(12, env="CartPole-v1", num_envs=4, algorithm=ppo)
    per = bare.env_steps_per_update
    config = tiny(
        12,
        env="CartPole-v1",
        num_envs=4,
        algorithm=ppo,
        logging={"every": 3 * per},
        evaluation={"every": 4 * per, "num_episodes": 2, "max_episode_steps": 50},
    )

    def finished(trainer, state, key):
        return state, {"episodes": state.episodes.finished}

    def weights(trainer, state, key):
        leaves = jax.tree.leaves(state.agent.params)
        return state, {str(i): leaf for i, leaf in enumerate(leaves)}

    events = (Event("probe", every(5 * per), finished), Event("weights", every(per), weights))
    sink, ks = Memory(), keys(seeds)
    bare_run = jax.vmap(partial(train, bare))(ks)
    run = jax.vmap(partial(train, config, events=events, sinks=[sink]))
    result = run(ks)
    assert differing(learned(bare_run.state), learned(result.state)) == []
    for name, n in (("probe", 5), ("metrics", 3), ("evaluation", 4)):
        made = [r for r in sink.records if r.name == name]
        assert [r.update for r in made] == due(n)
        assert all(v.shape == (seeds,) for r in made for v in r.values.values())
    assert differing(jax.jit(run)(ks), result) == []
    callback.wait()
    one = train(config, ks[-1], events=events)
    for metric, rows in one.history["weights"].items():
        np.testing.assert_allclose(result.history["weights"][metric][-1, :3], rows[:3], atol=1e-5)

    def rated(rate, key):
        rates = dataclasses.replace(bare, algorithm=dataclasses.replace(ppo, learning_rate=rate))
        return train(rates, key, events=events)

    grid = jax.vmap(jax.vmap(rated, (None, 0)), (0, None))(jnp.array([1e-3, 1e-2]), ks)
    assert grid.history["probe"]["episodes"].shape == (2, seeds, len(grid.marks["probe"]))


@pytest.mark.parametrize("sinks", [[], [Memory()]], ids=["no sinks", "a sink"])
@pytest.mark.parametrize("patience", [0.0, pytest.param(None, marks=pytest.mark.slow)])
def test_what_compiles_for_long_is_said_once_and_a_compiled_program_says_nothing(
    sinks, patience, monkeypatch, caplog
):
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: said.set()

    def traced_until_it_is_said(trainer, state, key):
        assert said.wait(60)
        return state, {}

    events = [Event("waits", startup(), traced_until_it_is_said)]
    logger = logging.getLogger("jaxtrain")
    logger.addHandler(handler)
    try:
        with monkeypatch.context() as patch:
            if patience is not None:
                patch.setattr("jaxtrain.loop.train.PATIENCE", patience)
            train(tiny(2), jax.random.key(0), events=events, sinks=sinks)
        train(tiny(2), jax.random.key(1), events=events, sinks=sinks)
    finally:
        logger.removeHandler(handler)
    seconds = "0" if patience is not None else "10"
    assert [r.getMessage() for r in caplog.records if "compiling" in r.getMessage()] == [
        f"compiling, for {seconds} s so far; nothing is trained before it is done"
    ]
