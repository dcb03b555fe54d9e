"""The loop over updates and events, for one seed or for many.

In: a config and events. Out: pure functions of a `TrainState`; `train.py` makes whole runs of them.
Knows nothing of sinks: where a report leaves the program, `train.py` says how.

What `OneSeed` has is called through `_each`, under `vmap` where there are many, so that the loop's own
counter and conditions stay scalars.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxtrain.config import Config, EvaluationConfig
from jaxtrain.events import Event, stream
from jaxtrain.one_seed import OneSeed, fired
from jaxtrain.state import (
    ABANDONED,
    AXES,
    NON_FINITE,
    RUNNING,
    TrainState,
    as_key,
    inexact,
    not_finite,
    shared_clock,
    unknown,
    where,
)
from jaxtrain.types import Key, PyTree, Report

History: TypeAlias = dict[str, dict[str, jax.Array]]  # event -> metric -> [marks, (S,) ...]
Emit: TypeAlias = Callable[[str, jax.Array, Report], None]  # (name, clock, report of all seeds)


class Trainer(OneSeed):
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

    def _each(self, method: str, *args: Any, seeded: bool, axes: Any, out_axes: Any, static: Any = ()) -> Any:
        """Call a method of one seed, for one seed or for each of many."""
        if not seeded:
            return getattr(self, method)(*static, *args)

        def one(config: Config, *args: Any) -> Any:
            return getattr(Trainer(config, self._given), method)(*static, *args)

        return jax.vmap(one, in_axes=(self._config_axis, *axes), out_axes=out_axes)(self._configs, *args)

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

    def _turn(self, state: TrainState) -> tuple[TrainState, jax.Array]:
        """`update`, and which of `_watched` of which seeds were not finite: bool[names, (S)]."""
        new = self._each("_update", state, seeded=state.key.ndim == 1, axes=(AXES,), out_axes=AXES)
        running, clock = state.status == RUNNING, state.clock + 1
        if self.config.on_nan == "ignore":
            return where(running, new, state).replace(clock=clock), jnp.zeros((0, *running.shape), bool)
        *metrics, _ = self._watched(new)
        # The metrics were made before the last gradient step; what that did shows in the agent alone.
        looked_at = [*([new.metrics[name]] for name in metrics), jax.tree.leaves(new.agent)]
        bad = jnp.stack([not_finite(leaves, running) for leaves in looked_at])
        return self._keep_finite(state, new, running, bad.any(axis=0), clock).replace(clock=clock), bad

    @staticmethod
    def _watched(state: TrainState) -> list[str]:
        """What every update has to leave finite."""
        return [n for n, x in state.metrics.items() if n.startswith("train/") and inexact(x)] + ["agent"]

    def _keep_finite(
        self, old: TrainState, new: TrainState, changed: jax.Array, fault: jax.Array, clock: jax.Array
    ) -> TrainState:
        """`new` for the `changed` seeds without `fault`, else `old`; `on_nan` says what follows."""
        kept = where(changed & ~fault, new, old)
        if self.config.on_nan == "skip":
            return kept
        status = jnp.where(fault, NON_FINITE, kept.status)
        if self.config.on_nan == "raise":
            status = jnp.where(fault.any() & (status == RUNNING), ABANDONED, status)
        stopped_at = jnp.where(status != kept.status, clock, kept.stopped_at)
        return kept.replace(status=status, stopped_at=stopped_at)

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

    # ---- events, of all seeds

    def history(self, state: TrainState) -> History:
        """Empty rows, one for every event and mark: NaN, or 0 in a whole-number column."""
        history: History = {}
        for index, event in enumerate(self.events):
            report = jax.eval_shape(lambda s, i=index: self._report(i, s)[1], state)
            marks = len(self.timetable[event.name])
            rows = {k: jax.ShapeDtypeStruct((marks, *x.shape), x.dtype) for k, x in report.items()}
            history[event.name] = unknown(rows)
        return history

    def _report(self, index: int, state: TrainState) -> tuple[TrainState, Report]:
        """What an event makes of all seeds; where a trigger asks first, `fired` is all true here."""
        event, seeds = self.events[index], state.key.shape
        if event.scope == "population":
            state, report = self._population(event, state)
        else:
            state, report = self._each(
                "_run_event_of_seed",
                state,
                seeded=bool(seeds),
                axes=(AXES,),
                out_axes=(AXES, 0),
                static=(index,),
            )
        if event.schedule.predicate is not None:  # rows of other seeds are NaN
            report = {k: v.astype(jnp.result_type(float)) for k, v in report.items()}
            report["fired"] = jnp.ones(seeds, bool)
        return state, report

    def _population(self, event: Event, state: TrainState) -> tuple[TrainState, Report]:
        if state.key.ndim == 1:
            new, report = self._run_event(event, state)
        else:
            clock = state.clock
            many = jax.tree.map(lambda x: x[None], state).replace(clock=clock)
            new, report = self._run_event(event, many)
            new = jax.tree.map(lambda x: x[0], new.replace(clock=clock[None]))
        count = state.key.shape[0] if state.key.ndim else 1
        about_all = {k: not (v.ndim and v.shape[0] == count) for k, v in report.items()}
        report = {k: jnp.broadcast_to(v, (count, *v.shape)) if about_all[k] else v for k, v in report.items()}
        return new, report if state.key.ndim else {k: v[0] for k, v in report.items()}

    def _fire(
        self, index: int, state: TrainState, history: History | None, row: Any, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """Run an event that is due, write its row, send its report."""
        event = self.events[index]

        def run(
            state: TrainState, history: History | None, wanted: jax.Array | None
        ) -> tuple[TrainState, History | None]:
            new, report = self._report(index, state)
            changed = state.status == RUNNING  # a seed that has stopped keeps every bit
            if wanted is not None:
                changed &= wanted
                report = {
                    k: where(wanted, v, jnp.full_like(v, jnp.nan)) for k, v in report.items() if k != "fired"
                }
                report["fired"] = wanted
                if event.schedule.once:
                    new = new.replace(events={**new.events, fired(event): jnp.ones_like(wanted)})
            if event.sticky:
                latest = {
                    f"{event.name}/{k}": v for k, v in report.items() if f"{event.name}/{k}" in new.metrics
                }
                new = new.replace(metrics={**new.metrics, **latest})
            if history is not None:
                rows = {k: history[event.name][k].at[row].set(v) for k, v in report.items()}
                history = {**history, event.name: rows}
            if emit is not None and report:
                emit(event.name, state.clock, report)
            # An event that hands the agent back as it was hands back the same tracers: nothing to look at.
            agents = zip(jax.tree.leaves(new.agent), jax.tree.leaves(state.agent), strict=True)
            touched = [x for x, y in agents if x is not y]
            if self.config.on_nan == "ignore" or not touched:
                return where(changed, new, state), history
            fault = not_finite(touched, changed)
            _tell(emit, state.clock, {f"{event.name}/agent": fault})
            return self._keep_finite(state, new, changed, fault, state.clock), history

        if event.schedule.predicate is None:
            return run(state, history, None)
        seeded = state.key.ndim == 1
        wanted = self._each("_wants", state, seeded=seeded, axes=(AXES,), out_axes=0, static=(index,))
        wanted &= (state.status == RUNNING) | (state.stopped_at == state.clock)
        return lax.cond(wanted.any(), run, lambda s, h, _: (s, h), state, history, wanted)

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
            _tell(emit, state.clock, dict(zip(watched, bad, strict=True)))
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


def _tell(emit: Emit | None, clock: jax.Array, bad: Report) -> None:
    """Send which seeds are not finite in what, if any is."""
    if emit is not None and bad:
        any_bad = jnp.stack(list(bad.values())).any()
        lax.cond(any_bad, partial(emit, "non_finite"), lambda *_: None, clock, bad)
