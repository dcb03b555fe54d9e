"""What a run will do is said before it does it."""

from __future__ import annotations

import re

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
