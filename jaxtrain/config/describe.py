"""What a config may hold: rows for `--help`, and JSON Schema for editors.

In: the classes of fields, and the algorithms that there are. Out: a row for each field; or a mapping to be
printed as JSON, by which an editor completes, explains and checks a file.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from jaxtrain.config import fragment
from jaxtrain.config import yaml as files
from jaxtrain.config.field import Field
from jaxtrain.config.rate import KEYS
from jaxtrain.config.registry import ALGORITHMS, load_object
from jaxtrain.config.schema import Config, default_algorithm
from jaxtrain.errors import MISSING, ConfigError, Fault


def describe(cls: type[Any] = Config, algorithm: type[Any] | None = None) -> list[tuple[str, str, Any, str]]:
    """Every field that a file or a command line can set: its path, what to write, its default, what it is.

    Args:
      cls: of the config.
      algorithm: of its algorithm; unset, the default one.
    """
    rows: list[tuple[str, str, Any, str]] = []
    for f in dataclasses.fields(cls):
        spec: Field = f.metadata.get("field") or Field(lambda value: value, "VALUE")
        inner = spec.config
        if f.default_factory is default_algorithm:
            inner = algorithm or type(default_algorithm())
        if inner is not None:
            rows += [
                (f"{f.name}.{path}", kind, default, help) for path, kind, default, help in describe(inner)
            ]
        elif spec.kind:
            made = f.default is MISSING and f.default_factory is not MISSING
            default = f.default_factory() if made else f.default  # type: ignore[misc]
            rows.append((f.name, spec.kind, "none" if default is MISSING else default, spec.help))
    return rows


def json_schema(more: Mapping[str, type[Any]] | None = None) -> dict[str, Any]:
    """The schema of a file, draft 2020-12. What it refuses a config refuses too, see `fragment.py`.

    Args:
      more: `module:Class` -> algorithms besides those of the library.
    """
    classes = _Classes()
    known = {name: load_object(place) for name, place in ALGORITHMS.items()} | dict(more or {})
    top = classes.mapping(Config)
    top["properties"]["algorithm"] = _algorithm({name: classes.refer(cls) for name, cls in known.items()})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of jaxtrain",
        **top,
        "patternProperties": {f"^{files.ASIDE}": {"description": "a place for YAML anchors"}},
        "$defs": {"schedule": fragment.schedule(KEYS), **classes.found},
    }


def _algorithm(known: Mapping[str, fragment.Fragment]) -> dict[str, Any]:
    """By its name, unset that of the first default; one of the user's own may have any fields."""
    default = "ppo"
    cases: list[Any] = []
    for name, fields in known.items():
        case: Any = {"properties": {"name": {"const": name}}}
        cases.append({"if": case | ({} if name == default else {"required": ["name"]}), "then": fields})
    names = fragment.named(known) | {"default": default, "description": "see `jaxtrain list algorithms`"}
    return {"type": "object", "properties": {"name": names}, "allOf": cases}


class _Classes:
    """The classes of fields that a schema refers to, each once, under its name."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._names: dict[type[Any], str] = {}

    def refer(self, cls: type[Any]) -> dict[str, Any]:
        """A reference to the schema of the mappings that are read as that class."""
        if cls not in self._names:
            name = cls.__name__
            while name in self.found:
                name += "_"
            self._names[cls], self.found[name] = name, {}
            self.found[name] = self.mapping(cls)
        return {"$ref": f"#/$defs/{self._names[cls]}"}

    def mapping(self, cls: type[Any]) -> dict[str, Any]:
        """What is read as that class."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for f in dataclasses.fields(cls):
            spec: Field = f.metadata.get("field") or Field(lambda value: value, "VALUE")
            said: dict[str, Any] = {} if spec.accepts is True else {**self._resolved(spec.accepts)}
            if spec.help:
                said["description"] = spec.help
            default, works = _default(f, spec)
            if not works:
                required.append(f.name)
            elif spec.config is None:
                said["default"] = default
            properties[f.name] = said
        doc = inspect.getdoc(cls) or ""  # none under `python -OO`
        made = {"type": "object", "properties": properties, "additionalProperties": False}
        made |= {"required": required} if required else {}
        return made | ({"description": " ".join(doc.partition("\n\n")[0].split())} if doc else {})

    def _resolved(self, given: Any) -> Any:
        """A fragment with a reference in the place of each class."""
        if isinstance(given, type):
            return self.refer(given)
        if isinstance(given, Mapping):
            return {key: self._resolved(value) for key, value in given.items()}
        return [self._resolved(value) for value in given] if isinstance(given, list) else given


def _default(f: dataclasses.Field[Any], spec: Field) -> tuple[Any, bool]:
    """A field's default as a file has it, and whether the field takes it: else a value is needed."""
    made = f.default_factory() if f.default_factory is not MISSING else f.default  # type: ignore[misc]
    try:
        return files.plain(spec.read(made)), made is not MISSING
    except (Fault, ConfigError):
        return None, False
