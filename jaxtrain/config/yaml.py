"""Configs as text: YAML files, overrides on a command line, and plain values to write.

In: a file and texts such as `algorithm.gamma=0.9`. Out: nested dicts and lists; and back.
Knows nothing of what the fields mean.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jaxtrain.config.field import is_config
from jaxtrain.config.number import is_array
from jaxtrain.config.rate import RateSchedule
from jaxtrain.config.registry import load_object
from jaxtrain.errors import MISSING, ConfigError, Fault, Problem, shortened

ASIDE = "x-"  # begins a key that is no field, as in other tools
MOST_BYTES = 1_000_000  # of a file
MOST_VALUES = 50_000  # in it, where an alias counts as all that it stands for
MOST_DEPTH = 50
MOST_DIGITS = 400  # more than a float has; YAML 1.1 takes `1:1:1:…` for a number in the base of 60


class _Loader(yaml.SafeLoader):
    """Keys are the words that stand there (YAML 1.1 reads `on` as true), and none stands twice.

    What is too much for a config is refused while it is read: a few lines of aliases may be 10^9 values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values, self._depth = 0, 0
        self._sizes: dict[int, int] = {}  # id of a node -> values in it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias, before = self.check_event(yaml.AliasEvent), self._values
        self._values, self._depth = before + 1, self._depth + 1
        mark = self.peek_event().start_mark
        if self._depth > MOST_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"is nested more than {MOST_DEPTH} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias:
            self._values = before + self._sizes.get(id(node), 1)  # of one that holds itself: not yet known
        else:
            self._sizes[id(node)] = self._values - before
        if self._values > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"holds more than {MOST_VALUES:,} values", problem_mark=mark)
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        number = node.tag.rpartition(":")[2] in ("int", "float")
        if number and len(node.value) > MOST_DIGITS:
            problem = f"a number has more than {MOST_DIGITS} characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                problem = (
                    f"{key.value!r} stands twice" if isinstance(key, yaml.ScalarNode) else "a key is no word"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        self.flatten_mapping(node)  # `<<`, whose keys may stand again
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, without the keys at its top that begin with `x-`: a place for anchors.

    Raises:
      ConfigError: a file that cannot be read, is not YAML, or holds nothing or something else.
    """
    try:
        with Path(path).open("rb") as file:
            return parse(file.read(MOST_BYTES + 1), str(path))
    except OSError as error:
        raise ConfigError([Problem(str(path), MISSING, f"cannot be read ({error.strerror})")]) from None


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The mapping in a YAML text; see `read`.

    Args:
      name: what errors call it.
    """
    if len(data) > MOST_BYTES:
        rule = f"is too long for a config, which has at most {MOST_BYTES:,} bytes"
        raise ConfigError([Problem(name, MISSING, rule)])
    try:
        found = yaml.load(data.decode("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([Problem(name, MISSING, f"is not YAML: {_where(error)}")]) from None
    if found is None:
        rule = "holds no field, as a copy that was cut off; for every default write {}"
        raise ConfigError([Problem(name, MISSING, rule)])
    if not isinstance(found, dict):
        raise ConfigError([Problem(name, found, "needs a mapping of fields at the top")])
    return {key: value for key, value in found.items() if not key.startswith(ASIDE)}


# What PyYAML says -> what it mostly means.
_MEANT = {
    "mapping values are not allowed here": "a `key: value` is indented as no other, or stands behind another",
    "expected <block end>": "it is indented unlike the lines that it belongs to",
    "found character '\\t'": "a tab; indent by spaces",
    "could not find expected ':'": "a key needs `: ` and a value behind it",
    "expected ',' or": "a bracket in front of it was not closed, or a comma is missing",
}


def _where(error: Exception) -> str:
    """What is wrong with a text, and the line where that was seen."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split()).replace(' in "<unicode string>",', ",")
    said = error.problem or "cannot be read"
    meant = next((text for start, text in _MEANT.items() if said.startswith(start)), "")
    lines = (mark.buffer or "").rstrip("\0").splitlines()
    line = lines[mark.line].strip() if mark.line < len(lines) else ""
    there = f": {shortened(line)!r}" if line else ""
    what = f"{meant} ({said})" if meant else said
    return f"{what}, at line {mark.line + 1}, column {mark.column + 1}{there}"


def override(raw: dict[str, Any], written: str) -> None:
    """Set one value in nested mappings and lists, from `field.name=value`; mappings on the way are made.

    Raises:
      ConfigError: another form, or a path through something that has no fields.
    """
    path, equals, text = written.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([Problem(written, MISSING, "an override needs the form field.name=value")])
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        value = text  # what YAML cannot read, or will not: its field says what it needs
    here: Any = raw
    for i, key in enumerate(keys):
        slot: Any = key
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                rule = f"needs an index below {len(here)}" if here else "the list is empty"
                raise ConfigError([Problem(".".join(keys[: i + 1]), MISSING, rule)])
            slot = int(key)
        elif not isinstance(here, dict):
            raise ConfigError([Problem(".".join(keys[:i]), here, "has no fields to override")])
        if i == len(keys) - 1:
            here[slot] = value
        elif isinstance(here, dict) and here.get(slot) is None:
            here[slot] = {}
        here = here[slot]


def name_of(value: Any) -> str | None:
    """The `package.module:name` that gives this very object, if there is one."""
    name = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    try:
        return name if load_object(name) is value else None
    except Fault:
        return None


def plain(value: Any) -> Any:
    """A config as plain YAML values; an object given from Python becomes its name, or else its `repr`."""
    if is_config(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, RateSchedule):
        value = value.as_mapping()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if is_array(value):
        return value.tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return name_of(value) or re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # the same in another process
