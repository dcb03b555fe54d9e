"""What the documentation prints: its commands and its blocks, as they stand there.

In: README.md and all other Markdown, docstrings and header comments of benchmarks, experiments and
examples, `--help`, and the README.md of a run's directory. Out: `Block`s and `Command`s, with their places.

Taken for a command: every line of a block of shell, every indented line or `span` that begins with one of
`PROGRAMS`. It is marked GPU by `JAX_PLATFORMS=cuda`, by "GPU" in the comment behind it, or by an NVIDIA card
that is named in its paragraph, its row of a table or the comment that it stands in: the numbers there are
that card's.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxtrain.runs import directory as rundir
from jaxtrain.tools import cli

ROOT = Path(__file__).parents[2]
PROGRAMS = ("jaxtrain", "python", "make", "pip", "pytest", "bash", "git", "tensorboard")
PROGRAMS += ("cat", "cd", "cp", "curl", "docker", "ls", "mkdir", "pyright", "python3", "rm", "ruff", "sh")
PROGRAMS += ("source", "tail", "wandb", "wget")
LANGUAGES = ("sh", "python", "yaml", "json", "text")  # of a fenced block
_ASSIGNED = re.compile(r"[A-Z_]+=\S*")
_CARD = re.compile(r"NVIDIA|\b[AH]\d00\b")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block, or a span that is Python."""

    place: str
    language: str
    text: str


class Command(NamedTuple):
    """One simple command: no `&&`, no comment."""

    place: str
    words: tuple[str, ...]  # as a shell would split them, without assignments
    env: tuple[tuple[str, str], ...]
    gpu: bool

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join([f'{k}={v}' for k, v in self.env] + list(self.words))}"


def shell(place: str, text: str, gpu: bool = False) -> Iterator[Command]:
    """The commands in lines of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
        comment = line.rpartition("#")[2] if "#" in line else ""
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", ";")), len(words))
            one, words = words[:end], words[end + 1 :]
            given = [word for i, word in enumerate(one) if all(_ASSIGNED.fullmatch(w) for w in one[: i + 1])]
            env = tuple(tuple(word.split("=", 1)) for word in given)
            marked = gpu or "GPU" in comment or "cuda" in dict(env).get("JAX_PLATFORMS", "")
            yield Command(place, tuple(one[len(given) :]), env, marked)


def is_command(text: str) -> bool:
    """Whether a line or a span begins as a command does."""
    words = text.split()
    while words and _ASSIGNED.fullmatch(words[0]):
        words = words[1:]
    return len(words) > 1 and words[0] in PROGRAMS


def documents() -> list[Path]:
    """Every Markdown file of the clone."""
    folders = [ROOT, *(ROOT / name for name in ("benchmarks", "docs", "examples", "experiments"))]
    return sorted([path for folder in folders for path in folder.glob("*.md")]) + sorted(
        ROOT.glob("tests/**/*.md")
    )


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        indent, language, body = found.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        yield Block(f"{path.relative_to(ROOT)}:{_line(text, found.start())}", language, body)


def spans(path: Path) -> Iterator[tuple[str, str, bool]]:
    """The `spans` of a Markdown file outside its blocks: place, text, and whether a card is named there."""
    text = path.read_text(encoding="utf-8")
    prose = _FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for paragraph in re.finditer(r"(?:^\|.*$)|(?:^(?!\|).*\S.*(?:\n|\Z))+", prose, re.M):
        for found in re.finditer(r"`([^`]+)`", paragraph[0]):
            place = f"{path.relative_to(ROOT)}:{_line(prose, paragraph.start() + found.start())}"
            yield place, " ".join(found[1].split()), bool(_CARD.search(paragraph[0]))


def in_order(path: Path) -> list[Block | Command]:
    """What a Markdown file prints, from top to bottom: blocks that are no shell, and commands."""
    found: list[Block | Command] = []
    for block in blocks(path):
        found += shell(block.place, block.text) if block.language == "sh" else [block]
    for place, text, gpu in spans(path):
        found += shell(place, text, gpu) if is_command(text) else []
    return sorted(found, key=lambda item: int(item.place.rpartition(":")[2]))


def _lines_of(place: str, text: str, gpu: bool = False) -> Iterator[Command]:
    """The commands in plain text: lines of their own that are indented, and spans."""
    for found in re.finditer(r"^ +(\S.*)$", text.replace("\\\n", " "), re.M):
        if is_command(found[1]):
            yield from shell(place, found[1], gpu)
    for span in re.findall(r"`([^`]+)`", text):
        if is_command(span):
            yield from shell(place, " ".join(span.split()), gpu)


def in_docstrings() -> Iterator[Command]:
    """Commands in docstrings of benchmarks, experiments and examples."""
    for path in sorted(
        path for name in ("benchmarks", "experiments", "examples") for path in _in(name, "py")
    ):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in (node for node in ast.walk(tree) if isinstance(node, kinds)):
            yield from _lines_of(str(path.relative_to(ROOT)), ast.get_docstring(node) or "")


def _in(folder: str, suffix: str) -> list[Path]:
    return sorted((ROOT / folder).glob(f"*.{suffix}"))


def in_comments() -> Iterator[Command]:
    """Commands at the head of shipped configs; one ends at a semicolon, at a bracket or with its line."""
    for path in [*_in("experiments", "yaml"), *_in("examples", "yaml")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        gpu = bool(_CARD.search(" ".join(head)))
        for line in head:
            command = re.split(r"[;(]", line)[0]
            if is_command(command):
                yield from shell(str(path.relative_to(ROOT)), command, gpu)


def help_of(*words: str, section: str | None = None) -> str:
    """What `jaxtrain … --help` prints, or `--help SECTION`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*words, "--help", *([section] if section else [])])
    return out.getvalue()


def in_help() -> Iterator[Command]:
    """Commands in the help of the command line, of each of its commands, and of `make`."""
    for words in ((), *((name,) for name in cli.COMMANDS)):
        # An argument's help ends a line, behind its name: what begins with a program is a command there too.
        text = help_of(*words).partition("\n\n")[2]
        yield from _lines_of(shlex.join(["jaxtrain", *words, "--help"]), text)
        for found in re.finditer(r": (jaxtrain \w+ \w+)$", text, re.M):
            yield from shell(shlex.join(["jaxtrain", *words, "--help"]), found[1])
    yield from _lines_of("jaxtrain train --help all", help_of("train", section="all"))
    yield from _lines_of(
        "jaxtrain list algorithms", re.sub(r"^.*: ", "  ", cli.listing("algorithms"), flags=re.M)
    )
    for found in re.finditer(r"echo '(make \w+)|(make \w+ ARGS=\"[^\"]*\")", (ROOT / "Makefile").read_text()):
        yield from shell("Makefile", found[1] or found[2])


def in_runs() -> list[Command]:
    """Commands in the README.md of a run's directory, which are for that directory."""
    return list(_lines_of("README.md of a run", rundir.README))


def everywhere() -> list[Command]:
    """Every command that is printed anywhere."""
    of_markdown = [item for path in documents() for item in in_order(path) if isinstance(item, Command)]
    return [*of_markdown, *in_docstrings(), *in_comments(), *in_help(), *in_runs()]
