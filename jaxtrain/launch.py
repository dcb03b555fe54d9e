"""A run in a directory of its own: the program of `train` in chunks, logs, signals.

In: a config, a directory, a seed. Out: a directory that explains itself, and how the run ended.
The program is that of `train`, cut into chunks between which the host looks up: the bits are the same.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain import build, host, sinks
from jaxtrain.config import Config, dump
from jaxtrain.fields import MISSING, ConfigError, Problem
from jaxtrain.state import NON_FINITE, RUNNING, TrainState
from jaxtrain.train import Marks, Result, begin, door, run_info, seeds_first
from jaxtrain.trainer import History, Trainer
from jaxtrain.types import Sink
from jaxtrain.version import __version__

CHUNKS = 50  # about how often in a run the host looks up


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    result: Result
    signal: int | None  # the number of the signal that stopped it
    losses: list[str]  # a sentence for each sink that failed
    log_complete: bool  # whether metrics.jsonl has every record
    non_finite: tuple[int, ...]  # seeds that stopped as a metric of theirs was not finite


def launch(
    config: Config,
    directory: str | Path,
    *,
    seed: int = 0,
    num_seeds: int = 1,
    events: Sequence[build.Part] = (),
    more_sinks: Sequence[Sink] = (),
) -> Ending:
    """Train in a directory: `config.yaml`, `run.json`, and what the sinks of `config.logging` leave.

    The end is, bit for bit, that of `train(config, jax.random.key(seed))`; with several seeds, of
    `jax.vmap(train, (None, 0))(config, jax.random.split(jax.random.key(seed), num_seeds))`.

    SIGINT and SIGTERM stop the run at the next chunk's end, with all logs written; a second one ends
    the process at once.

    Raises:
      ConfigError: for a config that cannot run, or a directory that cannot be written or already
        holds a run; nothing of it is touched.
    """
    trainer = Trainer(config, events)
    per, timetable = trainer.env_steps_per_update, trainer.timetable
    if num_seeds < 1:
        raise ConfigError([Problem("num_seeds", num_seeds, "needs an int >= 1")])
    directory = _make_directory(Path(directory))
    (directory / "config.yaml").write_text(dump(config), encoding="utf-8")
    about = _about(seed, num_seeds)
    _write_json(directory / "run.json", about)
    log = sinks.make("jsonlines", directory) if "jsonlines" in config.logging.sinks else None
    opened: list[Any] = [log] if log else []  # first: the others mirror it
    for name in config.logging.sinks:
        if name != "jsonlines":
            opened.append(sinks.make(name, directory, **getattr(config.logging, name, {})))
    info = run_info(trainer, directory.name)
    outlet = host.Door([*opened, *more_sinks], info)
    with _signals() as caught:
        try:
            state, history = _drive(trainer, config, events, seed, num_seeds, outlet, caught)
        except BaseException as error:
            about["exit"] = f"{type(error).__name__}: {error}"
            raise
        else:
            about["exit"] = f"signal {caught[0]}" if caught else "finished"
        finally:
            losses = outlet.finish()
            for sink in opened:
                sink.close()
            about["ended"] = _now()
            _write_json(directory / "run.json", about)
    marks = Marks({name: tuple(u * per for u in due) for name, due in timetable.items()})
    status = jnp.atleast_1d(state.status)
    return Ending(
        result=Result(state, seeds_first(state, history), marks),
        signal=caught[0] if caught else None,
        losses=losses,
        log_complete=log not in outlet.failed,
        non_finite=tuple(int(i) for i in jnp.flatnonzero(status == NON_FINITE)),
    )


def _drive(
    trainer: Trainer,
    config: Config,
    events: Sequence[build.Part],
    seed: int,
    num_seeds: int,
    outlet: host.Door,
    caught: list[int],
) -> tuple[TrainState, History]:
    """Compile, then run chunk after chunk until the end, a signal, or the last seed's stop."""
    single = num_seeds == 1
    key = jax.random.key(seed) if single else jax.random.split(jax.random.key(seed), num_seeds)
    shape = () if single else (num_seeds,)  # as `train` does under vmap: every rate has the seed axis
    config = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.result_type(float)), (*shape, *jnp.shape(x))), config
    )
    axis, run = None if single else 0, jnp.int32(outlet.id)

    def start(config: Config, key: Any, run: Any) -> tuple[TrainState, History]:
        return begin(Trainer(config, events, config_axis=axis), key, run, observed=True)

    def advance(config: Config, state: TrainState, history: History, run: Any, num_updates: int) -> Any:
        inner = Trainer(config, events, config_axis=axis)
        return inner.advance(state, history, num_updates, door(run, not single))

    # All compiled before anything runs, so that compilation is no part of the speed.
    begun = jax.jit(start).lower(config, key, run)
    chunks = list(chunk_lengths(trainer.num_updates))
    jitted = jax.jit(advance, static_argnums=4, donate_argnums=(1, 2))
    first = begun.compile()
    programs = {n: jitted.lower(config, *begun.out_info, run, n).compile() for n in sorted(set(chunks))}
    state, history = first(config, key, run)
    for length in chunks:
        if caught or (not bool(jnp.any(state.status == RUNNING)) and not _more(trainer, state)):
            break
        state, history = programs[length](config, state, history, run)
        jax.block_until_ready(state.clock)
    return state, history


def _more(trainer: Trainer, state: TrainState) -> bool:
    """Whether an event of the end is left once every seed has stopped."""
    return any(due[-1] == trainer.num_updates for due in trainer.timetable.values())


def chunk_lengths(num_updates: int) -> Iterator[int]:
    """About `CHUNKS` equal lengths, and at most one other: each length is a program to compile."""
    longest = max(1, num_updates // CHUNKS)
    even = [n for n in range(max(1, longest // 2), longest + 1) if num_updates % n == 0]
    length = max(even, default=longest)
    yield from [length] * (num_updates // length)
    if num_updates % length:
        yield num_updates % length


def _make_directory(directory: Path) -> Path:
    def refuse(rule: str) -> ConfigError:
        return ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])

    if "\0" in str(directory):
        raise refuse("needs a path without NUL")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any((directory / name).exists() for name in ("run.json", "metrics.jsonl", "config.yaml")):
            raise refuse("already holds a run; give another")
        probe = directory / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise refuse(f"cannot be written ({error.strerror})") from None
    return directory


def _about(seed: int, num_seeds: int) -> dict[str, Any]:
    return {
        "command": sys.argv,
        "seed": seed,
        "num_seeds": num_seeds,
        "device": jax.devices()[0].device_kind,
        "num_devices": len(jax.devices()),
        "versions": {
            "jaxtrain": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "started": _now(),
        "ended": None,
        "exit": None,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write_json(path: Path, content: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


@contextmanager
def _signals() -> Generator[list[int]]:
    """SIGINT and SIGTERM note themselves; the second one ends the process as if none had listened."""
    caught: list[int] = []
    old: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        caught.append(number)
        for each in old:
            signal.signal(each, signal.SIG_DFL)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals stay with whoever handles them
        old.clear()
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
