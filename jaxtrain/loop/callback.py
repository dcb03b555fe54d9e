"""The only place where the compiled program speaks to the host, and the table of the runs that it speaks to.

In: what `started` and `emit` hand out of a program. Out: calls of the run's `Dispatcher`, and to each
record the answer whether to stop.

A program carries the number of a run, as an operand, and never its objects. So which sinks watch is
no part of what is compiled, and can neither compile anything again nor change a bit of it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from jaxtrain.known import filled
from jaxtrain.sinks.dispatch import Dispatcher
from jaxtrain.tree import Packing
from jaxtrain.types import RunInfo, Sink

STOP = jax.ShapeDtypeStruct((), bool)
SMALL = 1024  # entries of an array that is worth packing
_log = logging.getLogger("jaxtrain")
_ids = itertools.count(1)
_runs: dict[int, Dispatcher] = {}
_faulty = False  # whether a fault of this file's own has been reported


def started(run: jax.Array, clock: jax.Array, *, num_seeds: int) -> None:
    """Tell the host that the program runs: compilation is over, the speed is measured from here.

    Call it once at a program's beginning, while tracing. The first call opens the sinks.

    Args:
      run: i32[], `Dispatcher.id`.
      clock: i32[], updates done so far.
      num_seeds: seeds in the program.
    """

    def receive(*given: Any) -> None:
        _call(partial(Dispatcher.on_start, num_seeds=num_seeds), lambda: given)

    io_callback(receive, None, run, clock, ordered=True)


def emit(run: jax.Array, clock: jax.Array, values: Mapping[str, Any], *, name: str, seeds: bool) -> jax.Array:
    """Hand one record to the sinks, by one ordered host call, while tracing.

    Args:
      run: i32[], `Dispatcher.id`; the number of a finished run is no error, the record goes nowhere.
      clock: i32[], updates done.
      values: small arrays, [S, ...] if `seeds`, else [...]: the dispatcher adds the axis; or `Readings`.
      name: the event's.

    Returns:
      bool[]: whether the run has been asked to stop.
    """
    # Sixteen scalars one by one took eight times as long as in one array (CPU; on a GPU each is a transfer).
    names, given = list(values), [run, clock, *filled(values).values()]
    packing = Packing(given, SMALL)

    def receive(*packed: Any) -> np.ndarray:
        def act(dispatcher: Dispatcher, clock: Any, *rest: Any) -> None:
            dispatcher.on_record(clock, dict(zip(names, rest, strict=True)), name=name, seeds=seeds)

        return _call(act, lambda: packing.unpack(packed))

    return io_callback(receive, STOP, *packing.pack(given), ordered=True)


def wait() -> None:
    """Wait for every run that has not finished: inside `jax.jit` a call returns before its program runs."""
    for dispatcher in list(_runs.values()):
        dispatcher.wait()


def _call(act: Callable[..., None], given: Callable[[], Sequence[Any]]) -> np.ndarray:
    """What the program calls. An exception would end it, so none leaves, not even a fault of its own.

    Returns:
      bool[]: whether the run has been asked to stop.
    """
    global _faulty
    dispatcher: Dispatcher | None = None
    try:
        run, *args = given()
        dispatcher = _runs.get(int(run))
        if dispatcher is not None:
            act(dispatcher, *args)
    except Exception:
        if not _faulty:
            _faulty = True
            _log.exception("a record was lost inside jaxtrain; training goes on, later ones go unreported")
    return np.array(dispatcher is not None and bool(dispatcher.caught))


def connect(sinks: Sequence[Sink], info: RunInfo, **options: Any) -> Dispatcher:
    """A dispatcher that programs reach by its `id` until it has finished; arguments as it takes them."""
    run = next(_ids)
    forget = partial(_runs.pop, run, None)
    _runs[run] = Dispatcher(sinks, info, id=run, barrier=jax.effects_barrier, forget=forget, **options)
    return _runs[run]
