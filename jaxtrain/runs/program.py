"""The programs of a run in a directory, compiled ahead: begin, advance by any number of updates, copy.

In: a config, events, how many seeds. Out: functions of a state and a history. They are the loop of `train`
and end in its bits, however the run is cut. Knows nothing of files, signals or checkpoints.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxtrain.config.schema import Config
from jaxtrain.events.event import Part
from jaxtrain.loop.hyper import Rates
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.train import begin, emitter
from jaxtrain.loop.trainer import History, Trainer
from jaxtrain.runs import snapshot, transfer
from jaxtrain.tree import Packing
from jaxtrain.types import Key

SMALL = 65_536  # up to so many entries arrays are copied together: each copy to the host is a halt


class Programs:
    """A run's programs.

    Args:
      config: what to run.
      keys: one key, or keys [S].
      run: `Dispatcher.id` of whom the reports are for; 0 is nobody.
      fresh: whether `start` will be called.
      taken: what a fresh agent has of another's, by leaf; see `Trainer.adopt`.
    """

    def __init__(
        self,
        config: Config,
        events: Sequence[Part],
        keys: Key,
        run: int,
        *,
        fresh: bool = False,
        taken: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        trainer = Trainer(config, events)
        self._keys, self._run, self._num_updates = keys, jnp.int32(run), trainer.num_updates
        self._taken = dict(taken or {})
        # As `train` does under vmap: every rate has the seed axis.
        self._rates = jax.tree.map(lambda x: jnp.broadcast_to(x, (*keys.shape, *x.shape)), trainer.rates())
        seeded = keys.ndim == 1

        def start(
            rates: Rates, keys: Key, run: Any, taken: Mapping[str, jax.Array]
        ) -> tuple[TrainState, History]:
            return begin(trainer, rates, keys, emitter(run, seeded), taken)

        def advance(state: TrainState, history: History, run: Any, num_updates: Any) -> Any:
            return trainer.until(state, history, num_updates, emitter(run, seeded))

        begun = jax.jit(start).lower(self._rates, keys, self._run, self._taken)
        shapes = begun.out_info
        self._start = begun.compile() if fresh else None
        one = jax.ShapeDtypeStruct((), jnp.int32)
        lowered = jax.jit(advance, donate_argnums=(0, 1)).lower(*shapes, self._run, one)
        self._advance = lowered.compile()
        named = jax.eval_shape(snapshot.to_arrays, *shapes)
        self._names = list(named)
        # Arrays as large as a replay are not copied on the device, which may have no room for them twice.
        self._big = snapshot.in_place(*shapes)
        self.in_place = frozenset(self._big)
        self._rest = [name for name in named if name not in self.in_place]
        self._transfer = transfer.Transfer([named[name] for name in self._big], transfer.piece_bytes())
        self._packing = Packing([named[name] for name in self._rest], SMALL)

        def copy(state: TrainState, history: History) -> list[jax.Array]:
            found = snapshot.to_arrays(state, history)
            return self._packing.pack([found[name] for name in self._rest])

        self._copy = jax.jit(copy).lower(*shapes).compile()
        used = (made.memory_analysis() for made in (self._start, self._advance) if made is not None)
        # Bytes of all seeds; None where the backend does not tell.
        self.temporaries = max((x.temp_size_in_bytes for x in used if x is not None), default=None)

    def start(self) -> tuple[TrainState, History]:
        """A fresh state and history, startup events fired."""
        assert self._start is not None  # by `fresh`
        return self._start(self._rates, self._keys, self._run, self._taken)

    def advance(self, state: TrainState, history: History, num_updates: int) -> tuple[TrainState, History]:
        """`num_updates` updates with their events. The arguments' memory is used again: they are gone."""
        end = int(state.clock) + num_updates
        state, history = self._advance(state, history, self._run, np.int32(num_updates))
        if int(state.clock) < end:  # every seed has stopped; what is left is what happens at the run's end
            last = end == self._num_updates
            state = state.replace(clock=jnp.int32(end - last))
            if last:
                state, history = self._advance(state, history, self._run, np.int32(1))
        return state, history

    def copy(self, state: TrainState, history: History) -> Callable[[], dict[str, np.ndarray]]:
        """Begin to copy, into memory that `advance` leaves alone.

        What is `tree.InPlace` is on the host when this returns. Of the rest there is a copy on the device.

        Returns:
          A function that waits for the copies and brings them to the host by name, from any thread.
        """
        packed = self._copy(state, history)
        found = snapshot.to_arrays(state, history) if self._big else {}
        big = dict(zip(self._big, self._transfer.to_host([found[name] for name in self._big]), strict=True))

        def bring() -> dict[str, np.ndarray]:
            rest = dict(zip(self._rest, self._packing.unpack(packed), strict=True))
            return {name: big[name] if name in big else rest[name] for name in self._names}

        return bring


# Where XLA keeps which kernels were the fastest, inside of JAX's cache directory; JAX's name for it.
_TUNED = "xla_gpu_per_fusion_autotune_cache_dir"


_turn = threading.Lock()
_wanted: list[bool] = []  # by each launch under way, in any thread
_found: tuple[bool, str | None] = (False, None)  # JAX's setting before the first of them


@contextmanager
def compilation_cache(wanted: bool, run: Path) -> Generator[None]:
    """Keep what compiles in the user's cache directory, unless JAX has been told of another.

    A run that is resumed then starts without compiling; jax 0.10 keeps no program that calls the host. On
    a GPU a compilation chooses kernels by timing them, and two of them may choose differently, which moves
    bits. So what was chosen stays with the run, and holds for whatever machine it goes on on.

    JAX has one setting for all threads: nothing is kept while one of several launches wants that, and the
    last of them leaves the setting as the first found it.

    Args:
      run: the run's directory.
    """
    place = _set_cache(lambda: _wanted.append(wanted))
    try:
        if place is not None:
            _copy_missing(run / "autotune", Path(place) / _TUNED)
        yield
    finally:
        _set_cache(lambda: _wanted.remove(wanted))


def _set_cache(change: Callable[[], None]) -> str | None:
    """Set JAX's cache as all launches want it, after a change of those; the directory in use, if any."""
    global _found
    config: Any = jax.config
    with _turn:
        before = config.jax_enable_compilation_cache, config.jax_compilation_cache_dir
        first = not _wanted
        _found = before if first else _found
        change()
        enabled, place = _found
        if _wanted:
            enabled = enabled and all(_wanted)
            place = place or _cache_directory() if enabled else place
        if first or (enabled, place) != before:
            config.update("jax_enable_compilation_cache", enabled)
            config.update("jax_compilation_cache_dir", place)
            reset_cache()  # else it stays as it was at this process's first compilation
        return place if enabled else None


def keep_tuning(run: Path) -> None:
    """Keep with a run, once all is compiled, which kernels its programs are made of; nothing on a CPU."""
    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir is not None:
        _copy_missing(Path(config.jax_compilation_cache_dir) / _TUNED, run / "autotune")


def _copy_missing(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_file() and not path.is_symlink() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f".part-{os.getpid()}-{path.name}")
            shutil.copyfile(path, part)
            os.replace(part, copy)


def _cache_directory() -> str | None:
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxtrain" / "xla"
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None  # no home, or one that cannot be written, is no reason not to train
    return str(place) if os.access(place, os.W_OK) else None
