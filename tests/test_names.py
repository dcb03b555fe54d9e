"""Objects by name: what Python's standard library has is none, and is not called, whoever hands it on."""

from __future__ import annotations

import sys

import pytest

from jaxtrain.errors import ConfigError, Fault
from jaxtrain.names import extra, load_object


@pytest.mark.parametrize(
    "name", ["os:abort", "builtins:breakpoint", "posix:abort", "antigravity:x", "this.x:y", "idlelib.idle:x"]
)
def test_nothing_of_the_standard_library_has_a_name_and_nothing_of_it_is_imported(name):
    before = set(sys.modules)
    with pytest.raises(Fault, match="of Python's standard library, and no part of a run is"):
        load_object(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["abort", "os.abort", "sys.intern", "Path", "open_it"])
def test_nor_has_what_another_module_has_imported_from_it(name, tmp_path, monkeypatch):
    text = "import os, sys\nfrom os import abort\nfrom pathlib import Path\nopen_it = open\n"
    (tmp_path / "hands_on.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "hands_on", raising=False)
    with pytest.raises(Fault, match=rf"'{name}' of .* is of Python's standard library"):
        load_object(f"hands_on:{name}")


def test_what_is_made_with_it_has_a_name(tmp_path, monkeypatch):
    text = "import functools\nmade = functools.partial(int, 3)\n@functools.cache\ndef cached(): ...\n"
    (tmp_path / "makes_more.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_object("makes_more:made")() == 3 and callable(load_object("makes_more:cached"))


@pytest.mark.parametrize("name", ["jaxtrain.__main__:x", "pip.__main__:x"])
def test_a_program_is_not_begun(name):
    with pytest.raises(Fault, match="is a program"):
        load_object(name)


def test_a_package_that_is_not_there_is_named_with_its_use_and_the_line_that_installs_it():
    with pytest.raises(ConfigError) as error:
        extra("no_such_package.part", "video", "films are written by it")
    rule = "is not installed; films are written by it: pip install 'jaxtrain[video]'"
    assert str(error.value) == f"no_such_package: {rule}"


def test_one_that_fails_for_another_reason_says_which(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^half_there: does not import .*'no_such_package'"):
        extra("half_there", "video", "films are written by it")
