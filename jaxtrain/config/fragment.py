"""What a field takes from a file, as JSON Schema (draft 2020-12).

In: the bounds and choices of a field. Out: a fragment of a schema, in which a class of fields stands for that
of its own mapping, see `describe.py`. A fragment refuses nothing that the field takes. It takes some that the
field refuses: what only a rule across fields, an import or an environment can tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

Fragment: TypeAlias = dict[str, Any]

ANYTHING = True
STRING: Fragment = {"type": "string"}
TEXT = {"type": "string", "pattern": r"\S"}
NAME: Fragment = TEXT | {"maxLength": 200}
MAPPING: Fragment = {"type": "object"}
# Text that may be a number, as `3e-4` is in YAML 1.1: a digit, and only what stands in numbers.
_NUMBER = r"^[\s\d_.eE+-]*\d[\s\d_.eE+-]*$"
_NUMBERS = r"^[\s\d_.eE+,()\[\]-]*$"
OWN = {"type": "string", "pattern": ":"}  # package.module:name


def number(
    low: float | None = None, high: float | None = None, above: float | None = None, *, whole: bool = False
) -> Fragment:
    """A number between bounds, or text that reads as one."""
    bounds = {"minimum": low, "maximum": high, "exclusiveMinimum": above}
    kinds = ["integer" if whole else "number", "string"]
    return {"type": kinds, "pattern": _NUMBER} | {k: v for k, v in bounds.items() if v is not None}


def integers(low: int, high: int | None) -> Fragment:
    """A list of ints, a single one, or text with commas."""
    one = number(low, high, whole=True)
    return one | {"type": ["array", *one["type"]], "items": one, "pattern": _NUMBERS}


def rate(one: Fragment) -> Fragment:
    """A number, or a schedule of it, whose own bounds are not told."""
    return {"anyOf": [one, {"$ref": "#/$defs/schedule"}]}


def words(*given: str) -> Fragment:
    """One of these words, in whatever case."""
    cases = ("".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in word) for word in given)
    return {"type": "string", "pattern": rf"^\s*({'|'.join(cases)})\s*$"}


def flag(*given: str) -> Fragment:
    """A bool, or one of the words that mean one."""
    return words(*given) | {"type": ["boolean", "string"]}


def choice(options: Collection[str]) -> Fragment:
    """One of several words; a bare `off` is false in YAML 1.1."""
    return {"enum": [*options, *([False] if "off" in options else [])]}


def named(options: Collection[str]) -> Fragment:
    """One of the names that the library knows, or package.module:name."""
    return {"anyOf": [{"enum": [*options]}, OWN]}


def listed(item: Any, *, text: bool = False) -> Fragment:
    """A list of items, with `text` also written as text with commas."""
    return {"type": ["array", "string"] if text else "array", "items": item}


def optional(fragment: Any) -> Fragment:
    """That, or none."""
    return {"anyOf": [fragment, {"type": "null"}, words("none", "null")]}


def schedule(kinds: Mapping[str, Collection[str]]) -> Fragment:
    """A rate that moves.

    Args:
      kinds: schedule -> the keys that it takes, of which the first two have to be there.
    """
    steps, scale = number(0, whole=True), number()
    values = {
        "from": number(),
        "to": number(),
        "over": {"anyOf": [number(1, whole=True), {"type": "null"}]},
        "warmup": steps,
        "values": {"type": ["array", *scale["type"]], "items": scale, "pattern": _NUMBER},
        "at": integers(1, None),
    }

    def one(kind: Fragment, keys: Collection[str], required: Collection[str]) -> Fragment:
        return {
            "type": "object",
            "properties": {"schedule": kind, **{key: values[key] for key in keys}, "scale": scale},
            "required": ["schedule", *required],
            "additionalProperties": False,
        }

    return {
        "description": "A rate that moves with the env steps done.",
        "anyOf": [
            *(one({"const": kind}, keys, [*keys][:2]) for kind, keys in kinds.items()),
            one(OWN, (), ()),
        ],
    }
