"""The rates of a run, which are part of its state: so that events may move them and a sweep is a `vmap`.

In: a config, events from Python. Out: `Rates`, path -> array; and the config with such rates in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.config.field import Params
from jaxtrain.config.schema import Config
from jaxtrain.errors import nearest
from jaxtrain.events.event import Part
from jaxtrain.tree import same_tree

# What stands in a config in place of a rate that is in the state. Whoever reads it there is found out.
ELSEWHERE = 1.2345e30


@jax.tree_util.register_pytree_with_keys_class
class Rates(Mapping[str, jax.Array]):
    """Path -> array, in the order of the config: `state.hyper["algorithm.learning_rate"]`.

    Immutable: `replace` gives one with other values. Of S seeds, leaves have a leading S axis.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> jax.Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Rates({', '.join(self._values)})"

    def replace(self, new: Mapping[str, Any]) -> Rates:
        """The same with some values replaced, each in the shape and dtype of the old one.

        Raises:
          KeyError: a name that is no rate of this run, with the nearest. A field that is unset is none.
          TypeError: a value of another shape.
        """
        for name in new:
            if name not in self._values:
                raise KeyError(f"{name!r} is no rate of this run{nearest(name, self._values)}")
        cast = {name: jnp.asarray(value, self._values[name].dtype) for name, value in new.items()}
        made = same_tree("Rates.replace", self._values, {**self._values, **cast})
        return Rates({name: made[name] for name in self._values})  # JAX sorts a dict

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        return [(jax.tree_util.DictKey(k), v) for k, v in self._values.items()], tuple(self._values)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Any) -> Rates:
        self = object.__new__(cls)
        self._values = dict(zip(names, values, strict=True))
        return self


class Layout:
    """Where the rates of a run stand: in its config, and in the parameters of events from Python."""

    def __init__(self, config: Config, given: Sequence[Part]) -> None:
        tree = (config, {part.name: part.params for part in given})
        found, self._structure = jax.tree_util.tree_flatten_with_path(tree)
        self.names = tuple(_name(config, path) for path, _ in found)
        self._values = [value for _, value in found]

    def rates(self) -> Rates:
        """As arrays, of the dtype of floats."""
        dtype = jnp.result_type(float)
        return Rates({n: jnp.asarray(x, dtype) for n, x in zip(self.names, self._values, strict=True)})

    def config(self, rates: Rates) -> tuple[Config, dict[str, Params]]:
        """The config with these rates, and the parameters of events from Python by the event's name."""
        return jax.tree.unflatten(self._structure, rates.values())


def _name(config: Config, path: Sequence[Any]) -> str:
    """`algorithm.learning_rate`, `events.NAME.PARAM`: as people would say it, whatever the containers are."""
    where, *rest = path
    words = [jax.tree_util.keystr((key,), simple=True) for key in rest]
    words = [word for word in words if word]  # the scale of a schedule has the name of the whole
    if where.idx == 1:
        return ".".join(["events", *words])
    for place, events in ((["events"], config.events), (["evaluation", "events"], config.evaluation.events)):
        depth = len(place)
        if words[:depth] == place:  # [..., index, "params", ...]
            words[depth : depth + 2] = [events[int(words[depth])].name]
            break
    return ".".join(words)


def scale_rate(state: Any, name: str, factor: Any) -> Any:
    """The state with one rate multiplied by `factor`: a number, or all of a schedule from here on.

    Args:
      state: a `TrainState`, of one seed or of many.
      name: as in `state.hyper`, such as "algorithm.learning_rate".
      factor: f32[], or [S].

    Raises:
      KeyError: no rate of that name.
    """
    if name not in state.hyper:
        raise KeyError(f"{name!r} is no rate of this run{nearest(name, state.hyper)}")
    return state.replace(hyper=state.hyper.replace({name: state.hyper[name] * factor}))
