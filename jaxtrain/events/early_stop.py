"""The stock event `early_stop`: stop the seeds whose metric is good enough."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxtrain.errors import ConfigError, Problem, nearest
from jaxtrain.events.event import STOPPED, is_rate, traits
from jaxtrain.types import Key, Report


def _check(*, metric: Any, threshold: Any, below: bool = False) -> list[Problem]:
    return [] if is_rate(threshold) else [Problem("threshold", threshold, "needs a number")]


@traits(check=_check)
def early_stop(
    trainer: Any, state: Any, key: Key, *, metric: str, threshold: Any, below: bool = False
) -> tuple[Any, Report]:
    """Stop the seeds whose metric has reached the threshold: they are frozen from then on.

    Args:
      metric: a name in `state.metrics`, such as `evaluation/return_mean` or `rollout/return_mean`.
      threshold: reached at this value or more; with `below`, at this value or less.

    Returns:
      The state, and `stopped`: whether this seed has stopped.

    Raises:
      ConfigError: while tracing, for a metric that the run has not.
    """
    del trainer, key
    if metric not in state.metrics:
        rule = "no such metric" + nearest(metric, state.metrics)
        raise ConfigError([Problem("metric", metric, rule)])
    value, known = state.metrics.entry(metric)
    reached = known & (value <= threshold if below else value >= threshold)  # NaN reaches nothing
    running = state.status == 0
    return state.replace(
        status=jnp.where(running & reached, STOPPED, state.status),
        stopped_at=jnp.where(running & reached, state.clock, state.stopped_at),
    ), {"stopped": state.status.astype(bool) | reached}
