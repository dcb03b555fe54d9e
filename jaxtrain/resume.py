"""Where a run goes on: what its directory holds, against what is asked for.

In: a run's directory, a config, seeds. Out: the config to run, and the checkpoint to go on from. Refuses,
before anything is changed, what would not be the same run. Knows nothing of the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain import commits, disk, files
from jaxtrain.checkpoint import Damaged
from jaxtrain.config import INTERVALS, Config, load_config, resolved, to_dict
from jaxtrain.reading import MISSING, ConfigError, Problem
from jaxtrain.rundir import CHECKPOINTS, CONFIG, LOG, RUN, inside, read_about

# What may differ between two starts of one run: it moves no bit of what is learned up to a given update.
MAY_CHANGE = (
    "total_env_steps",
    "anneal_env_steps",
    "logging.every",
    "logging.sinks",
    "logging.tensorboard",
    "logging.wandb",
    "checkpoint",
)

NO_LOGS = (CHECKPOINTS, CONFIG, RUN, "lock", "README.md")  # files of a run that nothing is appended to


@dataclasses.dataclass(frozen=True)
class Found:
    """The newest whole checkpoint of a run."""

    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]
    bad: dict[Path, str]  # newer ones, and what is wrong with them

    @property
    def env_steps(self) -> int:
        return self.manifest["env_steps"]


def stored_config(directory: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run, and what is to be otherwise.

    Raises:
      ConfigError: it cannot be read; for one that only Python can make, says to call `launch`.
    """
    path = inside(directory, CONFIG)
    try:
        load_config(path)
    except ConfigError as error:
        rule = (
            f"cannot be read back; if it has objects from Python, give the config itself to `launch`, or to "
            f"`load_policy` as config=. {CONFIG}: {error}"
        )
        raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)]) from None
    return load_config(path, overrides)


def reconcile(
    directory: Path, config: Config, events: Sequence[str], saved: Mapping[str, Any] | None
) -> tuple[Config, list[str]]:
    """The config with what was left unset as the run has it, and notes for the user.

    Args:
      saved: the config as the checkpoint has it, against which that in the directory may have been edited.

    Raises:
      ConfigError: a line for everything that makes it another run.
    """
    stored = files.read(inside(directory, CONFIG))
    parts = {name: getattr(config, name) for name in INTERVALS if getattr(config, name).every is None}
    kept = {n: dataclasses.replace(p, every=stored.get(n, {}).get("every")) for n, p in parts.items()}
    total, old_total = config.total_env_steps, int((saved or stored)["total_env_steps"])
    notes: list[str] = []
    anneal = config.anneal_env_steps or stored.get("anneal_env_steps")
    if total != old_total and anneal is None:
        anneal = old_total
        notes.append(
            f"total_env_steps is {total}, was {old_total}: rates that anneal do so over the first {anneal} "
            f"env steps, as before, and stay at their final value, where one of 0 learns no more; "
            f"anneal_env_steps sets another length"
        )
    config = resolved(dataclasses.replace(config, **kept, anneal_env_steps=anneal))
    problems = differences(saved or stored, config)
    said = read_about(directory).get("events", [])
    if list(events) != said:
        problems.append(Problem("events", list(events), f"the run was launched from Python with {said!r}"))
    if problems:
        rule = (
            f"the run in {str(directory)!r} goes on with what it has; give another directory for another run"
        )
        raise ConfigError([*problems, Problem("resume", MISSING, rule)])
    return config, notes


def differences(saved: Mapping[str, Any], config: Config) -> list[Problem]:
    """A line for everything that makes a config another run's than the saved one."""
    old, new = _flat(saved), _flat(to_dict(config))
    return [
        Problem(name, new.get(name, "nothing"), f"the run has {old.get(name, 'nothing')!r}")
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "nothing") != new.get(name, "nothing")
        and not any(name == may or name.startswith(f"{may}.") for may in MAY_CHANGE)
    ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {k: v for name, x in tree.items() for k, v in _flat(x, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): tree}


def find(directory: Path) -> Found | None:
    """The newest whole checkpoint; None for a run that was killed before its first.

    Raises:
      ConfigError: there are checkpoints, or were, and none is whole.
    """
    place = inside(directory, CHECKPOINTS)
    try:
        found = Found(*commits.newest_good(place))
        _check_logs(directory, found.manifest.get("logs"))
        return found
    except FileNotFoundError:
        if _has_updates(inside(directory, LOG)):
            rule = f"its log goes on, but {CHECKPOINTS}/ is empty"
        else:
            return None
    except Damaged as error:
        rule = f"no checkpoint of it is whole: {error}"
    rule += "; restore one from a backup, or begin anew in another directory. Nothing was changed"
    raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])


def _check_logs(directory: Path, logs: Any) -> None:
    """Raise a ConfigError for logs of a manifest that are no files which may be cut back to a length."""
    sound = isinstance(logs, dict)
    for name, length in logs.items() if isinstance(logs, dict) else ():
        sound = sound and type(length) is int and length >= 0 and "\0" not in name
        if sound:
            path = inside(directory, name)
            own = path.relative_to(directory).parts[:1]
            sound = own not in ((), *((n,) for n in NO_LOGS)) and not path.is_dir()
    if not sound:
        rule = f"a checkpoint's manifest has logs that are none: {logs!r}"[:300]
        raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])


def _has_updates(log: Path) -> bool:
    """Whether anything was logged after the first checkpoint, which is that of a run's very beginning."""
    try:
        with log.open(encoding="utf-8") as lines:
            return any('"update": 0,' not in line for line in lines if line.endswith("\n"))
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def rewind(directory: Path, logs: Mapping[str, int]) -> list[str]:
    """Cut every log back to its length at a checkpoint; those that did not exist then go.

    Returns:
      A sentence for each that is shorter than it was, whose rows are lost.
    """
    lost: list[str] = []
    for name, length in logs.items():
        path = inside(directory, name)
        size = path.stat().st_size if path.is_file() else -1
        if size < length:
            lost.append(
                f"{name} had {length} bytes at the checkpoint and has {max(size, 0)}: rows are missing"
            )
        else:
            disk.cut(path, length)
    later = [inside(directory, LOG), *inside(directory, "tensorboard").rglob("*tfevents*")]
    for path in later:
        if path.is_file() and path.relative_to(directory).as_posix() not in logs:
            path.unlink()
    return lost
