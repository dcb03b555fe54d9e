"""What a run's directory says of itself, as text that can prove that nobody has changed it.

In: what `run.json` and `config.yaml` are to hold. Out: their text, and back. The second line of the one and
the first of the other have the sha256 of all other lines; whoever changes such a file takes that line away.
What is read may be a stranger's: each value is of its type, or refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_SHA = "sha256"
_DIGEST = re.compile(r"[0-9a-f]{32}")  # half of one, which a changed character leaves in it
_HEAD = "# sha256 of the lines below, {}; whoever changes them takes this line away\n"
_ABOVE = "{\n"  # the first line of `run.json`
_CHANGED = (
    "has changed since it was written; put it back, or, if the change is yours, take its line of sha256 out"
)
COUNT = 2**32 - 1  # the most seeds, and the greatest


def written(about: Mapping[str, Any]) -> str:
    """The text of `run.json`."""
    text = json.dumps(about, indent=2) + "\n"
    return f"{_ABOVE}{_line(text)}{text.removeprefix(_ABOVE)}"


def _line(rest: str) -> str:
    return f'  "{_SHA}": "{_digest(rest)}",\n'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(data: bytes) -> dict[str, Any]:
    """What `run.json` says. One without a sha256, as of an earlier version, is taken as it is.

    Raises:
      ValueError: it is not that of a run, or has changed since it was written.
    """
    try:
        text = data.decode("utf-8")
        about = json.loads(text)
    except RecursionError:
        raise ValueError("is not that of a run: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not that of a run: {error}") from None
    if not isinstance(about, dict):
        raise ValueError("is not that of a run: it has no starts")
    name, first = next(iter(about.items()), ("", None))
    if name == _SHA or (isinstance(first, str) and _DIGEST.search(first)):
        head, _, rest = text.removeprefix(_ABOVE).partition("\n")
        if not text.startswith(_ABOVE) or f"{head}\n" != _line(_ABOVE + rest):
            raise ValueError(_CHANGED)
        del about[name]
    if rule := _fault(about):
        raise ValueError(f"is not that of a run: {rule}")
    return about


def sealed(config: str) -> str:
    """The text of `config.yaml`, its sha256 in a comment above."""
    return _HEAD.format(_digest(config)) + config


def check_config(data: bytes) -> None:
    """Raise a ValueError if a `config.yaml` has a sha256 in its first line, and has changed since."""
    head, _, rest = data.partition(b"\n")
    if not _DIGEST.search(head.decode("utf-8", "replace")):
        return  # of an earlier version, or of somebody's own hand
    if head + b"\n" != _HEAD.format(hashlib.sha256(rest).hexdigest()).encode():
        raise ValueError(_CHANGED)


def _fault(about: Mapping[str, Any]) -> str | None:
    """What is not of its type, in a run's own words; None if all is."""
    for name, sound in _SOUND.items():
        if name not in about and name not in _LATER:
            return f"it has no {name}"
        if name in about and not sound(about[name]):
            return f"its {name} is {str(about[name])[:100]!r}"
    return (
        "it has neither seed nor key, or both" if (about["seed"] is None) == (about["key"] is None) else None
    )


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= COUNT


def _list_of(sound: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(sound, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _key(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _text(value[0]) and _list_of(_whole, value[1])


def _start(value: Any) -> bool:
    if not isinstance(value, dict) or not _text(value.get("started")):
        return False
    parts = [value.get(name, {}) for name in ("versions", "flags", "device", "settings")]
    return isinstance(value.get("exit"), str | None) and all(isinstance(part, dict) for part in parts)


def _source(value: Any) -> bool:
    """Another run's checkpoint: `start_from`, and with more of it `init_from`."""
    found = isinstance(value, dict) and _text(value.get("directory")) and type(value.get("env_steps")) is int
    return found and all(_text(value[name]) for name in ("take", "sha256") if name in value)


_SOUND: dict[str, Callable[[Any], bool]] = {
    "starts": partial(_list_of, _start),
    "id": _text,
    "seed": lambda value: value is None or _whole(value),
    "key": lambda value: value is None or _key(value),
    "num_seeds": lambda value: _whole(value) and value > 0,
    "seeds": lambda value: value is None or (value != [] and _list_of(_whole, value)),
    "start_from": lambda value: value is None or _source(value),
    "init_from": lambda value: value is None or (_source(value) and {"take", "sha256", "which"} <= {*value}),
    "events": partial(_list_of, _text),
}
_LATER = ("init_from", "events")  # which the first versions did not write
