"""A run in a directory of its own: the program of `train` in chunks, logs, checkpoints, signals, resume.

In: a config, a directory, seeds. Out: a directory that explains itself, and how the run ended.
The program is that of `train`, cut into chunks between which the host looks up: the bits are the same,
however often the run was stopped, killed and resumed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxtrain import device, signals, sinks
from jaxtrain.config.schema import Config, dump, to_dict
from jaxtrain.errors import ConfigError, Problem
from jaxtrain.events.event import Part
from jaxtrain.known import filled
from jaxtrain.loop import callback, memory
from jaxtrain.loop.state import NON_FINITE, TrainState
from jaxtrain.loop.train import Faults, Marks, Result, run_info, seeds_first
from jaxtrain.loop.trainer import History, Trainer
from jaxtrain.paths import as_path
from jaxtrain.runs import directory as rundir
from jaxtrain.runs import disk, machine, manager
from jaxtrain.runs.directory import RunDirectory
from jaxtrain.runs.init_from import (
    Request,
    Source,
    Take,
    check_same_source,
    described_spaces,
    not_told_apart,
    open_source,
    open_source_again,
    requested,
    take_from,
)
from jaxtrain.runs.manager import best_metric, check_metric
from jaxtrain.runs.program import Programs, compilation_cache, keep_tuning
from jaxtrain.runs.resume import RunPlan, resume_run, rewind, shapes, start_run
from jaxtrain.runs.seeds import asked_seeds
from jaxtrain.runs.train_loop import TrainLoop
from jaxtrain.sinks.base import checked
from jaxtrain.sinks.dispatch import Dispatcher
from jaxtrain.types import Key, Sink
from jaxtrain.version import __version__

Resume = Literal["auto", "never", "must"]
_log = logging.getLogger("jaxtrain")


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    result: Result = field(repr=False)
    directory: Path
    resumed_at: int | None  # env steps of the checkpoint that it went on from; None for a fresh start
    checkpoint: Path | None  # the newest
    signal: int | None  # the number of the signal that stopped it
    losses: list[str]  # a sentence for each sink that failed
    non_finite: tuple[int, ...]  # seeds that stopped as they were not finite
    # Seconds that training waited for each checkpoint: until the one before was on disk, and until what is
    # `tree.InPlace`, a replay, was on the host. The rest is copied on the device and leaves it meanwhile.
    stalls: tuple[float, ...]


def launch(
    config: Config,
    directory: str | Path,
    *,
    seed: int | None = None,
    key: Key | None = None,
    num_seeds: int | None = None,
    seeds: Sequence[int] | None = None,
    resume: Resume = "auto",
    start_from: str | Path | None = None,
    init_from: str | Path | None = None,
    take: Take | None = None,
    events: Sequence[Part] = (),
    more_sinks: Sequence[Sink] = (),
    cache: bool = True,
) -> Ending:
    """Train in a directory, and go on where it stopped if it holds this run already.

    The end is, bit for bit, the same however often the run was killed and launched again. On a CPU it is
    that of `train(config, jax.random.key(seed))`, with several seeds of
    `jax.vmap(train, (None, 0))(config, jax.random.split(jax.random.key(seed), num_seeds))`; on a GPU, where
    kernels are chosen by their speed for each program, it is close to it. SIGINT, SIGTERM, SIGHUP and
    those of `config.checkpoint.signals` stop it with a checkpoint, within
    `config.checkpoint.reaction_seconds`; a second SIGINT or SIGTERM ends the process at once, with 128 +
    its number. A handler that was there is called afterwards.

    Args:
      directory: `config.yaml`, `run.json`, `checkpoints/` and what the sinks of `config.logging` leave.
      seed, key: of the run, one of them; unset, that of the run in the directory, and 0 for a new one. A
        seed is an int from 0 to 2^32 - 1.
      num_seeds: likewise, and 1.
      seeds: of a run of `num_seeds`, only these. Those of another run's checkpoint need `start_from`.
      resume: "auto"; "never" refuses a directory that holds a run; "must" refuses one that holds none.
      start_from: a directory of a run, whose newest checkpoint a new run begins from: the same run, of which
        some seeds go on. Of a run that is there already it has to be where that began.
      init_from: `RUN`, `RUN@best`, `RUN@last` or `RUN@ENV_STEPS`: a checkpoint of another run, from which a
        new one begins, whose clock is 0 and whose rates are its own; without @ the best, or else the last.
        Seeds begin from those of the other run in order, or all from its only one.
      take: what is taken of it: "params", unset; or "agent", all that was learned: also normalizer, optimizer
        and targets. Never a replay.
      events: as in `train`. A run that had some goes on only with events of the same names and schedules.
      more_sinks: besides those of `config.logging`; flushed, not closed.
      cache: keep compiled programs in the user's cache directory.

    Raises:
      ConfigError: for what cannot run, a directory that cannot be written, is in use or holds another
        run, or a run none of whose checkpoints is whole. Nothing of it is touched.
      OSError: the log or a checkpoint could not be written; names the path. The last checkpoint is whole.
      DirectoryLost: the directory or its lock was moved, deleted or replaced meanwhile; says where what was
        saved is. Nothing was written to what is in its place.
      FloatingPointError: with `on_nan: raise`, after the last finite state is saved.
      OutOfMemory: of the device; names the bytes of each part, and an estimate of what would fit.
    """
    if resume not in ("auto", "never", "must"):
        raise ConfigError([Problem("resume", resume, "needs one of auto, never, must")])
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        rule = "a run in a directory is compiled ahead, which JAX cannot do then; jaxtrain.train runs without"
        raise ConfigError([Problem("jax_disable_jit", True, rule)])
    more_sinks = checked("more_sinks", more_sinks)
    device.check(callbacks=True)
    Trainer(config, events).timetable  # noqa: B018  says what cannot run, before a directory is made
    asked, place = asked_seeds(seed, key, num_seeds, seeds), as_path("directory", directory)
    request = requested(init_from, take, start_from)
    with ExitStack() as stack:
        more = (signals.MORE[name] for name in config.checkpoint.signals)
        # Around all else: a handler that was there is called once the directory is free.
        caught = stack.enter_context(signals.listening((*signals.CAUGHT, *more)))
        run = stack.enter_context(RunDirectory(place))
        stack.enter_context(compilation_cache(cache, run.path))
        if run.holds_run and resume == "never":
            raise run.refuse("already holds a run; give another")
        if not run.holds_run and resume == "must":
            raise run.refuse("holds no run to resume")
        run_plan = resume_run(run.path, config, events, asked, start_from) if run.holds_run else None
        if run_plan is None:
            run_plan = start_run(config, events, asked, start_from)
            source = None if request is None else open_source(request)
        else:
            source = _source_again(run, run_plan, request)
        if source is not None:
            run_plan = _beginning_from(source, run_plan, events)
        trainer = Trainer(run_plan.config, events)
        begin, run_plan = run_plan.restored(trainer, events)
        return _run(run, run_plan, trainer, begin, events, more_sinks, caught)


def _source_again(run: RunDirectory, run_plan: RunPlan, request: Request | None) -> Source | None:
    """What a run that is there already is still to begin from: that of before, and no other."""
    if request is not None:
        check_same_source(run.path, run_plan.about, request)
    record = run_plan.about.get("init_from")
    return None if record is None or run_plan.own else open_source_again(record)


def _beginning_from(source: Source, run_plan: RunPlan, events: Sequence[Part]) -> RunPlan:
    """A run that has not begun, with what it takes of another."""
    trainer = Trainer(run_plan.config, events)
    taken, sentence = take_from(source, trainer, run_plan.seeds)
    about, news = {**run_plan.about, "init_from": source.record}, [*run_plan.news, sentence]
    notes = [*run_plan.notes, *not_told_apart(trainer.config.algorithm)]
    return replace(run_plan, about=about, notes=notes, news=news, taken=taken)


def _run(
    run: RunDirectory,
    run_plan: RunPlan,
    trainer: Trainer,
    begin: tuple[TrainState, History] | None,
    events: Sequence[Part],
    more_sinks: Sequence[Sink],
    caught: list[int],
) -> Ending:
    """Run in a directory that is held."""
    config, resumed_at = run_plan.config, run_plan.resumed_at
    # Nothing of the directory has been touched so far; a metric that is not there leaves it so.
    check_metric(metric := best_metric(trainer), shapes(trainer, run_plan.seeds)[0].metrics)
    before = _settle(run, run_plan)
    start = rundir.this_start(resumed_at, machine.now())
    about = {**run_plan.about, "starts": [*run_plan.about["starts"], start]}
    run.write_about(about)
    run.describe(dump(config))
    log, opened = _sinks(config, run)
    faults = Faults()
    outlet = callback.connect(
        [*opened, *more_sinks, faults],
        run_info(trainer, run.name, id=about["id"], resumed_at=resumed_at),
        records=before.get("records", 0),
        elapsed_seconds=before.get("elapsed_seconds", 0.0),
        needed=log,
    )
    checkpoints = manager.CheckpointManager(
        run.path, config.checkpoint, metric, before.get("logs", {}), run.check
    )
    last = None if resumed_at is None else manager.place(checkpoints.directory, resumed_at)
    with ExitStack() as stack:  # what is to be done at the end, last things first
        stack.push(lambda kind, error, trace: _note_end(run, about, start, error))
        for sink in opened:
            stack.callback(sink.close)
        stack.callback(outlet.finish)
        stack.callback(checkpoints.close)
        try:
            facts = _facts(run_plan, trainer)
            state, history, stalls = _advance(
                run,
                run_plan,
                events,
                begin,
                outlet,
                lambda compiled: TrainLoop(trainer, compiled, outlet, checkpoints, log, caught, facts),
            )
            last = checkpoints.last or last
            outlet.wait()
            if faults.first is not None and config.on_nan == "raise":
                raise FloatingPointError(f"{faults.first}; the last finite state is in {last}")
            ending = _ending(run, run_plan, trainer, state, history, caught)
            bad = ", ".join(map(str, ending.non_finite))
            ended = f"not finite: seeds {bad}" if bad else "finished"
            start["exit"] = ended if ending.signal is None else f"signal {ending.signal}"
        except BaseException as error:
            start["exit"] = f"{type(error).__name__}: {error}"
            raise
    return replace(ending, checkpoint=last, losses=outlet.losses, stalls=tuple(stalls))


def _advance(
    run: RunDirectory,
    run_plan: RunPlan,
    events: Sequence[Part],
    begin: tuple[TrainState, History] | None,
    outlet: Dispatcher,
    loop_of: Callable[[Programs], TrainLoop],
) -> tuple[TrainState, History, list[float]]:
    """Compile and train: the state and the history where that ended, and what training waited."""
    config, resumed_at = run_plan.config, run_plan.resumed_at
    if begin is not None and resumed_at == config.total_env_steps:
        _log.info("%s has done its %s env steps: nothing is left to do", run.path, f"{resumed_at:,}")
        return (*begin, [])
    if resumed_at is not None:
        _log.info("going on from %s of %s env steps", f"{resumed_at:,}", f"{config.total_env_steps:,}")
    _log.info("compiling")
    keys = run_plan.seeds.keys()
    num_seeds, temporaries = run_plan.seeds.count, list[int]()

    def parts() -> dict[str, int]:
        trainer, most = Trainer(config, events), max(temporaries, default=None)
        return memory.by_part(trainer, saved=True, temporaries=most)

    with memory.explained(parts, config.env.num_envs, num_seeds):
        compiled = Programs(config, events, keys, outlet.id, fresh=begin is None, taken=run_plan.taken)
        temporaries += [-(-x // num_seeds) for x in [compiled.temporaries] if x is not None]
        run.check()
        keep_tuning(run.path)
        clock = 0 if begin is None else int(begin[0].clock)
        outlet.on_start(clock, num_seeds=num_seeds)  # compilation is over
        loop = loop_of(compiled)
        state, history = loop.run(*(begin or compiled.start()), saved=resumed_at is not None)
        return state, history, loop.stalls


def _ending(
    run: RunDirectory,
    run_plan: RunPlan,
    trainer: Trainer,
    state: TrainState,
    history: History,
    caught: list[int],
) -> Ending:
    """How it ended, by the state; what checkpoints and sinks have to say of it is not in it yet."""
    per = trainer.env_steps_per_update
    marks = {name: tuple(u * per for u in due) for name, due in trainer.timetable.items()}
    bad = np.flatnonzero(np.atleast_1d(state.status) == NON_FINITE)
    return Ending(
        result=Result(state, filled(seeds_first(state, history)), Marks(marks)),
        directory=run.path,
        resumed_at=run_plan.resumed_at,
        checkpoint=None,
        signal=caught[0] if int(state.clock) < trainer.num_updates else None,
        losses=[],
        non_finite=tuple(run_plan.seeds.all[i] for i in bad),
        stalls=(),
    )


def _note_end(
    run: RunDirectory, about: dict[str, Any], start: dict[str, Any], error: BaseException | None
) -> None:
    start["ended"] = rundir.now()
    try:
        run.write_about(about)
    except rundir.DirectoryLost:
        if error is None or isinstance(error, OSError):  # which it is the reason of
            raise
    except OSError:
        if error is None:  # else that says more: the disk is full, say
            raise


def _sinks(config: Config, run: RunDirectory) -> tuple[Sink | None, list[Any]]:
    """Those that a config names, and which of them is the log: the first, as the others mirror it."""
    directory, wanted = run.path, "jsonlines" in config.logging.sinks
    log = sinks.make("jsonlines", directory, check=run.check) if wanted else None
    opened: list[Any] = [log] if log else []
    for name in config.logging.sinks:
        if name != "jsonlines":
            opened.append(sinks.make(name, directory, **getattr(config.logging, name, {})))
    return log, opened


def _facts(run_plan: RunPlan, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint says besides its arrays, the same for all of a process."""
    return {
        "jaxtrain": __version__,
        "config": to_dict(run_plan.config),
        "spaces": described_spaces(trainer.spec),
        "num_seeds": run_plan.seeds.count,
        # Of these two follows the timetable, and so which row of the history is of which update.
        "total_env_steps": run_plan.config.total_env_steps,
        "logging_every": run_plan.config.logging.every,
    }


def _settle(run: RunDirectory, run_plan: RunPlan) -> dict[str, Any]:
    """Bring the directory to where its checkpoint left it; the manifest of that, {} if there is none."""
    run.check()
    place, found = run.path / rundir.CHECKPOINTS, run_plan.found if run_plan.own else None
    for path, why in (found.bad if found else {}).items():
        aside = manager.set_aside(path)
        _warn(f"checkpoint {path.name} is damaged: {why}. Going on from an older one; it is now {aside.name}")
    disk.sweep(place)
    if run.holds_run:
        disk.sweep(run.path)
    before = found.manifest if found else {}
    for sentence in rewind(run.path, before.get("logs", {})):
        _warn(sentence)
    for note in run_plan.notes:
        _log.warning("%s", note)
    for sentence in run_plan.news:
        _log.info("%s", sentence)
    return before


def _warn(sentence: str) -> None:
    warnings.warn(f"jaxtrain: {sentence}", RuntimeWarning, stacklevel=5)
