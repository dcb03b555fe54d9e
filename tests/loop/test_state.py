"""A state of many seeds has one clock."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtrain import Trainer
from jaxtrain.loop.state import AXES, shared_clock
from tests.helpers import arrays, differing, keys, tiny


def test_every_leaf_but_the_clock_has_the_axis_of_the_seeds():
    state = jax.eval_shape(Trainer(tiny()).new, keys(3))
    for path, axis in jax.tree.leaves_with_path(AXES, is_leaf=lambda x: x is None):
        (name,) = path
        for leaf in jax.tree.leaves(getattr(state, name.name)):
            assert leaf.shape[:1] == ((3,) if axis == 0 else ()), name


def test_a_clock_that_an_outer_vmap_has_copied_is_one_again_and_nothing_else_changes():
    state = Trainer(tiny()).new(keys(3)).replace(clock=jnp.int32(7))
    copied = state.replace(clock=jnp.full(3, 7, jnp.int32))
    assert shared_clock(state) is state
    assert differing(shared_clock(copied), state) == []
    assert dict(arrays(shared_clock(copied)))[".clock"].shape == ()
