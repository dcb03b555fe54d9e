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


def begun(program):
    """A process of Python's that runs a program."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import os, signal, time; from jaxtrain import signals\n{program}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_where_there_is_nothing_to_save_is_no_traceback():
    with begun("with signals.leaving(): print('ready', flush=True); time.sleep(60)") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130 and process.stderr.read() == ""


def test_only_a_second_sigint_or_sigterm_ends_the_process_however_often_a_terminal_hangs_up():
    program = """
def send(*numbers):
    for number in numbers: os.kill(os.getpid(), number)
with signals.listening((*signals.CAUGHT, signal.SIGUSR1)) as caught:
    send(signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1)
    while not caught: pass
    print(caught, flush=True)
    send(signal.SIGINT)
    time.sleep(60)
"""
    with begun(program) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "[1]\n")
    assert err.splitlines() == [
        "SIGHUP: saving and leaving at the next chance; again to leave at once",
        "SIGINT again: left at once; what was not saved yet is to be done again",
    ]


def test_a_handler_that_was_there_is_called_afterwards_and_once():
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append((number, frame)))
    try:
        with signals.listening((signal.SIGUSR1,)) as caught:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGUSR1)
            assert seen == []
        assert (seen, caught) == ([(signal.SIGUSR1, None)], [signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_hangup_that_is_ignored_stays_so():
    """As under `nohup`."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.listening() as caught:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught == []
    finally:
        signal.signal(signal.SIGHUP, old)


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
