"""The commands that run something or look at a run: what `jaxtrain train`, `resume`, `runs` … do.

In: parsed options. Out: text, and an exit code. `cli.py` reads the arguments.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import signal
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config.number import whole, wholes
from jaxtrain.config.schema import Config
from jaxtrain.config.yaml import plain
from jaxtrain.errors import MISSING, ConfigError, Problem, shown
from jaxtrain.loop.evaluate import EPISODES
from jaxtrain.loop.train import Result
from jaxtrain.paths import as_path
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import machine
from jaxtrain.runs.manager import best, manifests, over_seeds, place
from jaxtrain.runs.resume import stored_config
from jaxtrain.sinks.jsonlines import entry
from jaxtrain.tools import output, short

RUNS = Path("runs")  # where runs go that are given no place


def train(config: Config, options: argparse.Namespace) -> int:
    """Run a config in a directory; one that holds this run already goes on where it stopped."""
    names = ("seed", "num_seeds", "resume", "init_from", "take")
    given = {name: getattr(options, name) for name in names}
    if options.num_seeds is not None:
        given["num_seeds"] = short.repeats(whole("num_seeds", options.num_seeds, low=1))
    given["cache"] = not options.no_cache
    if not options.out:
        with _new_directory(_stem(config, options.file)) as directory:
            return _launch(config, directory, **given)
    directory = as_path("out", options.out)
    if directory.is_dir() and not any((directory / name).exists() for name in rundir.HELD):
        others = sorted(path.name for path in directory.iterdir() if path.name not in rundir.BEGUN)
        if others:
            some = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
            rule = f"holds no run, but {some}; give a new directory or an empty one"
            raise ConfigError([Problem(f"directory {options.out!r}", MISSING, rule)])
    return _launch(config, directory, **given)


def _stem(config: Config, file: str | None) -> str:
    """What a run is called after: its file, or its environment where there is none."""
    name = str(config.env.id).rpartition(":")[2] if file is None else Path(file).stem
    return name.replace("/", "-")


@contextmanager
def _new_directory(stem: str) -> Generator[Path]:
    """A directory for a run, of this process's own; gone again if it stays empty."""
    there = RUNS.is_dir()
    claimed = _claimed(f"{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    try:
        yield claimed
    finally:
        with suppress(OSError):  # something is in it
            claimed.rmdir()
            if not there:
                RUNS.rmdir()


def _claimed(name: str) -> Path:
    """A new directory of that name, or with the first number behind it that no other process has taken."""
    place, number = RUNS / name, 1
    while True:
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
            place = RUNS / f"{name}-{number}"
            continue
        except OSError:
            pass  # `launch` says why
        return place


def resume(overrides: list[str], options: argparse.Namespace) -> int:
    """Go on with a run, or with some of its seeds in another directory."""
    source = as_path("directory", options.directory)
    about = rundir.read_about(source)  # says so if there is none
    config = short.longer(stored_config(source, overrides), stored_config(source))
    if (options.members is None) != (options.out is None):
        rule = "--members and --out go together: a run of fewer seeds has a directory and a log of its own"
        raise ConfigError([Problem("resume", MISSING, rule)])
    if options.out is not None:
        out, seeds = (
            as_path("out", options.out),
            short.seeds(wholes("members", options.members), about["num_seeds"]),
        )
        return _launch(config, out, cache=not options.no_cache, start_from=source, seeds=seeds)
    return _launch(config, source, cache=not options.no_cache, resume="must")


def _launch(config: Config, directory: Path, **given: Any) -> int:
    from jaxtrain.runs.launch import launch

    again = output.typed("jaxtrain", "resume", str(directory))
    try:
        ending = launch(config, directory, **given)
    except (FloatingPointError, OSError, rundir.DirectoryLost) as error:
        output.warn(*f"jaxtrain: {error}".split("\n"))
        if isinstance(error, OSError):
            output.warn(f"jaxtrain: the last checkpoint is whole; {again}")
        return 1
    finally:
        output.settle()
    for seed in ending.non_finite:
        output.warn(
            f"jaxtrain: seed {seed} stopped: it was not finite; see `non_finite` in the log. Its last "
            f"finite state is in {ending.checkpoint}"
        )
    reached, has_best = _outcome(ending.result, directory, config)
    output.say(*reached)
    output.say(f"files: {directory}/  ({', '.join(sorted(p.name for p in directory.iterdir()))})")
    if ending.signal is not None:
        name = signal.Signals(ending.signal).name
        output.warn(f"jaxtrain: stopped by {name}, saved; to go on: {again}")
        return 128 + ending.signal
    output.say(*_next(directory, config, has_best))
    return 1 if ending.non_finite else 0


def _next(directory: Path, config: Config, has_best: bool) -> list[str]:
    """What to type after a run, a line for each."""
    place, longer = str(directory), str(2 * config.total_env_steps)
    words = [
        ["plot", place] if (directory / rundir.LOG).exists() else [],
        ["evaluate", place, *([] if has_best else ["--which", "last"])],
        ["resume", place, "--total-env-steps", longer, "--anneal-env-steps", longer],
    ]
    lines = [output.typed("jaxtrain", *command) for command in words if command]
    return [f"{'next: ' if i == 0 else '      '}{line}" for i, line in enumerate(lines)]


def _outcome(result: Result, directory: Path, config: Config) -> tuple[list[str], bool]:
    """Lines on what a run has reached, its returns and where its best policy is; and whether there is one."""
    lines: list[str] = []
    history = result.history
    for of, event, metric in (
        ("evaluation", "evaluation", "return_mean"),
        ("training", "metrics", "rollout/return_mean"),
    ):
        rows = np.atleast_2d(np.asarray(history.get(event, {}).get(metric, ()), float))  # [S, marks]
        known = [value for value in map(over_seeds, rows.T) if value is not None]
        if known:
            lines = [f"return: last {_return(known[-1])}, best {_return(max(known))} ({of})"]
            break
    said = manifests(directory / rundir.CHECKPOINTS)
    judged = next((m["best"]["metric"] for _, m in sorted(said.items(), reverse=True) if m["best"]), None)
    chosen = best(said, judged, config.checkpoint.best_mode)
    if chosen is not None:
        where = place(directory / rundir.CHECKPOINTS, chosen)
        lines.append(f"best policy: {where}, by {judged}")
    return lines, chosen is not None


def _return(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def runs(options: argparse.Namespace) -> int:
    """A line for every run below a directory."""
    from jaxtrain.runs.index import rows

    root = as_path("directory", options.root)
    if options.root != "runs" and not root.is_dir():  # its default need not exist yet
        raise ConfigError([Problem(f"directory {str(root)!r}", MISSING, "there is no such directory")])
    found = rows(root, options.sort)
    if options.json:
        plain_rows = [dataclasses.asdict(row) | {"path": str(row.path)} for row in found]
        output.show(json.dumps(plain_rows, default=str))
        return 0
    if not found:
        output.show(f"no runs in {options.root}")
        return 0
    width = max(3, *(len(shown(str(row.path))) for row in found))
    head = f"{'seeds':>5}  {'state':<10}  {'done':>5}  {'env steps':>15}  {'last return':>23}  {'best':>9}"
    output.show(f"{'run':<{width}}  {head}  {'last start':<25}  what differs")
    for row in found:
        last = "" if row.last_return is None else f"{_return(row.last_return)} ({row.return_of})"
        best = "" if row.best_return is None else _return(row.best_return)
        reached = f"{row.progress:>5.0%}  {row.env_steps:>15,}  {last:>23}  {best:>9}"
        line = f"{row.seeds:>5}  {row.state:<10}  {reached}  {row.started:<25}  {row.label}".rstrip()
        output.show(f"{shown(str(row.path)):<{width}}  {line}")
    return 0


def which(text: str) -> Any:
    """A checkpoint as people name it: "best", "last", or env steps as they are printed or written in YAML."""
    digits = text.replace(",", "").replace("_", "")
    return int(digits) if digits.isdecimal() else text


def evaluate(options: argparse.Namespace, env: Mapping[str, Any]) -> int:
    """Complete episodes with a saved policy.

    Args:
      env: fields of the environment that differ from the run's.
    """
    from jaxtrain.runs.evaluate import evaluate_run

    checkpoint = which(options.which)
    saved, members, settings, report = evaluate_run(
        options.directory,
        checkpoint,
        options.members,
        num_episodes=options.num_episodes,
        sampled=options.sampled,
        seed=options.seed,
        env=env,
    )
    episodes = {name: report.pop(name) for name in EPISODES}
    env_steps, trainer = saved.manifest["env_steps"], saved.trainer
    if options.json:
        where: Any = plain(settings.env)
        made = {
            "directory": options.directory,
            "env_steps": env_steps,
            "members": list(members),
            "env": {"id": where["id"], "params": where["params"]},
            "sampled": not settings.greedy,
            "seed": options.seed,
        }
        values, each = ({name: entry(value) for name, value in x.items()} for x in (report, episodes))
        output.show(json.dumps(made | {"values": values, **each}, allow_nan=False))
        return 0
    per = trainer.env_steps_per_update
    stopped = np.asarray(saved.state.stopped_at)
    # Once all seeds have stopped only the end makes a report.
    awake = trainer.num_updates if (stopped < 0).any() else stopped.max()
    told = [u for u in trainer.timetable.get("evaluation", ()) if u <= awake or u == trainer.num_updates]
    marks = [per * u for u in told if per * u <= env_steps]
    wide = max(14, *(len(shown(name)) + 2 for name in report))
    output.show(f"{'checkpoint':<{wide}}{env_steps:,} env steps ({checkpoint})")
    logged = f"logged at {marks[-1]:,}" if marks else ""
    output.show(f"{'':<{wide}}{'now':<12}{logged:<26}{'each' if len(members) > 1 else ''}".rstrip())
    for name, values in report.items():
        each = "" if values.ndim == 0 else ", ".join(f"{v:g}" for v in values)
        then = saved.state.metrics.get(f"evaluation/{name}") if marks else None
        if then is not None and len(members) > 1:
            then = np.asarray(then)[[saved.seeds.all.index(member) for member in members]]
        before = "" if then is None else _text(over_seeds(then))
        output.show(f"{shown(name):<{wide}}{_text(over_seeds(values)):<12}{before:<26}{each}".rstrip())
    return 0


def _text(value: float | None) -> str:
    return "nan" if value is None else f"{value:g}"


def _about(manifest: Mapping[str, Any]) -> str:
    """A whole checkpoint: why it was made, and what it is judged by."""
    best: Any = manifest.get("best")
    by, value = (best.get("metric"), best.get("value")) if isinstance(best, dict) else (None, None)
    judged = f"  {by} {_text(value)}" if isinstance(value, float) else ""
    return f"whole  {manifest.get('reason')!s:<9}{judged}".rstrip()


def _changed(directory: str) -> list[str]:
    """A line on a run's `config.yaml`, if it has changed; who reads `run.json` says so of that."""
    try:
        rundir.config_of(as_path("directory", directory))
    except ConfigError as error:
        return [f"{rundir.CONFIG}  {problem.rule}" for problem in error.problems]
    return []


def verify(options: argparse.Namespace) -> int:
    """Check every checkpoint of a run; with --replay also that it can be run again to the same bits."""
    from jaxtrain.runs.load import replay, verdicts

    found: Mapping[Path, str | None] = verdicts(options.directory)
    said = manifests(as_path("directory", options.directory) / rundir.CHECKPOINTS)
    for path, problem in found.items():
        manifest = said.get(int(path.name))  # none of one that the run has deleted since
        if problem is not None or manifest is not None:
            output.show(f"{path.name}  {problem or _about(manifest or {})}")
    if not found:
        output.show("no checkpoint yet")
    for path in sorted((as_path("directory", options.directory) / rundir.CHECKPOINTS).glob("*.set-aside*")):
        output.show(f"{path.name}  was found damaged when the run went on; nothing reads it")
    changed = _changed(options.directory)
    for line in changed:
        output.show(line)
    bad = not found or bool(changed) or any(problem is not None for problem in found.values())
    if options.replay:
        begun = time.monotonic()
        for note in machine.notes(rundir.read_about(as_path("directory", options.directory))["starts"]):
            output.warn(f"jaxtrain: {note}")
        before, after, differs = replay(options.directory)
        verdict = "the same bits" if differs is None else f"differs, first in {differs}"
        seconds = time.monotonic() - begun
        output.show(f"replay from {before:,} to {after:,} env steps: {verdict} ({seconds:.0f} s)")
        bad |= differs is not None
    return int(bad)
