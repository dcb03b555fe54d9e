"""Where the modules of a config are looked for, and what is known of their files."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from jaxtrain import ConfigError, load_config
from jaxtrain.config import modules
from jaxtrain.config.registry import load_object


@pytest.fixture(autouse=True)
def forgotten():
    """What a test imports is imported for that test alone."""
    before = set(sys.modules)
    path = list(sys.path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def written(directory: Path, name: str, value: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.py"
    path.write_text(f"VALUE = {value!r}\n")
    return path


def test_a_module_is_looked_for_among_the_installed_then_in_each_place_in_turn(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    written(first, "tabulate_me", "planted")  # of an installed package, and not imported yet
    installed = written(tmp_path / "site-packages", "tabulate_me", "installed").parent
    written(first, "own_a", "first")
    written(second, "own_a", "second")
    written(second, "own_b", "second")
    sys.path.append(str(installed))
    with modules.looking_in([first, second]):
        assert load_object("own_a:VALUE") == "first" and load_object("own_b:VALUE") == "second"
        assert load_object("tabulate_me:VALUE") == "installed"
    assert str(first) not in sys.path


@pytest.mark.parametrize("entry", ["", ".", "{}"])
def test_the_working_directory_is_searched_last_where_it_is_a_place_and_else_not_at_all(
    entry, tmp_path, monkeypatch
):
    written(tmp_path, "own_h", "here")
    written(tmp_path, "plotting", "planted")
    written(tmp_path / "site-packages", "plotting", "installed")
    monkeypatch.chdir(tmp_path)
    sys.path[:] = [entry.format(tmp_path), *sys.path, str(tmp_path / "site-packages")]
    with modules.looking_in([]), pytest.raises(Exception, match="No module named 'own_h'"):
        load_object("own_h:VALUE")
    with modules.looking_in([tmp_path]):
        assert load_object("own_h:VALUE") == "here" and load_object("plotting:VALUE") == "installed"


def test_of_a_config_in_a_runs_directory_all_code_is_named_and_of_another_nothing(tmp_path):
    tree = {"env": {"id": "a.b:C"}, "events": [{"run": "d:e"}], "logging": {"wandb": {"tags": ["f:g"]}}}
    assert modules.not_asked_for(tmp_path / "config.yaml", tree) == []
    (tmp_path / "run.json").write_text("{}")
    found = modules.not_asked_for(tmp_path / "config.yaml", tree)
    assert [(p.path, p.value) for p in found] == [("env.id", "a.b:C"), ("events.0.run", "d:e")]


def test_no_place_is_a_runs_directory_also_where_python_has_put_it(tmp_path, monkeypatch):
    written(tmp_path, "own_c", "planted")
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with modules.looking_in([tmp_path, tmp_path / "."]):
        assert str(tmp_path) not in sys.path
        with pytest.raises(Exception, match="No module named 'own_c'"):
            load_object("own_c:VALUE")


@pytest.mark.parametrize("where", ["algorithm: {{name: '{}:VALUE'}}", "env: {{id: '{}:VALUE'}}"])
def test_a_config_that_names_a_file_in_a_runs_directory_is_refused_and_nothing_is_executed(
    where, tmp_path, monkeypatch
):
    run = tmp_path / "runs" / "evil"
    path = written(run / "inner", "payload", "planted")
    path.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n")
    (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text(where.format("runs.evil.inner.payload"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"is in the directory of a run, .*nothing is executed"):
        load_config(run / "config.yaml")
    assert not (tmp_path / "executed").exists()


def test_only_what_no_package_has_installed_is_recorded_with_path_and_sha256(tmp_path, monkeypatch):
    path = written(tmp_path, "own_d", "mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = ["own_d:VALUE", "json:loads", "numpy:array", "jaxtrain.types:Step", "nowhere:f", "10:30"]
    load_object(named[0])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tree = {"algorithm": {"name": named[0]}, "events": [{"run": name} for name in named]}
    assert modules.origins(tree) == {"own_d": {"path": str(path), "sha256": digest}}


@pytest.mark.parametrize("name", ["own_e", "own_package.inner.own_e"])
def test_a_recorded_module_is_imported_from_its_file_and_no_other(name, tmp_path, monkeypatch):
    *parents, last = name.split(".")
    path = written(tmp_path.joinpath("there", *parents), last, "there")
    written(tmp_path.joinpath("here", *parents), last, "here")
    with modules.looking_in([tmp_path / "there"]):
        load_object(f"{name}:VALUE")
        recorded = modules.origins([f"{name}:VALUE"])
    assert recorded[name]["path"] == str(path)
    for known in (name, *parents, ".".join(parents)):
        sys.modules.pop(known, None)
    with modules.looking_in([tmp_path / "here"] if not parents else []):
        modules.restore(recorded)
        assert load_object(f"{name}:VALUE") == "there"
        imported = sys.modules[name]
        modules.restore(recorded)  # its classes stay those that objects are of
        assert sys.modules[name] is imported


def test_a_recorded_module_that_is_gone_changed_or_in_a_run_is_refused_by_name(tmp_path):
    path = written(tmp_path, "own_f", "mine")
    good = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    changed = good | {"sha256": "0" * 64}
    with pytest.raises(ConfigError, match=rf"module 'own_f': {path} has sha256 {good['sha256'][:12]}…"):
        modules.restore({"own_f": changed})
    with pytest.raises(ConfigError, match=r"module 'own_g': .*is not there"):
        modules.restore({"own_g": good | {"path": str(tmp_path / "own_g.py")}})
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"module 'own_f': .*nothing is executed"):
        modules.restore({"own_f": good})
    assert "own_f" not in sys.modules


@pytest.mark.parametrize(
    "recorded",
    [
        [],
        {"a": 3},
        {"a": {"path": "relative.py", "sha256": ""}},
        {"a": {"path": "/a.py"}},
        {"../a": {"path": "/a.py", "sha256": ""}},
        {"a": {"path": "/a.so", "sha256": ""}},
    ],
)
def test_what_is_no_record_of_modules_is_refused(recorded):
    with pytest.raises(ConfigError, match=r"modules in run\.json: are not those of a run"):
        modules.restore(recorded)
