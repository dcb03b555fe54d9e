"""The stock event `early_stop`: stop the seeds whose metric is good enough."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxtrain.errors import ConfigError, Problem, nearest
from jaxtrain.events.event import STOPPED, Event, is_rate
from jaxtrain.schedule import Schedule
from jaxtrain.types import Key, Report


def early_stop(name: str, schedule: Schedule, *, metric: str, threshold: Any, below: bool = False) -> Event:
    """Stop the seeds whose metric has reached the threshold: they are frozen from then on.

    Args:
      metric: a name in `state.metrics`, such as `evaluation/return_mean` or `rollout/return_mean`.
      threshold: reached at this value or more; with `below`, at this value or less.
    """

    if not is_rate(threshold):
        raise ConfigError([Problem("threshold", threshold, "needs a number")])

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del trainer, key
        if metric not in state.metrics:
            raise ConfigError(
                [
                    Problem(
                        f"event {name!r}: metric", metric, "no such metric" + nearest(metric, state.metrics)
                    )
                ]
            )
        value = state.metrics[metric]
        reached = value <= threshold if below else value >= threshold  # NaN reaches nothing
        running = state.status == 0
        return state.replace(
            status=jnp.where(running & reached, STOPPED, state.status),
            stopped_at=jnp.where(running & reached, state.clock, state.stopped_at),
        ), {"stopped": state.status.astype(bool) | reached}

    return Event(name, schedule, run)
