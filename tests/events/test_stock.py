"""Stock events do what their names say, and say so where they cannot."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Config, ConfigError, Event, OnReset, Trainer, every, finish, train, when
from jaxtrain.events.curriculum import curriculum
from jaxtrain.events.early_stop import early_stop
from jaxtrain.events.randomize import randomize, randomize_at_reset
from jaxtrain.loop.state import RUNNING, STOPPED
from jaxtrain.sinks import Memory
from tests.helpers import Walk, WalkParams, arrays, differing, keys, tiny

PER = tiny().env_steps_per_update


@pytest.fixture(scope="module")
def wide():
    """A trainer of 2000 environments and its first state."""
    trainer = Trainer(tiny(num_envs=2000))
    return trainer, trainer.new(jax.random.key(0))


# ---- domain randomization


@pytest.mark.parametrize(
    ("how", "unit"),  # `unit` maps the draws to uniform ones in [0, 1]
    [
        ({"low": 2.0, "high": 4.0}, lambda x: (x - 2) / 2),
        ({"distribution": "log_uniform", "low": 0.1, "high": 10.0}, lambda x: (np.log10(x) + 1) / 2),
        (
            {"distribution": "gaussian", "mean": 3.0, "std": 0.5},
            lambda x: np.asarray(jax.scipy.stats.norm.cdf((x - 3) / 0.5)),
        ),
    ],
)
def test_every_environment_draws_its_own_value_from_the_distribution(wide, how, unit):
    trainer, state = wide
    new, report = randomize(trainer, state, jax.random.key(1), scale=how)
    drawn = np.asarray(new.env_params.scale)
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand keys, and this is one key.
    gap = np.abs(np.sort(unit(drawn)) - np.arange(2000) / 2000).max()
    assert gap < 1.95 / np.sqrt(2000)
    assert report["scale_mean"] == pytest.approx(drawn.mean(), rel=1e-5)
    assert differing(new.env_params._replace(scale=state.env_params.scale), state.env_params) == []


def test_fields_are_drawn_apart_and_at_each_reset_where_there_is_no_schedule():
    how = {"low": 0.0, "high": 1.0}
    start = jax.tree.map(jnp.float32, WalkParams())
    a, b = (randomize_at_reset(jax.random.key(k), start, scale=how, push=how) for k in (0, 1))
    assert len({float(x) for x in (a.scale, a.push, b.scale, b.push)}) == 4
    assert a.end == start.end


NO_RANGE = [
    {"low": 1.0, "high": 1.0},
    {"distribution": "log_uniform", "low": 1.0, "high": 1.0},
    {"distribution": "gaussian", "mean": 1.0, "std": 0.0},
]


@pytest.mark.parametrize("how", NO_RANGE)
def test_a_distribution_without_a_range_draws_its_one_value_in_bits(how):
    start = jax.tree.map(lambda x: jnp.full(3, x, jnp.float32), WalkParams())
    assert differing(randomize_at_reset(jax.random.key(0), start, scale=how), start) == []


@pytest.mark.parametrize("schedule", [every(2 * PER), None], ids=["event", "reset"])
def test_randomization_without_a_range_is_none_in_bits(plain, schedule):
    params = {"scale": NO_RANGE[0]}
    nominal = OnReset("none", randomize_at_reset, params)
    if schedule is not None:
        nominal = Event("none", schedule, randomize, params)
    state = train(tiny(), jax.random.key(0), events=[nominal]).state
    # The bounds are rates of this run, and of this run alone.
    assert differing(state.replace(hyper=plain.hyper), plain) == []


@pytest.fixture(scope="module")
def plain():
    return train(tiny(), jax.random.key(0)).state


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs a field of the environment's parameters"),
        ({"scale": 3}, "scale = 3: needs a mapping"),
        ({"scale": {"distribution": "unifrom", "low": 0, "high": 1}}, "nearest known is 'uniform'"),
        ({"scale": {"low": 0.0}}, "scale.high"),
        ({"scale": {"low": 0.0, "high": 1.0, "hihg": 1}}, "scale.hihg = 1: unknown key"),
        ({"scale": {"low": 2.0, "high": 1.0}}, "low <= high"),
        ({"scale": {"distribution": "log_uniform", "low": 0.0, "high": 1.0}}, "0 < low <= high"),
        ({"scale": {"low": 2.0, "high": 1.0}, "push": 4}, "push = 4"),
    ],
)
def test_a_draw_that_makes_no_sense_is_refused_with_its_field(fields, words):
    for event in (Event("reward", every(PER), randomize, fields), OnReset("r", randomize_at_reset, fields)):
        with pytest.raises(ConfigError) as error:
            Trainer(tiny(), [event])
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            Event("r", every(PER), randomize, {"scael": {"low": 0.0, "high": 1.0}}),
            "event 'r'.params.scael: 'scael' is no float field.*'scale'",
        ),
        (
            OnReset("r", randomize_at_reset, {"scael": {"low": 0.0, "high": 1.0}}),
            "event 'r'.params.scael: 'scael' is no float field.*'scale'",
        ),
        (
            Event("c", every(PER), curriculum, {"field": "psuh", "marks": [0], "values": [1.0]}),
            "event 'c'.params.field: 'psuh' is no float field.*'push'",
        ),
        (
            Event("e", every(PER), early_stop, {"metric": "train/los", "threshold": 1}),
            "event 'e'.metric = 'train/los': no such metric.*'train/loss'",
        ),
        (Event("e", every(PER), early_stop, {"threshold": 1}), "event 'e'.params.metric: is missing"),
    ],
)
def test_a_name_that_is_not_there_is_an_error_with_the_nearest(event, words):
    with pytest.raises(ConfigError, match=words):
        train(tiny(), jax.random.key(0), events=[event])


# ---- curriculum


def test_a_curriculum_follows_its_marks_with_straight_lines_between():
    marks, values = [3.0 * PER, 5.5 * PER, 9.0 * PER], [1.0, 2.0, -1.0]  # floats: leaves of the config
    course = {"name": "course", "run": "curriculum", "every": PER}
    course |= {"params": {"field": "scale", "marks": marks, "values": values}}
    result = train(tiny(events=[course]), jax.random.key(0))
    np.testing.assert_allclose(
        result.history["course"]["scale"], np.interp(result.marks["course"], marks, values), rtol=1e-6
    )
    np.testing.assert_array_equal(result.state.env_params.scale, [-1, -1])


@pytest.mark.parametrize("marks", [[], [0], [2, 1], [0, 1, 2]])
def test_a_curriculum_needs_ascending_marks_and_a_value_for_each(marks):
    with pytest.raises(ConfigError, match="needs ascending env steps, one for each of 2 values"):
        params = {"field": "scale", "marks": marks, "values": [1, 2]}
        Trainer(tiny(), [Event("course", every(PER), curriculum, params)])


# ---- early stop


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


def test_early_stop_below_a_mark_and_nothing_reached_by_nan(wide):
    trainer, state = wide
    stop = partial(early_stop, metric="train/loss", threshold=1.0, below=True)
    for loss, status in ((0.5, STOPPED), (1.0, STOPPED), (1.5, RUNNING), (jnp.nan, RUNNING)):
        new, report = stop(trainer, state.replace(metrics={"train/loss": jnp.float32(loss)}), state.key)
        assert int(new.status) == status
        assert bool(report["stopped"]) == (status == STOPPED)


def test_a_config_names_stock_events_and_their_rates_are_leaves():
    config = tiny(
        events=[
            {"name": "r", "run": "randomize", "every": PER, "params": {"scale": {"low": 1.0, "high": 2.0}}}
        ]
    )
    assert {1.0, 2.0} <= set(jax.tree.leaves(config))
    assert isinstance(config, Config)


def test_an_evaluation_in_other_environments_sweeps_with_many_seeds():
    event = {
        "name": "hard",
        "run": "evaluation",
        "every": PER * 6,
        "params": {"num_episodes": 2, "env": {"id": Walk(), "params": {"scale": 3.0}}},
    }
    config = tiny(events=[event], evaluation={"every": PER * 6, "num_episodes": 2})
    history = jax.vmap(train, in_axes=(None, 0))(config, keys(2)).history
    assert history["hard"]["return_mean"].shape == (2, 2)
    assert not np.array_equal(history["hard"]["return_mean"], history["evaluation"]["return_mean"])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"run": "early_stop", "params": {"metric": "train/loss", "threshold": "abc"}}, "threshold = 'abc'"),
        ({"run": "curriculum", "params": {"field": "scale", "marks": 3, "values": [1.0]}}, "needs a list of"),
        (
            {"run": "curriculum", "params": {"field": "scale", "marks": [0], "values": ["a"]}},
            "needs a list of",
        ),
    ],
)
def test_a_stock_event_names_a_parameter_that_is_no_number(event, words):
    with pytest.raises(ConfigError, match=words):
        tiny(events=[{"name": "e", "every": PER, **event}])
