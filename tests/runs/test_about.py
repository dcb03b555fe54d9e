"""What a run says of itself: changed anywhere it is an error; of wrong types it is refused."""

from __future__ import annotations

import json
import random

import pytest
import yaml

from jaxtrain import ConfigError, dump
from jaxtrain.runs import about
from jaxtrain.runs import directory as rundir
from tests.helpers import tiny

SAID = {
    "id": "0a1b2c3d",
    "created": "2026-11-28T07:00:00+00:00",
    "seed": 3,
    "key": None,
    "num_seeds": 2,
    "seeds": [1, 0],
    "start_from": None,
    "init_from": None,
    "events": ["Event a: every 8"],
    "modules": {"own": {"path": "/a/own.py", "sha256": 64 * "0"}},
    "starts": [{"started": "2026-11-28T07:00:00+00:00", "exit": None, "flags": {"XLA_FLAGS": "--ä=1"}}],
}


@pytest.fixture
def run(tmp_path):
    with rundir.RunDirectory(tmp_path / "run") as run:
        run.write_about(SAID)
        run.describe(dump(tiny(env="tests.helpers:Walk")))
    return tmp_path / "run"


READERS = {"run.json": rundir.read_about, "config.yaml": rundir.config_of}


def test_what_was_written_is_read_back_and_any_reader_of_json_and_yaml_can_read_it(run):
    assert rundir.read_about(run) == SAID
    assert {k: v for k, v in json.loads((run / "run.json").read_text()).items() if k != "sha256"} == SAID
    assert yaml.safe_load(rundir.config_of(run).read_text())["total_env_steps"] == 96


@pytest.mark.parametrize(("name", "read"), READERS.items())
def test_each_changed_bit_is_an_error_that_names_the_file(name, read, run):
    """One bit of every byte, and each cut and each byte too many near both ends."""
    whole, chance = (run / name).read_bytes(), random.Random(0)
    changed = [
        bytes([*whole[:i], x ^ 1 << chance.randrange(8), *whole[i + 1 :]]) for i, x in enumerate(whole)
    ]
    changed += [whole[:-1], whole[1:], whole + b"\n", whole[:200], whole.replace(b"\n", b"\r\n")]
    missed = []
    for data in changed:
        (run / name).write_bytes(data)
        try:
            read(run)
            missed.append(data)
        except ConfigError as error:
            assert name in str(error)
    assert len(changed) > 500 and [data[:120] for data in missed] == []


def test_a_file_that_somebody_has_changed_is_read_once_its_line_of_sha256_is_gone(run):
    for name, line, old, new in (
        ("run.json", 1, '"seed": 3', '"seed": 4'),
        ("config.yaml", 0, ": 96", ": 192"),
    ):
        lines = (run / name).read_text().replace(old, new).splitlines(keepends=True)
        (run / name).write_text("".join(lines))
        with pytest.raises(ConfigError, match="if the change is yours, take its line of sha256 out"):
            READERS[name](run)
        (run / name).write_text("".join([*lines[:line], *lines[line + 1 :]]))
    assert rundir.read_about(run)["seed"] == 4
    assert yaml.safe_load(rundir.config_of(run).read_text())["total_env_steps"] == 192


def test_a_run_of_the_first_versions_is_read(run):
    first = {name: value for name, value in SAID.items() if name not in ("init_from", "events", "modules")}
    (run / "run.json").write_text(json.dumps(first, indent=2))
    assert rundir.read_about(run) == first


WRONG = [
    *({"seed": value} for value in (-1, 2**32, 1.5, "1", True, None, [1])),
    *({"num_seeds": value} for value in (0, 10**30, "2", None, [])),
    *({"seeds": value} for value in ([], "01", [-1], [0.5], {}, 3)),
    *({"key": value, "seed": None} for value in ("x", [], ["threefry2x32", "x"], [1, [2]], ["x", [2**32]])),
    *({"starts": value} for value in ({}, "x", [3], [{}], [{"started": 3}], [{"started": "", "exit": 3}])),
    *({"start_from": value} for value in (3, {}, {"directory": 3, "env_steps": 1})),
    *({"init_from": value} for value in (3, {}, {"directory": "x", "env_steps": 1})),
    {"id": 3},
    {"id": None},
    {"events": {}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_value_of_a_wrong_type_is_named(wrong):
    with pytest.raises(ValueError, match="is not that of a run: it"):
        about.read(json.dumps(SAID | wrong).encode())
    for name in wrong:
        if name in ("id", "seed", "num_seeds", "seeds", "starts"):
            with pytest.raises(ValueError, match=f"it has no {name}"):
                about.read(json.dumps({k: v for k, v in SAID.items() if k != name}).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", 100_000 * b"[", b'{"a":' * 100_000])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ValueError, match="is not that of a run"):
        about.read(data)
