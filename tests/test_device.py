"""A device that is not there is one line, before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxtrain import device
from tests.faults.processes import call
from tests.helpers import tiny

NONE = [name for name in ("cuda", "tpu", "nonsense") if name != "cuda" or not device._DRIVER.exists()]


def refused(platform, directory):
    """What each way to begin says on a platform, in a process that has computed nothing yet."""
    import jaxtrain
    from jaxtrain import envs

    jax.config.update("jax_platforms", platform)
    config, said = tiny(2), []
    for begin in (
        lambda: jaxtrain.launch(config, directory),
        lambda: jaxtrain.train(config, 0),
        lambda: jaxtrain.Trainer(config),
        envs.ids,
    ):
        try:
            begin()
        except jaxtrain.ConfigError as error:
            said.append((str(error), error.__suppress_context__))
    return said


@pytest.mark.parametrize("platform", NONE)
def test_a_platform_that_is_not_there_is_one_line_whatever_is_begun_and_leaves_nothing(tmp_path, platform):
    said = call(refused, platform, tmp_path / "run")
    assert len(said) == 4 and len({*said}) == 1 and said[0][1], said
    line = said[0][0]
    assert (
        line.startswith(f"JAX_PLATFORMS = '{platform}': JAX finds no such device here") and "\n" not in line
    )
    assert "set JAX_PLATFORMS=cpu, or unset it" in line
    assert ("pip install 'jax[cuda13]'" in line) == (platform == "cuda")
    assert [*tmp_path.iterdir()] == []


def test_where_there_is_a_device_nothing_is_said():
    device.check()
    device.check(callbacks=True)


def run(platforms, *words):
    return subprocess.run(
        [sys.executable, "-m", "jaxtrain", *words],
        env=os.environ | {"JAX_PLATFORMS": platforms, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )


def test_on_the_command_line_it_is_a_request_that_cannot_be_met(tmp_path):
    done = run(NONE[0], "train", "--env.id", "tests.helpers:Walk", "--out", str(tmp_path / "run"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert done.stderr.startswith(f"jaxtrain: JAX_PLATFORMS = '{NONE[0]}': ") and [*tmp_path.iterdir()] == []


@pytest.mark.gpu
def test_a_gpu_without_the_cpu_is_one_line_too(tmp_path):
    words = ["train", "--env.id", "tests.helpers:Walk", "--out", str(tmp_path / "run")]
    done = run("cuda", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "JAX_PLATFORMS = 'cuda': leaves out the CPU" in done.stderr and "set cuda,cpu" in done.stderr
    assert [*tmp_path.iterdir()] == []
