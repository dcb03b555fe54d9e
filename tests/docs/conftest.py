"""A directory to run the documentation in, as a clone is to its reader, and in short."""

from __future__ import annotations

import shutil

import pytest

from jaxtrain.tools import short
from tests.docs.printed import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What commands name of a clone, copied: nothing that they write is left in the real one."""
    directory = tmp_path_factory.mktemp("clone")
    for name in ("benchmarks", "examples", "experiments"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.fixture
def in_short(clone, monkeypatch):
    """That directory is the working directory, and runs are cut."""
    monkeypatch.chdir(clone)
    monkeypatch.setenv(short.VARIABLE, "1")
    return clone
