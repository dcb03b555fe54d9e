"""What a run will do is said before it does it."""

from __future__ import annotations

import re

import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import manager
from jaxtrain.runs.launch import launch
from jaxtrain.runs.plan import plan
from tests.faults.processes import Drift
from tests.helpers import tiny


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
