"""Where a run begins or goes on: its config, its seeds, and the checkpoint that it goes on from, if any.

In: what the caller asks for, and a directory. Out: an `RunPlan`. Refuses, before anything is changed on disk,
what would not be the same run.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtrain.config import modules
from jaxtrain.config import yaml as files
from jaxtrain.config.number import as_number
from jaxtrain.config.schema import INTERVALS, Config, dump, load_config, resolved, to_dict
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.event import Part
from jaxtrain.loop.fit import fit
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.trainer import History, Trainer
from jaxtrain.paths import as_path
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import disk, log, machine, manager, snapshot
from jaxtrain.runs import lock as locks
from jaxtrain.runs.checkpoint import Damaged
from jaxtrain.runs.directory import CHECKPOINTS, CONFIG, LOG, RUN, inside, read_about
from jaxtrain.runs.seeds import Seeds
from jaxtrain.types import Key

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
NO_LOGS = (
    CHECKPOINTS,
    CONFIG,
    RUN,
    locks.NAME,
    locks.EXCLUSIVE,
    "README.md",
)  # files of a run that nothing is appended to


@dataclasses.dataclass(frozen=True)
class Found:
    """A whole checkpoint of a run, the newest but for those in `bad`."""

    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]
    bad: dict[Path, str]  # newer ones, and what is wrong with them

    @property
    def env_steps(self) -> int:
        return self.manifest["env_steps"]


def stored_config(directory: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run, and what is to be otherwise; the modules that it names are imported as they were.

    Raises:
      ConfigError: it cannot be read; for one that only Python can make, says to call `launch`.
    """
    path = rundir.config_of(directory)
    modules.restore(read_about(directory).get("modules", {}))
    try:
        fit(load_config(path), ())
    except ConfigError as error:
        raise not_read_back(directory, error) from None
    if overrides:
        _check_total(directory, path, overrides)
    return load_config(path, overrides)


def _check_total(directory: Path, path: Path, overrides: Sequence[str]) -> None:
    """Refuse fewer env steps than are done: the intervals that the run keeps would be too long for them."""
    raw = files.read(path)
    for override in overrides:
        with suppress(ConfigError):  # which `load_config` raises again
            files.override(raw, override)
    total = as_number(raw.get("total_env_steps"))
    done = max(manager.manifests(inside(directory, CHECKPOINTS)), default=0)
    if total is not None:
        _check_length(total, directory, done)


def not_read_back(directory: Path, error: ConfigError) -> ConfigError:
    """What to do about a run whose own config does not make a run."""
    rule = (
        f"cannot be read back; if it has objects from Python, give the config itself to `launch`, or to "
        f"`load` and `load_policy` as config=. {CONFIG}: {error}"
    )
    return ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])


def reconcile(
    directory: Path, config: Config, events: Sequence[str], saved: Mapping[str, Any] | None
) -> tuple[Config, list[str]]:
    """The config with what was left unset as the run has it, and notes for the user.

    Args:
      saved: the config as the checkpoint has it, against which that in the directory may have been edited.

    Raises:
      ConfigError: a line for everything that makes it another run.
    """
    stored = files.read(rundir.config_of(directory))
    parts = {name: getattr(config, name) for name in INTERVALS if getattr(config, name).every is None}
    kept = {n: dataclasses.replace(p, every=stored.get(n, {}).get("every")) for n, p in parts.items()}
    total, old_total = config.total_env_steps, int((saved or stored)["total_env_steps"])
    notes: list[str] = []
    anneal = config.anneal_env_steps or stored.get("anneal_env_steps")
    if total != old_total and anneal is None:
        anneal = old_total
        behind = ", and stay at their final value, where one of 0 learns no more" if total > old_total else ""
        notes.append(
            f"total_env_steps is {total}, was {old_total}: rates that anneal do so over the first {anneal} "
            f"env steps, as before{behind}; anneal_env_steps sets another length"
        )
    config = resolved(dataclasses.replace(config, **kept, anneal_env_steps=anneal))
    problems = differences(saved or stored, config)
    about = read_about(directory)
    problems += modules.differing(about.get("modules", {}), modules.origins(to_dict(config)))
    said = about.get("events", [])
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
        found = Found(*manager.newest_good(place))
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


def _has_updates(path: Path) -> bool:
    """Whether anything was logged after the first checkpoint, which is that of a run's very beginning."""
    try:
        with path.open(encoding="utf-8") as lines:
            return any('"update": 0,' not in line for line in lines if line.endswith("\n"))
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def rewind(directory: Path, logs: Mapping[str, int]) -> list[str]:
    """Cut every log back to its length at a checkpoint, and to a whole row; those that did not exist then go.

    Returns:
      A sentence for each that is shorter than it was, whose rows are lost, or is not as it was written.
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
        lost += log.mend(path) if name == LOG else []
    later = [inside(directory, LOG), *inside(directory, "tensorboard").rglob("*tfevents*")]
    for path in later:
        if path.is_file() and path.relative_to(directory).as_posix() not in logs:
            path.unlink()
    return lost


@dataclass(frozen=True)
class RunPlan:
    """What to run, and from where."""

    config: Config
    seeds: Seeds
    about: dict[str, Any]  # for `run.json`
    notes: list[str]  # for the user: what is not as it may be thought to be
    found: Found | None = None  # the checkpoint to go on from, its arrays those of these seeds
    own: bool = False  # whether that is of this very directory
    news: list[str] = dataclasses.field(default_factory=list[str])  # for the user: from where it begins
    taken: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # of another's agent, by leaf

    @property
    def resumed_at(self) -> int | None:
        """Env steps of this run's own checkpoint."""
        return self.found.env_steps if self.own and self.found else None

    def restored(
        self, trainer: Trainer, events: Sequence[Part]
    ) -> tuple[tuple[TrainState, History] | None, RunPlan]:
        """What the run goes on from, and the plan without its arrays: the host held them while it trains."""
        if self.found is None:
            return None, self
        begin = restored(self.found, self.config, self.seeds, trainer, events)
        return begin, dataclasses.replace(self, found=dataclasses.replace(self.found, arrays={}))


def start_run(
    config: Config, events: Sequence[Part], asked: Mapping[str, Any], start_from: str | Path | None
) -> RunPlan:
    """A run of its own, from the beginning or from a checkpoint of another."""
    found, notes, news, source = None, list[str](), list[str](), None
    if start_from is None:
        seeds = dataclasses.replace(Seeds(0, None, 1), **asked)
        config = resolved(config)
        files.parse(dump(config).encode(), "the config as a text")  # which is read when the run goes on
    else:
        place = as_path("start_from", start_from)
        said, found = rundir.read_about(place), find(place)
        stored = Seeds.of(said)
        if found is None:
            raise ConfigError([Problem("start_from", str(place), "holds no checkpoint yet")])
        _check_length(config.total_env_steps, place, found.env_steps)
        config, notes = reconcile(place, config, _described(events), found.manifest.get("config"))
        news.append(f"beginning from {found.env_steps:,} env steps of {place}; the log of before is there")
        if found.env_steps == config.total_env_steps:
            notes.append(
                "that is all of its env steps: only to save is left; total_env_steps makes it longer"
            )
        notes += machine.notes(said["starts"])
        seeds = stored.narrowed(asked)
        source = {"directory": str(place.resolve()), "env_steps": found.env_steps}
        if seeds.all != stored.all:
            arrays = snapshot.of_seeds(found.arrays, [stored.all.index(s) for s in seeds.all])
            found = dataclasses.replace(found, arrays=arrays)
    outside = [s for s in seeds.all if s >= seeds.num_seeds]
    if outside:
        raise ConfigError([Problem("seeds", outside, f"needs ints below num_seeds = {seeds.num_seeds}")])
    about = {
        "id": secrets.token_hex(4),
        "created": rundir.now(),
        **seeds.about(),
        "start_from": source,
        "init_from": None,
        "events": _described(events),
        "modules": modules.origins(to_dict(config)),
        "starts": [],
    }
    return RunPlan(config, seeds, about, notes, found, news=news)


def resume_run(
    place: Path,
    config: Config,
    events: Sequence[Part],
    asked: Mapping[str, Any],
    start_from: str | Path | None,
) -> RunPlan | None:
    """The run that a directory holds, from its newest whole checkpoint; None if there is none to speak of."""
    found = find(place)
    said, configured = ((place / name).exists() for name in (rundir.RUN, rundir.CONFIG))
    foreign = [name for name in (rundir.CONFIG, rundir.LOG) if not said and (place / name).exists()]
    if foreign:  # a run says what it is before it writes anything else
        rule = f"holds a {foreign[0]} that is no run's, which a run would replace; give another"
        raise ConfigError([Problem(f"directory {str(place)!r}", MISSING, rule)])
    if found is None and not (said and configured):
        return None
    about = rundir.read_about(place)
    saved = found.manifest.get("config") if found else None
    if found is not None:
        _check_length(config.total_env_steps, place, found.env_steps)
    seeds, (config, notes) = Seeds.of(about), reconcile(place, config, _described(events), saved)
    rule = f"the run in {str(place)!r} has {{!r}}; another run needs another directory"
    has = {"seed": seeds.seed, "key": seeds.key, "num_seeds": seeds.num_seeds, "seeds": seeds.all}
    wanted = {"seeds" if name == "chosen" else name: value for name, value in asked.items()}
    problems = [
        Problem(name, value, rule.format(has[name])) for name, value in wanted.items() if value != has[name]
    ]
    began = about["start_from"] and about["start_from"]["directory"]
    if start_from is not None and began != str(as_path("start_from", start_from).resolve()):
        rule = (
            f"the run in {str(place)!r} began from {began or 'no other'}; another run needs another directory"
        )
        problems.append(Problem("start_from", str(start_from), rule))
    if problems:
        raise ConfigError(problems)
    if found is None:  # killed before its first checkpoint
        given = {f.name: getattr(seeds, f.name) for f in dataclasses.fields(seeds)}
        if seeds.chosen is None:
            del given["chosen"]
        source = about["start_from"]
        begun = start_run(config, events, given, source and source["directory"])
        # The other run may have gone on since.
        about = {**about, "start_from": begun.about["start_from"]}
        return dataclasses.replace(begun, about=about, notes=[*notes, *begun.notes])
    notes += machine.notes(about["starts"])
    return RunPlan(config, seeds, about, notes, found, own=True)


def _check_length(total_env_steps: float, place: Path, done: int) -> None:
    if done > total_env_steps:
        rule = f"the run in {str(place)!r} has done {done} env steps; needs at least that"
        rule += ", or another directory for another run"
        raise ConfigError([Problem("total_env_steps", total_env_steps, rule)])


def _described(events: Sequence[Part]) -> list[str]:
    return [f"{type(e).__name__} {e.name}: {getattr(e, 'schedule', '')}".rstrip(": ") for e in events]


def restored(
    found: Found, config: Config, seeds: Seeds, trainer: Trainer, events: Sequence[Part]
) -> tuple[TrainState, History]:
    """The state and the history of a checkpoint.

    Args:
      config, seeds: of the run that has it, or goes on from it; `trainer` is of that config.

    Raises:
      ConfigError: it does not fit the program; has a line for each array.
    """
    said = found.manifest
    logging_then = dataclasses.replace(config.logging, every=said["logging_every"])
    then = dataclasses.replace(config, total_env_steps=said["total_env_steps"], logging=logging_then)
    state, history = shapes(trainer, seeds)
    try:
        return snapshot.from_arrays(
            found.arrays,
            state,
            history,
            marks=trainer.timetable,
            old_marks=Trainer(then, events).timetable,
        )
    except snapshot.Mismatch as error:
        problems = [Problem(line, MISSING, "does not fit") for line in str(error).splitlines()]
        raise ConfigError(problems) from None


def shapes(trainer: Trainer, seeds: Seeds) -> tuple[TrainState, History]:
    """Of a run's state and history; nothing is computed."""

    def blank(keys: Key) -> tuple[TrainState, History]:
        state = trainer.new(keys)
        return state, trainer.history(state)

    return jax.eval_shape(blank, seeds.keys())
