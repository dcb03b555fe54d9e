"""A name that a stock event does not know, or a value that is no number, is an error of its field."""

from __future__ import annotations

import jax
import pytest

from jaxtrain import ConfigError, Event, OnReset, every, train
from jaxtrain.events.curriculum import curriculum
from jaxtrain.events.early_stop import early_stop
from jaxtrain.events.randomize import randomize, randomize_at_reset
from tests.helpers import tiny

PER = tiny().env_steps_per_update


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
