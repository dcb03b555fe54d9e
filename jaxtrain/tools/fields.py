"""Fields of the config on a command line.

In: words. Out: overrides such as `algorithm.gamma=0.9`, as `load_config` takes them, or what is wrong.
Knows nothing of what a command does with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtrain.config.describe import describe
from jaxtrain.errors import MISSING, ConfigError, Problem, nearest


def joined(arguments: Sequence[str]) -> list[str]:
    """The same with each `--env.num-envs 64`, or `env.num_envs=64`, as `--env.num-envs=64`: none is FILE."""
    words, found, heads = list(arguments), list[str](), _heads()
    while words:
        word = words.pop(0)
        name, equals, _ = word.removeprefix("--").partition("=")
        if _head(name) in heads and word.startswith("--") and not equals and words:
            word = f"{word}={words.pop(0)}"
        elif _head(name) in heads and not word.startswith("-") and equals and "-" not in name:
            word = f"--{word}"  # a dash in it stays one
        found.append(word)
    return found


def overrides(rest: Sequence[str], options: Sequence[str]) -> list[str]:
    """`--env.num-envs 64` and `--env.num-envs=64` as `env.num_envs=64`, which may be said as it is.

    Args:
      rest: what is no option of the command, nor an option's value.
      options: what else there is.

    Raises:
      ConfigError: a word that sets no field; says how it is set.
    """
    heads, found = _heads(), list[str]()
    words = joined(rest)
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        name, equals, value = word.removeprefix("--").partition("=")
        if _head(name) in heads and (equals or not word.startswith("--")):
            if not equals:
                raise ConfigError([Problem(word, MISSING, _bare(word, following))])
            found.append(f"{name.replace('-', '_') if word.startswith('--') else name}={value}")
        elif word.startswith("--"):
            known = _head(name) in heads
            rule = "needs a value behind it" if known else _unknown(name.replace("_", "-"), options)
            raise ConfigError([Problem(f"--{name}", MISSING, rule)])
        elif word.startswith("-"):
            field = following.removeprefix("--")
            set_by = f"; a field is set without it: {field}" if _head(field) in heads else ""
            raise ConfigError([Problem(word, MISSING, f"no such option{set_by}")])
        else:
            rule = "needs a field in front of it, as in --env.num-envs 64"
            raise ConfigError([Problem(word, MISSING, rule)])
    return found


def _heads() -> set[str]:
    return {path.partition(".")[0] for path, *_ in describe()}


def _head(name: str) -> str:
    """The section, or field, that a name on a command line begins with."""
    return name.partition("=")[0].partition(".")[0].replace("-", "_")


def _bare(name: str, value: str) -> str:
    """How the field is set that stands without a sign that it is one."""
    value = "VALUE" if not value or value.startswith("--") else value
    return f"is set by --{name.replace('_', '-')} {value}, or by {name.replace('-', '_')}={value}"


def _unknown(name: str, options: Sequence[str]) -> str:
    """What is wrong with an option of that name, and what may have been meant."""
    if "members" in options and name in ("seed", "seeds", "num-seeds"):
        return "a run keeps the seeds that it has; --member I, or --members I,J, is some of them"
    dashed = [path.replace("_", "-") for path, *_ in describe()]
    last = {path.rpartition(".")[2] for path in dashed}
    near = nearest(name, [*options, *last, *{path.partition(".")[0] for path in dashed}], few=0)
    meant = near.rpartition(" is ")[2].strip("'") or name
    inner = [path for path in dashed if path.rpartition(".")[2] == meant]
    if inner and meant not in options:
        near = f"; there is --{', --'.join(inner)}"
    return "no such option or field of the config" + (near or "; --help lists them")
