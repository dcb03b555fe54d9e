"""What each kind of command that the documentation prints is held to: how it is read, and how it is run.

In: a `Command`. Out: nothing, or an error that says what is wrong. Set-up (`pip`, `make`, `git`, `bash`,
`pytest`) is only read: it is what a change must pass anyway (`.ci/run`), and needs a network.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import io
import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jaxtrain
from jaxtrain.config import modules
from jaxtrain.tools import cli, fields
from tests.docs.printed import ROOT, Command

# What stands for something of the reader's own, and what the tests put there.
STANDS_FOR = {"FILE": "cartpole_ppo", "DIR": "runs/cartpole", "NAME": "ppo", "N": "2", "I": "0", "S": "2"}
STANDS_FOR |= {
    "RUN…": "runs/cartpole",
    "FIELD": "env.id",
    "FIELD=VALUE": "algorithm.name=ppo",
    "KEY": "path",
    "R": "9",
}
STANDS_FOR |= {"I,J": "0,1", "ENV_STEPS": "last", "VALUE": "128", "--field.name": "--env.num-envs"}
NEEDS = "--total-env-steps", "2097152"  # an option, and what N is behind it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETS_UP = ("bash", "git", "make", "pip", "pytest")


def kind(command: Command) -> str:
    """One of jaxtrain, benchmark, snippet, tensorboard and those of `SETS_UP`.

    Raises:
      ValueError: for any other command: the documentation prints what no test knows how to check.
    """
    program, first = (*command.words, "", "")[:2]
    if program in ("jaxtrain", "tensorboard", *SETS_UP):
        return program
    if program == "python" and first == "-c":
        return "snippet"
    if program == "python" and first.startswith("benchmarks/"):
        return "benchmark"
    raise ValueError(f"{command}: no kind of command that tests/docs/commands.py knows")


def is_usage(command: Command) -> bool:
    """Whether it is the form of a command, with `[…]` and `|`."""
    return command.words[0] == "jaxtrain" and any("[" in word or "|" in word for word in command.words)


def is_name(command: Command) -> bool:
    """Whether it names a command, which needs more to be one."""
    return command.words[0] == "jaxtrain" and command.words[1:] in [(c,) for c in cli.COMMANDS if c != "runs"]


def filled(words: Sequence[str]) -> list[str]:
    """The words, with something in the place of each name that stands for the reader's own."""
    return [
        NEEDS[1] if (option, word) == (NEEDS[0], "N") else STANDS_FOR.get(word, word)
        for option, word in itertools.pairwise(["", *words])
    ]


def read(command: Command) -> None:
    """Read a command as its program would, and run nothing; the working directory is the clone's."""
    which = kind(command)
    if which == "jaxtrain":
        if is_usage(command):
            _read_usage(command)
        elif is_name(command):
            assert command.words[1] in cli.COMMANDS, f"{command}: no such command"
        else:
            _read_jaxtrain(command, filled(command.words[1:]))
    elif which == "benchmark":
        _read_script(command)
    elif which == "snippet":
        compile(command.words[2], command.place, "exec")
    elif which == "tensorboard":
        assert command.words[1] == "--logdir" and len(command.words) == 3, command
    else:
        {"make": _read_make, "pip": _read_pip, "pytest": _read_pytest, "bash": _read_bash}.get(
            which, lambda command: None
        )(command)


def _read_jaxtrain(command: Command, words: list[str]) -> None:
    paths = [os.path.abspath(path) for key, path in command.env if key == "PYTHONPATH"]
    said = io.StringIO()
    with modules.looking_in([*map(Path, paths), *cli._places(words)]), contextlib.redirect_stdout(said):
        try:
            options, rest = cli.parsed(words)
        except SystemExit as ended:  # of --help, or of what argparse refuses
            assert ended.code == 0, f"{command}: exit code {ended.code}"
            return
        if options.command not in cli.OPTIONS:
            assert not rest, f"{command}: no such arguments: {rest}"
            return
        overrides = fields.overrides(rest, cli.OPTIONS[options.command])
        jaxtrain.load_config(getattr(options, "file", "cartpole_ppo"), overrides)


def _read_usage(command: Command) -> None:
    """The form of a command is the one that its help gives, and each option in it exists."""
    from tests.docs.printed import help_of

    printed = " ".join(command.words)
    usage = " ".join(help_of(command.words[1]).partition("\n\n")[0].removeprefix("usage: ").split())
    assert printed == usage, f"{command}: the help says {usage}"
    must, *options = printed.replace("]", "[").split("[")
    if "|" in must:
        *first, either = must.split()
        for one in either.split("|"):
            _read_jaxtrain(command, [*first[1:], one])
        return
    for option in ["", *options]:
        words = [word.split("|")[-1] for word in option.split() if word != "..."]
        _read_jaxtrain(command, filled([*must.split()[1:], *words]))


class _Read(Exception):
    """Carries what a script's parser has read, past the rest of the script."""


@contextlib.contextmanager
def _reading(script: Path, words: Sequence[str]) -> Iterator[None]:
    """Python as it is for a script, but that its parser ends it."""
    methods = {
        name: getattr(argparse.ArgumentParser, name) for name in ("parse_args", "parse_intermixed_args")
    }
    state = list(sys.argv), list(sys.path), set(sys.modules)

    def ending(method: Any) -> Any:
        def parse(*args: Any) -> Any:
            raise _Read(method(*args))

        return parse

    for name, method in methods.items():
        setattr(argparse.ArgumentParser, name, ending(method))
    sys.argv[:], sys.path[:0] = [str(script), *words], [str(script.parent)]
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(argparse.ArgumentParser, name, method)
        sys.argv[:], sys.path[:] = state[:2]
        for path in script.parent.glob("*.py"):  # what it imported from beside it
            if path.stem not in state[2]:
                sys.modules.pop(path.stem, None)


def _read_script(command: Command) -> None:
    script, *words = filled(command.words[1:])
    said = io.StringIO()
    with _reading(ROOT / script, expanded(words)), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            raise AssertionError(f"{command}: it reads no arguments")
        except SystemExit as ended:
            raise AssertionError(f"{command}: exit code {ended.code}: {said.getvalue()}") from None
        except _Read as found:
            options = found.args[0]
    files = getattr(options, "files", None) or [getattr(options, "file", None)]
    for file in filter(None, files):
        jaxtrain.load_config(file, getattr(options, "set", None) or getattr(options, "overrides", ()))


def expanded(words: Sequence[str]) -> list[str]:
    """The words, with `*` as a shell replaces it in the working directory."""
    return [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]


def _read_make(command: Command) -> None:
    for word in command.words[1:]:
        if word.startswith("ARGS="):
            _check_marker(command, word.removeprefix("ARGS=").split())
    targets = [word for word in command.words[1:] if "=" not in word]
    known = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1].split()
    assert set(targets) <= set(known), f"{command}: the Makefile has {known}"
    if shutil.which("make"):
        done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def _read_pip(command: Command) -> None:
    assert command.words[1] == "install", command
    for option, word in itertools.pairwise(command.words):
        if option == "-c":
            assert (ROOT / word).is_file(), f"{command}: there is no {word}"
        extra = word.partition("[")[2].removesuffix("]")
        assert not extra or extra in PROJECT["project"]["optional-dependencies"], f"{command}: no {extra}"


def _read_pytest(command: Command) -> None:
    _check_marker(command, command.words)


def _check_marker(command: Command, words: Sequence[str]) -> None:
    known = [text.partition(":")[0] for text in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    for option, word in itertools.pairwise(words):
        assert option != "-m" or word in known, f"{command}: no marker {word!r} in pyproject.toml"


def _read_bash(command: Command) -> None:
    done = subprocess.run(["bash", "-n", ROOT / command.words[1]], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def run(command: Command) -> None:
    """Run it in the working directory, and check that it ends well; what only sets up is left out.

    `jaxtrain` runs in this process, which has the imports, but with variables of its own in one of its own.
    """
    which = kind(command)
    if which in SETS_UP or is_usage(command) or is_name(command) or "…" in str(command):
        return
    words = filled(command.words)
    if which == "tensorboard":
        assert list(Path(words[2]).glob("*/tensorboard/events*")), f"{command}: nothing there to show"
    elif which == "snippet":
        exec(compile(words[2], command.place, "exec"), vars(types.ModuleType("snippet")))
    elif which == "benchmark":
        _process(command, [sys.executable, *expanded(words[1:])])
    elif command.env:
        entry = "import sys; from jaxtrain.tools.cli import main; sys.exit(main())"
        _process(command, [sys.executable, "-c", entry, *words[1:]])
    else:
        code, said = in_process(words[1:])
        assert code == 0, f"{command}: exit code {code}: {said}"


def in_process(words: Sequence[str]) -> tuple[int, str]:
    """`jaxtrain` with these arguments: its exit code, and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, said.getvalue()


def _process(command: Command, words: Sequence[str]) -> None:
    given = dict(command.env)
    path = os.pathsep.join([str(ROOT), *filter(None, [given.pop("PYTHONPATH", "")])])
    env = {**os.environ, **given, "PYTHONPATH": path}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stderr[-3000:]}"
