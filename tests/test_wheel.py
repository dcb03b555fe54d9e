"""An installed wheel trains by itself: outside the clone, with nothing of it on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xla import FAST

ROOT = Path(__file__).parents[1]
SHORT = ("--env.num-envs", "2", "--algorithm.rollout-length", "4", "--logging.sinks", "jsonlines")
# Per experiment: what makes it small beside the above.
SMALL = {
    "cartpole_ppo": ("--total-env-steps", "16", "--evaluation.every", "0", "--logging.every", "8"),
    "partial_cartpole_gru": (
        *("--total-env-steps", "16", "--evaluation.every", "0", "--logging.every", "8"),
        *("--algorithm.num-minibatches", "1"),
    ),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory that holds the package as a wheel installs it, and nothing else."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, ROOT]
    subprocess.run([*pip, *build], check=True, cwd=wheels)
    (wheel,) = wheels.glob("jaxtrain-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def say(installed: Path, cwd: Path, *arguments: str) -> tuple[int, str, str]:
    """The console script's entry point, in a process of its own."""
    program = "import sys; from jaxtrain.tools.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed), "XLA_FLAGS": FAST},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_wheel_lists_and_trains_its_experiments_outside_the_clone(installed, tmp_path):
    code, listed, err = say(installed, tmp_path, "list", "experiments")
    assert code == 0, err
    files = dict(line.split(maxsplit=1) for line in listed.splitlines())
    assert set(files) == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert all(Path(file).is_relative_to(installed) for file in files.values())
    for name, small in SMALL.items():
        code, _, err = say(installed, tmp_path, "train", name, "--out", name, *SHORT, *small)
        assert code == 0, err
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["env_steps"] == 16
        code, _, err = say(installed, tmp_path, "resume", name, "--total-env-steps", "24")
        assert code == 0 and "going on from 16 of 24" in err, err


@pytest.mark.slow
def test_what_a_wheel_holds_is_the_package_and_the_experiments(installed):
    held = {p.relative_to(installed).parts[0] for p in installed.iterdir()}
    assert {name for name in held if not name.endswith(".dist-info")} <= {"jaxtrain", "bin"}
    assert not list(installed.rglob("*.png")) and (installed / "jaxtrain" / "py.typed").is_file()
