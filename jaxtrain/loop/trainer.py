"""The loop over updates and events, for one seed or for many.

In: a config and events. Out: pure functions of a `TrainState`; `train.py` makes whole runs of them.

What `update.py` has is called through `_each`, under `vmap` where there are many seeds, so that what all
of them share, the loop's counter and its conditions, stays a scalar.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtrain.config.schema import Config, EvaluationConfig
from jaxtrain.events.event import Event, Part
from jaxtrain.known import Readings
from jaxtrain.loop import update
from jaxtrain.loop.build import Parts
from jaxtrain.loop.hyper import Rates
from jaxtrain.loop.policy import Policy
from jaxtrain.loop.rollout import Collector
from jaxtrain.loop.state import ABANDONED, AXES, NON_FINITE, RUNNING, TrainState, shared_clock
from jaxtrain.random import as_key, stream
from jaxtrain.tree import nonbatchable, traced_once, where
from jaxtrain.types import Algorithm, Key, PyTree, Report

History: TypeAlias = dict[str, Readings]  # event -> metric -> [marks, (S,) ...]
Emit: TypeAlias = Callable[
    [str, jax.Array, Mapping[str, Any]], jax.Array
]  # (name, clock, report of all seeds) -> stop
Stop: TypeAlias = jax.Array | None  # bool[]: the host asks to stop; None where nothing is said to it
Faults: TypeAlias = dict[str, jax.Array]  # what -> bool[(S)]: which seeds have something that is not finite


class Trainer:
    """The pieces of a run, for people who drive the loop themselves.

    `init`, `update`, `run` and `evaluate` are pure, have no callbacks, and may be jitted, scanned,
    differentiated and vmapped. Given keys [S], and the state that `init` makes of them, they work on
    all seeds at once with one shared clock, and a condition of the loop stays a condition; under a
    `vmap` of the caller's own it becomes a select, and what is `tree.InPlace` is copied.

    Rates are those of the state: `Trainer(other).update(state)` goes on with what is in `state.hyper`, and
    takes only what is static from the other config.

    Args:
      config: what to run.
      events: more `Event`, `OnReset` and `OnStep` objects, after those of the config.

    Raises:
      ConfigError: for what cannot be run, before anything is traced.
    """

    def __init__(self, config: Config, events: Sequence[Part] = (), *, fitted: bool = False) -> None:
        self._parts = parts = Parts(config, events, fitted=fitted)
        self.config, self.env, self.spec = parts.config, parts.env, parts.spec
        self.events, self.hooks = parts.events, parts.hooks
        self.num_updates, self.env_steps_per_update = parts.num_updates, parts.env_steps_per_update

        # Each is traced once, however often the loop is.
        self._init_one = traced_once(lambda rates, key: self._first(rates, key))
        self._update_one = traced_once(lambda state: update.update(parts, state))
        self._run_one = {event.name: traced_once(partial(self._run_event, event)) for event in self.events}
        self._evaluate_one = traced_once(lambda state, key: update.evaluation(parts, None, state, key))

    @property
    def timetable(self) -> dict[str, tuple[int, ...]]:
        """Event -> the updates after which it is due, exact."""
        return self._parts.timetable

    def rates(self) -> Rates:
        """The rates of the config, as a fresh state has them."""
        return self._parts.rates()

    def algorithm(self, state: TrainState) -> Algorithm[Any]:
        """The algorithm's functions with the rates of one seed, scheduled ones as they are at its clock."""
        return self._parts.algorithm(state.hyper, state.clock)

    def rate(self, state: TrainState, name: str) -> jax.Array:
        """A rate of one seed, by its name in `state.hyper`, in its next update: of a schedule its value."""
        values = self._parts.scheduled(state.hyper, state.clock)
        return values.get(f"rates/{name.removeprefix('algorithm.')}", state.hyper[name])

    def collector(self, state: TrainState) -> Collector:
        """What steps the environments, with the rates of one seed."""
        return self._parts.collector(state.hyper, self.algorithm(state).carry)

    def new(self, key: Key, rates: Rates | None = None) -> TrainState:
        """A fresh state, before any event: of one seed for a key, of S for keys [S].

        Args:
          rates: instead of the config's; with a seed axis where there are keys [S].
        """
        if key.ndim > 1:
            raise ValueError(f"key has shape {list(key.shape)}: needs one key, or keys [S]")
        if rates is None:
            rates = jax.tree.map(lambda x: jnp.broadcast_to(x, (*key.shape, *x.shape)), self.rates())
        return self._each(self._init_one, rates, key, seeded=key.ndim == 1, axes=(0, 0), out_axes=AXES)

    def adopt(self, state: TrainState, taken: Mapping[str, jax.Array]) -> TrainState:
        """A fresh state, before any event, whose agent begins from another's.

        Args:
          state: that of `new`.
          taken: arrays by the leaf's path in the agent, [S, ...] for S seeds: all parameters and what of the
            rest is handed on, see `jaxtrain.loop.adopt`. Of a typed key its words.
        """
        one = partial(update.adopt, self._parts)
        return self._each(one, state, taken, seeded=state.key.ndim == 1, axes=(AXES, 0), out_axes=AXES)

    def init(self, key: Key) -> TrainState:
        """`new`, with the startup events applied."""
        return self.start(self.new(as_key(key)), None, None)[0]

    def update(self, state: TrainState) -> TrainState:
        """One update, no events. Seeds that stopped stay as they are.

        A seed whose agent, or what it collected, an update leaves not finite keeps the state before it, less
        the clock; whether it goes on is `config.on_nan`.
        """
        return self._update(shared_clock(state))[0]

    def run(self, state: TrainState, num_updates: int) -> TrainState:
        """`num_updates` updates with their events; however a run is cut, the bits are the same.

        There are no callbacks and there is no history: reports go nowhere.
        """
        return self.scan(shared_clock(state), None, num_updates, None)[0]

    def evaluate(
        self,
        state: TrainState,
        key: Key | None = None,
        settings: EvaluationConfig | None = None,
        *,
        by_episode: bool = False,
    ) -> Report:
        """Complete episodes with the current policy.

        Args:
          state: one seed or many; `key` likewise.
          key: left out, that of the run's own evaluations, so that the number equals the one logged.
          settings: instead of `config.evaluation`.
          by_episode: whether the report also has the `returns` and `lengths` of each episode, [(S), K].

        Returns:
          See `jaxtrain.loop.evaluate.evaluate`.
        """
        key = self.evaluation_key(state) if key is None else as_key(key)
        one, seeded = self._evaluate_one, state.key.ndim == 1
        if settings is not None:
            one = partial(update.evaluation, self._parts, settings)
        report, each = self._each(one, update.learning(state), key, seeded=seeded, axes=(AXES, 0), out_axes=0)
        return report | each if by_episode else report

    def evaluation_key(self, state: TrainState, name: str = "evaluation") -> Key:
        """The same at every evaluation of that name, apart for every seed."""
        name = f"evaluation/{name}"
        return jax.vmap(stream, (0, None))(state.key, name) if state.key.ndim else stream(state.key, name)

    def value(self, state: TrainState, obs: PyTree, carry: PyTree = ()) -> jax.Array:
        """The critic of one seed, f32[...] for observations with any leading axes, in the reward's unit.

        Args:
          carry: of a recurrent one, as its policy gave it before this observation.

        Raises:
          TypeError: an algorithm without a critic, or a recurrent one without its carry.
        """
        return self.policy(state).value(obs, carry)

    def policy(self, state: TrainState) -> Policy:
        """The policy of one seed, a function of observations; see `Policy`."""
        return Policy(self.algorithm(state), state.agent, state.clock, self.spec.observation)

    # ---- of one seed

    def _first(self, rates: Rates, key: Key) -> TrainState:
        """A fresh state, with every metric that the run will have, unknown yet."""
        state = update.init(self._parts, rates, key, self)
        traced, after = jax.make_jaxpr(self._update_one, return_shape=True)(update.learning(state))
        update.check_collects(self._parts, traced)
        state = state.replace(metrics=Readings.unknown(after.state.metrics))
        latest = state.metrics
        for event in self.events:
            if event.keep_latest:
                report = jax.eval_shape(self._run_one[event.name], state).report
                scalars = jax.eval_shape(partial(Readings.scalars, prefix=f"{event.name}/"), report)
                latest = latest.updated(Readings.unknown(scalars))
        return state.replace(metrics=latest)

    def _run_event(self, event: Event, state: TrainState) -> update.Fired:
        rates = jax.tree.map(lambda x: x[0], state.hyper) if state.key.ndim else state.hyper
        params = self._parts.params_at(rates)[event.name]
        return update.run_event(self._parts, event, params, state, self)

    # ---- of all seeds

    @staticmethod
    def _each(function: Callable[..., Any], *args: Any, seeded: bool, axes: Any, out_axes: Any) -> Any:
        """Call a function of one seed, for one seed or for each of many."""
        return (jax.vmap(function, in_axes=axes, out_axes=out_axes) if seeded else function)(*args)

    def _update(self, state: TrainState) -> tuple[TrainState, jax.Array]:
        """`update`, and which of `_watched` of which seeds was not finite: bool[names, (S)].

        One array of flags: on a GPU each output of a condition costs by itself.
        """
        axes: Any = update.Updated(AXES, 0, 0)  # type: ignore[arg-type]
        old, one = update.learning(state), self._update_one
        new, bad, _ = self._each(one, old, seeded=state.key.ndim == 1, axes=(AXES,), out_axes=axes)
        # The key is a name: no update moves it, and chosen between it would count as used twice.
        new = new.replace(key=state.key, metrics=state.metrics.updated(new.metrics), events=state.events)
        running, clock = state.status == RUNNING, state.clock + 1
        if self.config.on_nan == "ignore":
            return where(running, new, state).replace(clock=clock), jnp.zeros((0, *running.shape), bool)
        flags = jnp.stack(list(bad.values())) & running[None]
        return self._keep_finite(state, new, running, flags.any(axis=0), clock).replace(clock=clock), flags

    def _watched(self, state: TrainState) -> tuple[str, ...]:
        """What an update is looked at for, in the order of its flags."""

        def flags(state: TrainState) -> Faults:
            one = jax.tree.map(lambda x: x[0] if x.ndim else x, state) if state.key.ndim else state
            return self._update_one(update.learning(one)).bad

        return tuple(jax.eval_shape(flags, state))

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

    # ---- events

    def history(self, state: TrainState) -> History:
        """Unknown rows, one for every event and mark."""
        history: History = {}
        for event in self.events:
            report = jax.eval_shape(lambda s, e=event: self._report(e, s).report, state)
            if event.schedule.predicate is not None:
                report = jax.eval_shape(_of_wanted, report, state.status == RUNNING)
            history[event.name] = Readings.unknown(report, len(self.timetable[event.name]))
        return history

    def start(
        self, state: TrainState, history: History | None, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """Fire what is due before the first update."""
        for event in self.events:
            if self.timetable[event.name][0] == 0:
                state, history, _ = self._fire(event, state, history, 0, emit)
        return state, history

    def _report(self, event: Event, state: TrainState) -> update.Fired:
        """What an event makes of all seeds."""
        run, seeded = self._run_one[event.name], state.key.ndim == 1
        if event.scope == "seed":
            axes: Any = update.Fired(AXES, 0, 0)  # type: ignore[arg-type]
            return self._each(run, state, seeded=seeded, axes=(AXES,), out_axes=axes)
        if seeded:
            return run(state)
        made = run(jax.tree.map(lambda x: x[None], state).replace(clock=state.clock))
        made = made._replace(state=made.state.replace(clock=state.clock[None]))
        return jax.tree.map(lambda x: x[0], made)

    def _fire(
        self, event: Event, state: TrainState, history: History | None, row: Any, emit: Emit | None
    ) -> tuple[TrainState, History | None, Stop]:
        """Run an event that is due, for the seeds that its predicate asks for."""
        if event.schedule.predicate is None:
            return self._run(event, state, history, row, emit, None)
        wanted = self._each(
            partial(update.wants, event), state, seeded=state.key.ndim == 1, axes=(AXES,), out_axes=0
        )
        wanted &= state.status == RUNNING  # nothing would come of it for a seed that has just been stopped
        run = partial(self._run, event, row=row, emit=emit)
        return lax.cond(
            wanted.any(),
            lambda s, h, w: run(s, h, wanted=w),
            lambda s, h, _: (s, h, _go_on(emit)),
            state,
            history,
            wanted,
        )

    def _run(
        self,
        event: Event,
        state: TrainState,
        history: History | None,
        row: Any,
        emit: Emit | None,
        wanted: jax.Array | None,
    ) -> tuple[TrainState, History | None, Stop]:
        """Run an event, write its row, send its report, and keep of its change what is sound."""
        new, report, bad = self._report(event, state)
        changed = state.status == RUNNING  # a seed that has stopped keeps every bit
        if event.keep_latest:
            new = new.replace(metrics=new.metrics.updated(report.scalars(f"{event.name}/")))
        if wanted is not None:
            changed &= wanted
            report = _of_wanted(report, wanted)
            if event.schedule.once:
                new = new.replace(events={**new.events, update.fired(event): jnp.ones_like(wanted)})
        if history is not None:
            rows = jax.tree.map(lambda rows, x: rows.at[row].set(x), history[event.name], report)
            history = {**history, event.name: rows}
        stop = emit(event.name, state.clock, report) if emit is not None and report else _go_on(emit)
        return self._guarded(state, new, changed, bad, emit), history, stop

    def _guarded(
        self, old: TrainState, new: TrainState, changed: jax.Array, bad: Faults, emit: Emit | None
    ) -> TrainState:
        """What an event made of the `changed` seeds, less what is not finite."""
        if not bad:
            return where(changed, new, old)
        bad = {name: found & changed for name, found in bad.items()}
        tell(emit, old.clock, bad)
        fault = jnp.stack(list(bad.values())).any(axis=0)
        return self._keep_finite(old, new, changed, fault, old.clock)

    # ---- the loop

    def _marks(self, state: TrainState) -> tuple[list[jax.Array], jax.Array]:
        """For each event the updates after which it is due, ended by one that no clock equals; and a cursor.

        Cursors follow from the clock, so they are no part of the state.
        """
        tables = [np.array(self.timetable[event.name], np.int32) for event in self.events]
        cursors = jnp.array([jnp.sum(table <= state.clock) for table in tables], jnp.int32)
        return [jnp.append(table, -1) for table in tables], cursors

    @staticmethod
    def _ahead(marks: list[jax.Array], cursors: jax.Array) -> jax.Array:
        return jnp.array([table[cursors[i]] for i, table in enumerate(marks)], jnp.int32)

    def _after_update(
        self,
        names: tuple[str, ...],
        emit: Emit | None,
        state: TrainState,
        history: History | None,
        cursors: jax.Array,
        due: jax.Array,
        bad: jax.Array,
    ) -> tuple[TrainState, History | None, Stop]:
        """What follows an update: what was not finite is told, what is due is fired."""
        tell(emit, state.clock, dict(zip(names, bad, strict=True)))
        # When the last seed has stopped, its last reports and those of the end are all that is left.
        any_running = (state.status == RUNNING) | (state.stopped_at == state.clock)
        due = due & (jnp.any(any_running) | (state.clock == self.num_updates))
        stop = _go_on(emit)
        for i, event in enumerate(self.events):
            fire = partial(self._fire, event, row=cursors[i], emit=emit)
            state, history, asked = lax.cond(due[i], fire, lambda s, h: (s, h, _go_on(emit)), state, history)
            stop = stop if stop is None or asked is None else stop | asked
        return state, history, stop

    def scan(
        self, state: TrainState, history: History | None, num_updates: int, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """`num_updates` updates and what is due at them, or those until `emit` asks to stop.

        No condition in it is batched.
        """
        marks, cursors = self._marks(state)
        names, keep = self._watched(state), nonbatchable if emit is not None else lambda x: x
        none = jnp.zeros((len(names), *state.status.shape), bool)
        after = partial(self._after_update, names, emit)

        def body(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
            state, history, cursors, stop = carry
            running = lax.optimization_barrier(jnp.any(state.status == RUNNING))  # never known beforehand
            # In a computation of its own an update has the same bits whatever is around it.
            state, bad = lax.cond(
                keep(running if stop is None else running & ~stop),
                self._update,
                lambda s: (s.replace(clock=s.clock + (1 if stop is None else ~stop)), none),
                state,
            )
            due = self._ahead(marks, cursors) == state.clock  # never once stopped: the next mark is ahead
            # One condition guards all that is rare: on a GPU each is a halt.
            state, history, stop = lax.cond(
                keep(due.any() | bad.any()),
                after,
                lambda s, h, *_: (s, h, stop),
                state,
                history,
                cursors,
                due,
                bad,
            )
            return (state, history, cursors + due, stop), None

        begun = state, history, cursors, _go_on(emit)
        carry, _ = lax.scan(body, begun, length=operator.index(num_updates))
        return carry[:2]

    def until(
        self, state: TrainState, history: History | None, num_updates: jax.Array, emit: Emit | None
    ) -> tuple[TrainState, History | None]:
        """`scan` by a number that the program is given, with the same bits: one program for every length.

        A loop from mark to mark. It may end early, once every seed has stopped.
        """
        marks, cursors = self._marks(state)
        end, names = state.clock + num_updates, self._watched(state)
        none = jnp.zeros((len(names), *state.status.shape), bool)

        def goes_on(state: TrainState, until: jax.Array) -> jax.Array:
            # All may have stopped, and yet the end has reports: `Programs.advance` jumps to just before it.
            last = state.clock == self.num_updates - 1
            return nonbatchable((state.clock < until) & (last | jnp.any(state.status == RUNNING)))

        def until_next_mark(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            state, history, cursors = carry
            ahead = self._ahead(marks, cursors)
            until = jnp.min(ahead, initial=end, where=ahead >= 0)
            # The loop's own condition is the only one of an update.
            state, bad = lax.while_loop(
                lambda c: goes_on(c[0], until) & ~c[1].any(), lambda c: self._update(c[0]), (state, none)
            )
            due = ahead == state.clock
            state, history, _ = self._after_update(names, emit, state, history, cursors, due, bad)
            return state, history, cursors + due

        carry = lax.while_loop(lambda c: goes_on(c[0], end), until_next_mark, (state, history, cursors))
        return carry[:2]


def _of_wanted(report: Readings, wanted: jax.Array) -> Readings:
    """What a trigger reports of the seeds that it asks for, bool[(S)], and for which it does."""
    return report.where(wanted).updated(Readings.of({"fired": wanted}, wanted.shape))


def _go_on(emit: Emit | None) -> Stop:
    """What the host answers where nothing is said to it: not to stop."""
    return None if emit is None else jnp.zeros((), bool)


def tell(emit: Emit | None, clock: jax.Array, bad: Faults) -> None:
    """Send which seeds are not finite in what, if any is."""
    if emit is None or not bad:
        return

    def send(clock: jax.Array, bad: Faults) -> None:
        emit("non_finite", clock, bad)

    lax.cond(jnp.stack(list(bad.values())).any(), send, lambda *_: None, clock, bad)
