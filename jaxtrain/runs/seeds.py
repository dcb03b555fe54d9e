"""Which seeds a run has, and which are asked for.

In: what the caller gives, or what `run.json` says. Out: `Seeds`, and their keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config.number import whole, wholes
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.random import as_key
from jaxtrain.types import Key


@dataclass(frozen=True)
class Seeds:
    """Which seeds a run has."""

    seed: int | None  # of `jax.random.key`; None where a key was given
    key: tuple[str, tuple[int, ...]] | None  # its kind and its words
    num_seeds: int
    chosen: tuple[int, ...] | None = None  # of those; None is all

    @property
    def count(self) -> int:
        return self.num_seeds if self.chosen is None else len(self.chosen)

    @property
    def all(self) -> tuple[int, ...]:
        """Their numbers, from 0 to `num_seeds` - 1."""
        return tuple(range(self.num_seeds)) if self.chosen is None else self.chosen

    def narrowed(self, asked: Mapping[str, Any]) -> Seeds:
        """Some of these seeds.

        Raises:
          ConfigError: others are asked for.
        """
        problems = [
            Problem(name, value, f"the run has {getattr(self, name)!r}")
            for name, value in asked.items()
            if name != "chosen" and value != getattr(self, name)
        ]
        absent = [s for s in asked.get("chosen", ()) if s not in self.all]
        if absent:
            problems.append(Problem("seeds", absent, f"the run has {list(self.all)}"))
        if problems:
            raise ConfigError(problems)
        return dataclasses.replace(self, chosen=asked.get("chosen", self.chosen))

    def keys(self) -> jax.Array:
        """One key, or keys [count]."""
        if self.key is None:
            assert self.seed is not None  # one of the two is given
            root = jax.random.key(self.seed)
        else:
            root = jax.random.wrap_key_data(jnp.array(self.key[1], jnp.uint32), impl=self.key[0])
        keys = root[None] if self.num_seeds == 1 else jax.random.split(root, self.num_seeds)
        keys = keys if self.chosen is None else keys[np.array(self.chosen)]
        return keys[0] if self.count == 1 else keys

    def about(self) -> dict[str, Any]:
        """As `run.json` has it."""
        return {
            "seed": self.seed,
            "key": None if self.key is None else [self.key[0], list(self.key[1])],
            "num_seeds": self.num_seeds,
            "seeds": None if self.chosen is None else list(self.chosen),
        }

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Seeds:
        """What `run.json` says."""
        key, chosen = about["key"], about["seeds"]
        return cls(
            about["seed"],
            None if key is None else (key[0], tuple(key[1])),
            about["num_seeds"],
            None if chosen is None else tuple(chosen),
        )


def asked_seeds(
    seed: int | None, key: Key | None, num_seeds: int | None, seeds: Sequence[int] | None
) -> dict[str, Any]:
    """The fields of `Seeds` that were given.

    Raises:
      ConfigError: a line for each argument that is no seed, key or count.
    """
    both = seed is not None and key is not None
    problems = [Problem("seed", seed, "give a seed or a key, not both")] if both else []
    readings: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "num_seeds": (num_seeds, partial(whole, "num_seeds", low=1)),
        "seed": (seed, partial(whole, "seed")),
        "key": (key, _read_key),
        "chosen": (seeds, partial(wholes, "seeds")),
    }
    asked: dict[str, Any] = {}
    for name, (value, read) in readings.items():
        try:
            asked |= {} if value is None else {name: read(value)}
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return {"seed": None, "key": None, **asked} if asked.keys() & {"seed", "key"} else asked


def _read_key(given: Any) -> tuple[str, tuple[int, ...]]:
    """The kind of one key, and its words."""
    try:
        key = as_key(given)
    except ValueError:
        rule = "needs jax.random.key(seed) or jax.random.PRNGKey(seed)"
        raise ConfigError([Problem("key", given, rule)]) from None
    if key.ndim:
        rule = "needs one key, and num_seeds for more seeds"
        raise ConfigError([Problem("key", MISSING, f"has shape {list(key.shape)}: {rule}")])
    words = np.asarray(jax.random.key_data(key)).reshape(-1).tolist()
    return str(jax.random.key_impl(key)), tuple(words)
