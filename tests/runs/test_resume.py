"""Which run a directory holds: config, lengths of logs. Whole runs are in `tests/faults/`."""

from __future__ import annotations

import json

import pytest

from jaxtrain.config.schema import to_dict
from jaxtrain.runs.resume import differences, rewind
from tests.helpers import Reinforce, tiny

MOST = "and <= 4294967295"


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
