"""`train(config, key)`: a whole run as one pure program.

In: a config, a key, events, sinks. Out: the final state, and one row of history per event and mark.
Joins the trainer and the callback; no other module knows both.

The loop owns the seed axis: `train` is a `custom_vmap` function, so a user's `jax.vmap(train)`, over
keys, over config leaves, nested as they like, becomes one loop over all those seeds. A single key
runs with no seed axis at all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxtrain import device, signals
from jaxtrain.config.schema import Config, to_dict
from jaxtrain.events.event import Part
from jaxtrain.known import filled
from jaxtrain.loop import callback, memory
from jaxtrain.loop.hyper import ELSEWHERE, Rates
from jaxtrain.loop.state import NON_FINITE, TrainState
from jaxtrain.loop.trainer import Emit, History, Trainer
from jaxtrain.random import as_key
from jaxtrain.sinks.base import checked, non_finite
from jaxtrain.types import Key, PyTree, Record, RunInfo, Sink

PATIENCE = 10.0  # seconds of compilation in silence
_log = logging.getLogger("jaxtrain")


Rows: TypeAlias = dict[str, dict[str, jax.Array]]  # event -> metric -> [marks, ...]


class Marks(Mapping[str, tuple[int, ...]]):
    """Event -> the env steps of its rows in the history: exact host integers, static under `jit`."""

    def __init__(self, marks: Mapping[str, tuple[int, ...]]) -> None:
        self._marks = dict(marks)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._marks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __hash__(self) -> int:
        return hash(tuple(self._marks))

    def __repr__(self) -> str:
        return f"Marks({', '.join(f'{name}: {len(steps)}' for name, steps in self._marks.items())})"


@partial(jax.tree_util.register_dataclass, data_fields=["state", "history"], meta_fields=["marks"])
@dataclass(frozen=True)
class Result:
    """What a run leaves.

    `history[event][metric]` has one row per mark, [marks, ...], and `marks[event]` their env steps.
    A row that was never written, and a value that was not known, is NaN; of a whole number 0. Under `vmap`
    leaves have the mapped axes in front.
    """

    state: TrainState = field(repr=False)
    history: Rows = field(repr=False)
    marks: Marks


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in `train`.

    `result` is the `Result` so far: `state.clock` says how many updates were done, and rows of the history
    behind it are NaN. Under `vmap` its leaves have the mapped axes in front. None if the program did not run.
    """

    def __init__(self, result: Result | None) -> None:
        super().__init__("training was stopped; `result` of this error is what there is of it")
        self.result = result


def train(config: Config, key: Key, *, events: Sequence[Part] = (), sinks: Sequence[Sink] = ()) -> Result:
    """Train one agent; under `jax.vmap`, one for every key or rate.

    Args:
      config: its rates may be arrays under `vmap`, or tracers.
      key: `jax.random.key(seed)`, or an old-style `PRNGKey`.
      events: `Event`, `OnReset` and `OnStep` objects, after those of the config. The compiled
        program is found again for the same objects.
      sinks: where records go; the program is the same for any. They are flushed when this returns,
        not closed. Inside `jax.jit` this returns before the run: call `jaxtrain.loop.callback.wait()`
        after it.

    NaN in the history stands for what is not known. It is put there after the program, where
    `jax_debug_nans` does not take it for a fault; inside `jax.jit` it is part of the caller's.

    After 10 s of compilation a warning of the logger "jaxtrain", on standard error by default, says so.

    Raises:
      ConfigError: for what cannot be run, before anything compiles.
      KeyboardInterrupt: an `Interrupted`, at Ctrl-C. With sinks, outside of `jax.jit`, in the main thread,
        and where SIGINT is Python's to handle, training stops at the next report of an event, and
        `error.result` is the run so far. A second Ctrl-C ends the process at once, with 130. Else the
        program is not to be reached, and Ctrl-C is heard at its end.
      FloatingPointError: with `on_nan: raise`, for a seed whose agent or rollout is not finite; names seed,
        metric and update. Not inside `jax.jit`, where `result.state.status` tells. With `jax_debug_nans`, for
        a seed that has stopped as it was not finite; names the operation, and its line.
      OutOfMemory: of the device; names the bytes of each part of a seed, and an estimate of what would fit.
        Where the program still runs when this returns, JAX raises its own error when the result is looked at.

    Warns:
      RuntimeWarning: for each sink that failed, with what was lost.
    """
    sinks, trainer = checked("sinks", sinks), Trainer(config, events)
    timetable = trainer.timetable  # says what would never fire, before anything compiles
    key = as_key(key)
    if key.ndim:
        raise ValueError(
            f"key has shape {list(key.shape)}: use jax.vmap(train, in_axes=(None, 0))(config, keys)"
        )
    faults = Faults()
    watching = [*sinks, faults] if config.on_nan == "raise" else list(sinks)
    per = trainer.env_steps_per_update
    marks = Marks({name: tuple(u * per for u in due) for name, due in timetable.items()})
    device.check(callbacks=bool(watching))
    whole, rates = program(trainer, events, observed=bool(watching))
    with memory.explained(lambda: memory.by_part(trainer), trainer.config.env.num_envs):
        if watching:
            (state, history), stopped = _run_watched(whole, rates, key, watching, run_info(trainer))
        else:
            with _saying_that_it_compiles():
                (state, history), stopped = whole(rates, key, jnp.int32(0)), False
        result = Result(state, filled(history), marks)
    _find_non_finite(trainer, result)
    failed = None if faults.first is None else FloatingPointError(faults.first)
    if stopped:
        raise Interrupted(_concrete(result)) from failed
    if failed is not None:
        raise failed
    return result


def _find_non_finite(trainer: Trainer, result: Result) -> None:
    """With `jax_debug_nans` or `jax_debug_infs`, let JAX name the operation that made a seed not finite.

    The program drops what such an update made, whereupon JAX sees nothing of it. Its seed stands where it was
    before, so that the same update can be done again one operation at a time.

    Raises:
      FloatingPointError: JAX's.
    """
    debugging: Any = jax.config
    if not (debugging.jax_debug_nans or debugging.jax_debug_infs):
        return
    found = _concrete(result)
    if found is None:
        return
    status = np.asarray(found.state.status)
    bad = np.argwhere(status == NON_FINITE)
    if len(bad):
        first = tuple(bad[0])
        one = jax.tree.map(lambda x: x[first] if x.ndim >= status.ndim else x, found.state)
        with jax.disable_jit():
            trainer.update(one.replace(clock=one.stopped_at - 1, status=jnp.zeros_like(one.status)))


def _run_watched(
    whole: Callable[..., tuple[TrainState, History]],
    rates: list[jax.Array],
    key: Key,
    sinks: Sequence[Sink],
    info: RunInfo,
) -> tuple[tuple[TrainState, History], bool]:
    """What a program that sinks watch has come to, and whether Ctrl-C has stopped it."""
    outlet = callback.connect(sinks, info)

    def before_it_runs() -> None:
        if not outlet.begun:  # there is nothing to stop, nor a result
            raise Interrupted(None)

    with signals.listening(signals.interrupts(), what="stopping", handle=before_it_runs) as outlet.caught:
        staged = False
        try:
            with _saying_that_it_compiles(lambda: outlet.begun):
                made = whole(rates, key, jnp.int32(outlet.id))
            staged = isinstance(made[0].clock, Tracer)  # inside jit: the run is still to come
        finally:
            if not staged:
                outlet.finish()
    return made, bool(outlet.caught)


@contextmanager
def _saying_that_it_compiles(is_over: Callable[[], bool] = lambda: False) -> Generator[None]:
    """Say once, if it takes long, that a program which is called in here is still being compiled.

    Args:
      is_over: whether the program runs; one without a callback runs behind the call's return.
    """

    def say() -> None:
        if not is_over():
            _log.warning("compiling, for %.0f s so far; nothing is trained before it is done", PATIENCE)

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _concrete(result: Result) -> Result | None:
    """A result as it is once all `vmap`s around it are over, mapped axes in front; None inside `jit`."""
    found: list[Result] = []

    @jax.custom_batching.custom_vmap
    def look(result: Result) -> jax.Array:
        return result.state.clock

    @look.def_vmap
    def _(size: int, in_batched: Any, result: Result) -> tuple[jax.Array, bool]:
        (every,) = _broadcast(size, in_batched, [result])
        if is_concrete(every):
            found.append(every)
        else:
            look(every)  # of the `vmap` around that
        return jnp.int32(0), False

    def is_concrete(tree: PyTree) -> bool:
        return not any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))

    if is_concrete(result):
        return result
    look(result)
    return found[0] if found else None


def run_info(trainer: Trainer, name: str = "run", **more: Any) -> RunInfo:
    """What sinks are told; `num_seeds` is known once the program runs."""
    per = trainer.env_steps_per_update
    staged = any(isinstance(x, Tracer) for x in jax.tree.leaves(trainer.config))
    return RunInfo(name, per * trainer.num_updates, per, 1, {} if staged else to_dict(trainer.config), **more)


class Faults:
    """A sink that keeps the first seed whose agent or rollout was not finite."""

    first: str | None = None

    def open(self, run: RunInfo) -> None: ...

    def write(self, record: Record) -> None:
        if record.name == "non_finite" and self.first is None:
            self.first = non_finite(record)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def program(
    trainer: Trainer, events: Sequence[Part], *, observed: bool
) -> tuple[Callable[..., tuple[TrainState, History]], list[jax.Array]]:
    """The whole run of a trainer, jitted: `(rates, key, run) -> (state, history)`, and the rates to give it.

    It is found again for the same events and for configs that differ in rates alone.

    Args:
      events: those that the trainer was given.
      observed: whether what it reports goes out, to run number `run`.
    """
    structure = jax.tree.structure(trainer.config)
    return _program(structure, tuple(events), observed), list(trainer.rates().values())


@lru_cache(maxsize=128)
def _program(structure: Any, events: tuple[Part, ...], observed: bool) -> Callable[..., Any]:
    config = jax.tree.unflatten(structure, [ELSEWHERE] * structure.num_leaves)
    trainer = Trainer(config, events, fitted=True)
    names = tuple(trainer.rates())

    def loop(rates: list[jax.Array], key: Key, run: jax.Array) -> tuple[TrainState, History]:
        emit = emitter(run, key.ndim == 1) if observed else None
        if observed:
            callback.started(run, jnp.zeros((), jnp.int32), num_seeds=key.shape[0] if key.ndim else 1)
        state, history = begin(trainer, Rates(dict(zip(names, rates, strict=True))), key, emit)
        state, history = trainer.scan(state, history, trainer.num_updates, emit)
        assert history is not None  # as it was given one
        return state, seeds_first(state, history)

    return jax.jit(_over_seeds(loop, partial(_check_sweep, trainer, names)))


def _check_sweep(trainer: Trainer, names: Sequence[str], swept: Sequence[bool]) -> None:
    """Raise a ValueError for a parameter of a population event that differs between seeds."""
    for event in trainer.events:
        own = [
            n
            for n, is_swept in zip(names, swept, strict=True)
            if is_swept and n.startswith(f"events.{event.name}.")
        ]
        if event.scope == "population" and own:
            raise ValueError(f"{own[0]}: the event sees all seeds at once, so that they cannot differ in it")


def _over_seeds(loop: Callable[..., Any], check: Callable[[Sequence[bool]], None]) -> Callable[..., Any]:
    """`loop` of one seed, that `vmap` turns into a loop of many.

    Args:
      loop: `(rates, key, run) -> (state, history)`, all of one seed or all with a seed axis.
      check: is told which rates are swept.
    """

    # A list of rates, as a rule is given flags in the places of its arguments.
    @jax.custom_batching.custom_vmap
    def one(rates: list[jax.Array], key: Key, run: jax.Array) -> tuple[TrainState, History]:
        return loop(rates, key, run)

    @jax.custom_batching.custom_vmap
    def many(rates: list[jax.Array], keys: Key, run: jax.Array) -> tuple[TrainState, History]:
        return loop(rates, keys, run)

    def batched(result: tuple[TrainState, History]) -> Any:
        state, history = jax.tree.map(lambda _: True, result)
        return state.replace(clock=False), history

    @one.def_vmap
    def _(size: int, in_batched: Any, rates: list[jax.Array], key: Key, run: jax.Array) -> Any:
        check(in_batched[0])
        result = many(*_broadcast(size, in_batched[:2], [rates, key]), run)
        return result, batched(result)

    @many.def_vmap
    def _(size: int, in_batched: Any, rates: list[jax.Array], keys: Key, run: jax.Array) -> Any:
        check(in_batched[0])
        every = _broadcast(size, in_batched[:2], [rates, keys])
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), every)
        state, history = many(*flat, run)
        split = partial(jax.tree.map, lambda x: x.reshape(size, -1, *x.shape[1:]))
        result = split(state.replace(clock=state.status)).replace(clock=state.clock), split(history)
        return result, batched(result)

    return one


def _broadcast(size: int, in_batched: Sequence[Any], args: list[PyTree]) -> list[PyTree]:
    """Give every argument the mapped axis."""

    def one(batched: bool, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        return x if batched else jnp.broadcast_to(x, (size, *x.shape))

    return jax.tree.map(one, list(in_batched), args)


def emitter(run: jax.Array, seeded: bool) -> Emit:
    """The way out of the program for the reports of run number `run`."""

    def emit(name: str, clock: jax.Array, report: Mapping[str, Any]) -> jax.Array:
        return callback.emit(run, clock, report, name=name, seeds=seeded)

    return emit


def begin(
    trainer: Trainer,
    rates: Rates,
    key: Key,
    emit: Emit | None,
    taken: Mapping[str, jax.Array] | None = None,
) -> tuple[TrainState, History]:
    """A fresh state and history, startup events fired.

    Args:
      taken: what the agent has of another's, see `Trainer.adopt`; there before the first event.
    """
    state = trainer.new(key, rates)
    state = trainer.adopt(state, taken) if taken else state
    state, history = trainer.start(state, trainer.history(state), emit)
    assert history is not None  # as it was given one
    return state, history


def seeds_first(state: TrainState, history: PyTree) -> PyTree:
    """Rows [marks, S, ...] as [S, marks, ...], as everything else that has a seed axis."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), history) if state.key.ndim else history
