"""Files are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from jaxtrain.runs import disk


@pytest.fixture
def failing(monkeypatch):
    """Makes one function of `os` fail as a full disk does."""

    def fail(name):
        def raises(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, name, raises)

    return fail


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_text_and_nothing_else_and_names_the_file(tmp_path, failing, name):
    path = tmp_path / "file"
    disk.write(path, "old")
    failing(name)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        disk.write(path, "new")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_whoever_has_a_file_open_while_it_is_written_goes_on_reading_the_old_text(tmp_path):
    path = tmp_path / "file"
    disk.write(path, "old")
    with path.open() as reader:
        disk.write(path, "new and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new and longer"


@pytest.mark.parametrize(("length", "left"), [(0, b""), (3, b"abc"), (6, b"abcdef"), (99, b"abcdef")])
def test_a_file_is_cut_and_never_made_longer(tmp_path, length, left):
    (tmp_path / "file").write_bytes(b"abcdef")
    disk.cut(tmp_path / "file", length)
    assert (tmp_path / "file").read_bytes() == left


def test_a_sweep_takes_what_is_unfinished_and_nothing_that_it_leads_to(tmp_path):
    place, outside = tmp_path / "place", tmp_path / "outside"
    (place / ".part-a" / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (place / ".part-b").write_text("half")
    (place / ".part-c").symlink_to(outside)
    (place / "whole").write_text("whole")
    disk.sweep(place)
    assert [path.name for path in place.iterdir()] == ["whole"]
    assert (outside / "precious").read_text() == "mine"
    disk.fsync_tree(tmp_path)


def test_a_path_of_plain_characters_is_used_as_it_is_and_another_by_a_link_that_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with disk.plain(tmp_path) as path:
        assert path == tmp_path
    (tmp_path / "[1]").mkdir()
    with disk.plain(tmp_path / "[1]") as path:
        assert path.parent.parent == tmp_path / "temporary" and path.samefile(tmp_path / "[1]")
    assert [*(tmp_path / "temporary").iterdir()] == [] and (tmp_path / "[1]").is_dir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[1]"))
    with pytest.raises(OSError, match="set TMPDIR"), disk.plain(tmp_path / "[1]"):
        pass
    assert [*(tmp_path / "[1]").iterdir()] == []


def test_a_directory_that_cannot_be_synced_is_no_error_and_a_file_is():
    """`/proc` is a file system that answers EINVAL to both."""
    disk.fsync(Path("/proc"))
    disk.fsync_name(Path("/proc/version"))
    with pytest.raises(OSError, match="Invalid argument"):
        disk.fsync(Path("/proc/version"))
