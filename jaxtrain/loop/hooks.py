"""What the `OnReset` hooks are given at each start: the nominal parameters, not what they made of them last.

In: hooks, and parameters of environments. Out: those of the next episode; and the nominal values that have to
be remembered, of the fields that hooks both read and change. All else is in the parameters themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from jaxtrain.events.event import OnReset, leaf_name, traits_of
from jaxtrain.tree import same_tree
from jaxtrain.types import Key, PyTree


def begin(hooks: Sequence[OnReset], keys: Sequence[Key], nominal: PyTree, last: PyTree) -> PyTree:
    """The parameters of one environment's next episode.

    Args:
      hooks: one behind the other, each is given what those before it made.
      keys: one each.
      nominal: what the first is given.
      last: those of the episode before, for hooks that ask for them.
    """
    params = nominal
    for hook, key in zip(hooks, keys, strict=True):
        more = (last,) if traits_of(hook.run).last else ()
        params = same_tree(f"OnReset {hook.name!r}", params, hook.run(key, params, *more))
    return params


def remembered(hooks: Sequence[OnReset], params: PyTree) -> dict[str, jax.Array]:
    """Of nominal parameters, leaves [B, ...], those that hooks read and change, by name."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    leaves, structure = jax.tree.flatten(one)

    def run(leaves: list[jax.Array], key: Key, last: PyTree) -> list[jax.Array]:
        keys = jax.random.split(key, max(len(hooks), 1))[: len(hooks)]
        return jax.tree.leaves(begin(hooks, list(keys), jax.tree.unflatten(structure, leaves), last))

    jaxpr = jax.make_jaxpr(run)(leaves, jax.random.key(0), one).jaxpr
    given = jaxpr.invars[: len(leaves)]
    changed = [x is not y for x, y in zip(jaxpr.outvars, given, strict=True)]
    _, used = dce_jaxpr(jaxpr, changed)
    kept = [a and b for a, b in zip(changed, used[: len(leaves)], strict=True)]
    return {name: leaf for (name, leaf), keep in zip(_named(params), kept, strict=True) if keep}


def nominal(params: PyTree, remembered: dict[str, jax.Array]) -> PyTree:
    """Parameters with what is remembered of the nominal ones in its place."""
    return jax.tree_util.tree_map_with_path(lambda path, x: remembered.get(leaf_name(path), x), params)


def moved(remembered: dict[str, jax.Array], old: PyTree, new: PyTree) -> dict[str, jax.Array]:
    """What is remembered, after an event has made new parameters of old ones: what it moves is nominal."""
    pairs = zip(_named(old), _named(new), strict=True)
    made = {name: after for (name, before), (_, after) in pairs if after is not before}
    return {name: made.get(name, value) for name, value in remembered.items()}


def _named(params: PyTree) -> list[tuple[str, jax.Array]]:
    return [(leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
