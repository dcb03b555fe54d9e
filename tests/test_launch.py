"""What a run in a directory promises: the bits of `train`, and no data touched by a bad request."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtrain
from jaxtrain.launch import CHUNKS, chunk_lengths, launch
from tests.helpers import differing, tiny


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_launched_run_ends_in_the_bits_of_train_and_its_log_holds_the_history(tmp_path, num_seeds):
    config = tiny(updates=12, evaluation={"every": 24, "num_episodes": 2}, logging={"sinks": ["jsonlines"]})
    ending = launch(config, tmp_path / "run", seed=3, num_seeds=num_seeds)
    key = jax.random.key(3)
    if num_seeds == 1:
        result = jaxtrain.train(config, key)
    else:
        result = jax.vmap(jaxtrain.train, in_axes=(None, 0))(config, jax.random.split(key, num_seeds))
        result = dataclasses.replace(result, state=result.state.replace(clock=result.state.clock[0]))
    assert differing(ending.result, result) == []
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row["values"]["return_mean"] for row in rows if row["name"] == "evaluation"]
    np.testing.assert_array_equal(np.array(logged, np.float32).T, result.history["evaluation"]["return_mean"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["exit"] == "finished"


@given(st.integers(1, 10_000))
def test_chunks_make_up_the_run_with_at_most_two_programs_to_compile(num_updates):
    lengths = list(chunk_lengths(num_updates))
    assert sum(lengths) == num_updates
    assert len(set(lengths)) <= 2
    assert len(lengths) <= max(4 * CHUNKS, 1)


def test_a_directory_that_holds_a_run_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(jaxtrain.ConfigError, match="already holds a run"):
        launch(tiny(updates=2), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\n"


def test_a_directory_that_cannot_be_made_is_named_before_anything_compiles(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxtrain.ConfigError, match=r"file/run.*cannot be written \(Not a directory\)"):
        launch(tiny(updates=2), tmp_path / "file" / "run")


def test_a_lost_mirror_is_named_and_the_log_stays_whole(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    config = tiny(updates=4, logging={"every": 0, "sinks": ["jsonlines", "tensorboard"]})
    with pytest.warns(RuntimeWarning, match="TensorBoard"):
        ending = launch(config, tmp_path)
    assert ending.log_complete
    assert any("TensorBoard" in loss and "tensorboard" in loss for loss in ending.losses)
