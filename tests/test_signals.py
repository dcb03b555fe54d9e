"""The first signal is a note, the second the end. Runs that are told to stop are in `tests/faults/`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxtrain import signals

ROOT = Path(__file__).parents[1]


def test_ctrl_c_where_there_is_nothing_to_save_is_no_traceback():
    program = (
        "import time; from jaxtrain import signals\n"
        "with signals.leaving(): print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as begun:
        assert begun.stdout.readline() == "ready\n"
        begun.send_signal(signal.SIGINT)
        assert begun.wait(30) == 130 and begun.stderr.read() == ""


@pytest.mark.parametrize("number", signals.CAUGHT)
def test_a_signal_is_noted_once_and_those_who_handled_it_before_do_so_afterwards(number):
    before = [signal.getsignal(n) for n in signals.CAUGHT]
    with signals.listening() as caught:
        assert caught == []
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 10
        while not caught and time.monotonic() < deadline:
            time.sleep(0.001)
        assert caught == [number]
    assert [signal.getsignal(n) for n in signals.CAUGHT] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "jaxtrain-signals" not in {thread.name for thread in threading.enumerate()}


def test_outside_of_the_main_thread_signals_stay_with_whoever_handles_them():
    before, seen = [signal.getsignal(n) for n in signals.CAUGHT], []

    def inside():
        with signals.listening() as caught, signals.leaving():
            seen.append((caught, [signal.getsignal(n) for n in signals.CAUGHT]))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [([], before)]
