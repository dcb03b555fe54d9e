"""What `--help` says: a screen for a command, and the fields of the config a section at a time.

In: words of a command line. Out: text. `cli.py` knows the commands and their options.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from jaxtrain.config import experiments
from jaxtrain.config.describe import describe
from jaxtrain.errors import MISSING, ConfigError, Problem, nearest
from jaxtrain.tools import output

RUN, ALL = "run", "all"  # the fields of no section; every one
ASKED = ("-h", "--help")
HOW = """\
A field of the config is set by its name with dashes; without FILE, the others have their defaults:

  jaxtrain train cartpole_ppo --algorithm.learning-rate 3e-4 --env.num-envs 128
  jaxtrain train --env.id CartPole-v1

The modules that FILE names are imported, also to plan and to list its fields: read a stranger's file first.
With FILE, or --algorithm.name NAME, --help algorithm lists the fields of that algorithm, one of your own too.
"""
RATES = """\
A FLOAT|SCHEDULE is a number, or moves with the env steps done; `over` unset is the whole run:

  {schedule: linear, from: 1e-3, to: 0, over: 1e6}
  {schedule: cosine, from: 1e-3, to: 0, over: 1e6, warmup: 1e4}
  {schedule: piecewise, values: [1e-3, 1e-4], at: [5e5]}
"""
CODES = """\
exit codes: 0 done, 2 a request that cannot be met (nothing was run or changed), 1 a failure (a seed whose
agent or rollout is not finite, a file that could not be read or written, too little memory on the device, a
damaged checkpoint that `verify` finds), 128 + N stopped by signal N and saved: 130 SIGINT, 143 SIGTERM, 129
SIGHUP, with --checkpoint.signals USR1,USR2 also 138 and 140; not saved if a second SIGINT or SIGTERM came
"""


def sections() -> tuple[str, ...]:
    """The sections of a config, and the word for the fields of none."""
    heads = dict.fromkeys(path.partition(".")[0] for path, *_ in describe() if "." in path)
    return (*heads, RUN)


def epilog() -> str:
    """What a command that takes fields says of them."""
    *most, last = sections()
    known = f"{', '.join(most)} or {last}"
    return textwrap.fill(
        f"fields of the config: --help SECTION lists those of {known}, --help all every one", 78
    )


def usage(command: str, form: str, width: int = 72) -> str:
    """The form of a command, in lines that end between its options."""
    whole = re.sub(r"\[[^]]*\]", lambda option: option[0].replace(" ", "\0"), f"jaxtrain {command} {form}")
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return "\n         ".join(lines).replace("\0", " ")


def told(words: Sequence[str]) -> list[str]:
    """The words, with each `--help SECTION` as `--help=SECTION`: a FILE behind it stays one.

    Raises:
      ConfigError: what is behind it is neither.
    """
    found, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if word in ASKED:
            section = rest[0] if rest else ""
            if section in (*sections(), ALL):
                word = f"--help={rest.pop(0)}"
            elif section and re.fullmatch(r"[\w-]+", section) and experiments.find(section) is None:
                raise ConfigError([_no_section(section)])
            else:
                word = "--help="
        found.append(word)
    return found


def _no_section(section: str) -> Problem:
    known = (*sections(), ALL)
    rule = f"no such section{nearest(section, known, few=0)}; there are {', '.join(known)}"
    return Problem(f"--help {section}", MISSING, rule)


def fields_of(section: str, algorithm: type[Any] | None) -> str:
    """The fields of a section, or all, and how such are written.

    Raises:
      ConfigError: there is no such section.
    """
    rows = describe(algorithm=algorithm)
    if section == RUN:
        rows = [row for row in rows if "." not in row[0]]
    elif section != ALL:
        rows = [row for row in rows if row[0].startswith(f"{section}.")]
    if not rows:
        raise ConfigError([_no_section(section)])
    said = [
        (f"--{path.replace('_', '-')} {kind}", f"{help} [{default}]".strip())
        for path, kind, default, help in rows
    ]
    width = min(44, max(len(left) for left, _ in said))
    lines = [f"fields{'' if section == ALL else f' of {section}'}, with their defaults:"]
    lines += [f"  {left:<{width}}  {right}" for left, right in said]
    moves = any(kind == "FLOAT|SCHEDULE" for _, kind, *_ in rows)
    texts = [
        *([HOW] if section == ALL else []),
        *([RATES] if moves else []),
        *([CODES] if section == ALL else []),
    ]
    return "\n".join([*lines, *(f"\n{text.rstrip()}" for text in texts)])


def add_to(command: argparse.ArgumentParser, algorithm: type[Any] | None) -> None:
    """Give a command that takes fields its `--help [SECTION]`.

    Args:
      algorithm: whose fields those of the algorithm are; unset, the default one.
    """

    class Help(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *_: Any) -> None:
            text = fields_of(values, algorithm) if values else parser.format_help().rstrip("\n")
            output.show(*text.split("\n"))
            parser.exit()

    said = "show this, or the fields of a section, and exit"
    command.add_argument(*ASKED, action=Help, nargs="?", metavar="SECTION", help=said)
