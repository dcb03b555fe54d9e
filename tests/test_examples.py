"""The examples run as they are, and learn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxtrain
from jaxtrain.types import Box
from tests.helpers import Walk

pytestmark = pytest.mark.docs

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def beside(monkeypatch):
    """The directory of the examples can be imported from, and nothing of it stays imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    sys.modules.pop("reinforce", None)


def test_reinforce_learns_cartpole_in_a_short_run(beside):
    config = jaxtrain.load_config(EXAMPLES / "reinforce.yaml", ["total_env_steps=131072", "logging.every=0"])
    keys = jax.random.split(jax.random.key(0), 4)
    result = jax.vmap(jaxtrain.train, (None, 0))(config, keys)
    first, last = np.asarray(result.history["evaluation"]["return_mean"])[:, [0, -1]].mean(axis=0)
    # A policy that draws blindly keeps the pole up for 22 steps, the best constant one for 10.
    assert first > 60 and last > 150


class Pushed(Walk):
    """The walk with a force for an action."""

    @property
    def action_space(self):
        return Box(-1.0, 1.0, (1,))

    def step(self, key, state, action, params):
        return super().step(key, state, action[0], params)


def test_reinforce_says_before_anything_compiles_that_it_needs_discrete_actions(beside):
    reinforce = importlib.import_module("reinforce")
    config = jaxtrain.Config(
        env={"id": Pushed(), "num_envs": 2}, algorithm=reinforce.Reinforce(), total_env_steps=64
    )
    with pytest.raises(jaxtrain.ConfigError, match=r"algorithm\.name = 'reinforce': needs Discrete actions"):
        jaxtrain.Trainer(config)


def test_what_an_algorithm_is_made_of_is_public_under_rl():
    source = (EXAMPLES / "reinforce.py").read_text()
    names = [line for line in source.splitlines() if "import" in line and "jaxtrain" in line]
    assert [name.split()[1] for name in names] == ["jaxtrain.rl", "jaxtrain.types"]
    assert all(hasattr(jaxtrain.rl, name) for name in jaxtrain.rl.__all__)
