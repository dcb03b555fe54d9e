"""Modules and optimizers of one's own, looked at before anything compiles.

In: what a config was given from Python, and what it has to fit. Out: what does not, by the field's path.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from jaxtrain.errors import MISSING, ContractError, Named, Problem, raised
from jaxtrain.rl import networks
from jaxtrain.tree import same_tree
from jaxtrain.types import Key, PyTree, Space

_OBSERVATIONS = 2  # what a module has to tell from features


def check_module(
    path: str, module: nn.Module, space: Space, observation: PyTree, *shapes: tuple[int, ...]
) -> list[Problem]:
    """What does not fit of a flax module; it is traced.

    Args:
      path: of its field.
      space: of an observation that it sees, without the action mask.
      observation: one, or its `jax.ShapeDtypeStruct`s; with or without a mask.
      shapes: what it may give for one observation.
    """

    def run(key: Key) -> jax.Array:
        obs = jax.tree.map(lambda x: jnp.zeros((_OBSERVATIONS, *x.shape), x.dtype), observation)
        x, _ = networks.encode(space, networks.split_mask(obs)[0])
        params = networks.init(module, key, x, path)
        return networks.apply(module, params, x, 1, path, *shapes)

    try:
        jax.eval_shape(run, jax.random.key(0))
    except InvalidRngError as error:
        rule = "is applied without a random key, needs to be deterministic: "
        return [Problem(path, Named.of(module), rule + _without_link(str(error)))]
    except Exception as error:  # whatever it does while it is traced
        said = str(error)
        ours = isinstance(error, ValueError) and said.startswith(f"{path}: ")
        rule = said.removeprefix(f"{path}: ") if ours else f"raised {_without_link(raised(error))}"
        return [Problem(path, Named.of(module), rule)]
    return []


def check_optimizer(path: str, optimizer: Any, params: PyTree) -> list[Problem]:
    """What does not fit of an optax optimizer; it is traced.

    Args:
      params: those that it is to move, or their `jax.ShapeDtypeStruct`s.
    """

    def step(params: PyTree) -> None:
        state = optimizer.init(params)
        updates, after = optimizer.update(params, state, params)
        same_tree("its updates", params, updates)
        same_tree("its state", state, after)

    try:
        jax.eval_shape(step, params)
    except ContractError as error:
        return [Problem(path, MISSING, str(error))]
    except Exception as error:  # whatever it does while it is traced
        rule = f"is called update(gradients, state, params) and no more; it raised {raised(error)}"
        return [Problem(path, MISSING, rule)]
    return []


def _without_link(said: str) -> str:
    """What flax says, without where it says more."""
    return re.sub(r" \(https?://[^)]*\)", "", said)
