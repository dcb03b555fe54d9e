"""Signals as a note to read at the next chance; the second one ends the process at once.

In: signals to the main thread's process. Out: a list that the first one is in. Knows nothing of runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any

_log = logging.getLogger("jaxtrain")
ENDING = (signal.SIGINT, signal.SIGTERM)  # of which the second ends the process
CAUGHT = (*ENDING, signal.SIGHUP)  # by default
MORE = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}  # by which schedulers warn, where they are told to


@contextmanager
def listening(
    numbers: Collection[int] = CAUGHT,
    *,
    what: str = "saving and leaving",
    handle: Callable[[], None] = lambda: None,
) -> Generator[list[int]]:
    """Note the first of some signals in the list; at the second of `ENDING` leave with 128 + its number.

    Python calls handlers between two of its own instructions only, so not while a program compiles or
    runs. The number goes through a pipe, which the C handler writes, to a thread that can act at once.
    A handler that was there is called at the end, once for all signals that came. Outside of the main
    thread signals stay with whoever handles them.

    Args:
      numbers: which; less SIGHUP where it is ignored, as under `nohup`.
      what: is done at the next chance, for the user.
      handle: called between two instructions of the main thread, where it may raise.
    """
    caught: list[int] = []
    numbers = [number for number in numbers if _may_take(number)]
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    came: list[int] = []

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] not in numbers:
                continue
            came.append(number[0])
            name = signal.Signals(number[0]).name
            # A terminal that closes may send SIGHUP twice, and a service SIGTERM with it.
            if number[0] in ENDING and sum(n in ENDING for n in came) > 1:
                _say("%s again: left at once; what was not saved yet is to be done again", name).join(0.1)
                _leave(128 + number[0])
            if not caught:
                caught.append(number[0])
                _say("%s: %s at the next chance; again to leave at once", name, what)
        os.close(reading)

    def note(number: int, frame: Any) -> None:
        # `watch` has seen it. Without a handler of Python's the number would not be written.
        handle()

    watcher = threading.Thread(target=watch, name="jaxtrain-signals", daemon=True)
    watcher.start()
    old_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    old = {number: signal.signal(number, note) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_pipe)
        os.close(writing)
        watcher.join()
        for number in dict.fromkeys(came):
            handler = old[number]
            if callable(handler) and handler not in (signal.default_int_handler, _leave_by):
                handler(number, None)


def _may_take(number: int) -> bool:
    """Whether a signal is not ignored on purpose, and its handler can be put back: one of C's cannot."""
    handler = signal.getsignal(number)
    return handler is not None and not (number == signal.SIGHUP and handler is signal.SIG_IGN)


def _say(*words: str) -> threading.Thread:
    thread = threading.Thread(target=_log.warning, args=words, daemon=True)  # as it may block
    thread.start()
    return thread


def interrupts() -> tuple[int, ...]:
    """SIGINT if nobody but Python handles it, which would raise `KeyboardInterrupt`; else nothing."""
    return (signal.SIGINT,) if signal.getsignal(signal.SIGINT) is signal.default_int_handler else ()


@contextmanager
def leaving() -> Generator[None]:
    """Leave at SIGINT with 130 and no traceback, where there is nothing to save.

    Python's own `KeyboardInterrupt` is lost where it meets a callback of JAX's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGINT, _leave_by)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def _leave_by(number: int, frame: Any) -> None:
    _leave(128 + number)


def _leave(code: int) -> None:
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h\n")  # a live display hides the cursor
        sys.stdout.flush()
    os._exit(code)
