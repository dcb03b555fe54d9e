"""Lines for whoever asked for them, or watches a run, which goes on where nobody does.

In: texts. Out: lines on standard output or standard error, as long as these take any.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from typing import TextIO

from jaxtrain.errors import shown


def show(*lines: str) -> None:
    """Print to standard output what a command is for.

    Raises:
      BrokenPipeError: whoever read it has gone away, as in `jaxtrain list envs | head -3`.
      SystemExit: it cannot be written, as on a full disk.
    """
    try:
        print("\n".join(map(shown, lines)), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(sys.stdout)
        warn(f"jaxtrain: standard output cannot be written ({error.strerror})")
        raise SystemExit(1) from None


def say(*lines: str) -> None:
    """Print lines about a run to standard output; see `warn`."""
    _print("\n".join(map(shown, lines)), sys.stdout)


def warn(*lines: str) -> None:
    """Print lines to standard error. An order to a terminal, as in a stranger's name, is shown as text.

    A stream that takes none any more, as of a closed terminal or on a full disk, is silent from then on: a
    run does not end for that, and neither does the interpreter fail as it flushes what it could not write.
    """
    _print("\n".join(map(shown, lines)), sys.stderr)


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:  # closed before Python began
        return
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        _print(text.encode("ascii", "backslashreplace").decode(), stream)
    except (OSError, ValueError):  # the latter of one that is closed
        _silence(stream)


def typed(program: str, command: str, *words: str) -> str:
    """A command as it can be pasted into bash or zsh, whatever its words are, a directory first among them.

    What a terminal does not show is written as `$'\\x1b'`, which a shell reads back.
    """
    first, *others = words
    place = f"./{first}" if first.startswith("-") else first
    return " ".join(map(_quoted, (program, command, place, *others)))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    codes = ("".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    plain = {"\\": "\\\\", "'": "\\'"}
    signs = zip(word, codes, strict=True)
    return "$'" + "".join(plain.get(c, c) if c.isprintable() else code for c, code in signs) + "'"


def settle() -> None:
    """Bring out what other code has printed, so that the interpreter's end has nothing left to fail at."""
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            _silence(stream)


def _silence(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # one that is no file of the system's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
