"""The loop over updates and events, for one seed or for many.

In: a config and events. Out: pure functions of a `TrainState`; `train.py` makes whole runs of them.
Knows nothing of sinks: where a report leaves the program, `train.py` says how.
How one update or one event of all seeds is made, `all_seeds.py` knows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxtrain.config.schema import EvaluationConfig
from jaxtrain.loop.all_seeds import AllSeeds, Emit, History, tell
from jaxtrain.loop.state import AXES, RUNNING, TrainState, shared_clock
from jaxtrain.random import as_key, stream
from jaxtrain.types import Key, PyTree, Report


class Trainer(AllSeeds):
    """The pieces of a run, for people who drive the loop themselves.

    `init`, `update`, `run` and `evaluate` are pure, have no callbacks, and may be jitted, scanned,
    differentiated and vmapped. Given keys [S], and the state that `init` makes of them, they work on
    all seeds at once with one shared clock, and a condition of the loop stays a condition; under a
    `vmap` of the caller's own it becomes a select.

    Args:
      config: what to run.
      events: more `Event`, `OnReset` and `OnStep` objects, after those of the config.
      config_axis: 0 where the leaves of `config` have a seed axis.

    Raises:
      ConfigError: for what cannot be run, before anything is traced.
    """

    def new(self, key: Key) -> TrainState:
        """A fresh state, before any event: of one seed for a key, of S for keys [S]."""
        if key.ndim > 1:
            raise ValueError(f"key has shape {list(key.shape)}: needs one key, or keys [S]")
        return self._each("_init", key, seeded=key.ndim == 1, axes=(0,), out_axes=AXES)

    def init(self, key: Key) -> TrainState:
        """`new`, with the startup events applied."""
        return self.start(self.new(as_key(key)), None, None)[0]

    def update(self, state: TrainState) -> TrainState:
        """One update, no events. Seeds that stopped stay as they are.

        A seed whose `train/…` metrics or agent an update leaves not finite keeps the state before it, less
        the clock; whether it goes on is `config.on_nan`.
        """
        return self._turn(shared_clock(state))[0]

    def run(self, state: TrainState, num_updates: int) -> TrainState:
        """`num_updates` updates with their events; however a run is cut, the bits are the same.

        There are no callbacks and there is no history: reports go nowhere.
        """
        return self.advance(shared_clock(state), None, num_updates, None)[0]

    def evaluate(
        self, state: TrainState, key: Key | None = None, settings: EvaluationConfig | None = None
    ) -> Report:
        """Complete episodes with the current policy.

        Args:
          state: one seed or many; `key` likewise.
          key: left out, that of the run's own evaluations, so that the number equals the one logged.
          settings: instead of `config.evaluation`.

        Returns:
          See `jaxtrain.evaluate.evaluate`.
        """
        seeded = state.key.ndim == 1
        if key is None:
            key = self.evaluation_key(state)
        settings = self.config.evaluation if settings is None else settings
        return self._each(
            "_evaluate", state, as_key(key), seeded=seeded, axes=(AXES, 0), out_axes=0, static=(settings,)
        )

    def evaluation_key(self, state: TrainState, name: str = "evaluation") -> Key:
        """The same at every evaluation of that name, apart for every seed."""
        name = f"evaluation/{name}"
        return jax.vmap(stream, (0, None))(state.key, name) if state.key.ndim else stream(state.key, name)

    def value(self, state: TrainState, obs: PyTree) -> jax.Array:
        """The critic of one seed, f32[...] for observations with any leading axes, in the reward's unit."""
        return self.algorithm.value(self.spec, state.agent, obs)

    def policy(self, state: TrainState) -> Callable[..., jax.Array]:
        """The policy of one seed: `policy(obs, key=None) -> action`, any leading axes.

        Without a key the most probable action, with one a sampled action.
        """

        def policy(obs: PyTree, key: Key | None = None) -> jax.Array:
            greedy = key is None
            key = jax.random.key(0) if key is None else as_key(key)  # a greedy action draws nothing
            memory = self.algorithm.memory(self.spec)
            return self.algorithm.act(self.spec, state.agent, obs, memory, key, greedy=greedy).action

        return policy

    def start(
        self, state: TrainState, history: History | None, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """Fire what is due before the first update."""
        for index, event in enumerate(self.events):
            if self.timetable[event.name][0] == 0:
                state, history = self._fire(index, state, history, 0, emit)
        return state, history

    def advance(
        self, state: TrainState, history: History | None, num_updates: int | jax.Array, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """The scan over updates. Its counters are scalars, so no condition in it is batched.

        Where `num_updates` is an i32[] of the program, a loop of stretches from mark to mark, with the same
        bits: one program then does for every length. It may end early, once every seed has stopped.
        """
        tables = [np.array(self.timetable[event.name], np.int32) for event in self.events]
        # Cursors follow from the clock, so they are no part of the state.
        cursors = jnp.array([jnp.sum(table <= state.clock) for table in tables], jnp.int32)
        marks = [jnp.append(table, -1) for table in tables]  # the end is a mark that no clock equals
        end = state.clock + num_updates
        watched = [] if self.config.on_nan == "ignore" else self._watched(state)
        quiet = jnp.zeros((len(watched), *state.status.shape), bool)

        def upcoming(cursors: jax.Array) -> jax.Array:
            return jnp.array([table[cursors[i]] for i, table in enumerate(marks)], jnp.int32)

        def look(state: TrainState, history: History | None, cursors: Any, due: Any, bad: Any) -> Any:
            tell(emit, state.clock, dict(zip(watched, bad, strict=True)))
            # When the last seed has stopped, its last reports and those of the end are all that is left.
            awake = (state.status == RUNNING) | (state.stopped_at == state.clock)
            told = due & (jnp.any(awake) | (state.clock == self.num_updates))
            for i in range(len(marks)):

                def run(s: TrainState, h: History | None, i: int = i) -> Any:
                    return self._fire(i, s, h, cursors[i], emit)

                state, history = lax.cond(told[i], run, lambda s, h: (s, h), state, history)
            return state, history

        def body(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
            state, history, cursors = carry
            # In a computation of its own an update has the same bits whatever is around it.
            state, bad = lax.cond(
                jnp.any(state.status == RUNNING),
                self._turn,
                lambda s: (s.replace(clock=s.clock + 1), quiet),
                state,
            )
            due = upcoming(cursors) == state.clock
            # One condition guards all that is rare: on a GPU each is a halt.
            state, history = lax.cond(
                due.any() | bad.any(), look, lambda s, h, *_: (s, h), state, history, cursors, due, bad
            )
            return (state, history, cursors + due), None

        def stretch(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            state, history, cursors = carry
            ahead = upcoming(cursors)
            until = jnp.min(ahead, initial=end, where=ahead >= 0)
            # The loop's own condition is the only one of an update.
            state, bad = lax.while_loop(
                lambda c: goes_on(c[0], until) & ~c[1].any(), lambda c: self._turn(c[0]), (state, quiet)
            )
            due = ahead == state.clock
            return (*look(state, history, cursors, due, bad), cursors + due)

        def goes_on(state: TrainState, until: jax.Array) -> jax.Array:
            # All may have stopped, and yet the end has reports: `Compiled.advance` jumps to just before it.
            last = state.clock == self.num_updates - 1
            return (state.clock < until) & (last | jnp.any(state.status == RUNNING))

        carry = (state, history, cursors)
        if isinstance(num_updates, Tracer):
            carry = lax.while_loop(lambda c: goes_on(c[0], end), stretch, carry)
        else:
            carry, _ = lax.scan(body, carry, length=operator.index(num_updates))
        return carry[:2]
