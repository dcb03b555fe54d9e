"""What is wrong with what people give: one error with a line for every fault.

In: paths, values, rules. Out: `ConfigError`, and the one "did you mean".
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

MISSING: Any = dataclasses.MISSING
_PLAIN = (str, bytes, bool, int, float, complex, type(None))


class Problem(NamedTuple):
    """One fault: where, what stands there, and what would work."""

    path: str
    value: Any
    rule: str

    def __str__(self) -> str:
        value = "" if self.value is MISSING else f" = {shortened(_repr(self.value))}"
        lines = f"{shortened(self.path)}{value}: {self.rule}".splitlines()
        return shown(" ".join(line.strip() for line in lines))

    def __reduce__(self) -> tuple[Any, ...]:
        """As another process gets it: see `_sendable`; no value as none."""
        value = () if self.value is MISSING else (_sendable(self.value),)
        return _problem, (self.path, self.rule, *value)


def _problem(path: str, rule: str, value: Any = MISSING) -> Problem:
    return Problem(path, value, rule)


class _Text(str):
    """What stands for a value, shown as it is."""

    def __repr__(self) -> str:
        return str(self)


def _sendable(value: Any) -> Any:
    """A plain value as it is; of anything else, which another process may not have, its text."""
    return value if _is_plain(value) else _Text(repr(value))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return all(_is_plain(x) for pair in value.items() for x in pair)
    return kind in _PLAIN or (kind in (list, tuple) and all(map(_is_plain, value)))


class Named(str):
    """What an object is called, shown as it is."""

    @classmethod
    def of(cls, given: Any) -> Named:
        """The name of a class or function, or of an object's class."""
        return cls(getattr(given, "__name__", type(given).__name__))

    def __repr__(self) -> str:
        return str(self)


class ConfigError(ValueError):
    """A config that cannot be run. `problems` holds every fault; the message has a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # what it is made of again in another process

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    def under(self, path: str) -> list[Problem]:
        """The same faults, seen from one level further up."""
        return [p._replace(path=f"{path}.{p.path}" if p.path else path) for p in self.problems]


class ContractError(TypeError):
    """What an algorithm, a policy or an event gave is not what the loop needs; says whose it is, and what is.

    Raised while tracing, before anything compiles.
    """


class OutOfMemory(MemoryError):
    """A run needs more memory than its device has; names the bytes of each part, and what would fit.

    `__cause__` is what JAX raised.
    """


class Fault(Exception):
    """Raised by a field's `read`: the rule that a value breaks."""


# Whose frames say nothing to those who wrote what raised.
_BETWEEN = {"jaxtrain", "jax", "jaxlib", "flax", "optax", "importlib", "contextlib", "functools"}
_MOST = 4  # frames in a message, the innermost


def raised(error: BaseException) -> str:
    """What code that is not ours raised, and where: `KeyError: 'elbow' (walk.py:31 in step)`.

    Its traceback is cut to the frames of that code, so that an error raised from it shows them alone.
    """
    theirs: list[TracebackType] = []
    tb = error.__traceback__
    while tb is not None:
        if tb.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _BETWEEN:
            theirs.append(tb)
        tb = tb.tb_next
    cut = None
    for tb in reversed(theirs):
        cut = TracebackType(cut, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    error.__traceback__ = cut
    codes = [(tb.tb_frame.f_code, tb.tb_lineno) for tb in theirs[-_MOST:]]
    where = ", ".join(f"{Path(c.co_filename).name}:{line} in {c.co_name}" for c, line in reversed(codes))
    said = str(error).strip().partition("\n")[0]
    words = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"{words} ({where})" if where else words


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # an int of too many digits, or whatever an object of the user's does
        return f"<{type(value).__name__}>"


_LONG = 500  # characters of one value in an error


def shortened(text: str) -> str:
    """A text without its middle, if it is long."""
    cut = len(text) - _LONG
    return text if cut <= 0 else f"{text[: _LONG // 2]} … {cut:,} more … {text[-_LONG // 2 :]}"


def shown(text: str) -> str:
    """A text that may be a stranger's, for a terminal: what cannot be printed as its escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(name: str, known: Iterable[str], few: int = 12) -> str:
    """`; the nearest known is 'x'`, or a list of what is known where nothing is near.

    Args:
      name: near is what is spelt alike, or what it has the initials of, as `lr` has of `learning_rate`.
      few: a longer list is left out.
    """
    known = sorted(known)
    close = [word for word in known if _initials(word) == name.lower()]
    close += difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    if close:
        return f"; the nearest known is {close[0]!r}"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= few else ""


def _initials(word: str) -> str:
    parts = word.replace("-", "_").split("_")
    return "".join(part[:1] for part in parts).lower() if len(parts) > 1 else ""
