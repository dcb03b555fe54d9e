"""Every command in the documentation is one that its program takes, and every name in it is of something."""

from __future__ import annotations

import importlib
import re

import pytest

import jaxtrain
from tests.docs import commands, printed
from tests.docs.printed import ROOT, Block, Command


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_command_that_is_printed_is_read_as_printed():
    found = {command[1:3]: command for command in printed.everywhere()}
    assert {place.partition(":")[0] for place, *_ in found.values()} >= {"README.md", "Makefile"}
    wrong = []
    for command in found.values():
        try:
            commands.read(command)
        except (Exception, SystemExit) as error:
            wrong.append(f"{command}\n    {error}")
    assert not wrong, "\n".join(wrong)


def test_every_block_says_its_language_and_every_python_block_is_python():
    for path in printed.documents():
        for block in printed.blocks(path):
            assert block.language in printed.LANGUAGES, f"{block.place}: {block.language!r}"
            if block.language == "python":
                compile(block.text, block.place, "exec")


def test_what_the_documentation_names_of_the_package_and_of_the_clone_is_there():
    for path in printed.documents():
        roots = [ROOT, ROOT / "jaxtrain", path.parent]
        for place, text, _ in printed.spans(path):
            if re.fullmatch(r"[\w.]+/[\w./]+\.(py|yaml|toml|txt|md|png)", text) and "runs" not in text:
                assert any((root / text).exists() for root in roots), f"{place}: there is no {text}"
            if found := re.match(r"jaxtrain((?:\.\w+)+)", text):
                here = importlib.import_module("jaxtrain")
                for name in found[1].split(".")[1:]:
                    assert hasattr(here, name), f"{place}: {text}: no {name}"
                    here = getattr(here, name)


ROW = re.compile(r"^\| `(\w+\.yaml)`.*? \| ([\d,]+) \| (-?[\d.]+) \| (-?[\d.]+) to (-?[\d.]+) \|", re.M)


def test_what_an_experiment_reaches_is_said_with_command_device_and_date_and_alike_in_both_places():
    rows: dict[str, list[tuple[str, ...]]] = {}
    for file, *row in ROW.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        rows.setdefault(file, []).append(tuple(row))
    for path in (ROOT / "experiments").glob("*.yaml"):
        head = " ".join(
            line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "# "
        )
        command = rf"python benchmarks/learning\.py experiments/{path.name} --num-seeds \d+"
        assert re.search(command + r"; (NVIDIA \w+|\d+ CPU cores), \d{4}-\d\d-\d\d", head), path.name
        reached = re.findall(r"evaluation\w*: (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", head)
        steps = f"{jaxtrain.load_config(path).total_env_steps:,}"
        assert rows.pop(path.name) == [(steps, *figures) for figures in reached]
    assert not rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jaxtrain trian cartpole_ppo", "exit code 2"),
        ("jaxtrain train cartpol_ppo", "there is no such file"),
        ("jaxtrain train cartpole_ppo --env.num-env 3", "env.num_env: unknown key"),
        ("jaxtrain train cartpole_ppo --no-cash", "no such option"),
        ("jaxtrain verify runs --repaly", "no such arguments"),
        ("jaxtrain train FILE [--seed N]", "the help says jaxtrain train [FILE] [--field.name VALUE"),
        ("python benchmarks/learning.py experiments/no_ppo.yaml", "there is no such file"),
        ("python benchmarks/learning.py experiments/cartpole_ppo.yaml --seeds 3", "unrecognized arguments"),
        ("python benchmarks/throughput.py experiments/cartpole_ppo.yaml env.num_env=3", "unknown key"),
        ("python tools/learning.py", "no kind of command"),
        ("make tests", "the Makefile has"),
        ("make test ARGS='-m fast'", "no marker 'fast'"),
        ("pip install -e '.[gpu]'", "no gpu"),
        ("bash .ci/runs", "No such file"),
        ("wget a-file", "no kind of command"),
        ("an-unheard-of-program --help", "no kind of command"),
    ],
)
def test_a_command_that_its_program_does_not_take_is_refused(text, words, capfd):
    (command,) = printed.shell("planted", text)
    with pytest.raises((AssertionError, ValueError), match=re.escape(words)):
        commands.read(command)


def test_commands_are_found_wherever_they_are_printed(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text(
        "Text with `jaxtrain train a.yaml\n--seed 1` in it, `jaxtrain` and `jaxtrain.train`.\n\n"
        "| H100 | `python x.py` |\n| 2 CPU cores | `A=b make test` |\n\n"
        "```sh\nls && cat x  # GPU\njaxtrain resume \\\n  runs/a\n```\n\n```python\npass\n```\n"
    )
    monkeypatch.setattr(printed, "ROOT", tmp_path)
    assert printed.in_order(path) == [
        Command("README.md:1", ("jaxtrain", "train", "a.yaml", "--seed", "1"), (), False),
        Command("README.md:4", ("python", "x.py"), (), True),
        Command("README.md:5", ("make", "test"), (("A", "b"),), False),
        Command("README.md:7", ("ls",), (), True),
        Command("README.md:7", ("cat", "x"), (), True),
        Command("README.md:7", ("jaxtrain", "resume", "runs/a"), (), False),
        Block("README.md:13", "python", "pass\n"),
    ]
