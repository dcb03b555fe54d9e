"""Which run a directory holds: seeds, config, lengths of logs. Whole runs are in `tests/faults/`."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import ConfigError
from jaxtrain.config.schema import to_dict
from jaxtrain.runs.resume import Seeds, asked_seeds, differences, rewind
from tests.helpers import Reinforce, tiny


def words(keys):
    return np.asarray(jax.random.key_data(keys)).tolist()


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({"seed": 1, "key": jax.random.key(0)}, ["give a seed or a key, not both"]),
        ({"num_seeds": 0}, ["needs an int >= 1"]),
        ({"seeds": []}, ["needs different ints >= 0"]),
        ({"seeds": [1, 1], "num_seeds": -1}, ["needs an int >= 1", "needs different ints >= 0"]),
        ({"seeds": [-1]}, ["needs different ints >= 0"]),
    ],
)
def test_seeds_that_are_none_are_refused_all_at_once(given, rules):
    with pytest.raises(ConfigError) as error:
        asked_seeds(**({"seed": None, "key": None, "num_seeds": None, "seeds": None} | given))
    assert [problem.rule for problem in error.value.problems] == rules


def test_only_what_was_given_is_asked_for_and_a_key_in_place_of_the_seed():
    assert asked_seeds(None, None, None, None) == {}
    assert asked_seeds(3, None, 2, [1]) == {"seed": 3, "key": None, "num_seeds": 2, "chosen": (1,)}
    assert asked_seeds(None, jax.random.PRNGKey(3), None, None) == asked_seeds(
        None, jax.random.key(3), None, None
    )


@given(
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.integers(1, 5),
    st.one_of(st.none(), st.just((0,)), st.just((4, 1))),
)
def test_seeds_are_read_back_from_what_run_json_has(seed, num_seeds, chosen):
    key = ("threefry2x32", (0, 3)) if seed is None else None
    seeds = Seeds(seed, key, num_seeds, chosen)
    assert Seeds.of(json.loads(json.dumps(seeds.about()))) == seeds
    assert len(seeds.all) == seeds.count


def test_some_seeds_have_the_keys_that_they_have_in_company():
    every = Seeds(7, None, 5)
    assert words(every.narrowed({"chosen": (3, 0)}).keys()) == [words(every.keys())[i] for i in (3, 0)]
    assert words(every.narrowed({"chosen": (2,)}).keys()) == words(every.keys())[2]  # one has no axis
    by_key = Seeds(None, ("threefry2x32", tuple(words(jax.random.key(7)))), 5)
    assert words(by_key.keys()) == words(every.keys())
    with pytest.raises(ConfigError, match=r"num_seeds = 9: the run has 5\nseeds = \[5\]: the run has \[0, 1"):
        every.narrowed({"num_seeds": 9, "chosen": (1, 5)})


def test_what_makes_it_another_run_is_a_line_and_what_moves_no_bit_is_none():
    config = tiny(12, env="tests.helpers:Walk")
    other = tiny(24, env="tests.helpers:Walk", algorithm=Reinforce(gamma=0.5), logging={"every": 8})
    assert differences(to_dict(config), config) == []
    assert [str(p) for p in differences(to_dict(config), other)] == ["algorithm.gamma = 0.5: the run has 0.9"]


def test_logs_are_cut_back_those_of_later_go_and_those_that_lost_rows_are_named(tmp_path):
    row = '{"update": 1}\n'
    for name, text in {"metrics.jsonl": 3 * row, "short": "ab"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "tensorboard").mkdir()
    for name in ("a.tfevents.1", "a.tfevents.2"):
        (tmp_path / "tensorboard" / name).write_text("abc")
    lost = rewind(
        tmp_path, {"metrics.jsonl": 2 * len(row), "tensorboard/a.tfevents.1": 3, "short": 5, "gone": 1}
    )
    assert lost == [
        "short had 5 bytes at the checkpoint and has 2: rows are missing",
        "gone had 1 bytes at the checkpoint and has 0: rows are missing",
    ]
    assert (tmp_path / "metrics.jsonl").read_text() == 2 * row and (tmp_path / "short").read_text() == "ab"
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["a.tfevents.1"]


@pytest.mark.parametrize("change", ["1 byte", "40 bytes", "zeroes", "CRLF"])
def test_a_log_that_is_not_as_it_was_ends_with_a_whole_row_and_what_is_lost_is_said(change, tmp_path):
    rows = "".join(f'{{"name": "metrics", "update": {i}, "values": {{"x": 0.25}}}}\n' for i in range(1, 9))
    data, path = rows.encode(), tmp_path / "metrics.jsonl"
    changed = {
        "1 byte": data[:-1],
        "40 bytes": data[:-40],
        "zeroes": data[:-40] + bytes(40),
        "CRLF": data.replace(b"\n", b"\r\n"),
    }[change]
    path.write_bytes(changed)
    lost = rewind(tmp_path, {"metrics.jsonl": len(data)})
    left = [json.loads(line)["update"] for line in path.read_text().splitlines()]
    assert left == list(range(1, 8)) and path.read_bytes().endswith(b"\n")
    assert any("bytes that are no row, which are cut off" in sentence for sentence in lost)
