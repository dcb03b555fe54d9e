"""What a run will do is said before it does it."""

from __future__ import annotations

import re

import jax.numpy as jnp
import pytest

from jaxtrain import ConfigError, Trainer
from jaxtrain.rl import NetworkConfig
from jaxtrain.runs import manager
from jaxtrain.runs.launch import launch
from jaxtrain.runs.plan import _env_steps, _images, plan
from jaxtrain.types import Box
from tests.faults.processes import Drift
from tests.helpers import Walk, tiny, tiny_ppo


def test_a_plan_announces_the_checkpoints_that_the_run_makes(tmp_path):
    settings = {"every": 32, "keep_every": 40, "keep_last": 99, "best": "none", "every_minutes": 0}
    config = tiny(12, algorithm=Drift(), logging={"every": 0, "sinks": []}, checkpoint=settings)
    announced = re.search(r"^checkpoints +in a directory, at ([\d ]+) env steps$", plan(config), re.M)
    launch(config, tmp_path / "run", cache=False)
    assert announced is not None
    assert list(map(int, announced[1].split())) == list(manager.found(tmp_path / "run" / "checkpoints"))


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("evaluation/return_mean", "no such metric"),
        ("train/los", "no such metric; the nearest known is 'train/loss'"),
    ],
)
def test_a_plan_refuses_what_the_run_would(tmp_path, best, words):
    config = tiny(
        env="tests.helpers:Walk", algorithm=Drift(), checkpoint={"best": best}, logging={"sinks": []}
    )
    said = list[str]()
    for ask in (plan, lambda config: launch(config, tmp_path / "run", cache=False)):
        with pytest.raises(ConfigError, match=rf"^checkpoint\.best = '{best}': {words}") as error:
            ask(config)
        said.append(str(error.value))
    assert said[0] == said[1] and not (tmp_path / "run").exists()


class Pixels(Walk):
    """A walk that shows bytes."""

    @property
    def observation_space(self):
        return Box(0, 255, (3, 3, 1))

    def _image(self, obs):
        return jnp.full((3, 3, 1), jnp.clip(100 * (obs[0] + 1), 0, 255)).astype(jnp.uint8)

    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return self._image(obs), state

    def step(self, key, state, action, params):
        step = super().step(key, state, action, params)
        return step._replace(obs=self._image(step.obs))


@pytest.mark.parametrize(("scaled", "words"), [(True, r"scaled to 0 to 1 \(algo"), (False, "not scaled$")])
def test_a_plan_says_whether_bytes_are_scaled(scaled, words):
    network = NetworkConfig(hidden_sizes=(2,), channels=(1,), scale_images=scaled)
    said = _images(Trainer(tiny(env=Pixels(), algorithm=tiny_ppo(network=network))))
    assert re.search(rf"^images +observations: uint8\[3, 3, 1\] of 0 to 255, {words}", "\n".join(said))
    assert _images(Trainer(tiny(algorithm=Drift()))) == _images(Trainer(tiny(algorithm=tiny_ppo()))) == []


def test_marks_are_said_by_the_first_and_the_last_of_them_however_many_there_are():
    assert (
        _env_steps(range(7), 2) == "0 2 4 … 10 12"
        and _env_steps((1, 2), 3) == "3 6"
        and _env_steps((), 1) == ""
    )
    assert _env_steps(range(1, 10**15 + 1), 1000) == (
        f"1,000 2,000 3,000 … {10**18 - 1000:,} {10**18:,}"  # a list of them would never end
    )
