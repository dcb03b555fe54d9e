"""Arrays come back, and what orbax says of a failure is heard only by those who ask."""

from __future__ import annotations

import errno
import logging

import numpy as np
import pytest

from jaxtrain.runs import arrays

HELD = {"00000": np.arange(6.0).reshape(2, 3), "00001": np.array(True)}


def test_arrays_come_back_all_or_some(tmp_path):
    arrays.write(tmp_path / "one", HELD)
    for keys in (["00000", "00001"], ["00001"]):
        found = arrays.read(tmp_path / "one", keys)
        assert list(found) == keys
        for key in keys:
            np.testing.assert_array_equal(found[key], HELD[key])


def test_what_orbax_refuses_is_one_error_of_one_line(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(OSError, match="already exists") as error:
        arrays.write(tmp_path / "one", HELD)
    assert "\n" not in str(error.value) and error.value.__suppress_context__
    assert error.value.errno in (errno.EEXIST, errno.EIO)


def logged(caplog):
    return [(record.name, record.getMessage()) for record in caplog.records]


def test_what_orbax_logs_of_ours_is_said_at_debug_and_what_others_log_stays(caplog):
    caplog.set_level(logging.DEBUG)
    absl, of_asyncio = logging.getLogger("absl"), logging.getLogger("asyncio")

    def log():
        absl.handle(absl.makeRecord("absl", logging.ERROR, "/x/orbax/checkpoint/future.py", 1, "o", (), None))
        absl.handle(absl.makeRecord("absl", logging.ERROR, "/x/own.py", 1, "own", (), None))
        of_asyncio.error("Future exception was never retrieved: [tensorstore_spec=…]")
        of_asyncio.error("Task exception was never retrieved: KeyError")

    with pytest.raises(KeyError), arrays._quiet():
        log()
        raise KeyError
    names = ["jaxtrain", "absl", "jaxtrain", "asyncio"]
    assert [name for name, _ in logged(caplog)] == names
    caplog.clear()
    log()  # by whoever uses orbax too: nothing of ours is under way
    assert [name for name, _ in logged(caplog)] == ["absl", "absl", "asyncio", "asyncio"]
    caplog.clear()
    of_asyncio.error("Future exception was never retrieved: OCDBT at /run/checkpoints/.part-1234/arrays")
    assert [name for name, _ in logged(caplog)] == ["jaxtrain"]
