"""What `make` and `check` give is looked at before anything compiles; the error names class and method."""

from __future__ import annotations

import jax
import pytest

from jaxtrain import train
from jaxtrain.loop.build import Parts
from jaxtrain.loop.update import check_made
from jaxtrain.rl import field
from tests.helpers import Reinforce, tiny


@field.config
class Made(Reinforce):
    """Gives an algorithm with a fault in it."""

    fault: str = field.text("none")

    def make(self, spec):
        made = super().make(spec)
        return {
            "nothing": None,
            "short update": made._replace(update=lambda agent, runner, experience: (agent, runner, {})),
            "no function": made._replace(policy=3),
            "no clock": made._replace(sample=lambda agent: None),
            "value of two": made._replace(value=lambda agent, obs: 0.0),
        }[self.fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing", r"Made\.make gave NoneType, needs a jaxtrain\.types\.Algorithm"),
        (
            "short update",
            r"Made\.make: update needs to be called update\(agent, runner, experience, clock, key\): too",
        ),
        ("no function", r"Made\.make: policy is int, needs a function policy\(agent, clock\)"),
        ("no clock", r"Made\.make: sample needs to be called sample\(agent, clock\)"),
        ("value of two", r"Made\.make: value needs to be called value\(agent, obs, carry\)"),
    ],
)
def test_what_make_gave_is_named_with_what_was_expected(fault, message):
    config = tiny(algorithm=Made(fault=fault))
    with pytest.raises(TypeError, match=message):
        train(config, jax.random.key(0))
    parts = Parts(config)
    with pytest.raises(TypeError, match=message):
        check_made(parts, config.algorithm.make(parts.spec))
