"""What `make` and `params` promise."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import envs
from jaxtrain.types import Env
from tests.probes.envs import Counter


def _name(value):
    """For a test's id, the same in every process: no address."""
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def test_the_same_name_gives_the_same_object_and_compiles_once():
    traces = []

    @partial(jax.jit, static_argnums=0)
    def reset(env, key):
        traces.append(env)
        return env.reset(key, envs.params(env, {}))

    for name in ("CartPole-v1", "gymnax.environments.classic_control.cartpole:CartPole"):
        assert envs.make(name) is envs.make(name)
    for seed in range(2):
        reset(envs.make("CartPole-v1"), jax.random.key(seed))
    assert len(traces) == 1


def test_an_environment_first_made_inside_a_trace_holds_no_tracer():
    name = "gymnax.environments.misc.rooms:FourRooms"  # its constants are made with jnp
    reset = jax.jit(lambda key: envs.make(name).reset(key, envs.make(name).default_params))
    inside = reset(jax.random.key(0))
    jax.tree.map(
        np.testing.assert_array_equal,
        inside,
        envs.make(name).reset(jax.random.key(0), envs.make(name).default_params),
    )


def test_importing_envs_imports_no_suite():
    code = "import sys, jaxtrain.envs; assert not {'gymnax', 'matplotlib', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_params_are_strong_arrays_with_the_overrides_in_them():
    env = envs.make("Acrobot-v1")
    params = envs.params(
        env, {"dt": 1, "link_mass_1": "3e-1", "max_steps_in_episode": 2e2, "available_torque": [-2, 0, 2]}
    )
    assert (params.dt, params.link_mass_1, params.max_steps_in_episode) == (1.0, np.float32(0.3), 200)
    np.testing.assert_array_equal(params.available_torque, [-2.0, 0.0, 2.0])
    assert params.link_mass_2 == 1.0
    leaves = jax.tree.leaves(params)
    assert all(isinstance(x, jax.Array) and not x.weak_type for x in leaves)
    assert {str(x.dtype) for x in leaves} == {"float32", "int32"}
    assert envs.batch(params, 4).available_torque.shape == (4, 3)


def test_overrides_may_be_tracers():
    env = envs.make("CartPole-v1")
    swept = jax.jit(jax.vmap(lambda g: envs.params(env, {"gravity": g}).gravity))(jnp.arange(3))
    np.testing.assert_array_equal(swept, np.arange(3, dtype=np.float32))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"graviti": 9},
            r"env.params.graviti = 9: unknown; nearest: 'gravity'; fields: .*masscart, masspole, length",
        ),
        ({"total_mass": 2.0}, r"env.params.total_mass = 2.0: follows from masscart and masspole; set those"),
        ({"polemass_length": 1}, r"follows from masspole and length"),
        ({"gravity": "strong"}, r"env.params.gravity = 'strong': needs a number"),
        ({"gravity": None}, r"env.params.gravity = None: needs a number"),
        ({"gravity": True}, r"needs a number"),
        ({"gravity": [1.0, 2.0]}, r"needs one number, has shape \(2,\)"),
        ({"gravity": float("nan")}, r"needs to be finite"),
        ({"gravity": 1e300}, r"needs to be finite in float32"),
        ({"max_steps_in_episode": 2.5}, r"needs a whole number"),
        ({"max_steps_in_episode": 2**40}, r"needs a whole number that fits int32"),
        ({"max_steps_in_episode": jnp.float32(2)}, r"needs an array of int32, has float32"),
        ({"replace": 1}, r"env.params.replace = 1: fixed, not a number"),
    ],
)
def test_a_bad_override_is_named_with_its_rule(overrides, message):
    with pytest.raises(ValueError, match=message):
        envs.params(envs.make("CartPole-v1"), overrides)


def test_all_bad_overrides_are_named_at_once():
    with pytest.raises(ValueError) as error:
        envs.params(envs.make("CartPole-v1"), {"a": 1, "tau": "b"}, path="evaluation.env.params")
    assert [line.split(" = ")[0] for line in str(error.value).splitlines()] == [
        "evaluation.env.params.a",
        "evaluation.env.params.tau",
    ]


def test_flags_take_true_and_false_only():
    env = envs.make("DeepSea-bsuite")
    assert not envs.params(env, {"deterministic": False}).deterministic
    with pytest.raises(ValueError, match="needs true or false"):
        envs.params(env, {"deterministic": 1})


@pytest.mark.parametrize("given", [Counter(), "tests.probes.envs:Counter"], ids=_name)
def test_an_env_of_our_own_protocol_is_taken_as_it_is(given):
    env = envs.make(given)
    assert env == Counter() and isinstance(env, Env)
    params = envs.params(env, {"length": 5})
    assert params.length == 5 and params.length.dtype == jnp.int32


def test_params_that_are_no_numbers_are_refused_by_name():
    env = SimpleNamespace(default_params={"mode": "fast", "speed": {"top": 2.0}})
    with pytest.raises(ValueError, match=r"env.params.mode = 'fast': needs to be a number"):
        envs.params(env, {})
    env.default_params.pop("mode")
    assert envs.params(env, {"speed.top": 3})["speed"]["top"] == 3.0
