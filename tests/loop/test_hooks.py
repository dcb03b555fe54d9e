"""What `OnReset` hooks are given at each start, and what is remembered for that."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, OnReset, at, envs, every, train
from jaxtrain.events.event import traits
from jaxtrain.events.randomize import randomize_at_reset
from jaxtrain.loop import hooks
from tests.helpers import Walk, WalkParams, arrays, tiny

PER = tiny().env_steps_per_update
UPDATES = 12


def half(key, params, *, of="push"):
    return params._replace(**{of: getattr(params, of) * 0.5})


@traits(last=True)
def double(key, params, last, *, most=1e9):
    return params._replace(scale=jnp.minimum(last.scale * 2, most))


def look(trainer, state, key):
    return state, state.env_params._asdict()


def raise_push(trainer, state, key):
    return state.replace(
        env_params=state.env_params._replace(push=jnp.full_like(state.env_params.push, 8.0))
    ), {}


LOOK = Event("look", every(PER), look)
DRAWN = {"push": {"low": 1.0, "high": 2.0}}
HOOKS = {
    "none": ([], []),
    "an absolute draw": ([OnReset("draw", partial(randomize_at_reset, **DRAWN))], []),
    "as it was": ([OnReset("same", lambda key, params: params)], []),
    "from another field": ([OnReset("copy", lambda key, p: p._replace(push=p.end))], []),
    "relative": ([OnReset("half", half)], ["push"]),
    "of the last": ([OnReset("double", double)], []),
    "relative to the last hook": (
        [OnReset("draw", partial(randomize_at_reset, **DRAWN)), OnReset("half", half)],
        [],
    ),
    "two": ([OnReset("push", half), OnReset("end", partial(half, of="end"))], ["end", "push"]),
    "sometimes": (
        [OnReset("or", lambda key, p: p._replace(push=jnp.where(jax.random.bernoulli(key), 1.0, p.push)))],
        ["push"],
    ),
}


@pytest.mark.parametrize("case", HOOKS)
def test_only_what_hooks_both_read_and_change_is_remembered(case):
    given, names = HOOKS[case]
    params = envs.batch(envs.params(Walk(), {}), 3)
    kept = hooks.remembered(given, params)
    assert sorted(kept) == names
    assert all(kept[name] is getattr(params, name) for name in names)
    other = hooks.nominal(params, {name: -value for name, value in kept.items()})
    assert {name for name in params._fields if getattr(other, name) is not getattr(params, name)} == {*names}


def test_what_an_event_moves_is_nominal_and_nothing_else():
    old = WalkParams(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    new, kept = old._replace(push=jnp.zeros(2)), {"push": old.push, "end": old.end}
    moved = hooks.moved(kept, old, new)
    assert moved["push"] is new.push and moved["end"] is old.end and {*moved} == {"push", "end"}


@pytest.fixture(scope="module")
def result():
    """A run of some 12 episodes in each environment, in whose fourth update an event moves the push."""
    parts = [OnReset("half", half), OnReset("double", double), Event("raise", at(4 * PER), raise_push), LOOK]
    return train(tiny(UPDATES, params={"push": 0.5, "end": 0.5}), jax.random.key(0), events=parts)


def test_a_relative_hook_does_not_compound_over_episodes_and_an_event_moves_its_nominal(result):
    assert int(result.state.episodes.finished) > UPDATES
    push = np.asarray(result.history["look"]["push"])
    np.testing.assert_array_equal(push[:3], 0.25)
    np.testing.assert_array_equal(push[3], 8.0)  # under way it is felt at once
    np.testing.assert_array_equal(push[-1], 4.0)
    assert set(push[4:].flat) <= {8.0, 4.0}
    np.testing.assert_array_equal(result.state.runner.nominal["push"], 8.0)


def test_a_hook_that_asks_for_the_last_parameters_is_given_them(result):
    scale = np.asarray(result.history["look"]["scale"])
    assert (np.diff(scale, axis=0) >= 0).all() and (np.log2(scale) % 1 == 0).all()
    # Once at the beginning, and once for each episode that has ended.
    assert np.log2(scale[-1]).sum() == 2 + int(result.state.episodes.finished)


def test_a_config_names_a_hook_that_asks_for_the_last(result):
    named = {"name": "double", "on": "reset", "run": f"{__name__}:double", "params": {"most": 4.0}}
    state = train(tiny(4, params={"end": 1.0}, events=[named]), jax.random.key(0)).state
    assert state.env_params.scale.tolist() == [4.0, 4.0]
    assert not [path for path, _ in arrays(state) if "nominal" in path]
