"""Arrays in orbax's files, and one error where orbax and TensorStore have hundreds of lines.

In: arrays by key, a directory. Out: files, and arrays again. What these libraries log meanwhile is said at
level DEBUG of the logger "jaxtrain". Knows nothing of checkpoints, nor of whether what it reads is what was
written.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.errors import shortened
from jaxtrain.runs.disk import PART, plain

_WAIT_SECONDS = 2.0  # for the threads of a save that failed, which log what they find
_log = logging.getLogger("jaxtrain")


def write(place: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, each with at least one entry, into a directory that is not there.

    Raises:
      OSError: with the errno that TensorStore met, or EIO.
    """
    import orbax.checkpoint as ocp

    try:
        # Compressed, it would take four times as long, and weights get no smaller.
        with (
            _quiet(),
            plain(place.parent.absolute()) as parent,  # orbax takes no relative one
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer,
        ):
            checkpointer.save(parent / place.name, args=ocp.args.PyTreeSave(dict(arrays)))
    except OSError:
        raise
    except Exception as error:  # a full disk, say, that only the text of it tells
        raise _as_os_error(error) from None


def read(place: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays by their keys, of which there is at least one.

    Raises:
      Exception: whatever orbax makes of what is not as it was written.
    """
    import orbax.checkpoint as ocp

    as_numpy = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in keys}
    asked: Any = ocp.args.PyTreeRestore(
        item=dict.fromkeys(keys, 0), restore_args=as_numpy, partial_restore=True
    )
    with (
        _quiet(),
        plain(place.parent.absolute()) as parent,
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        found = checkpointer.restore(parent / place.name, args=asked)
    return {key: np.asarray(found[key]) for key in keys}


def _as_os_error(error: Exception) -> OSError:
    """The errno that is in an error's text, which is of one line by then."""
    text = str(error)
    code = re.search(r"os_error_code='(\d+)'", text)
    said = [n for n in errno.errorcode if re.search(re.escape(os.strerror(n)), text, re.I)]
    number = int(code[1]) if code else next(iter(said), 0)
    if number:
        return OSError(number, os.strerror(number))
    return OSError(errno.EIO, shortened(text.strip().partition("\n")[0]))


class _Said(logging.Filter):
    """Passes on what is logged of a read or a write of ours to whoever wants to know, and to nobody else.

    Orbax logs what its threads raise, and asyncio what nobody has asked a future of TensorStore for.
    """

    users = 0

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        theirs = _THEIRS.search(record.pathname if record.name == "absl" else text)
        if not theirs or not (self.users or PART in text):
            return True
        _log.debug("%s", text)
        return False


_THEIRS = re.compile(r"\borbax\b|tensorstore|OCDBT")
_said, _turn = _Said(), threading.Lock()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what orbax and TensorStore print of a failure off standard error; the error itself says it."""
    before = set(threading.enumerate())
    with _turn:
        _said.users += 1
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_said)  # which it has once, however often
        if sys.unraisablehook is not _unraisable:
            _hook.append(sys.unraisablehook)
            sys.unraisablehook = _unraisable
    try:
        yield
    except BaseException:
        _wait_for({*threading.enumerate()} - before)
        gc.collect()  # a future that nobody asks is heard of when it goes
        raise
    finally:
        with _turn:
            _said.users -= 1


def _wait_for(threads: set[threading.Thread]) -> None:
    """Return once the threads of orbax among these have ended, and logged what they had to."""
    deadline = time.monotonic() + _WAIT_SECONDS
    for thread in threads - {threading.current_thread()}:
        if type(thread).__module__.startswith("orbax"):
            threading.Thread.join(thread, max(0, deadline - time.monotonic()))  # its own raises


_hook: list[Any] = [sys.__unraisablehook__]  # the last is the one that was there before


def _unraisable(found: Any) -> None:
    """Threads of TensorStore outlive the event loop of a save that failed, and find it closed."""
    trace, closed = found.exc_traceback, isinstance(found.exc_value, RuntimeError)
    if (
        closed
        and "Event loop is closed" in str(found.exc_value)
        and trace is not None
        and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
    ):
        return
    _hook[-1](found)
