"""The command line: `jaxtrain train`, `plan` and `list`.

In: arguments. Out: an exit code: 0, 2 for a request that cannot be met, 1 for a failure, 130 or 143
for a run that SIGINT or SIGTERM stopped.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import jaxtrain
from jaxtrain import config as configs
from jaxtrain.fields import MISSING, ConfigError, Problem

EPILOG = """\
A field of the config is set by its name with dashes, after the file:

  jaxtrain train experiments/cartpole_ppo.yaml --algorithm.learning-rate 3e-4 --env.num-envs 128

exit codes: 0 done, 2 a request that cannot be met (nothing was run), 1 a failure (a seed whose metrics are
not finite, a log that could not be written), 130 and 143 stopped by SIGINT and SIGTERM, logs complete
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process if left out."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, str(Path.cwd()))  # `package.module:name` of the user's own
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.command == "list":
            if rest:
                raise ConfigError([Problem(rest[0], MISSING, "`list` takes no more arguments")])
            print(listing(options.what))
            return 0
        config = jaxtrain.load_config(options.file, _overrides(rest))
        if options.command == "plan":
            from jaxtrain.plan import plan

            print(plan(config))
            return 0
        return _train(config, options)
    except ConfigError as error:
        print(f"jaxtrain: {str(error).replace(chr(10), chr(10) + '          ')}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxtrain",
        description="Train reinforcement-learning agents in JAX, a whole run as one compiled program.",
    )
    parser.add_argument("--version", action="version", version=f"jaxtrain {jaxtrain.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    epilog = f"{EPILOG}\nfields, with their defaults:\n{_fields()}"
    raw = argparse.RawDescriptionHelpFormatter
    about = {
        "train": "train, with live logs, in a directory of its own",
        "plan": "say what a run would do; run nothing",
    }
    for name, help in about.items():
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=epilog,
            formatter_class=raw,
            allow_abbrev=False,
            usage=f"jaxtrain {name} FILE [--field.name VALUE ...]"
            + (" [--seed N] [--num-seeds S] [--out DIR]" * (name == "train")),
        )
        command.add_argument(
            "file", metavar="FILE", help="a YAML file, such as experiments/cartpole_ppo.yaml"
        )
        if name == "train":
            command.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="default 0")
            command.add_argument(
                "--num-seeds",
                type=_whole(1),
                default=1,
                metavar="S",
                help="agents trained at once, default 1",
            )
            command.add_argument("--out", metavar="DIR", help="default runs/FILE-DATE-TIME")
    listed = commands.add_parser(
        "list", help="what there is to name in a config", description="What there is to name in a config."
    )
    listed.add_argument("what", choices=("envs", "algorithms", "events", "sinks"))
    return parser


def _whole(low: int) -> type[int]:
    def read(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value}: needs an int >= {low}")
        return value

    read.__name__ = "int"
    return read  # type: ignore[return-value]


def _fields() -> str:
    rows = [
        (f"--{path.replace('_', '-')} {kind}", f"{help} [{default}]".strip())
        for path, kind, default, help in configs.describe()
    ]
    width = min(44, max(len(left) for left, _ in rows))
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)


def _overrides(rest: Sequence[str]) -> list[str]:
    """`--env.num-envs 64` or `--env.num-envs=64` as `env.num_envs=64`."""
    found: list[str] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(
                [Problem(word, MISSING, "needs a field in front of it, as in --env.num-envs 64")]
            )
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError([Problem(word, MISSING, "needs a value behind it")])
            value = words.pop(0)
        found.append(f"{name.replace('-', '_')}={value}")
    return found


def _train(config: configs.Config, options: argparse.Namespace) -> int:
    from jaxtrain.launch import launch

    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = Path(options.out or Path("runs") / f"{Path(options.file).stem}-{stamp}")
    try:
        ending = launch(config, directory, seed=options.seed, num_seeds=options.num_seeds)
    except FloatingPointError as error:
        print(f"jaxtrain: {error}", file=sys.stderr)
        return 1
    for loss in ending.losses:
        print(f"jaxtrain: {loss}", file=sys.stderr)
    for seed in ending.non_finite:
        print(
            f"jaxtrain: seed {seed} stopped: a metric was not finite; see `non_finite` in the log",
            file=sys.stderr,
        )
    print(f"files: {directory}/  ({', '.join(sorted(p.name for p in directory.iterdir()))})")
    if ending.signal is not None:
        print(f"jaxtrain: stopped by signal {ending.signal}; logs are complete up to there", file=sys.stderr)
        return 128 + ending.signal
    return 0 if ending.log_complete and not ending.non_finite else 1


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
        return "\n".join(configs.SINKS)
    table = configs.ALGORITHMS if what == "algorithms" else configs.EVENTS
    rows = []
    for name, place in sorted(table.items()):
        doc = (configs.load_object(place).__doc__ or "").strip().splitlines()[0]
        rows.append(f"{name:<16} {doc}")
    more = ["package.module:function  one of your own"] if what == "events" else []
    return "\n".join([*rows, *more])


if __name__ == "__main__":
    sys.exit(main())
