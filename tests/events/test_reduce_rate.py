"""The stock event `reduce_rate` does what PyTorch's ReduceLROnPlateau does, for each seed, and is resumed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Config, ConfigError, Event, Trainer, every, launch, train
from jaxtrain.config.events import EventConfig
from jaxtrain.events.reduce_rate import reduce_rate
from tests.helpers import Reinforce, differing, keys, tiny

PER = tiny().env_steps_per_update
RATE = "algorithm.learning_rate"


def told(values, state, key):
    """An event that says what the metric `score` is: row `clock` of `values`, per seed by its key."""
    del key
    row = jnp.asarray(values)[state.clock]
    return state, {"score": row if row.ndim == 0 else row[jax.random.key_data(state.key)[-1] % row.shape[0]]}


def setup(values, learning_rate=0.1, **params):
    def say(trainer, state, key):
        del trainer
        return told(values, state, key)

    algorithm = Reinforce(learning_rate=learning_rate)
    events = [
        Event("judge", every(PER), say, keep_latest=True),
        Event("drop", every(PER), reduce_rate, {"metric": "judge/score", **params}),
    ]
    return tiny(len(values) - 1, algorithm=algorithm), events


def plateau(values, *, factor=0.5, patience=3, min_delta=0.0, mode="max", lowest=0.0, rate=0.1):
    """The rates as a loop over plain numbers has them."""
    best, bad, rates, sign = None, 0, [], 1 if mode == "max" else -1
    for value in values:
        if not np.isnan(value):
            if best is None or sign * (value - best) > min_delta:
                best, bad = value, 0
            else:
                bad += 1
        if bad >= patience:
            rate, bad = min(rate, max(rate * factor, lowest)), 0
        rates.append(rate)
    return rates


NAN = float("nan")
SCORES = [NAN, NAN, 1.0, 2.0, 2.0, 1.0, 2.5, 2.0, 2.6, 2.0, NAN, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0, 1.0]


@pytest.mark.parametrize(
    "params",
    [
        {"patience": 2},
        {"patience": 1, "factor": 0.1, "lowest": 0.02},
        {"patience": 1, "lowest": 0.5},  # above the rate, which does not rise
        {"min_delta": 0.75, "patience": 2},
        {"mode": "min", "patience": 3, "factor": 0.25},
        {},
    ],
)
def test_the_rate_falls_as_a_loop_over_numbers_says(params):
    config, events = setup(SCORES, **params)
    result = train(config, jax.random.key(0), events=events)
    np.testing.assert_allclose(result.history["drop"]["rate"], plateau(SCORES[1:], **params), rtol=1e-6)
    assert result.state.hyper[RATE] == result.history["drop"]["rate"][-1]


def test_each_seed_has_a_plateau_of_its_own():
    scores = np.stack([np.arange(9.0), np.zeros(9)], axis=1)  # one seed gets better, the other does not
    config, events = setup(scores, patience=2)
    many = jax.vmap(partial(train, config, events=events))(keys(6))
    which = np.asarray(jax.random.key_data(keys(6)))[:, -1] % 2
    expected = [plateau(scores[1:, i], patience=2) for i in which]
    assert len(set(which)) == 2
    np.testing.assert_allclose(many.history["drop"]["rate"], expected, rtol=1e-6)


def test_of_a_schedule_it_makes_the_whole_smaller():
    written = {"schedule": "linear", "from": 0.2, "to": 0.1}
    config, events = setup([0.0] * 7, learning_rate=written, patience=2)
    result = train(config, jax.random.key(0), events=events)
    state, scales = result.state, np.array([1, 1, 0.5, 0.5, 0.25, 0.25])  # the first firing is an improvement
    assert state.hyper[RATE] == 0.25
    value = 0.2 - 0.1 * np.arange(1, 7) / 6  # in the update after each
    np.testing.assert_allclose(result.history["drop"]["rate"], scales * value, rtol=1e-6)
    used = 0.25 * (0.2 / 6 + 0.1 * 5 / 6)  # in the last update, by the scale after firing 5
    np.testing.assert_allclose(state.metrics["rates/learning_rate"], used, rtol=1e-6)


def test_what_it_remembers_is_resumed(tmp_path):
    config, events = setup(SCORES, patience=3)
    checkpoint = {"every": 5 * PER, "keep_last": 9}
    config = Config(**{**vars(config), "checkpoint": checkpoint})
    whole = launch(config, tmp_path / "run", events=events, cache=False).result.state
    for path in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        if path.name.isdecimal() and int(path.name) > 5 * PER:
            for inner in sorted(path.rglob("*"), reverse=True):
                inner.rmdir() if inner.is_dir() else inner.unlink()
            path.rmdir()
    again = launch(config, tmp_path / "run", events=events, cache=False).result.state
    assert differing(whole, again) == [] and whole.events["drop"]["best"].value == 9


def test_a_config_names_it_with_the_metric_alone():
    event = EventConfig(name="reduce_rate", every=PER, params={"metric": "rollout/return_mean"})
    result = train(tiny(events=[event]), jax.random.key(0))
    assert result.history["reduce_rate"]["rate"].shape == (12,)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, r"params\.metric: is missing"),
        ({"metric": "judge/score", "factor": 2}, r"params\.factor = 2: needs a number > 0 and < 1"),
        ({"metric": "judge/score", "patience": 0}, r"params\.patience = 0: needs an int >= 1"),
        ({"metric": "judge/score", "mode": "more"}, r"params\.mode = 'more': needs one of max, min"),
        ({"metric": "judge/score", "name": "x"}, r"params\.name = 'x': unknown key"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params, words):
    with pytest.raises(ConfigError, match=words):
        EventConfig(name="reduce_rate", every=PER, params=params)
    with pytest.raises(ConfigError, match=words):
        Trainer(tiny(), [Event("drop", every(PER), reduce_rate, params)])


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"metric": "judge/scroe"}, "'drop'.metric = .*nearest known is 'judge/score'"),
        ({"metric": "judge/score", "rate": "algorithm.lr"}, "'drop'.rate = 'algorithm.lr': no such rate"),
    ],
)
def test_a_metric_or_a_rate_that_the_run_has_not_is_refused_by_name(params, words):
    config, events = setup([0.0] * 4, **params)
    with pytest.raises(ConfigError, match=words):
        train(config, jax.random.key(0), events=events)
