"""What a checkpoint's manifest says: each value of its type, or refused by its name.

In: JSON that may be a stranger's. Out: the first fault in it. What it does not say is none: earlier versions
said less. Knows nothing of `logs`, which are looked at before one is cut (`runs/resume.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def fault(manifest: Mapping[str, Any]) -> str | None:
    """What is not of its type, as `its best is 'x'`; None if all is."""
    for name, sound in _SOUND.items():
        if name in manifest and not sound(manifest[name]):
            return _said(name, manifest[name])
    for name, of_one in _TABLES.items():
        table = manifest.get(name, {})
        if not isinstance(table, dict):
            return _said(name, table)
        for key, value in table.items():
            if not of_one(value):
                return _said(f"{name}.{key}", value)
    return None


def _said(name: str, value: Any) -> str:
    return f"its {name[:100]} is {str(value)[:100]!r}"


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _best(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and _text(value.get("metric")) and _number_or_none(value.get("value", ""))


def _config(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    parts = [value.get(name, {}) for name in ("algorithm", "checkpoint", "logging", "evaluation")]
    return all(isinstance(part, dict) for part in parts) and _text(value.get("algorithm", {}).get("name", ""))


def _array(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        return False
    return all(map(_count, value["shape"])) and _text(value.get("dtype")) and _text(value.get("sha256"))


def _file(value: Any) -> bool:
    return isinstance(value, dict) and _count(value.get("bytes")) and _text(value.get("sha256"))


_SOUND: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("env_steps", "update", "records", "total_env_steps", "num_seeds"), _count),
    "logging_every": lambda value: value is None or _count(value),
    "elapsed_seconds": _number,
    "finite": lambda value: isinstance(value, bool),
    **dict.fromkeys(("reason", "written", "jaxtrain"), _text),
    "best": _best,
    "config": _config,
}
# Of which each entry is looked at by itself.
_TABLES: dict[str, Callable[[Any], bool]] = {
    "arrays": _array,
    "files": _file,
    "metrics": _number_or_none,
    "spaces": _text,
}
