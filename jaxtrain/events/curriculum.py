"""The stock event `curriculum`: move a parameter of the environments along a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxtrain.errors import ConfigError, Problem
from jaxtrain.events.event import Event, is_rate, replace_leaves
from jaxtrain.schedule import Schedule
from jaxtrain.types import Key, Report


def curriculum(
    name: str, schedule: Schedule, *, field: str, marks: Sequence[float], values: Sequence[float]
) -> Event:
    """Move one parameter of the environments along a schedule.

    Args:
      field: of the environment's parameters.
      marks: env steps, ascending.
      values: of the field at those marks; straight lines between, constant outside.
    """
    for key, given in (("marks", marks), ("values", values)):
        if not isinstance(given, list | tuple) or not all(map(is_rate, given)):
            raise ConfigError([Problem(key, given, "needs a list of numbers")])
    marks, values = tuple(marks), tuple(values)
    # Written as floats they are leaves of the config, and traced in the program; they were sound before it.
    known = [m for m in marks if not isinstance(m, Tracer)]
    if len(marks) != len(values) or not marks or known != sorted(known):
        raise ConfigError(
            [Problem("marks", marks, f"needs ascending env steps, one for each of {len(values)} values")]
        )

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del key
        # In updates, as the counter is: a float32 of env steps would be coarse.
        per = trainer.env_steps_per_update
        value = jnp.interp(
            state.clock, jnp.asarray([m / per for m in marks]), jnp.asarray(values, jnp.float32)
        )
        params = replace_leaves(name, state.env_params, {field: lambda leaf: value})
        return state.replace(env_params=params), {field: value}

    return Event(name, schedule, run)
