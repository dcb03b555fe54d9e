"""The fixed parts of a run, from a config and from Python."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import ConfigError, Event, OnReset, OnStep, at, every
from jaxtrain.loop.build import Parts, bound, built_in, part_of
from tests import configs
from tests.helpers import tiny

PER = tiny().env_steps_per_update


def nothing(trainer, state, key):
    return state, {}


@pytest.mark.parametrize(
    "parts",
    [
        [Event("a", every(PER), nothing), Event("a", at(PER), nothing)],
        [Event("a", every(PER), nothing), OnReset("a", lambda key, params: params)],
    ],
)
def test_two_of_one_name_are_refused(parts):
    with pytest.raises(ConfigError, match=r"'a'.*needs a different name for each event"):
        Parts(tiny(), parts)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            [nothing],
            r"events\.0 = nothing: needs Event, .* objects; of a function: Event\('nothing', every\(N\), ",
        ),
        ([Event], r"events\.0 = Event: needs Event, .*; this is a class: Event\(…\)"),
        ([Event("a", every(PER), nothing), "b"], r"events\.1 = 'b': needs Event, OnReset or OnStep objects$"),
        (
            Event("a", every(PER), nothing),
            r"events = Event: needs a list of Event, OnReset or OnStep objects$",
        ),
        (nothing, r"events = nothing: needs a list"),
    ],
)
def test_what_is_no_event_at_all_is_refused(given, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        Parts(tiny(), given)
    with pytest.raises(ConfigError, match=r"^events(\.\d)? = .*needs a (list|mapping such as)"):
        tiny(events=given)


def test_what_is_no_config_is_refused():
    with pytest.raises(ConfigError, match=r"needs a jaxtrain\.Config; load_config reads a file"):
        Parts({"env": "CartPole-v1"})


def test_metrics_and_evaluation_are_events_at_their_interval_and_the_end_and_none_at_0():
    parts = Parts(tiny(5, logging={"every": 2 * PER}, evaluation={"every": 3 * PER}))
    assert parts.timetable == {"metrics": (2, 4, 5), "evaluation": (3, 5)}
    assert built_in(tiny()) == ()


def test_an_item_of_a_config_is_the_part_that_it_stands_for(tmp_path):
    config = configs.load_config(configs.written(tmp_path))
    made = [part_of(item) for item in config.events]
    assert [type(part) for part in made] == [Event, Event, Event, OnReset, Event, Event]
    assert part_of(made[0]) is made[0]
    step = part_of(config.evaluation.events[0])
    assert isinstance(step, OnStep) and step.every == (2, 5) and step.run is configs.push


def test_a_bound_hook_has_its_parameters_and_takes_no_more():
    hook = OnStep("far", lambda key, state, params, *, by: state + by, (2, 3), {"by": 1.0})
    made = bound(hook, {"by": 5.0})
    assert made.run(None, 1.0, None) == 6.0 and made.every == (2, 3) and not made.params


def test_rates_given_are_those_of_config_and_events_and_nothing_else_moves():
    event = Event("late", at(PER), lambda t, s, k, *, amount: (s, {}), {"amount": 0.5})
    parts = Parts(tiny(), [event])
    rates = parts.rates().replace({"algorithm.gamma": 0.25, "events.late.amount": 2.0})
    config = parts.config_at(rates)
    assert float(config.algorithm.gamma) == 0.25 and float(parts.params_at(rates)["late"]["amount"]) == 2.0
    assert jax.tree.structure(config) == jax.tree.structure(parts.config)
    assert float(parts.config_at(parts.rates()).algorithm.gamma) == pytest.approx(0.9)
    assert jnp.shape(config.algorithm.learning_rate) == ()
