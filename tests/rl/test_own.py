"""Modules and optimizers of one's own: what does not fit is said before anything is traced in earnest."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxtrain import PPO, Config, ConfigError, Trainer
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.rl.own import check_module, check_optimizer
from jaxtrain.types import Box
from tests.helpers import tiny, tiny_ppo


class Linear(nn.Module):
    features: int = 2

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x))


class Batched(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))


class Joined(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x.reshape(-1))


class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {}["elbow"]


MODULES = [
    (Linear(5), "= Linear: gave shape (2, 5) for 2 observations of shape (1,), needs (2,) for each"),
    (Joined(), "= Joined: gave shape (2,) for 2 observations of shape (1,), needs (2,) for each"),
    (
        Dropping(),
        "= Dropping: is applied without a random key, needs to be deterministic: Dropout_0 needs PRNG for",
    ),
    (Batched(), "= Batched: keeps ['batch_stats'] besides 'params', which would never be updated"),
    (Broken(), "= Broken: raised KeyError: 'elbow' (test_own.py:"),
]


@pytest.mark.parametrize(("module", "rule"), MODULES, ids=[type(m).__name__ for m, _ in MODULES])
@pytest.mark.parametrize("algorithm", [tiny_ppo, DQN], ids=["ppo", "dqn"])
def test_a_module_that_does_not_fit_is_named_by_its_field(algorithm, module, rule):
    path = "policy_network" if algorithm is tiny_ppo else "q_network"
    with pytest.raises(ConfigError, match=f"algorithm.{re.escape(f'{path} {rule}')}"):
        Trainer(tiny(3, algorithm=algorithm(**{path: module})))


def test_a_critic_of_several_numbers_is_refused_beside_a_policy_of_several():
    with pytest.raises(ConfigError) as error:
        Trainer(tiny(algorithm=tiny_ppo(policy_network=Linear(3), value_network=Linear(2))))
    assert [p.path for p in error.value.problems] == ["algorithm.policy_network", "algorithm.value_network"]
    assert "needs () or (1,) for each" in str(error.value)


OPTIMIZERS = [
    (
        optax.contrib.reduce_on_plateau(),
        "(gradients, state, params) and no more; it raised TypeError: .*'value'",
    ),
    (optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()), "it raised TypeError: .*'value'"),
    (
        optax.GradientTransformation(lambda params: (), lambda grads, state, params: (grads, jnp.zeros(3))),
        "its state is another tree than before",
    ),
    (optax.stateless(lambda grads, params: {}), "its updates is another tree than before"),
]


@pytest.mark.parametrize(("optimizer", "words"), OPTIMIZERS, ids=["plateau", "a chain", "state", "updates"])
@pytest.mark.parametrize("algorithm", [tiny_ppo, DQN], ids=["ppo", "dqn"])
def test_an_optimizer_that_wants_more_or_gives_another_tree_is_refused(algorithm, optimizer, words):
    words = words.replace("(gradients, state, params)", re.escape("(gradients, state, params)"))
    with pytest.raises(ConfigError, match=f"^algorithm.optimizer: .*{words}"):
        Trainer(tiny(3, algorithm=algorithm(optimizer=optimizer)))


def test_a_class_is_no_instance_and_what_makes_an_optimizer_is_not_one():
    with pytest.raises(ConfigError, match="no init, update; what it makes when it is called may be one"):
        PPO(optimizer=optax.adam)
    for name, make in (("PPO", lambda: Config(algorithm=PPO)), ("Linear", lambda: PPO(value_network=Linear))):
        with pytest.raises(ConfigError, match=rf"needs .*instance; this is a class: {name}\(…\)"):
            make()


def test_what_fits_has_no_problems():
    space, obs = Box(-1, 1, (3,)), jax.ShapeDtypeStruct((3,), jnp.float32)
    assert check_module("q", Linear(4), space, obs, (4,)) == []
    params = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    for optimizer in (optax.adamw(1e-3), optax.MultiSteps(optax.sgd(1e-3), 2)):
        assert check_optimizer("optimizer", optimizer, params) == []
