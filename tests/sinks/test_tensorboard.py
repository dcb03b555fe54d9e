"""TensorBoard files: errors come out, nothing is overwritten."""

from __future__ import annotations

import os

import pytest

from jaxtrain import sinks
from tests.sinks.written import INFO, events, put, record


def test_tensorboard_reports_an_error_in_the_middle_and_still_closes(tmp_path):
    board = sinks.TensorBoard(tmp_path)
    board.open(INFO)
    board.write(record(loss=1.0))
    (_, writer), *_ = board._writers
    file = writer._py_recordio_writer._writer
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), file.fileno())
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        for update in range(1000):  # far more than tensorboardX's own queue would take
            board.write(record(update=update, loss=1.0))
        board.flush()
    with pytest.raises(OSError, match="No space left"):
        board.close()
    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_tensorboard_opened_twice_within_a_second_overwrites_nothing(tmp_path):
    put(sinks.TensorBoard(tmp_path), record(update=1, env_steps=1, loss=1.0))
    put(sinks.TensorBoard(tmp_path), record(update=2, env_steps=2, loss=2.0))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert sorted(v for f in files for _, v, _ in events(f)["loss"]) == [1.0, 2.0]


def test_one_sink_serves_one_run_after_another(tmp_path):
    with sinks.TensorBoard(tmp_path) as board:
        for update in (1, 2):
            board.open(INFO)
            board.write(record(update=update, env_steps=update, loss=1.0))
    assert sum(len(events(path)["loss"]) for path in tmp_path.iterdir()) == 2
