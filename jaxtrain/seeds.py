"""What one seed's code may ask of all seeds.

In: a boolean of one seed. Out: the same question over every seed under `vmap`, as one unbatched answer.
Knows nothing of algorithms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_batching.custom_vmap
def _any(x: jax.Array) -> jax.Array:
    return jnp.any(x)


@_any.def_vmap
def _any_rule(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return _any(x), False


def any_over_seeds(x: jax.Array) -> jax.Array:
    """Whether `x` holds anywhere, for any seed of the surrounding `vmap`s: bool[], never batched.

    A condition on data becomes a `select` under `vmap`, both branches run. Where it only saves work,
    asking it of all seeds keeps it a `cond`.
    """
    return _any(lax.stop_gradient(x))
