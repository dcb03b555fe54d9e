"""A bug to plant in the package: a replacement of exact text. `run.py` plants it."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    what: str  # one line
    file: str  # in jaxtrain/
    old: str  # occurs once in the file
    new: str
