"""A device that has not the memory for a run is one line that says for what."""

from __future__ import annotations

import json

from jaxtrain.tools.cli import main
from tests.faults.processes import Hoard

CONFIG = f"""
env: {{id: "tests.helpers:Walk", num_envs: 2}}
algorithm: {{name: "{Hoard().name}", rollout_length: 4}}
total_env_steps: 96
logging: {{every: 0, sinks: []}}
evaluation: {{every: 0}}
"""


def test_a_run_that_its_device_cannot_hold_ends_with_one_line_that_names_each_part(tmp_path, capfd):
    (tmp_path / "hoard.yaml").write_text(CONFIG)
    assert main(["train", str(tmp_path / "hoard.yaml"), "--out", str(tmp_path / "run"), "--no-cache"]) == 1
    said = capfd.readouterr().err.strip().split("\n")
    assert said[-1].startswith("jaxtrain: the memory of the device (cpu) does not hold this run: a seed ")
    assert "RESOURCE_EXHAUSTED" not in "".join(said) and "Traceback" not in "".join(said)
    for part in ("agent 12 bytes", "replay 781.2 TiB", "a checkpoint's copy ", "XLA's temporaries "):
        assert part in said[-1]
    start = json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]
    assert start["exit"].startswith("OutOfMemory: the memory of the device")
