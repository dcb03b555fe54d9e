"""Hostile names, links, checkpoints and environments: nothing outside the run is touched, run or told.

In: names that lead elsewhere, links out of the directory, manifests sealed anew, planted code, secrets.
Out: a refusal or a file inside the run's directory. Knows nothing of chance; `test_corruption.py` has that.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import jax.numpy as jnp
import pytest
import yaml

import jaxtrain
from jaxtrain import ConfigError, Event, every
from jaxtrain.config import yaml as files
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.checkpoint import Damaged
from jaxtrain.runs.launch import launch
from jaxtrain.tools import cli
from tests.faults.processes import Drift, rows
from tests.faults.test_corruption import listing
from tests.helpers import tiny

ENV = "tests.helpers:Walk"
PLAIN = {"every": 8, "sinks": ["jsonlines"]}
SINKS = {"every": 8, "sinks": ["jsonlines", "tensorboard"]}
PACKAGE = Path(jaxtrain.__file__).parent


def config_of(updates=2, **given):
    base = {"env": ENV, "algorithm": Drift(), "logging": SINKS, "checkpoint": {"every": 8, "keep_last": 9}}
    return tiny(updates, **(base | given))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original") / "run"
    launch(config_of(), directory, seed=3, cache=False)
    return directory


@pytest.fixture
def run(original, tmp_path):
    """A run, in a directory of its own beside `outside`, which holds what must not change."""
    shutil.copytree(original, tmp_path / "home" / "run")
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_text("precious\n" * 1000)
    (outside / "directory" / "file").write_text("precious too\n" * 1000)
    return tmp_path / "home" / "run"


@pytest.fixture
def outside(run):
    return run.parent.parent / "outside"


def resealed(place, **changes):
    """A checkpoint whose manifest says something else, with the digest that belongs to it."""
    manifest = json.loads((place / "manifest.json").read_text()) | changes
    manifest["files"] = {
        path.relative_to(place).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted((place / "arrays").rglob("*"))
        if path.is_file()
    } | changes.get("files", {})
    text = json.dumps(manifest).encode()
    (place / "manifest.json").write_bytes(text)
    (place / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    return manifest


def newest(run):
    return list(manager.found(run / "checkpoints").values())[-1]


# ---- names of directories


@pytest.mark.parametrize("name", ["nul\0", "x/\0/y", "n" * 300, "a/" + "ä" * 150, "\ud800"])
def test_a_directory_with_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="directory"):
        launch(config_of(), f"{tmp_path}/runs/{name}", cache=False)
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == []


def test_a_directory_with_any_other_name_holds_all_of_its_run(tmp_path, monkeypatch):
    """What the name means to a shell, a URL or a format string is nothing to the run."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = ["../up", "./a/../b", str(tmp_path / "absolute"), "-rf Ünï 🙂 %s{0}$(touch x)\n;'\"~"]
    for name in names:
        ending = launch(config_of(1, logging=PLAIN), name, cache=False)
        place = Path(os.path.abspath(name))
        assert ending.directory == place
        assert manager.found(place / "checkpoints").keys() == {0, 8} and len(rows(place)) == 1
    assert launch(config_of(1, logging=PLAIN), names[-1], cache=False).resumed_at == 8
    tops = {Path(os.path.abspath(name)) for name in names}
    found = {path for path in tmp_path.rglob("*") if path.is_file() and not tops & set(path.parents)}
    assert found == set()


# ---- links that lead out


def out(run, name, target):
    path = run / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


NAMES = [
    *("checkpoints", "metrics.jsonl", "tensorboard", "wandb", "autotune", "config.yaml", "run.json", "lock"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_link_out_of_a_run_is_refused_and_nothing_changes_on_either_side(run, outside, name):
    target = outside / ("directory" if "." not in name and name != "lock" else "file")
    for to in (target, outside / "nothing", os.path.relpath(target, run)):
        out(run, name, to)
        before = listing(outside), listing(run, but=["lock"])
        with pytest.raises(ConfigError, match=f"{name} leads out of it, to .*outside"):
            launch(config_of(4), run, cache=False)
        assert (listing(outside), listing(run, but=["lock"])) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_link_out_of_a_directory_that_is_to_become_a_run_is_refused(run, outside, name):
    place = run.parent / "new"
    place.mkdir()
    (place / name).symlink_to(outside / "nothing")
    before = listing(outside)
    with pytest.raises(ConfigError, match=f"{name} leads out of it"):
        launch(config_of(), place, cache=False)
    assert listing(outside) == before


def test_links_deeper_inside_and_on_the_way_change_nothing_outside(run, outside):
    """Names that a run does not use by itself, and those of its unfinished files."""
    (run / "README.md").unlink()
    for name, target in {
        "README.md": "nothing",  # which is to be written
        "notes": "directory",
        ".part-1": "file",
        "checkpoints/.part-1": "directory",
        "checkpoints/.part-2": "file",
        "checkpoints/0000000000099.set-aside": "directory",
    }.items():
        (run / name).symlink_to(outside / target)
    before = listing(outside)
    launch(config_of(4), run, cache=False)
    assert listing(outside) == before
    assert len(rows(run)) == 4


LINKS = [
    *("tensorboard/seed_0001", "tensorboard/seed_0001/events.out.tfevents.0", "tensorboard/deeper"),
    *("autotune/deeper", "autotune/a/b/kernel"),
]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_directories_of_curves_and_kernels_is_refused_and_nothing_outside_changes(
    run, outside, name
):
    """With single seeds, curves are in `tensorboard/seed_0001`."""
    target = outside / ("directory" if name.endswith(("seed_0001", "deeper")) else "file")
    (outside / "directory" / "events.out.tfevents.1").write_text("precious")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(target)
    before = listing(outside)
    with pytest.raises(ConfigError, match=f"{name} leads out of it"):
        launch(config_of(4), run, cache=False)
    new = run.parent / "new"
    (new / name).parent.mkdir(parents=True)
    (new / name).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{name} leads out of it"):
        launch(
            config_of(logging=SINKS | {"tensorboard": {"seeds": "separate"}}), new, num_seeds=2, cache=False
        )
    assert listing(outside) == before


# ---- checkpoints that lie, sealed with a right digest


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_log_of_a_manifest_that_is_outside_is_never_cut(run, outside, absolute, first):
    name = str(outside / "file") if absolute else "../../outside/file"
    logs = json.loads((newest(run) / "manifest.json").read_text())["logs"]
    resealed(newest(run), logs={name: 3, **logs} if first else {**logs, name: 3})
    before = listing(outside)
    with pytest.raises(ConfigError, match="leads out of it"):
        launch(config_of(4), run, cache=False)
    assert listing(outside) == before


LOGS_OF_NONE = [
    *({name: 3} for name in ("config.yaml", "run.json", "lock", "README.md", ".", "", "tensorboard")),
    {"checkpoints/0000000000000/manifest.json": 3},
    {"a\0b": 3},
    {"metrics.jsonl": -1},
    {"metrics.jsonl": "x"},
    {"metrics.jsonl": True},
    [],
    None,
    "x",
]


@pytest.mark.parametrize("logs", LOGS_OF_NONE, ids=str)
def test_a_manifest_whose_logs_are_none_is_refused_and_nothing_is_cut(run, logs):
    resealed(newest(run), logs=logs)
    before = listing(run, but=["lock"])
    with pytest.raises(ConfigError, match="log"):
        launch(config_of(4), run, cache=False)
    assert listing(run, but=["lock"]) == before


def test_to_verify_a_checkpoint_that_says_odd_things_of_itself_prints_them_as_text(run, capsys):
    resealed(newest(run), reason="\x1b[2J", best={"metric": "\x9b1m\n0000000000099  whole", "value": 1.0})
    assert cli.main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].isprintable() and lines[-1].startswith(r"0000000000016  whole  \x1b[2J")
    for odd in ({"reason": {}, "best": 3}, {"best": {"value": "high"}}, {"best": {"value": 1.0}}):
        resealed(newest(run), **odd)
        assert cli.main(["verify", str(run)]) == 1
        assert "none of a checkpoint: its " in capsys.readouterr().out
    manifest = newest(run) / "manifest.json"
    manifest.write_text('{"format":' * 100_000)
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    (newest(run) / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    assert cli.main(["verify", str(run)]) == 1 and "is none of a checkpoint" in capsys.readouterr().out


def test_files_of_a_manifest_that_are_outside_are_damage(run, outside):
    for name in ("../../../../outside/file", str(outside / "file")):
        data = (outside / "file").read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        resealed(newest(run), files={name: entry})
        with pytest.raises(Damaged, match="file is missing"):
            checkpoint.load(newest(run))


# ---- planted code


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_planted_pickles_and_code_in_the_metadata_are_never_run(run, tmp_path):
    marker = tmp_path / "it ran"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb).close()  # it works
    marker.unlink()
    place = newest(run)
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    (place / "arrays" / "bomb.pkl").write_bytes(bomb)
    (place / "arrays" / "conftest.py").write_text(code)
    (place / "arrays" / "__init__.py").write_text(code)
    with pytest.raises(Damaged, match="does not belong there"):
        checkpoint.load(place)
    resealed(place)
    checkpoint.load(place)  # they are files of it now, and nobody reads them
    assert not marker.exists()

    metadata, about = place / "arrays" / "_METADATA", place / "arrays" / "_CHECKPOINT_METADATA"
    tree, said = json.loads(metadata.read_text()), json.loads(about.read_text())
    types = [code, "builtins.eval", "os.system", "jax.Array", "Dict", "None", "pickle.loads"]
    loaded = 0
    for kind in types:
        for entry in tree["tree_metadata"].values():
            entry["value_metadata"]["value_type"] = kind
        metadata.write_text(json.dumps({**tree, "custom_metadata": {"__reduce__": code}}))
        about.write_text(json.dumps({**said, "item_handlers": kind, "custom_metadata": {"code": code}}))
        resealed(place)
        try:
            checkpoint.load(place)
            loaded += 1
        except Damaged:
            pass
        assert not marker.exists(), kind
    for data in (bomb, code.encode(), b"!!python/object/apply:os.system ['x']"):
        for path in (metadata, about):
            kept = path.read_bytes()
            path.write_bytes(data)
            resealed(place)
            with suppress(Damaged):
                checkpoint.load(place)
            assert not marker.exists()
            path.write_bytes(kept)
    print(f"\n{len(types) + 6}/{len(types) + 6} hostile checkpoints ran nothing")


def test_arrays_of_objects_are_damage_and_not_unpickled(run, tmp_path):
    place = newest(run)
    said = json.loads((place / "manifest.json").read_text())["arrays"]
    for dtype in ("object", "O", "V8", "no such dtype", 3, None):
        name = next(iter(said))
        for shape in ([0], said[name]["shape"]):
            resealed(place, arrays=said | {name: {**said[name], "dtype": dtype, "shape": shape}})
            with pytest.raises(Damaged):
                checkpoint.load(place)


def test_yaml_that_builds_objects_is_refused(run, tmp_path, capsys):
    marker = tmp_path / "it ran"
    for text in (
        f"!!python/object/apply:os.system ['touch {marker}']",
        f"env: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]",
    ):
        (run / "config.yaml").write_text(text)
        assert cli.main(["resume", str(run)]) == 2
        assert "Traceback" not in capsys.readouterr().err
        with pytest.raises(ConfigError):
            launch(config_of(4), run, cache=False)
        assert not marker.exists()


CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "code",
    "runpy",
}


def test_the_package_neither_imports_pickle_nor_evaluates_text():
    seen, found = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            seen += 1
            match node:
                case ast.Import(names):
                    found += [f"{where}: {n.name}" for n in names if n.name.partition(".")[0] in MODULES]
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                    found.append(f"{where}: {module}")
                case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                    found.append(f"{where}: {name}()")
                case ast.Call(func=ast.Attribute(value=ast.Name("yaml"), attr=name)) if name in (
                    "load",
                    "unsafe_load",
                    "full_load",
                    "load_all",
                ):
                    loaders = [ast.unparse(word.value) for word in node.keywords if word.arg == "Loader"]
                    loaders += [ast.unparse(word) for word in node.args[1:]]
                    if loaders != ["_Loader"]:
                        found.append(f"{where}: yaml.{name}")
                case ast.keyword(arg="allow_pickle", value=ast.Constant(True)):
                    found.append(f"{where}: allow_pickle")
                case ast.keyword(arg="shell", value=ast.Constant(True)):
                    found.append(f"{where}: shell")
    assert issubclass(files._Loader, yaml.SafeLoader)
    assert seen > 10_000
    assert found == []


# ---- names of metrics and events


EVENT_NAMES = [
    "../../up",
    "/etc/x",
    "a/../../b",
    "Ünï 🙂",
    "n" * 300,
    "nul\0",
    "\n",
    " ",
    "..",
    "C:\\x",
    "<img>",
]


def test_metrics_and_events_of_any_name_stay_inside_the_run(tmp_path):
    """Those that a config or a constructor refuses are refused before a directory is made."""

    def report(trainer, state, key):
        return state, {name: jnp.float32(1.0) for name in EVENT_NAMES}

    taken, refused = [], []
    for name in EVENT_NAMES:
        try:
            taken.append(Event(name, every(8), report))
        except ValueError as error:
            assert "name" in str(error).lower()
            refused.append(name)
    taken.append(Event("plain", every(8), report))
    home = tmp_path / "a" / "b" / "c"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ending = launch(config_of(checkpoint={"every": 8}), home / "run", events=taken, cache=False)
    assert [str(w.message) for w in caught if w.category is RuntimeWarning] == []
    assert ending.losses == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and home / "run" not in path.parents] == []
    logged = {row["name"]: row["values"] for row in rows(home / "run")}
    assert logged.keys() >= {event.name for event in taken}
    assert set(logged["plain"]) == set(EVENT_NAMES)
    print(f"\n{len(taken) - 1} names taken and kept inside, {len(refused)} refused")


# ---- secrets

SECRETS = {
    name: f"s3cr3t-{i:02d}-{'0123456789abcdef' * 2}"
    for i, name in enumerate(
        [
            "WANDB_API_KEY",
            "OPENAI_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "MY_SECRET",
            "DB_PASSWORD",
            "JAX_PRIVATE_KEY",
            "JAX_TOKEN",
            "JAX_CLIENT_SECRET",
            "JAX_PASSWORD",
            "XLA_API_KEY",
            "XLA_TOKEN",
            "TF_CPP_SECRET",
            "jax_token",
            "JAX_CREDENTIALS",
        ]
    )
}


def test_no_secret_of_the_environment_is_in_any_file_of_the_run(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_HARMLESS", "harmless-value")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    config = config_of(logging={"every": 8, "sinks": ["jsonlines", "tensorboard", "wandb", "console"]})
    launch(config, tmp_path / "run", seed=3, cache=False)
    searched, found, harmless = 0, [], []
    for path in tmp_path.rglob("*"):
        if not path.is_file():
            continue
        searched, data = searched + 1, path.read_bytes()
        found += [f"{name} in {path}" for name, value in SECRETS.items() if value.encode() in data]
        harmless += [path.name] if b"harmless-value" in data else []
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert "run.json" in harmless  # the search finds what is there
    print(f"\n0 of {len(SECRETS)} secrets in {searched} files")
    assert found == []
