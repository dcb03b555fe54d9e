"""Weights & Biases without a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.sinks.written import offline_runs, wandb_rows

SECRETS = {"WANDB_API_KEY": "5ec2e7" * 7, "AWS_SECRET_ACCESS_KEY": "5ec2e7-aws", "MY_TOKEN": "5ec2e7-token"}

ONLINE = """if True:
    import logging, sys
    import numpy as np
    from jaxtrain import sinks
    from jaxtrain.types import Record, RunInfo
    logging.basicConfig(format="LOG %(message)s")
    with sinks.Wandb(mode="online", directory=sys.argv[1], seeds="separate", timeout_seconds=1) as sink:
        sink.open(RunInfo("probe", 100, 1, 2))
        sink.write(Record("metrics", 1, 8, {"loss": np.float32([1.0, 2.0])}))
    """


@pytest.mark.parametrize("credentials", [True, False])
def test_wandb_without_a_server_goes_offline_keeping_rows_and_secrets(tmp_path, credentials):
    env = {**os.environ, **SECRETS, "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path / "home")}
    if not credentials:
        del env["WANDB_API_KEY"]
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ONLINE, tmp_path], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^LOG .*going offline", done.stderr, re.MULTILINE)) == 1
    sent = [wandb_rows(run)[0] for run in offline_runs(tmp_path)]
    assert sorted(row["loss"] for row in sent) == [1.0, 2.0]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"5ec2e7" in path.read_bytes() for path in files)
    assert "5ec2e7" not in done.stdout + done.stderr
