"""What the adapter promises for gymnax's ids, and for what is written in its manner; gymnax is the judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import flax.struct
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.wrappers import purerl

from jaxtrain import envs
from jaxtrain.envs import gymnax as adapter
from jaxtrain.types import Box, Discrete, Env
from tests.probes.envs import OneStep

LIMITS = jnp.array([1, 9])  # of the two environments of a batch, steps
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}


def _name(value):
    """For a test's id, the same in every process: no address."""
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def sample(space, key):
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n)
    return jax.random.uniform(key, space.shape, minval=space.low, maxval=space.high)


def like(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def play(env, key, params, beside):
    """20 random steps of 2 environments under jit, vmap and scan: steps, actions and what is beside."""

    @jax.vmap
    def advance(key, state, fresh, params):
        key_action, key_step = jax.random.split(key)
        action = sample(env.action_space, key_action)
        step = env.step(jax.random.split(key_step)[0], state, action, params)  # as gymnax splits it
        assert like(fresh) == like((step.obs, step.state))  # else no scan could carry it
        over = step.terminated | step.truncated
        _, after = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, (step.obs, step.state))
        return after, (step, action, beside(key_step, state, action, params))

    @partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def run(key, params):
        keys = jax.random.split(key, (21, 2))
        fresh = jax.vmap(jax.vmap(env.reset), in_axes=(0, None))(keys, params)
        first = jax.tree.map(lambda x: x[0], fresh[1])
        xs = keys[1:], jax.tree.map(lambda x: x[1:], fresh)
        return jax.lax.scan(lambda state, x: advance(x[0], state, x[1], params), first, xs)[1]

    return run(key, params)


def limited_params(env):
    params = envs.batch(envs.params(env, {}), 2)
    return params.replace(max_steps_in_episode=LIMITS.astype(params.max_steps_in_episode.dtype))


LARGE = ("Asterix-MinAtar", "Freeway-MinAtar", "Seaquest-MinAtar")  # programs, which take seconds to compile


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(i, marks=pytest.mark.slow if i in LARGE else ())
        for i in adapter.ids()
        if i not in adapter.UNAVAILABLE
    ],
)
def test_every_id_steps_as_gymnax_does_with_parameters_per_environment(env_id):
    env, raw = envs.make(env_id), gymnax.make(env_id)[0]

    def their_step(key, state, action, params):
        obs, state, reward, terminated, _ = raw.step_env(jax.random.split(key)[0], state, action, params)
        return obs, reward, terminated, raw.is_truncated(state, params)

    step, action, theirs = play(env, jax.random.key(0), limited_params(env), their_step)
    for ours, expected in zip((step.obs, step.reward, step.terminated, step.truncated), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(step.truncated, step.state.time >= LIMITS)
    assert step.truncated[:, 0].all()
    assert step.reward.dtype == jnp.float32 and step.terminated.dtype == step.truncated.dtype == bool
    assert step.obs.shape == (20, 2, *env.observation_space.shape)
    assert action.shape == (20, 2, *env.action_space.shape)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Catch-bsuite", "FourRooms-misc"])
def test_the_last_observation_is_the_one_gymnax_keeps_through_its_auto_reset(env_id):
    env, raw = envs.make(env_id), gymnax.make(env_id)[0]
    step, _, theirs = play(env, jax.random.key(1), limited_params(env), raw.step)
    obs, _, reward, terminated, truncated, info = theirs
    np.testing.assert_allclose(step.obs, info["final_observation"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(step.reward, reward, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(step.terminated, terminated)
    np.testing.assert_array_equal(step.truncated, truncated)
    over = terminated | truncated
    assert over[:, 1].any() and (step.obs[over] != obs[over]).any() and set(step.info) <= set(info)


def test_ends_are_told_apart():
    env = envs.make("CartPole-v1")
    params = envs.params(env, {"max_steps_in_episode": 3})
    _, state = env.reset(jax.random.key(0), params)
    for time, x, ends in [
        (0, 0.0, (False, False)),
        (0, 9.0, (True, False)),
        (2, 0.0, (False, True)),
        (2, 9.0, (True, True)),
    ]:
        there = state.replace(time=jnp.int32(time), x=jnp.float32(x))
        step = env.step(jax.random.key(0), there, jnp.int32(0), params)
        assert (bool(step.terminated), bool(step.truncated)) == ends


def test_the_spaces_are_gymnaxs():
    assert envs.make("FrozenLake-misc").observation_space == Discrete(16)
    assert isinstance(envs.make("FourRooms-misc").observation_space, Box)  # integers, but not one of n
    pendulum = envs.make("Pendulum-v1")
    assert (pendulum.action_space.low, pendulum.action_space.high) == (-2.0, 2.0)
    assert pendulum.action_space.shape == (1,) and pendulum.action_space.bounded
    assert not envs.make("CartPole-v1").observation_space.bounded


def test_cartpoles_derived_masses_follow_the_parameters_they_come_from():
    env, raw = envs.make("CartPole-v1"), gymnax.make("CartPole-v1")[0]
    params = envs.params(env, {"masscart": 2.0, "masspole": 0.3, "length": 1.5})
    right = raw.default_params.replace(
        masscart=2.0, masspole=0.3, length=1.5, total_mass=2.0 + 0.3, polemass_length=0.3 * 1.5
    )
    _, state = env.reset(jax.random.key(0), params)
    state = state.replace(theta=jnp.float32(0.1), theta_dot=jnp.float32(1.0))
    ours = env.step(jax.random.key(0), state, jnp.int32(1), params)
    np.testing.assert_allclose(ours.obs, raw.step_env(jax.random.key(0), state, 1, right)[0], rtol=1e-6)
    # Moved while the run goes on, one per environment: each as if it were alone.
    lengths = jnp.array([0.5, 1.5])
    step = jax.vmap(lambda p: env.step(jax.random.key(0), state, jnp.int32(1), p).obs)
    moved = step(envs.batch(params, 2).replace(length=lengths))
    np.testing.assert_allclose(moved[1], ours.obs, rtol=1e-6)
    assert abs(moved[0] - moved[1]).max() > 1e-3


# ---- environments of the user's own


@flax.struct.dataclass
class WalkParams:
    goal: float = 3.0
    max_steps_in_episode: int = 4
    layout: str = flax.struct.field(pytree_node=False, default="line")


class Walk:
    """gymnax's manner without its base class; reset and step disagree on dtypes, as users' do."""

    default_params = WalkParams()

    def __init__(self):
        self.moves = jnp.array([-1.0, 1.0])

    def observation_space(self, params):
        return gymnax.environments.spaces.Box(-9, 9, (1,))

    def action_space(self, params):
        return gymnax.environments.spaces.Discrete(2)

    def reset_env(self, key, params):
        return jnp.zeros(1, jnp.int32), {"x": 0, "time": 0, "key": key}

    def step_env(self, key, state, action, params):
        x = state["x"] + self.moves[action]
        state = {"x": x, "time": state["time"] + 1, "key": key}
        return x[None], state, x == params.goal, x == params.goal, {"layout_length": len(params.layout)}

    def is_truncated(self, state, params):
        return state["time"] >= params.max_steps_in_episode


class MaskedWalk(Walk):
    def action_mask(self, state, params):
        return jnp.stack([state["x"] > 0, jnp.asarray(True)])


@dataclass(frozen=True)
class MaskedProbe(OneStep):
    def action_mask(self, state: Any, params: Any) -> jax.Array:
        return jnp.array([1, 0])


def make_walk():
    return Walk()


@pytest.mark.parametrize(
    "given", [Walk, Walk(), make_walk, f"{__name__}:Walk", f"{__name__}:make_walk"], ids=_name
)
def test_a_class_in_gymnaxs_manner_becomes_an_env_that_a_scan_can_carry(given):
    env = envs.make(given)
    assert isinstance(env, Env) and env == envs.make(given) and hash(env) == hash(envs.make(given))
    params = envs.params(env, {"goal": 2})
    assert params.layout == "line"
    obs, state = env.reset(jax.random.key(0), params)

    def body(state, key):
        step = env.step(key, state, jnp.int32(1), params)
        return step.state, step

    _, steps = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 4))
    assert like(obs) == ((1,), jnp.float32, False)
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(steps.reward, [0, 1, 0, 0])
    np.testing.assert_array_equal(steps.terminated, [False, True, False, False])
    np.testing.assert_array_equal(steps.truncated, [False, False, False, True])


@pytest.mark.parametrize(
    ("given", "masks"), [(MaskedWalk(), ([False, True], [True, True])), (MaskedProbe(), ([True, False],) * 2)]
)
def test_an_action_mask_joins_the_observation(given, masks):
    env = envs.make(given)
    assert isinstance(env, Env) and hash(env) == hash(envs.make(given))
    params = envs.params(env, {})
    obs, state = env.reset(jax.random.key(0), params)
    step = env.step(jax.random.key(0), state, jnp.int32(1), params)
    for seen, mask in zip((obs, step.obs), masks, strict=True):
        assert seen["observation"].shape == (1,) and seen["action_mask"].dtype == bool
        assert seen["action_mask"].tolist() == mask


class NoLimit(Walk):
    is_truncated: ClassVar[Any] = property()  # absent: looking it up raises AttributeError


class GrowingState(Walk):
    def reset_env(self, key, params):
        return jnp.zeros(1), {"x": jnp.zeros(2), "time": 0, "key": key}

    def step_env(self, key, state, action, params):
        return jnp.zeros(1), state | {"x": jnp.zeros(3)}, 0.0, False, {}


class Broken(Walk):
    def step_env(self, key, state, action, params):
        raise KeyError("velocity")


class OddSpace(Walk):
    def action_space(self, params):
        return gymnax.environments.spaces.Tuple([])


class Demanding(Walk):
    def __init__(self, size):
        raise AssertionError


@dataclass
class Unhashable(Walk):
    size: int = 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "CartPol-v1",
            r"env.id = 'CartPol-v1': needs a gymnax id or 'package.module:name'; nearest: 'CartPole-v1'",
        ),
        ("cartpole", r"nearest: 'CartPole-v1'"),
        ("qqqqqq", r"`jaxtrain list envs` has the ids"),
        ("Hopper-v4", r"any other is a class of your own with `reset` and `step` in JAX"),
        ("MNISTBandit-bsuite", r"env.id = 'MNISTBandit-bsuite': downloads its images"),
        ("no_such_package.envs:Walk", r"cannot import 'no_such_package.envs' .ModuleNotFoundError"),
        ("tests.probes.envs:Countr", r"'tests.probes.envs' has no 'Countr'; the nearest known is 'Counter'"),
        (f"{__name__}:Demanding", r"calling it with no arguments failed: TypeError: .*size"),
        (SimpleNamespace, r"env.id = SimpleNamespace: "),
        (3, r"env.id = int: an environment needs reset, .*; missing: reset, step, default_params"),
        (NoLimit(), r"env.id = NoLimit: an environment in gymnax's manner needs .*; missing: is_truncated"),
        (GrowingState(), r"env.id = GrowingState: the state of reset_env, .*, differ in shape"),
        (Broken(), r"env.id = Broken: reset_env and step_env cannot be traced: KeyError: 'velocity'"),
        (OddSpace(), r"env.id = OddSpace: the space Tuple.* is neither Box nor Discrete"),
        (Unhashable(), r"env.id = Unhashable: needs to be hashable"),
        (
            purerl.FlattenObservationWrapper(gymnax.make("Catch-bsuite")[0]),
            r"observation_space needs to be a Discrete",
        ),
    ],
    ids=_name,
)
def test_a_bad_environment_is_named_with_its_rule(given, message):
    with pytest.raises(ValueError, match=message):
        envs.make(given)
