"""One update and one event of all seeds, be it one or many.

In: a config and events. Out: pure functions of a `TrainState`, and of the history that reports are kept in.
Knows nothing of when what is due; `trainer.py` makes a loop of them.

What `OneSeed` has is called through `_each`, under `vmap` where there are many, so that what all seeds
share, the loop's counter and its conditions, stays a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.config.schema import Config
from jaxtrain.events.event import Event
from jaxtrain.loop.state import ABANDONED, AXES, NON_FINITE, RUNNING, TrainState
from jaxtrain.loop.update import OneSeed, fired
from jaxtrain.tree import inexact, not_finite, unknown, where
from jaxtrain.types import Report

History: TypeAlias = dict[str, dict[str, jax.Array]]  # event -> metric -> [marks, (S,) ...]
Emit: TypeAlias = Callable[[str, jax.Array, Report], None]  # (name, clock, report of all seeds)


class AllSeeds(OneSeed):
    """What `Trainer` is for one update or one event; its arguments and errors are described there."""

    def _each(self, method: str, *args: Any, seeded: bool, axes: Any, out_axes: Any, static: Any = ()) -> Any:
        """Call a method of one seed, for one seed or for each of many."""
        if not seeded:
            return getattr(self, method)(*static, *args)

        def one(config: Config, *args: Any) -> Any:
            return getattr(type(self)(config, self._given), method)(*static, *args)

        return jax.vmap(one, in_axes=(self._config_axis, *axes), out_axes=out_axes)(self._configs, *args)

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
            tell(emit, state.clock, {f"{event.name}/agent": fault})
            return self._keep_finite(state, new, changed, fault, state.clock), history

        if event.schedule.predicate is None:
            return run(state, history, None)
        seeded = state.key.ndim == 1
        wanted = self._each("_wants", state, seeded=seeded, axes=(AXES,), out_axes=0, static=(index,))
        wanted &= (state.status == RUNNING) | (state.stopped_at == state.clock)
        return lax.cond(wanted.any(), run, lambda s, h, _: (s, h), state, history, wanted)


def tell(emit: Emit | None, clock: jax.Array, bad: Report) -> None:
    """Send which seeds are not finite in what, if any is."""
    if emit is not None and bad:
        any_bad = jnp.stack(list(bad.values())).any()
        lax.cond(any_bad, partial(emit, "non_finite"), lambda *_: None, clock, bad)
