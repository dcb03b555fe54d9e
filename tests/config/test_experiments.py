"""The experiments that come with the library go by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxtrain import load_config
from jaxtrain.config import experiments

ROOT = Path(__file__).parents[2]


def test_every_file_beside_the_package_is_an_experiment_with_its_name():
    assert experiments.known() == {path.stem: path for path in sorted((ROOT / "experiments").glob("*.yaml"))}


@pytest.mark.parametrize("name", experiments.known())
def test_every_experiment_is_a_config(name):
    assert load_config(experiments.find(name)).total_env_steps > 0


def test_a_file_comes_before_an_experiment_of_its_name_and_what_is_no_path_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiments.find("cartpole_ppo") == experiments.known()["cartpole_ppo"]
    (tmp_path / "cartpole_ppo").write_text("mine")
    assert experiments.find("cartpole_ppo") == Path("cartpole_ppo")
    assert [experiments.find(name) for name in ("cartpole_pp", "a\0b", "x" * 5000)] == [None] * 3
