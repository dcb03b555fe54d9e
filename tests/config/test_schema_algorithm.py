"""A class of one's own that is no algorithm is named, with the member and what was expected of it."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxtrain import Config, ConfigError, Trainer
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.algorithms.ppo import PPO
from jaxtrain.config.describe import describe
from jaxtrain.config.schema import algorithm_class
from jaxtrain.rl import NetworkConfig, field
from tests.helpers import Reinforce


@field.config
class Empty:
    """Has nothing but a rate."""

    name: str = field.text("empty")
    rollout_length: int = field.integer(4, low=1)
    learning_rate: float = field.rate(0.1, help="how fast")


@field.config
class MakesOfNothing(Empty):
    """Does not take the spec."""

    def make(self):
        return None


@field.config
class MakesOfMore(Reinforce):
    """Wants more than the spec."""

    def make(self, spec, key):
        return super().make(spec)


@field.config
class ChecksOfNothing(Reinforce):
    """Checks without the spec."""

    def check(self):
        return []


FAULTY = {
    Empty: r"Empty needs to have make\(self, spec: EnvSpec\) -> Algorithm",
    MakesOfNothing: r"MakesOfNothing\.make needs to be make\(self, spec: EnvSpec\) -> Algorithm: too many",
    MakesOfMore: r"MakesOfMore\.make needs to be make\(self, spec: EnvSpec\) -> Algorithm: missing .*'key'",
    ChecksOfNothing: r"ChecksOfNothing\.check needs to be check\(self, spec: EnvSpec\) -> list\[Problem\]: ",
}


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_what_a_class_lacks_is_said_of_its_name_in_a_file(cls):
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = .*{FAULTY[cls]}"):
        Config(algorithm={"name": f"{__name__}:{cls.__name__}"})


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_what_a_class_lacks_is_said_of_an_object_from_python(cls):
    with pytest.raises(ConfigError, match=rf"^algorithm = .*{FAULTY[cls]}"):
        Config(algorithm=cls())


def test_the_fields_of_ones_own_algorithm_are_described():
    rows = describe(algorithm=algorithm_class({"name": f"{__name__}:Empty2"}))
    assert ("algorithm.learning_rate", "FLOAT|SCHEDULE", 0.1, "how fast") in rows


@field.config
class Empty2(Empty):
    """With what it lacked."""

    def make(self, spec):
        raise NotImplementedError


SIZES = [
    (cls, f.name)
    for cls in (PPO, DQN, NetworkConfig)
    for f in dataclasses.fields(cls)
    if f.type in ("int", "tuple[int, ...]")  # those that may be unset count env steps on the host
]


@pytest.mark.parametrize(("cls", "name"), SIZES, ids=[f"{cls.__name__}.{name}" for cls, name in SIZES])
def test_no_size_is_beyond_what_a_device_counts_to(cls, name):
    with pytest.raises(ConfigError, match=rf"^{name} = .*2147483648.*: needs .* <= 214748364[67]\b"):
        cls(**{name: 2**31})


AT_THE_LIMIT = [
    {"algorithm": {"rollout_length": 1, "num_minibatches": 1}, "env": {"num_envs": 2**31 - 1}},
    {"algorithm": {"rollout_length": 2**31 - 1, "num_minibatches": 1}, "env": {"num_envs": 1}},
    {"algorithm": {"name": "dqn", "rollout_length": 1}, "env": {"num_envs": 2**31 - 1}},
    {"algorithm": {"name": "dqn", "gradient_steps": 2**31 - 1, "n_step": 2**31 - 2}},
]


@pytest.mark.parametrize("given", AT_THE_LIMIT, ids=["num_envs", "rollout_length", "dqn", "n_step"])
def test_the_largest_update_that_a_config_takes_is_one_that_jax_can_describe(given):
    off = {"logging": {"every": 0}, "evaluation": {"every": 0}, "total_env_steps": 2**31 - 1}
    off |= {} if "env" in given else {"total_env_steps": 256}
    trainer = Trainer(Config(**off, **given))
    state = jax.eval_shape(trainer.new, jax.random.key(0))
    assert jax.eval_shape(trainer.update, state).clock.shape == ()
