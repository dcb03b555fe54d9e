"""JSON lines read back to the numbers that were written, and a full disk is an error with a name."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxtrain import sinks
from jaxtrain.sinks.jsonlines import entry
from jaxtrain.types import Record
from tests.sinks.written import NAN, put, record, rows


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 3)), elements=st.floats(width=32)))
def test_json_lines_read_back_to_the_same_float32(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    put(sinks.JsonLines(path), record(metric=values), num_seeds=len(values))
    (row,) = rows(path)
    if np.isnan(values).all():
        assert row["values"] == {}
    else:
        read = np.atleast_1d(np.array(row["values"]["metric"], float)).astype(np.float32)
        np.testing.assert_array_equal(read, values)


def test_json_lines_keep_arrays_integers_and_short_numbers(tmp_path):
    values = {"a": np.float32([[0.1, NAN]]), "n": np.int32([7]), "flag": np.array([True])}
    path = tmp_path / "new" / "metrics.jsonl"
    put(sinks.JsonLines(path), Record("event", 1, 8, values))
    put(sinks.JsonLines(path), Record("event", 2, 16, {}))
    first, second = path.read_text().splitlines()
    assert '"values": {"a": [0.1, null], "n": 7, "flag": 1}' in first
    assert json.loads(second)["update"] == 2  # opened again: appended


def test_a_row_that_was_cut_off_keeps_its_line_and_the_next_one_begins_another(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for update in (1, 2):
        put(sinks.JsonLines(path), Record("event", update, 8, {}))
        path.write_bytes(path.read_bytes()[:-20])
    put(sinks.JsonLines(path), Record("event", 3, 8, {}))
    *cut, last = path.read_text().splitlines()
    assert [line[:29] for line in cut] == [f'{{"name": "event", "update": {n}' for n in (1, 2)]
    assert json.loads(last)["update"] == 3


def test_a_full_disk_names_the_file_and_leaves_whole_lines_alone(tmp_path):
    # A limit on the size of files takes the part of a write that fits, and refuses the rest.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numpy as np\n"
        "from jaxtrain.sinks import JsonLines\n"
        "from jaxtrain.types import Record\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "sink = JsonLines(sys.argv[1])\n"
        "for update in range(99): sink.write(Record('metrics', update, update, {'x': np.ones(1)}))\n"
    )
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert f"OSError: [Errno 27] File too large: '{path}'" in done.stderr
    log = rows(path)
    assert [row["update"] for row in log] == list(range(len(log)))
    assert path.read_bytes().endswith(b"\n")


def test_every_number_is_json_and_comes_back_as_it_was():
    given = np.array([[1.5, np.nan], [np.inf, -np.inf]])
    written = json.loads(json.dumps(entry(given), allow_nan=False))
    np.testing.assert_array_equal(np.array(written, float), given)
    assert entry(np.int32(3)) == 3 and entry(np.bool_(True)) == 1
