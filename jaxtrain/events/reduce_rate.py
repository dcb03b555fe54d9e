"""The stock event `reduce_rate`: make a rate smaller when a metric has stalled."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxtrain.errors import ConfigError, Problem, nearest
from jaxtrain.events.event import is_rate, traits
from jaxtrain.known import Known
from jaxtrain.types import Key, PyTree, Report


def _check(
    *,
    metric: Any,
    rate: Any = "",
    factor: Any = 0.5,
    patience: Any = 3,
    min_delta: Any = 0.0,
    mode: Any = "max",
    lowest: Any = 0.0,
) -> list[Problem]:
    numbers = {"factor": factor, "patience": patience, "min_delta": min_delta, "lowest": lowest}
    rules = {
        "factor": ("needs a number > 0 and < 1", lambda x: 0 < x < 1),
        "patience": ("needs an int >= 1", lambda x: x >= 1 and x % 1 == 0),
        "min_delta": ("needs a number >= 0", lambda x: x >= 0),
        "lowest": ("needs a number >= 0", lambda x: x >= 0),
    }
    found = [
        Problem(name, x, rules[name][0])
        for name, x in numbers.items()
        if not is_rate(x) or not (isinstance(x, Tracer) or rules[name][1](x))
    ]
    if mode not in ("max", "min"):
        found.append(Problem("mode", mode, "needs one of max, min"))
    return found


def _init(trainer: Any) -> PyTree:
    """What it remembers of one seed: nothing has been seen yet."""
    del trainer
    return {"best": Known(jnp.zeros(()), jnp.bool_(False)), "stalled": jnp.zeros((), jnp.int32)}


@traits(check=_check, init=_init)
def reduce_rate(
    trainer: Any,
    state: Any,
    key: Key,
    name: str,
    *,
    metric: str,
    rate: str = "algorithm.learning_rate",
    factor: Any = 0.5,
    patience: int = 3,
    min_delta: Any = 0.0,
    mode: str = "max",
    lowest: Any = 0.0,
) -> tuple[Any, Report]:
    """Multiply a rate by `factor` once a metric has not improved for `patience` firings; of a schedule, all.

    Args:
      metric: a name in `state.metrics`, such as `evaluation/return_mean`. While it is unknown or NaN nothing
        is counted.
      rate: a name in `state.hyper`.
      factor: between 0 and 1.
      patience: how many firings without an improvement, one after another; then they are counted anew.
      min_delta: what the metric has to be better by than the best so far, to have improved.
      mode: whether more of the metric is better, max, or less, min.
      lowest: the rate does not fall below it; a schedule's scale, which begins at 1, does not.

    Returns:
      The state; the rate that the next update uses, of a schedule its value there; the best of the metric so
      far; for how many firings it stalled.

    Raises:
      ConfigError: while tracing, for a metric or a rate that the run has not.

    Source:
      `torch.optim.lr_scheduler.ReduceLROnPlateau`, with an absolute threshold and without a cooldown.
    """
    del key
    found = [
        Problem(what, given, f"no such {what}" + nearest(given, known))
        for what, given, known in (("metric", metric, state.metrics), ("rate", rate, state.hyper))
        if given not in known
    ]
    if found:
        raise ConfigError(found)
    value, known = state.metrics.entry(metric)
    memory, old, sign = state.events[name], state.hyper[rate], 1.0 if mode == "max" else -1.0
    best, begun = memory["best"]
    known &= ~jnp.isnan(value)
    improved = known & (~begun | (sign * (value - best) > min_delta))
    stalled = jnp.where(improved, 0, memory["stalled"] + known)
    due = stalled >= patience
    new = jnp.where(due, jnp.minimum(old, jnp.maximum(old * factor, lowest)), old)
    best = Known(jnp.where(improved, value, best).astype(best.dtype), begun | improved)
    stalled = jnp.where(due, 0, stalled)
    remembered = {"best": best, "stalled": stalled.astype(jnp.int32)}
    state = state.replace(hyper=state.hyper.replace({rate: new}), events={**state.events, name: remembered})
    return state, {"rate": trainer.rate(state, rate), **remembered}
