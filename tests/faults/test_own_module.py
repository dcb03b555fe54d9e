"""An algorithm in a file of one's own: runs that use it find it again, as it was, or say what is otherwise.

In: copies of the example beside a config, moved, changed, planted. Out: exit codes and messages of real
processes. Knows nothing of what the algorithm learns.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import jaxtrain
from jaxtrain.tools import cli
from tests.faults.processes import call, ended, main, start
from tests.xla import FAST

ROOT = Path(jaxtrain.__file__).parents[1]
SMALL = """
env: {id: CartPole-v1, num_envs: 2}
algorithm: {name: "own_reinforce:Reinforce", rollout_length: 4, hidden_sizes: 4}
total_env_steps: 16
evaluation: {every: 0}
logging: {every: 8, sinks: [jsonlines]}
"""


def there(place: Path) -> None:
    """Be a Python that was started in a directory."""
    os.chdir(place)
    sys.path.insert(0, "")


def command(place: Path, *arguments: str) -> None:
    there(place)
    main(*arguments)


def say(*arguments: object, cwd: Path) -> tuple[int, str]:
    """A command in a process of its own, begun there; its exit code and what it says."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "output"
        code = ended(start(output, command, cwd, *map(str, arguments)))
        return code, output.read_text()


def module_of_algorithm(place: Path, run: Path) -> str:
    there(place)
    return type(jaxtrain.load(run, "last").config.algorithm).__module__


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with a config, a module beside it and a run, begun from elsewhere as a user does."""
    project = tmp_path_factory.mktemp("project")
    (project / "own_reinforce.py").write_text((ROOT / "examples" / "reinforce.py").read_text())
    (project / "small.yaml").write_text(SMALL)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    words = [sys.executable, "-m", "jaxtrain.tools.cli", "train", project / "small.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST}
    subprocess.run([*words, "--out", elsewhere / "run"], cwd=elsewhere, env=environment, check=True)
    return project, elsewhere


@pytest.fixture
def module(original):
    """The module's file, put back when the test is over."""
    path = original[0] / "own_reinforce.py"
    text = path.read_text()
    yield path
    path.write_text(text)


def test_a_run_records_its_module_and_goes_on_from_anywhere(original, module):
    run = original[1] / "run"
    about = json.loads((run / "run.json").read_text())
    digest = hashlib.sha256(module.read_bytes()).hexdigest()
    assert about["modules"] == {"own_reinforce": {"path": str(module.resolve()), "sha256": digest}}
    code, err = say("resume", run, "--total-env-steps", 24, cwd=run)  # nothing of it is on the path
    assert code == 0 and "going on from 16 of 24 env steps" in err
    assert json.loads((run / "run.json").read_text())["modules"] == about["modules"]


def test_a_changed_module_is_refused_by_name_and_nothing_is_touched(original, module):
    project, elsewhere = original
    before = (elsewhere / "run" / "run.json").read_bytes()
    then = hashlib.sha256(module.read_bytes()).hexdigest()[:12]
    module.write_text(module.read_text() + "\n# another\n")
    now = hashlib.sha256(module.read_bytes()).hexdigest()[:12]
    rule = f"module 'own_reinforce': {module} has sha256 {now}…, the run has {then}…; put it back as it was"
    for command in (["resume", elsewhere / "run"], ["verify", elsewhere / "run", "--replay"]):
        code, err = say(*command, cwd=elsewhere)
        assert code == 2 and rule in err and "Traceback" not in err
    longer = ("--total-env-steps", 24)
    code, err = say("train", project / "small.yaml", "--out", elsewhere / "run", *longer, cwd=elsewhere)
    assert code == 2 and rule in err
    assert (elsewhere / "run" / "run.json").read_bytes() == before


def test_a_module_planted_in_the_run_is_not_executed(original, module):
    """Though the record and the working directory lead there."""
    run = original[1] / "run"
    about = (run / "run.json").read_text()
    planted = run / "own_reinforce.py"
    planted.write_text(f"open({str(run / 'executed')!r}, 'w')\n")
    digest = hashlib.sha256(planted.read_bytes()).hexdigest()
    said = {name: value for name, value in json.loads(about).items() if name != "sha256"}
    hostile = said | {"modules": {"own_reinforce": {"path": str(planted), "sha256": digest}}}
    try:
        for text in (json.dumps(hostile), json.dumps(said | {"modules": {}})):
            (run / "run.json").write_text(text)
            code, err = say("resume", run, cwd=run)
            assert code == 2 and "own_reinforce" in err and not (run / "executed").exists()
    finally:
        (run / "run.json").write_text(about)
        planted.unlink()


def test_a_run_with_an_own_module_is_loaded_in_python_and_found_where_it_was_moved_to(
    original, module, tmp_path
):
    run = original[1] / "run"
    (tmp_path / "own_reinforce.py").write_text(module.read_text())
    assert call(module_of_algorithm, original[1], run) == "own_reinforce"
    module.unlink()
    assert call(module_of_algorithm, tmp_path, run) == "own_reinforce"


SHADOWS = ("orbax", "yaml", "jax", "tensorstore", "six", "tensorflow", "cloudpickle", "jax_plugins/evil")


def test_to_look_at_a_strangers_runs_executes_nothing_that_lies_there(original, module, tmp_path, capsys):
    """Not the files named as libraries are, nor the module that the run names."""
    run = tmp_path / "run"
    shutil.copytree(original[1] / "run", run)
    touch = f"import pathlib; (pathlib.Path({str(tmp_path)!r}) / f'{{__name__}} ran').touch()\n"
    for place in (tmp_path, run):
        for name in SHADOWS:
            (place / name).mkdir(parents=True)
            (place / name / "__init__.py").write_text(touch)
        (place / "own_reinforce.py").write_text(touch)
    looks = {("verify", "."): (run, "whole  finish"), ("runs", "."): (tmp_path, "finished")}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST}
    for words, (place, said) in looks.items():
        program = [sys.executable, "-m", "jaxtrain.tools.cli", *words]
        done = subprocess.run(program, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and said in done.stdout, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for words in (["plan", "run/config.yaml"], ["train", "run/config.yaml", "--help"]):
            assert cli.main(words) == 2
    rule = "algorithm.name = 'own_reinforce:Reinforce': is code that a run's directory names"
    assert capsys.readouterr().err.count(rule) == 2
    assert list(tmp_path.glob("* ran")) == []


def test_a_function_of_pythons_own_is_no_environment_and_is_not_called(tmp_path, capsys):
    (tmp_path / "abort.yaml").write_text('env: {id: "os:abort"}\n')
    assert cli.main(["plan", str(tmp_path / "abort.yaml")]) == 2
    assert "env.id = 'os:abort': 'os' is of Python's standard library" in capsys.readouterr().err
