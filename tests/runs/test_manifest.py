"""A manifest's values are of their types, or refused by name: no reader meets another."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest

from jaxtrain import ConfigError, load, load_policy
from jaxtrain.runs import checkpoint, manager, manifest
from jaxtrain.runs.checkpoint import Damaged
from jaxtrain.runs.launch import launch
from tests.faults.processes import Drift
from tests.helpers import tiny

OTHERS = [7.5, -1, "x", [], [[]], {"a": 1}, True, None]
# What may be anything, as nobody looks at it, or as who does says what it is.
FREE = {"format", "logs", "metrics", "spaces"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny(
        4,
        env="tests.helpers:Walk",
        algorithm=Drift(),
        evaluation={"every": 32, "num_episodes": 2},
        logging={"every": 8, "sinks": ["jsonlines"]},
    )
    launch(config, directory := tmp_path_factory.mktemp("run") / "run", cache=False)
    return directory


def test_that_of_a_run_is_sound(run):
    assert manifest.fault(checkpoint.read_manifest(manager.place(run / "checkpoints", 32))) is None


def paths(tree, path=()):
    """Of every value that has a name of the library's, and one of each table's."""
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict) and path[:1] not in (("config",), ("logs",)):
            some = dict(list(value.items())[:1]) if not path and name in manifest._TABLES else value
            yield from paths(some, (*path, name))


def replaced(tree, path, value):
    tree = copy.deepcopy(tree)
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return tree


def test_each_value_of_another_kind_is_named(run):
    whole = checkpoint.read_manifest(manager.place(run / "checkpoints", 32))
    kinds, named = 0, 0
    for path in paths(whole):
        was = whole
        for name in path:
            was = was[name]
        for value in OTHERS:
            if type(value) is type(was) or (path[0] in ("config", "format") and len(path) > 1):
                continue
            kinds += 1
            said = manifest.fault(replaced(whole, path, value))
            if said is not None:
                named += 1
                assert said.startswith(f"its {path[0]}"), (path, value, said)
            else:  # a number is one with a point or without, and what is not known is null
                free = path[0] in FREE or value is None or isinstance(was, float)
                assert free or was is None, (path, value)
    assert named > 0.7 * kinds


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("best",), "x"),
        (("best", "value"), [[]]),
        (("env_steps",), "32"),
        (("files",), {"manifest.json": 3}),
        (("arrays",), {"state.clock": {"shape": "x"}}),
        (("config", "algorithm"), []),
    ],
)
def test_a_reader_names_the_checkpoint_the_file_and_the_field(run, path, value):
    place = manager.place(run / "checkpoints", 32)
    before = {name: (place / name).read_bytes() for name in ("manifest.json", "manifest.sha256")}
    text = json.dumps(replaced(json.loads(before["manifest.json"]), path, value)).encode()
    try:
        (place / "manifest.json").write_bytes(text)
        (place / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
        with pytest.raises(Damaged, match=rf"manifest\.json is none of a checkpoint: its {path[0]}"):
            checkpoint.read_manifest(place)
        for read in (load, load_policy):
            with pytest.raises(ConfigError, match=r"32: is damaged: manifest\.json .* its"):
                read(run, 32)
    finally:
        for name, data in before.items():
            (place / name).write_bytes(data)
