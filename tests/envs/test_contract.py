"""What an environment of one's own gives: refused by function and leaf, or cast where nothing is lost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import ConfigError, envs
from jaxtrain.envs import contract
from jaxtrain.envs.wrappers import Cast, Wrapper
from jaxtrain.types import Box, Dict, Discrete, MultiDiscrete, Space, Step
from tests.helpers import Walk


@dataclass(frozen=True)
class Own(Walk):
    """A walk that gives something else."""

    begun: Any = None  # of (obs, state)
    stepped: Any = None  # of a Step
    seen: Space | None = None
    taken: Space | None = None

    @property
    def observation_space(self):
        return self.seen or super().observation_space

    @property
    def action_space(self):
        return self.taken or super().action_space

    def reset(self, key, params):
        given = super().reset(key, params)
        return given if self.begun is None else self.begun(*given)

    def step(self, key, state, action, params):
        given = super().step(key, state, action, params)
        return given if self.stepped is None else self.stepped(given)


class Unregistered:
    """A state that is no pytree."""


def elbow(step):
    raise KeyError("no such joint: 'elbow'")


def timed(step, time):
    return step._replace(state=step.state._replace(time=time))


def with_mask(mask):
    """Both functions' observations, with it."""

    def masked(obs):
        return {"observation": obs, "action_mask": mask}

    return {
        "begun": lambda obs, state: (masked(obs), state),
        "stepped": lambda s: s._replace(obs=masked(s.obs)),
    }


FLOAT = jnp.zeros(())
FAULTS = {
    "one value": ({"begun": lambda obs, state: obs}, "reset: gives float32[1], needs (obs, state)"),
    "three values": ({"begun": lambda *x: (*x, {})}, "reset: gives 3 values, needs (obs, state)"),
    "in the other order": (
        {"begun": lambda obs, state: (state, obs)},
        "reset: obs is a WalkState, needs float32[1], as observation_space has it\n"
        "env.id = Own: reset: its second value is like an observation; the order is (obs, state)",
    ),
    "a dict for a Box": (
        {"begun": lambda obs, state: ({"position": obs}, state)},
        "reset: obs is a dict of position, needs float32[1], as observation_space has it",
    ),
    "a tuple for a Box": (
        {"stepped": lambda s: s._replace(obs=(s.obs, s.obs))},
        "step: obs is 2 values, needs float32[1], as observation_space has it",
    ),
    "another shape": (
        {"stepped": lambda s: s._replace(obs=jnp.zeros(3))},
        "step: obs is float32[3], needs float32[1], as observation_space has it",
    ),
    "an array for a Dict": (
        {"seen": Dict({"a": Box(0, 1), "b": Discrete(2)})},
        "reset: obs is float32[1], needs a dict of a, b, as observation_space has it",
    ),
    "an entry of another shape": (
        {"seen": Dict({"a": Box(0, 1)}), "begun": lambda obs, state: ({"a": obs}, state)},
        "reset: obs['a'] is float32[1], needs float32[], as observation_space has it",
    ),
    "numbers for choices": (
        {"seen": MultiDiscrete((4,))},
        "reset: obs is float32[1], needs int32[1], as observation_space has it",
    ),
    "a state of no arrays": (
        {"begun": lambda obs, state: (obs, {"name": "walk", "x": obs})},
        "reset: state['name'] is a str, needs an array or a tree of arrays",
    ),
    "a state of a class": (
        {"begun": lambda obs, state: (obs, Unregistered())},
        "reset: state is a Unregistered, needs an array or a tree of arrays; make a class of one's own",
    ),
    "Gymnasium's five": (
        {"stepped": lambda s: (s.obs, s.reward, s.terminated, s.truncated, {})},
        "step: gives 5 values, needs Step(obs, state, reward, terminated, truncated, info); Gymnasium's five",
    ),
    "a flag that is a number": (
        {"stepped": lambda s: s._replace(terminated=1.0 * s.terminated)},
        "step: terminated is float32[], needs bool[]",
    ),
    "a flag that counts": (
        {"stepped": lambda s: s._replace(truncated=s.state.time)},
        "step: truncated is int32[], needs bool[]",
    ),
    "a reward with an axis": (
        {"stepped": lambda s: s._replace(reward=s.reward[None])},
        "step: reward is float32[1], needs float32[]",
    ),
    "no reward": ({"stepped": lambda s: s._replace(reward=None)}, "step: reward is None, needs float32[]"),
    "text in info": (
        {"stepped": lambda s: s._replace(info={"why": "fell"})},
        "step: info['why'] is a str, needs an array or a tree of arrays",
    ),
    "no info": (
        {"stepped": lambda s: s._replace(info=None)},
        "step: info is None, needs a mapping of names to arrays, or {}",
    ),
    "another tree of the state": (
        {"stepped": lambda s: s._replace(state={"position": FLOAT})},
        "step: state is another tree than reset's: lacks state.position, lacks state.time, has state['pos",
    ),
    "another shape of the state": (
        {"stepped": lambda s: timed(s, jnp.zeros(2, jnp.int32))},
        "step: state.time is int32[2], reset's is int32[]; needs to be the same",
    ),
    "a state that a cast would round": (
        {"stepped": lambda s: timed(s, s.state.time * 1.0)},
        "step: state.time is float32[], reset's is int32[]; needs to be the same",
    ),
    "a state that grows with each step": (
        {
            "begun": lambda obs, state: (obs, state._replace(time=jnp.int8(0))),
            "stepped": lambda s: timed(
                s,
                s.state.time.astype(jnp.int16)
                if s.state.time.dtype == jnp.int8
                else s.state.time.astype(jnp.int32),
            ),
        },
        "step: state.time is int32[], reset's is int16[]; needs to be the same",
    ),
    "a mask of numbers": (
        with_mask(jnp.ones(2)),
        "reset: obs['action_mask'] is float32[2], needs bool[2]",
    ),
    "a mask of another size": (
        with_mask(jnp.ones(3, bool)),
        "reset: obs['action_mask'] is bool[3], needs bool[2]",
    ),
    "a mask without choices": (
        {"taken": Box(-1, 1, ()), **with_mask(jnp.ones(2, bool))},
        "reset: obs has an action_mask, needs a Discrete or MultiDiscrete action_space",
    ),
    "an error": ({"stepped": elbow}, "step: raised KeyError: \"no such joint: 'elbow'\" (test_contract.py:"),
    "a condition on data": (
        {"stepped": lambda s: s if s.terminated else None},
        "step: raised TracerBoolConversionError: Attempted boolean conversion of traced array",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit_is_named_by_object_function_and_leaf(case):
    given, rule = FAULTS[case]
    with pytest.raises(ConfigError, match=f"^{re.escape(f'env.id = Own: {rule}')}"):
        envs.make(Own(**given))


PICTURES = {
    "no picture": (lambda self, state, params: None, "render: gives None, needs uint8[H, W, 3]"),
    "a figure and axes": (
        lambda self, state, params: ("figure", "axes"),
        "render: gives 2 values, needs uint8[H, W, 3]",
    ),
    "numbers from 0 to 1": (
        lambda self, state, params: jnp.zeros((4, 4, 3)),
        "render: gives float32[4, 4, 3], needs uint8[H, W, 3]",
    ),
    "no colors": (
        lambda self, state, params: np.zeros((4, 4), np.uint8),
        "render: gives uint8[4, 4], needs uint8[H, W, 3]",
    ),
    "nothing to see": (
        lambda self, state, params: np.zeros((0, 4, 3), np.uint8),
        "render: gives uint8[0, 4, 3], needs uint8[H, W, 3]",
    ),
    "a form without parameters": (
        lambda self, state: np.zeros((4, 4, 3), np.uint8),
        "render: needs to be called render(state, params): too many positional arguments",
    ),
    "an error": (lambda self, state, params: elbow(state), "render: raised KeyError: \"no such joint: 'el"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_what_render_gives_that_is_no_picture_is_named_by_the_object(case):
    render, rule = PICTURES[case]
    env = type("Drawn", (Walk,), {"render": render})()
    with pytest.raises(ConfigError, match=f"^{re.escape(f'evaluation.env.id = Drawn: {rule}')}"):
        envs.renderer(env, env, path="evaluation.env")(None, None)


def test_a_picture_is_its_own_memory():
    kept = np.zeros((1, 1, 3), np.uint8)
    picture = contract.picture(lambda state, params: kept, None, None)
    kept += 1
    assert not picture.any()


@dataclass(frozen=True)
class Drawn(Walk):
    """A pixel of one color."""

    red: int = 0

    def render(self, state, params):
        return jnp.array([[[self.red, state.time, 0]]], jnp.uint8)


class Around(Wrapper):
    """What stands around an environment and does not draw."""


class Brighter(Wrapper):
    def render(self, state, params):
        return self.env.render(state, params) + np.uint8(100)


@pytest.mark.parametrize(
    ("env", "red"),
    [(Drawn(red=7), 7), (Around(Drawn(red=7)), 7), (Brighter(Around(Brighter(Drawn(red=7)))), None)],
)
def test_the_outermost_that_has_a_render_draws(env, red):
    state = Walk().reset(jax.random.key(0), Walk().default_params)[1]
    if red is None:  # it asks one that cannot
        with pytest.raises(ConfigError, match="render: raised AttributeError: 'Around' object has no attri"):
            envs.renderer(env)(state, None)
    else:
        assert envs.renderer(env)(state, None).tolist() == [[[red, 0, 0]]]


def test_one_without_a_render_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"^env.id = Walk: cannot be drawn; needs a method render\(state, "):
        envs.renderer(Around(Walk()), Walk())


def test_every_leaf_that_does_not_fit_has_a_line():
    own = Own(stepped=lambda s: s._replace(terminated=0, truncated=0, reward=s.obs))
    with pytest.raises(ConfigError) as error:
        envs.make(own, path="evaluation.env")
    assert str(error.value).splitlines() == [
        "evaluation.env.id = Own: step: reward is float32[1], needs float32[]",
        "evaluation.env.id = Own: step: terminated is int32[], needs bool[]",
        "evaluation.env.id = Own: step: truncated is int32[], needs bool[]",
    ]


class NoParams(Walk):
    def reset(self, key):
        return super().reset(key, self.default_params)


class NoSpace(Walk):
    @property
    def observation_space(self):
        return Box(0, 1, (0, 2))


class InGymnaxsManner:
    """With a flag that is a number."""

    default_params = ()

    def observation_space(self, params):
        return Box(-9, 9, (1,))

    def action_space(self, params):
        return Discrete(2)

    def reset_env(self, key, params):
        return jnp.zeros(1), FLOAT

    def step_env(self, key, state, action, params):
        return jnp.zeros(1), state, 0.0, state, {}

    def is_truncated(self, state, params):
        return state > 9


@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        (NoParams, "reset: needs to be called reset(key, params): too many positional arguments"),
        (
            NoSpace,
            "observation_space: raised ConfigError: Box.shape = (0, 2): needs ints >= 1 (test_contract.py",
        ),
        (InGymnaxsManner, "step: terminated is float32[], needs bool[]"),
    ],
)
def test_a_class_is_looked_at_as_an_instance_is(cls, rule):
    for given in (cls, cls()):
        with pytest.raises(ConfigError, match=f"^{re.escape(f'env.id = {cls.__name__}: {rule}')}"):
            envs.make(given)


def test_an_error_of_theirs_is_raised_from_with_their_frames_alone():
    with pytest.raises(ConfigError, match=r"in elbow, test_contract\.py:\d+ in step\)$") as caught:
        envs.make(Own(stepped=elbow))
    assert isinstance(caught.value.__cause__, KeyError)
    frames, tb = [], caught.value.__cause__.__traceback__
    while tb is not None:
        frames.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert frames == ["step", "elbow"]


class Loose(NamedTuple):
    x: Any
    time: Any
    small: Any


@dataclass(frozen=True)
class Plain:
    """Plain numbers, a whole-number reward, a narrow count: nothing that a cast would lose."""

    observation_space = Box(-9, 9, (2,))
    action_space = Discrete(2)
    default_params = ()

    def reset(self, key, params):
        return jnp.zeros(2, jnp.float16), Loose(0.0, 0, jnp.int8(0))

    def step(self, key, state, action, params):
        state = Loose(state.x + action, state.time + 1, state.small.astype(jnp.int32) + 1)
        obs = jnp.stack([state.x, 1.0 * state.time])
        return obs, state, state.time, False, state.time >= 3, {"time": state.time}


def test_a_cast_that_loses_nothing_is_made_and_a_scan_can_carry_the_state():
    env = envs.make(Plain())
    assert isinstance(env, Cast) and env == envs.make(Plain) and hash(env) == hash(envs.make(Plain()))
    obs, state = env.reset(jax.random.key(0), ())

    def body(carry, action):
        obs, state, reward, terminated, truncated, _ = env.step(jax.random.key(0), carry[1], action, ())
        return (obs, state), (reward, terminated, truncated)

    (obs, state), (reward, terminated, truncated) = jax.lax.scan(body, (obs, state), jnp.array([1, 0, 1]))
    assert [x.dtype for x in (obs, *state, reward, terminated)] == [
        *(np.float32, np.float32, np.int32, np.int32, np.float32, np.bool_)
    ]
    assert reward.tolist() == [1, 2, 3] and truncated.tolist() == [False, False, True]
    assert (obs.tolist(), float(state.x), int(state.small)) == ([2, 3], 2, 3)


def test_a_mask_of_ones_and_zeros_becomes_one_of_bools():
    env = envs.make(Own(**with_mask(jnp.array([1, 0]))))
    (obs, state), params = env.reset(jax.random.key(0), Walk().default_params), Walk().default_params
    step = env.step(jax.random.key(0), state, jnp.int32(0), params)
    assert obs["action_mask"].dtype == step.obs["action_mask"].dtype == bool
    assert step.obs["action_mask"].tolist() == [True, False]


def test_what_keeps_the_contract_to_the_letter_is_the_object_itself_and_traced_once():
    traces = []

    def count(step):
        traces.append(0)
        return step

    own = Own(stepped=count)
    assert envs.make(own) is own and envs.make(own) is own and len(traces) == 1
    params = envs.params(own, {})
    assert contract.kept(own, params) is own
    assert isinstance(contract.kept(Own(stepped=lambda s: Step(*s)._replace(reward=1)), params), Cast)
