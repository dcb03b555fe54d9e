"""Help is a screen for each command, and the fields of the config a section at a time."""

from __future__ import annotations

import pytest

from jaxtrain.config.describe import describe
from jaxtrain.errors import ConfigError
from jaxtrain.tools.cli import COMMANDS, HELPED, main
from jaxtrain.tools.help import ALL, fields_of, sections, told, usage


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=" ".join)
def test_the_help_of_a_command_fits_a_terminal_of_24_lines_and_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for asked in ("-h", "--help"):
        with pytest.raises(SystemExit) as ended:
            main([*words, asked])
        lines = capsys.readouterr().out.splitlines()
        assert ended.value.code == 0 and 5 < len(lines) <= 24
        assert max(map(len, lines)) <= 80
    if words and words[0] in HELPED:
        assert all(section in "\n".join(lines) for section in sections())


def test_each_field_is_in_the_help_of_one_section_and_in_that_of_all_with_its_default():
    every = fields_of(ALL, None)
    said = [fields_of(section, None) for section in sections()]
    for path, kind, default, _ in describe():
        option = f"--{path.replace('_', '-')} {kind} "
        (here,) = [text for text in said if option in text]
        for text in (here, every):
            line = next(line for line in text.splitlines() if option in line)
            assert line.endswith(f"[{default}]")


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("train --help", "train --help="),
        ("train -h env x.yaml", "train --help=env x.yaml"),
        ("train --help x.yaml", "train --help= x.yaml"),
        ("plan --help cartpole_ppo", "plan --help= cartpole_ppo"),
        ("config --help --env.id A", "config --help= --env.id A"),
    ],
)
def test_a_section_is_read_behind_help_and_a_file_stays_one(words, read):
    assert told(words.split()) == read.split()


def test_what_is_neither_is_named_with_the_sections_that_there_are():
    for ask in (lambda: told(["train", "--help", "evaluatoin"]), lambda: fields_of("evaluatoin", None)):
        with pytest.raises(
            ConfigError, match="--help evaluatoin: no such section; the nearest known is 'evalua"
        ):
            ask()


def test_a_usage_ends_its_lines_between_options():
    form = "[FILE] " + " ".join(f"[--option-{i} VALUE]" for i in range(9))
    lines = usage("train", form).splitlines()
    assert len(lines) > 2 and all(line.count("[") == line.count("]") for line in lines)
    assert " ".join(" ".join(lines).split()) == f"jaxtrain train {form}"
