"""An agent that begins from another's: which leaves are handed on, and the fresh agent with them in it.

In: an agent, or its shapes, and arrays of another by the path of the leaf. Out: leaves by path, and agents.
Knows nothing of where the arrays are from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.interpreters.partial_eval import dce_jaxpr

from jaxtrain.tree import InPlace
from jaxtrain.types import Algorithm, Key, PyTree

PARAMS = "params"  # the field, or the key, of an agent that has its parameters
# Of an optimizer: where its own rates are, which are the new run's. Handed on, an annealed one would be 0.
RATES: dict[type[Any], tuple[str, ...]] = {
    optax.ScaleByScheduleState: ("count",),
    optax.InjectHyperparamsState: ("count", "hyperparams"),
    optax.InjectStatefulHyperparamsState: ("count", "hyperparams", "hyperparams_states"),
    optax.contrib.ReduceLROnPlateauState: optax.contrib.ReduceLROnPlateauState._fields,
}


def leaves(agent: PyTree) -> dict[str, Any]:
    """Every leaf by its path, which says how Python would reach it from the agent."""
    found = jax.tree_util.tree_leaves_with_path(agent)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def params(agent: PyTree) -> dict[str, Any]:
    """The leaves of its parameters; {} for an agent that has no `params`."""
    found = jax.tree_util.tree_leaves_with_path(agent)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found if path and _name(path[0]) == PARAMS}


def handed_on(agent: PyTree) -> dict[str, Any]:
    """The leaves of an agent that hold for another run too.

    What is left out is a run's own: every node that holds an `InPlace`, such as a replay, as a whole; what a
    node's class names in `begins_anew`; and where an optax optimizer is in its schedules.
    """
    return {jax.tree_util.keystr(path): leaf for path, leaf in _walk(agent, ())}


def _walk(node: PyTree, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    below = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)  # one level
    if [key for key, _ in below] == [()]:
        yield path, node
    elif not any(isinstance(x, InPlace) for x in (node, *(child for _, child in below))):
        anew = RATES.get(type(node), getattr(type(node), "begins_anew", ()))
        for (key,), child in below:
            if _name(key) not in anew:
                yield from _walk(child, (*path, key))


def _name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def adopted(algorithm: Algorithm[Any], agent: PyTree, key: Key, taken: Mapping[str, jax.Array]) -> PyTree:
    """A fresh agent of one seed with the leaves of another in it, and what is made of its parameters anew.

    Args:
      agent: that of `algorithm.init(key)`.
      taken: path -> array, of a typed key its words; of all parameters or of none.
    """
    if takes_params(algorithm) and params(agent).keys() & taken.keys():
        theirs = _get(_with(agent, taken), PARAMS)
        init: Callable[..., PyTree] = algorithm.init
        agent = init(key, params=theirs)
    return _with(agent, taken)


def _with(agent: PyTree, taken: Mapping[str, jax.Array]) -> PyTree:
    def pick(path: Any, leaf: Any) -> Any:
        x = taken.get(jax.tree_util.keystr(path))
        if x is None:
            return leaf
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return jax.random.wrap_key_data(x, impl=jax.random.key_impl(leaf)) if is_key else x

    return jax.tree_util.tree_map_with_path(pick, agent)


def _get(agent: PyTree, name: str) -> PyTree:
    return agent[name] if isinstance(agent, Mapping) else getattr(agent, name)


def takes_params(algorithm: Algorithm[Any]) -> bool:
    """Whether `init(key, params=…)` makes an agent of those: targets, optimizer, all that follows."""
    return PARAMS in inspect.signature(algorithm.init).parameters


def drawn(init: Callable[[Key], PyTree], key: Key) -> list[str]:
    """The leaves of a fresh agent, besides its parameters, that depend on its key: they may be made of them.

    Args:
      init: gives the agent.
    """
    made, shapes = jax.make_jaxpr(init, return_shape=True)(key)
    paths, known = list(leaves(shapes)), params(shapes).keys()

    def depends(index: int) -> bool:
        return any(dce_jaxpr(made.jaxpr, [i == index for i in range(len(paths))])[1])

    return [path for i, path in enumerate(paths) if path not in known and depends(i)]
