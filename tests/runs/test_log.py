"""A log is cut back to a whole row, and to no less than that."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.runs import log

ROWS = [
    json.dumps({"name": "metrics", "update": i, "values": {"x": 10**i}}).encode() + b"\n" for i in range(4)
]
WHOLE = b"".join(ROWS)


def mended(place, data):
    path = place / "metrics.jsonl"
    path.write_bytes(data)
    return log.mend(path), path.read_bytes()


@given(st.integers(0, len(WHOLE)), st.sampled_from([b"", b"\0" * 40, b'{"a": 1}', b"3\n", b"\xff\n", b"\r"]))
def test_wherever_it_was_cut_and_whatever_follows_the_rows_before_it_stay(tmp_path_factory, length, rest):
    said, left = mended(tmp_path_factory.mktemp("log"), WHOLE[:length] + rest)
    rows = [end for i in range(5) if (end := len(b"".join(ROWS[:i]))) <= length]
    assert left == WHOLE[: rows[-1]]
    assert [sentence.split(" that")[0] for sentence in said] == [
        f"metrics.jsonl ended with {n} bytes" for n in [length + len(rest) - rows[-1]] if n
    ]


def test_rows_with_other_ends_of_lines_are_rows(tmp_path):
    other = WHOLE.replace(b"\n", b"\r\n")
    assert mended(tmp_path, other) == ([], other)
    assert mended(tmp_path, other[:-7])[1] == other[: other.rindex(b'{"name')]


@pytest.mark.parametrize(("begin", "line"), [(0, 1), (len(ROWS[0]) + 3, 2)])
def test_zeroes_between_rows_are_named_with_their_line_and_stay(begin, line, tmp_path):
    data = WHOLE[:begin] + b"\0" * 20 + WHOLE[begin + 20 :]
    assert mended(tmp_path, data) == (
        [f"metrics.jsonl has zeroes in line {line}, where rows are missing"],
        data,
    )


def test_rows_are_read_by_line_and_what_is_no_record_is_none(tmp_path):
    path, row = tmp_path / "metrics.jsonl", {"name": "a", "env_steps": 3, "values": {}}
    others = [
        [],
        3,
        row | {"name": 3},
        row | {"env_steps": -1},
        row | {"env_steps": 1.5},
        row | {"values": []},
    ]
    lines = [row, *others, row | {"env_steps": 10**400}, row | {"time": 3}, row | {"name": "b"}]
    data = "".join(json.dumps(x) + "\n" for x in lines) + "[" * 99_999 + "\n\n"
    path.write_text(data + json.dumps(row))  # of which the last is being written
    found = dict(log.rows(path))
    assert list(found) == list(range(1, 13))
    assert {number for number, x in found.items() if x is not None} == {1, 10}
    assert found[1] == row | {"time": {}}
    assert [number for number, x in log.rows(path, "b") if x is not None] == [10]


def test_no_more_of_a_log_is_read_than_a_log_has(tmp_path):
    """A file of 10^12 zeroes takes no place on disk."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"")
    os.truncate(path, 10**12)
    assert list(log.rows(path, most=1 << 27)) == [(1, None), (2, None)]


def test_a_log_of_zeroes_alone_or_of_nothing_or_none_has_no_row(tmp_path):
    assert mended(tmp_path, b"\0" * 4096)[1] == b""
    assert mended(tmp_path, b"") == ([], b"")
    assert log.mend(tmp_path / "none") == [] and not (tmp_path / "none").exists()
