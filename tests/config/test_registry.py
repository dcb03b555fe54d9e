"""Every name of the table is there; what is not is named."""

from __future__ import annotations

import pytest

from jaxtrain import sinks
from jaxtrain.config.registry import ALGORITHMS, EVENTS, HOOKS, SINKS, load_object
from jaxtrain.errors import Fault
from tests.helpers import Walk


@pytest.mark.parametrize("name", [*ALGORITHMS.values(), *EVENTS.values(), *HOOKS.values()])
def test_every_name_of_the_table_gives_what_it_says(name):
    found = load_object(name)
    assert f"{found.__module__}:{found.__qualname__}" == name


def test_an_algorithm_says_the_name_that_the_table_gives_it_and_every_sink_can_be_made():
    assert {name: load_object(place)().name for name, place in ALGORITHMS.items()} == {
        n: n for n in ALGORITHMS
    }
    assert set(SINKS) <= set(sinks.NAMES)


def test_a_name_may_lead_into_a_class():
    assert load_object("tests.helpers:Walk.reset") is Walk.reset


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.nowhere:f", "cannot import 'tests.nowhere' .ModuleNotFoundError: "),
        ("tests.helpers:Wolk", "'tests.helpers' has no 'Wolk'; the nearest known is 'Walk'"),
        ("tests.helpers:Walk.rest", "'tests.helpers' has no 'Walk.rest'; the nearest known is 'reset'"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(name, message):
    with pytest.raises(Fault, match=message):
        load_object(name)
