"""A log is cut back to a whole row, and to no less than that."""

from __future__ import annotations

import json

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


def test_a_log_of_zeroes_alone_or_of_nothing_or_none_has_no_row(tmp_path):
    assert mended(tmp_path, b"\0" * 4096)[1] == b""
    assert mended(tmp_path, b"") == ([], b"")
    assert log.mend(tmp_path / "none") == [] and not (tmp_path / "none").exists()
