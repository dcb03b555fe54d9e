"""Events as a config names them: which function, when, and what is wrong with either."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxtrain import ConfigError
from jaxtrain.config.describe import describe
from jaxtrain.config.events import EventConfig, MetricIs, function_of, misfits, takes
from jaxtrain.errors import Fault
from jaxtrain.events.curriculum import curriculum
from jaxtrain.events.randomize import randomize, randomize_at_reset
from jaxtrain.events.reduce_rate import reduce_rate


def test_what_an_event_is_can_be_listed():
    assert [name for name, *_ in describe(EventConfig)][:3] == ["name", "run", "on"]


def test_a_stock_name_is_the_function_that_acts_there():
    assert function_of("randomize") is randomize and function_of("randomize", "reset") is randomize_at_reset
    assert function_of("jaxtrain.events.curriculum:curriculum") is curriculum
    with pytest.raises(Fault, match="does not run on: reset"):
        function_of("curriculum", "reset")
    with pytest.raises(Fault, match="the nearest known is 'curriculum'"):
        function_of("curriculun")


@pytest.mark.parametrize(
    ("words", "value", "holds"), [("a > 3", 4, True), ("a > 3", 3, False), ("a < 1e-1", 0, True)]
)
def test_a_condition_in_words_is_one_of_the_state(words, value, holds):
    condition = MetricIs.parse(words)
    assert condition(SimpleNamespace(metrics={"a": value})) == holds
    assert MetricIs.parse(repr(condition)) == condition
    with pytest.raises(ConfigError, match="when = 'a': no such metric; known: b"):
        condition(SimpleNamespace(metrics={"b": value}))


def test_a_schedule_is_the_union_of_what_is_given():
    event = EventConfig(name="evaluation", every=10, at=[25], startup=True, finish=True)
    assert event.schedule.updates(5, 6) == (0, 2, 4, 5, 6)


def own(trainer, state, key, level, *, factor, unit=1): ...


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"factor": 2, "level": 1}, []),
        ({"factor": 2}, ["params.level: is missing"]),
        (
            {"factr": 2, "level": 1},
            ["params.factr = 2: unknown key; the nearest known is 'factor'", "params.factor: is missing"],
        ),
    ],
)
def test_parameters_that_a_function_does_not_take_are_named(params, words):
    assert [str(problem) for problem in misfits(own, takes(own, "update"), params)] == words


def test_a_function_that_remembers_is_told_its_name():
    assert takes(reduce_rate, "update") == ("trainer", "state", "key", "name")
    assert takes(own, "step") == ("key", "state", "params")
