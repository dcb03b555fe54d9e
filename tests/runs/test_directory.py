"""Who holds a directory, and what it says of itself. Runs and kills are in `tests/faults/`."""

from __future__ import annotations

import os
import subprocess

import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import directory as rundir


def test_what_a_run_says_of_itself_is_read_back_and_what_says_nothing_is_named(tmp_path):
    said = {
        "id": "a",
        "seed": 3,
        "key": None,
        "num_seeds": 1,
        "seeds": None,
        "start_from": None,
        "starts": [],
    }
    with rundir.RunDirectory(tmp_path / "run") as run:
        run.write_about(said)
        run.describe("env: {}\n")
    assert rundir.read_about(tmp_path / "run") == said
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "config.yaml",
        "README.md",
        "lock",
    }
    with pytest.raises(ConfigError, match="holds no run: there is no such directory"):
        rundir.read_about(tmp_path / "nowhere")
    for text, words in (
        ("{", "is not that of a run"),
        ("[]", "has no starts"),
        ('{"starts": 1}', "its starts is '1'"),
    ):
        (tmp_path / "run" / "run.json").write_text(text)
        with pytest.raises(ConfigError, match=words):
            rundir.read_about(tmp_path / "run")


@pytest.mark.parametrize("error", [ConfigError([]), TypeError(), OSError(), KeyboardInterrupt()])
def test_what_failed_before_its_first_write_leaves_nothing(error, tmp_path):
    with pytest.raises(type(error)), rundir.RunDirectory(tmp_path / "a" / "b"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_failed_after_its_first_write_leaves_that(tmp_path):
    with pytest.raises(TypeError), rundir.RunDirectory(tmp_path / "a") as run:
        (run.path / "run.json").write_text("{}")
        raise TypeError
    assert (tmp_path / "a" / "run.json").read_text() == "{}"


def test_a_path_inside_a_run_is_told_which_directory_is_meant(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "0000000000032").mkdir(parents=True)
    for name in ("run.json", "config.yaml"):
        (run / name).write_text("")
    meant = f"it is in a run, whose directory is {str(run)!r}"
    for inner, more in {
        "checkpoints/0000000000032": "; --which 32 is that checkpoint",
        "checkpoints/32": "; --which 32 is that checkpoint",
        "checkpoints": "",
        "config.yaml": "",
    }.items():
        with pytest.raises(ConfigError) as caught:
            rundir.read_about(run / inner)
        assert str(caught.value).endswith(meant + more)


@pytest.mark.parametrize("name", ["..", "../other", "link", "link/x", "/etc"])
def test_a_name_that_leads_out_of_a_directory_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of it"):
        rundir.inside(tmp_path / "run", name)
    assert rundir.inside(tmp_path / "run", "a/../b") == tmp_path / "run" / "a" / ".." / "b"


def test_a_start_says_the_flags_and_no_secret(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--some")
    monkeypatch.setenv("JAX_API_KEY", "5ec2e7")
    about = rundir.this_start(8, {"versions": {"jax": "1"}, "device": {"kind": "cpu"}})
    assert about["flags"]["XLA_FLAGS"] == "--some" and "5ec2e7" not in str(about)
    assert (about["pid"], about["resumed_at"], about["exit"]) == (os.getpid(), 8, None)


def planted(place, touch):
    """A repository of one commit whose own settings run `touch NAME` at every turn of git."""

    def git(*words, cwd=place):
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *own, *words], cwd=cwd, check=True, capture_output=True)

    inner = place / "inner"
    inner.mkdir(parents=True)
    for repository in (inner, place):  # the second has the first as a submodule
        git("init", "-q", cwd=repository)
        (repository / "text").write_text("text\n")
        (repository / ".gitattributes").write_text("* filter=a=b diff=c\n")
        git("add", ".", cwd=repository)
        git("commit", "-q", "-m", "x", cwd=repository)
        hooks = repository / ".git" / "planted"
        hooks.mkdir()
        for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
            (hooks / name).write_text(f"#!/bin/sh\n{touch} hook\n")
            (hooks / name).chmod(0o755)
        for name, value in {
            "core.fsmonitor": f"{touch} fsmonitor; false",
            "core.hooksPath": str(hooks),
            "filter.a=b.clean": f"{touch} clean; cat",
            "filter.a=b.process": f"{touch} process; false",
            "filter.a=b.required": "true",
            "diff.external": f"{touch} external",
            "diff.c.textconv": f"{touch} textconv; cat",
            "pager.status": f"{touch} pager; cat",
            "core.sshCommand": f"{touch} ssh",
            "extensions.partialClone": "origin",
            "remote.origin.url": f"ext::{touch} ext",
            "protocol.ext.allow": "always",
        }.items():
            git("config", name, value, cwd=repository)
        os.utime(repository / "text", (0, 0))  # git has to look into it


def test_git_is_asked_for_the_commit_and_nothing_that_the_repository_plants_is_run(tmp_path, monkeypatch):
    place, marks = tmp_path / "theirs", tmp_path / "marks"
    marks.mkdir()
    (tmp_path / "mark").write_text(f'#!/bin/sh\ntouch "{marks}/$1"\n')
    (tmp_path / "mark").chmod(0o755)
    planted(place, str(tmp_path / "mark"))
    head = (place / ".git" / "refs" / "heads").iterdir()
    commit = next(head).read_text().strip()
    for path in marks.iterdir():
        path.unlink()
    monkeypatch.chdir(place)
    assert rundir.this_start(None, {})["git"] == {"commit": commit, "dirty": False}
    (place / "text").write_text("TEXT\n")
    assert rundir.this_start(None, {})["git"] == {"commit": commit, "dirty": True}
    tree = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], capture_output=True, text=True).stdout.strip()
    (place / ".git" / "objects" / tree[:2] / tree[2:]).unlink()  # which git would fetch
    assert rundir.this_start(None, {})["git"] is None
    assert list(marks.iterdir()) == []
    for words in (["status"], ["cat-file", "-p", tree]):  # as it is asked at a shell
        subprocess.run(["git", *words], capture_output=True)
    assert {path.name for path in marks.iterdir()} >= {"fsmonitor", "process", "ext"}
