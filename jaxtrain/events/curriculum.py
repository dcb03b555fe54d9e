"""The stock event `curriculum`: move a parameter of the environments along a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxtrain.errors import Problem
from jaxtrain.events.event import is_rate, replace_leaves, traits
from jaxtrain.types import Key, Report


def _check(*, field: Any, marks: Any, values: Any) -> list[Problem]:
    found = [
        Problem(name, given, "needs a list of numbers")
        for name, given in (("marks", marks), ("values", values))
        if not isinstance(given, list | tuple) or not all(map(is_rate, given))
    ]
    if found:
        return found
    known = [m for m in marks if not isinstance(m, Tracer)]
    if len(marks) != len(values) or not marks or known != sorted(known):
        rule = f"needs ascending env steps, one for each of {len(values)} values"
        return [Problem("marks", marks, rule)]
    return []


def _moves(*, field: str, **_: Any) -> dict[str, str]:
    return {"field": field}


@traits(check=_check, moves=_moves)
def curriculum(
    trainer: Any, state: Any, key: Key, *, field: str, marks: Sequence[Any], values: Sequence[Any]
) -> tuple[Any, Report]:
    """Move one parameter of the environments along a schedule.

    Args:
      field: of the environment's parameters.
      marks: env steps, ascending.
      values: of the field at those marks; straight lines between, constant outside.

    Returns:
      The state, and the field's value.
    """
    del key
    # In updates, as the counter is: a float32 of env steps would be coarse.
    at = jnp.asarray([mark / trainer.env_steps_per_update for mark in marks])
    value = jnp.interp(state.clock, at, jnp.asarray(values, jnp.float32))
    params = replace_leaves("curriculum", state.env_params, {field: lambda leaf: value})
    return state.replace(env_params=params), {field: value}
