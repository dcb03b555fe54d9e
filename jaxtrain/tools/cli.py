"""The command line: `jaxtrain train`, `resume`, `runs`, `plot`, `compare`, `evaluate` and the others.

In: arguments. Out: an exit code: 0, 2 for a request that cannot be met, 1 for a failure, 128 + N for a run
that signal N stopped. What commands do is in `commands.py`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import json
import logging
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jaxtrain
from jaxtrain import signals
from jaxtrain.config import experiments, modules
from jaxtrain.config import schema as configs
from jaxtrain.config import yaml as files
from jaxtrain.config.describe import json_schema
from jaxtrain.config.registry import ALGORITHMS, EVENTS, SINKS, load_object
from jaxtrain.errors import MISSING, ConfigError, ContractError, OutOfMemory, Problem, nearest, shown
from jaxtrain.loop.trainer import Trainer
from jaxtrain.runs.index import SORTS
from jaxtrain.runs.resume import MAY_CHANGE
from jaxtrain.sinks.base import REPLACING
from jaxtrain.tools import commands, compare, export, fields, help, output, plot, render, short

FILE = "a YAML file, or one of: jaxtrain list experiments"
COMMANDS = (
    *("train", "resume", "runs", "plot", "compare", "evaluate", "render", "export"),
    *("verify", "plan", "config", "list"),
)
LOOKING = {"plot": plot, "compare": compare}  # at runs, each in a file of its own
ACTING = {"render": render, "export": export}  # with a saved policy, likewise
# Those that run what a config names; `verify --replay` does too.
RUNNING = ("train", "resume", "evaluate", *ACTING, "plan", "config")
HELPED = ("train", "plan", "config")  # whose help is of the fields of a config, too
# What a command takes besides fields of the config.
OPTIONS = {
    "train": ("seed", "num-seeds", "out", "resume", "init-from", "take", "no-cache"),
    "resume": ("members", "out", "no-cache"),
    "evaluate": ("members", "which", "num-episodes", "sampled", "seed", "json"),
    "plan": (),
    "config": ("schema",),
}
_CHANGES = [f"--{name.replace('_', '-')}{'.…' if name == 'checkpoint' else ''}" for name in MAY_CHANGE]
RESUMED = f"""\
what may change:
{textwrap.fill(", ".join(_CHANGES), 78)}

A run made longer keeps the rates that anneal at their final value; with
--anneal-env-steps N they anneal over the first N env steps.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process if left out."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = nearest(arguments[0], COMMANDS)
        output.warn(f"jaxtrain: {arguments[0]}: no such command{near}")
        return 2
    places = _places(arguments) if _runs(arguments) else []
    with _any_encoding(), _messages(), signals.leaving(), modules.looking_in(places):
        try:
            return _run(arguments)
        except KeyboardInterrupt:  # of what has cleared up behind it; elsewhere `leaving` has left
            return 128 + signal.SIGINT
        except BrokenPipeError:  # as in `jaxtrain list envs | head -3`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE


@contextmanager
def _any_encoding() -> Generator[None]:
    """Signs that the terminal's encoding lacks are replaced, instead of ending a command."""
    files = [f for f in (sys.stdout, sys.stderr) if isinstance(f, io.TextIOWrapper)]
    before = [f.errors for f in files]

    def handle(file: io.TextIOWrapper, errors: str | None) -> None:
        with suppress(OSError, ValueError):  # one that takes nothing any more, or is closed
            file.reconfigure(errors=errors)

    for file in files:
        handle(file, REPLACING)
    try:
        yield
    finally:
        for file, errors in zip(files, before, strict=True):
            handle(file, errors)


class _Lines(logging.Handler):
    """Prints to what is standard error by then: a live display puts itself there, to stay below."""

    def emit(self, record: logging.LogRecord) -> None:
        output.warn(*self.format(record).split("\n"))


@contextmanager
def _messages() -> Generator[None]:
    """What the library logs and warns of, as lines on standard error."""
    logger, handler = logging.getLogger("jaxtrain"), _Lines()
    handler.setFormatter(logging.Formatter("jaxtrain: %(message)s"))
    level, propagate, plain = logger.level, logger.propagate, warnings.formatwarning

    def as_line(message: Warning | str, category: type[Warning], *rest: Any) -> str:
        ours = str(message).startswith("jaxtrain: ")
        return f"{shown(str(message))}\n" if ours else plain(message, category, *rest)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some library gives the root a handler, and every line would come twice
    warnings.formatwarning = as_line
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        warnings.formatwarning = plain


def _runs(arguments: Sequence[str]) -> bool:
    """Whether a command runs what configs name; the others look at files, and import nothing of anybody's."""
    command = arguments[0] if arguments else ""
    return command in RUNNING or (command == "verify" and "--replay" in arguments)


def _places(arguments: Sequence[str]) -> list[Path]:
    """Where modules of one's own are looked for: beside the config file, then in the working directory."""
    file = _file_of(arguments)
    place = None if file is None else experiments.find(file)
    return [*([] if place is None else [place.parent]), Path.cwd()]


def _file_of(arguments: Sequence[str]) -> str | None:
    """The config that is named, if one is: the first word that is no option, nor an option's value."""
    words = list(arguments[1:]) if arguments and arguments[0] in ("train", "plan", "config") else []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            return word
        if "=" not in word and word not in ("--no-cache", "--schema", "-h", "--help"):
            words = words[1:]
    return None


def _algorithm_of(arguments: Sequence[str]) -> type[Any] | None:
    """The class whose fields `--help` is to list: that of `--algorithm.name`, or of the file."""
    if not any(word.partition("=")[0] in help.ASKED for word in arguments):
        return None
    file = _file_of(arguments)
    raw = {} if file is None else _looked_at(file)
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if name == "algorithm.name":
            files.override(raw, f"{name}={value if equals else following}")
    return configs.algorithm_class(raw.get("algorithm"))


def _looked_at(file: str) -> dict[str, Any]:
    """What a config file holds, for a command that runs nothing.

    Raises:
      ConfigError: it is in a run's directory and names code.
    """
    path = experiments.file_of(file)
    raw = files.read(path)
    if unasked := modules.not_asked_for(path, raw):
        raise ConfigError(unasked)
    return raw


def _run(arguments: Sequence[str]) -> int:
    try:
        options, rest = parsed(arguments)
        if options.command == "list":
            if rest:
                raise ConfigError([Problem(rest[0], MISSING, "`list` takes no more arguments")])
            output.show(*listing(options.what).split("\n"))
            return 0
        if options.command == "evaluate":
            return commands.evaluate(options, _conditions(fields.overrides(rest, OPTIONS["evaluate"])))
        if options.command in LOOKING:  # further runs may stand behind an option
            options.runs += [word for word in rest if not word.startswith("-")]
            rest = [word for word in rest if word.startswith("-")]
        if options.command in ("runs", "verify", *LOOKING, *ACTING):
            if rest:
                raise ConfigError([Problem(rest[0], MISSING, f"`{options.command}` has no such option")])
            if options.command in LOOKING:
                return LOOKING[options.command].main(options)
            if options.command in ACTING:
                return ACTING[options.command].main(options)
            return getattr(commands, options.command)(options)
        if options.command == "resume":
            return commands.resume(fields.overrides(rest, OPTIONS["resume"]), options)
        overrides = fields.overrides(rest, OPTIONS[options.command])
        if options.command in ("plan", "config") and options.file is not None:
            _looked_at(options.file)
        if options.command == "config" and options.schema:
            output.show(*_schema(options.file, overrides).split("\n"))
            return 0
        if options.command == "config":
            made = Trainer(jaxtrain.load_config(options.file, overrides)).config
            output.show(*jaxtrain.dump(configs.resolved(made)).rstrip("\n").split("\n"))
            return 0
        if options.file is None and not any(word.startswith("env.id=") for word in overrides):
            rule = "needs FILE, the name of an experiment, or --env.id with one of `jaxtrain list envs`"
            raise ConfigError([Problem(options.command, MISSING, rule)])
        config = short.config(jaxtrain.load_config(options.file, overrides))
        if options.command == "plan":
            from jaxtrain.runs.plan import plan

            output.show(*plan(config).split("\n"))
            return 0
        return commands.train(config, options)
    except (ConfigError, ContractError) as error:
        first, *others = str(error).split("\n")
        output.warn(f"jaxtrain: {first}", *(f"          {line}" for line in others))
        return 2
    except BrokenPipeError:
        raise
    except (OSError, OutOfMemory) as error:
        output.warn(f"jaxtrain: {error}")
        return 1


def _schema(file: str | None, overrides: Sequence[str]) -> str:
    """The JSON Schema of a config file; with the fields of that algorithm, if a file or a field names one."""
    raw = {} if file is None else _looked_at(file)
    for word in overrides:
        files.override(raw, word)
    given = raw.get("algorithm")
    name = given.get("name") if isinstance(given, dict) else None
    more = {} if name is None or name in ALGORITHMS else {name: configs.algorithm_class(given)}
    return json.dumps(json_schema(more), indent=1)


def _conditions(overrides: Sequence[str]) -> dict[str, Any]:
    """The environment that episodes are asked for in, of what else a command line sets.

    Raises:
      ConfigError: something else is set.
    """
    others = [word for word in overrides if not word.startswith(("env.id=", "env.params=", "env.params."))]
    if others:
        rule = "belongs to the run; `evaluate` takes --env.id and --env.params"
        raise ConfigError([Problem(word.partition("=")[0], MISSING, rule) for word in others])
    raw: dict[str, Any] = {}
    for word in overrides:
        files.override(raw, word)
    return raw.get("env", {})


def parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command, and the words that are none: where it takes them, fields of the config."""
    if arguments and arguments[0] in HELPED:
        arguments = help.told(arguments)
    words = fields.joined(arguments) if arguments and arguments[0] in OPTIONS else arguments
    return _parser(_algorithm_of(arguments)).parse_known_args(words)


def _parser(algorithm: type[Any] | None) -> argparse.ArgumentParser:
    """How the command line is read; its help lists the fields of that algorithm, unset of the default one."""
    parser = argparse.ArgumentParser(
        prog="jaxtrain",
        description="Train reinforcement-learning agents in JAX, a whole run as one compiled program.",
    )
    parser.add_argument("--version", action="version", version=f"jaxtrain {jaxtrain.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, what: str, usage: str, epilog: str | None = None) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=what,
            description=what,
            epilog=help.epilog() if name in HELPED else epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=name not in HELPED,
            usage=help.usage(name, usage),
        )
        if name in HELPED:
            help.add_to(command, algorithm)
        return command

    some = "[FILE] [--field.name VALUE ...]"
    runs = "[--seed N] [--num-seeds S] [--out DIR] [--resume auto|never|must] [--no-cache]"
    other = "[--init-from RUN] [--take params|agent]"
    train = add("train", "train, with live logs, in a directory of its own", f"{some} {runs} {other}")
    _train_arguments(train)
    again = add(
        "resume",
        "go on with a run exactly where it stopped, or for longer",
        "DIR [--total-env-steps N] [--field.name VALUE ...] [--members I,J --out DIR] [--no-cache]",
        RESUMED,
    )
    _resume_arguments(again)
    for command in (train, again):
        command.add_argument("--no-cache", action="store_true", help="compile anew, keep nothing compiled")
    _runs_arguments(
        add("runs", "list runs: state, progress, returns, what differs", "[DIR] [--sort KEY] [--json]")
    )
    for name, looking in LOOKING.items():
        looking.arguments(add(name, looking.HELP, looking.USAGE))
    evaluate = add(
        "evaluate",
        "complete episodes with a saved policy",
        "DIR [--which best|last|ENV_STEPS] [--members I,J] [--num-episodes N] [--sampled] [--seed N] "
        "[--env.id ID] [--env.params.NAME VALUE] [--json]",
    )
    _evaluate_arguments(evaluate)
    render.arguments(add("render", "draw a saved policy acting, without a screen", render.USAGE), _number)
    export.arguments(add("export", "write a saved policy for use without jaxtrain", export.USAGE), _number)
    _verify_arguments(add("verify", "check every checkpoint of a run", "DIR [--replay]"))
    plan = add("plan", "say what a run would do; run nothing", some)
    whole = "print a config whole, every field with its value; run nothing"
    _config_arguments(plan, add("config", whole, f"{some} [--schema]"))
    kinds = ("envs", "algorithms", "events", "sinks", "experiments")
    listed = add("list", "what there is to name in a config", "|".join(kinds))
    listed.add_argument("what", choices=kinds)
    return parser


def _config_arguments(plan: argparse.ArgumentParser, config: argparse.ArgumentParser) -> None:
    for command in (plan, config):
        command.add_argument("file", metavar="FILE", nargs="?", help=FILE)
    schema = "instead the JSON Schema of a config file, for editors"
    config.add_argument("--schema", action="store_true", help=schema)


def _train_arguments(train: argparse.ArgumentParser) -> None:
    train.add_argument("file", metavar="FILE", nargs="?", help=FILE)
    train.add_argument("--seed", type=_number, metavar="N", help="default 0")
    train.add_argument("--num-seeds", type=_number, metavar="S", help="agents trained at once, default 1")
    train.add_argument("--out", metavar="DIR", help="default runs/FILE-DATE-TIME")
    how = "go on in DIR: auto (default), never, or must"
    words = ("auto", "never", "must")
    train.add_argument("--resume", choices=words, metavar="HOW", default="auto", help=how)
    which = "begin a new run from the best checkpoint of another, or from RUN@last, RUN@ENV_STEPS"
    train.add_argument("--init-from", metavar="RUN", help=which)
    what = "of it: params (default), or agent, all but a replay"
    train.add_argument("--take", choices=("params", "agent"), metavar="WHAT", help=what)


def _resume_arguments(again: argparse.ArgumentParser) -> None:
    again.add_argument("directory", metavar="DIR", help="of the run")
    again.add_argument(
        "--members", "--member", type=_numbers, metavar="I,J", help="only these, in a directory of their own"
    )
    again.add_argument("--out", metavar="DIR", help="that directory")


def _runs_arguments(runs: argparse.ArgumentParser) -> None:
    runs.add_argument("root", metavar="DIR", nargs="?", default="runs", help="default runs")
    keys = f"one of {', '.join(SORTS)}; default started"
    runs.add_argument("--sort", default="started", metavar="KEY", help=keys)
    runs.add_argument("--json", action="store_true", help="one JSON array, an object for each run")


def _evaluate_arguments(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("directory", metavar="DIR", help="of the run")
    evaluate.add_argument(
        "--which", default="best", metavar="WHICH", help="best (default), last, or env steps"
    )
    evaluate.add_argument(
        "--members", "--member", type=_numbers, metavar="I,J", help="of several, from 0; default all"
    )
    evaluate.add_argument("--num-episodes", type=_number, metavar="N", help="default: as in the run")
    evaluate.add_argument("--sampled", action="store_true", help="draw actions; default: as in the run")
    evaluate.add_argument("--seed", type=_number, metavar="N", help="new draws; default: those of the run")
    evaluate.add_argument("--json", action="store_true", help="one JSON object")


def _verify_arguments(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("directory", metavar="DIR", help="of the run")
    replay = "run the last interval again, compare the bits; imports what the run names"
    verify.add_argument("--replay", action="store_true", help=replay)


def _number(text: str) -> int | str:
    """A number as Python has it; what is none stays as it is, for whoever takes the number to refuse."""
    try:
        return int(text)
    except ValueError:
        return text


def _numbers(text: str) -> list[int | str]:
    return [_number(word) for word in text.split(",")]


def listing(what: str) -> str:
    """The names of one kind, a line each."""
    if what == "envs":
        envs = importlib.import_module("jaxtrain.envs")
        missing = envs.unavailable()
        rows = [
            f"{name:<28} {'not available: ' + missing[name] if name in missing else ''}".rstrip()
            for name in envs.ids()
        ]
        return "\n".join([*rows, "package.module:name            an environment of your own"])
    if what == "sinks":
        return "\n".join(SINKS)
    if what == "experiments":
        return "\n".join(f"{name:<28} {path}" for name, path in experiments.known().items())
    table = ALGORITHMS if what == "algorithms" else EVENTS
    rows = []
    for name, place in sorted(table.items()):
        doc = (load_object(place).__doc__ or "").strip()  # none under `python -OO`
        rows.append(f"{name:<16} {doc.partition(chr(10))[0]}".rstrip())
        if what == "events":
            rows.append(f"{'':<16} {_params(load_object(place))}")
    own = "module:Class" if what == "algorithms" else "module:function"
    more = [f"{own:<16} one of your own, beside the config file, in the working directory, or installed"]
    if what == "algorithms":
        more.append("\nfields of one: jaxtrain train --algorithm.name NAME --help algorithm")
    return "\n".join([*rows, *more])


def _params(event: Any) -> str:
    """What an event takes as `params`, with its defaults; two stars stand for names of the user's."""
    given = inspect.signature(event).parameters.values()
    words = [str(p.replace(annotation=p.empty)) for p in given if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return f"params: {', '.join(words)}"


if __name__ == "__main__":
    sys.exit(main())
