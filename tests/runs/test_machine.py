"""What a run is computed by: what moves bits is said when it differs, once, and nothing else is."""

from __future__ import annotations

import json

import jax
import pytest

from jaxtrain.runs import directory as rundir
from jaxtrain.runs import machine


@pytest.fixture
def start():
    """This process, as `run.json` has it."""
    return json.loads(json.dumps(rundir.this_start(None, machine.now())))


def test_a_process_does_not_differ_from_itself_nor_a_run_that_has_not_begun_from_any(start):
    assert machine.notes([start]) == [] and machine.notes([]) == []
    assert set(start["settings"]) >= {"jax_threefry_partitionable", "jax_enable_x64"}


def test_all_that_differs_is_in_one_sentence_then_and_now(start, monkeypatch):
    then = start | {
        "versions": start["versions"] | {"jax": "0.1", "python": "2.7"},
        "device": start["device"] | {"kind": "abacus", "count": 7},
    }
    monkeypatch.setenv(
        "XLA_FLAGS", f"{start['flags'].get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
    )
    with jax.default_matmul_precision("highest"), jax.threefry_partitionable(False):
        (note,) = machine.notes([start, then])
    assert "its bits may be others" in note
    here = start["device"]["kind"]
    for words in (
        f"jax was 0.1, is {jax.__version__}",
        f"the device's kind was abacus, is {here}",
        "jax_threefry_partitionable was True, is False",
        "jax_default_matmul_precision was None, is highest",
        "--xla_backend_optimization_level=1",
    ):
        assert words in note
    assert "python was" not in note and "count was" not in note


def test_what_moves_no_bit_is_not_said(start, monkeypatch):
    """Flags in another order, twice, or that only write; another host."""
    words = [*start["flags"].get("XLA_FLAGS", "").split(), "--xla_dump_to=/tmp/x"]
    monkeypatch.setenv("XLA_FLAGS", " ".join([*reversed(words), *words]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert machine.notes([start | {"host": "elsewhere", "pid": 0}]) == []


def test_of_a_start_that_an_earlier_version_wrote_only_what_it_has_is_compared(start):
    then = {name: start[name] for name in ("versions", "device", "flags")}
    then["versions"] = {name: x for name, x in then["versions"].items() if name != "jaxlib"}
    assert machine.notes([then]) == [] and machine.notes([{}]) == []
    (note,) = machine.notes([then | {"versions": {"jax": "0.1"}}])
    assert note.endswith(f"jax was 0.1, is {jax.__version__}")
