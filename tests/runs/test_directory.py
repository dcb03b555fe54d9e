"""Who holds a directory, and what it says of itself. Runs and kills are in `tests/faults/`."""

from __future__ import annotations

import os

import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import directory as rundir


def test_what_a_run_says_of_itself_is_read_back_and_what_says_nothing_is_named(tmp_path):
    with rundir.RunDirectory(tmp_path / "run") as run:
        run.write_about({"seed": 3, "starts": []})
        run.describe("env: {}\n")
    assert rundir.read_about(tmp_path / "run") == {"seed": 3, "starts": []}
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
        ('{"starts": 1}', "no starts"),
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
    about = rundir.this_start(8, {"jax": "1"}, {"kind": "cpu"})
    assert about["flags"]["XLA_FLAGS"] == "--some" and "5ec2e7" not in str(about)
    assert (about["pid"], about["resumed_at"], about["exit"]) == (os.getpid(), 8, None)
