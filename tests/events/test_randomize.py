"""Domain randomization draws from what it names, for each environment, and says what makes no sense."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Config, ConfigError, Event, OnReset, Trainer, every, train
from jaxtrain.events.randomize import randomize, randomize_at_reset
from tests.helpers import WalkParams, differing, tiny

PER = tiny().env_steps_per_update


@pytest.fixture(scope="module")
def wide():
    """A trainer of 2000 environments and its first state."""
    trainer = Trainer(tiny(num_envs=2000))
    return trainer, trainer.new(jax.random.key(0))


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


def test_a_config_names_stock_events_and_their_rates_are_leaves():
    config = tiny(
        events=[
            {"name": "r", "run": "randomize", "every": PER, "params": {"scale": {"low": 1.0, "high": 2.0}}}
        ]
    )
    assert {1.0, 2.0} <= set(jax.tree.leaves(config))
    assert isinstance(config, Config)
