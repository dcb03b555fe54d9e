"""A config that runs in a second."""

from __future__ import annotations

import pytest

TINY = """
env: {id: "tests.probes.envs:Cycle", num_envs: 4}
algorithm: {rollout_length: 8, num_epochs: 1, num_minibatches: 2, network: {hidden_sizes: [4]}}
total_env_steps: 384
evaluation: {every: 96, num_episodes: 2}
logging: {sinks: [jsonlines]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)
