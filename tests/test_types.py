"""The spaces: what they are made from, and what is refused where they are made."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.types import Box, Dict, Discrete, MultiDiscrete


def test_a_shape_and_counts_are_read_as_numpy_reads_them():
    for shape in ([2], (2,), 2, np.int64(2), np.array([2])):
        assert Box(-1, 1, shape).shape == (2,) and type(Box(-1, 1, shape).shape[0]) is int
    assert Box(-1, 1).shape == () and Box(np.zeros(3), jnp.ones(3), (4, 3)).shape == (4, 3)
    assert Discrete(np.int64(3)) == Discrete(3) and type(Discrete(np.int64(3)).n) is int
    assert hash(MultiDiscrete([2, 3])) == hash(MultiDiscrete((2, 3)))  # type: ignore[arg-type]
    assert jax.jit(lambda high: Box(-1, high, (2,)).high + 1)(1.0) == 2  # bounds may be tracers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discrete(0), "Discrete.n = 0: needs an int >= 1"),
        (lambda: Discrete(2.0), "Discrete.n = 2.0: needs an int >= 1"),
        (lambda: Discrete(True), "Discrete.n = True: needs an int >= 1"),
        (lambda: MultiDiscrete([3, 0]), "MultiDiscrete.nvec = [3, 0]: needs ints >= 1"),
        (lambda: MultiDiscrete(()), "MultiDiscrete.nvec = (): needs an int >= 1 for each action"),
        (lambda: Box(-1, 1, (3, 0)), "Box.shape = (3, 0): needs ints >= 1"),
        (lambda: Box(-1, 1, "2"), "Box.shape = '2': needs ints >= 1"),
        (lambda: Box("low", 1), "Box.low = 'low': needs numbers"),
        (lambda: Box(1, -1), "Box.low = 1: needs to be at most high, which is -1"),
        (lambda: Box(float("nan"), 1), "Box.low = nan: needs to be at most high, which is 1"),
        (
            lambda: Box(-1, [1, 2, 3], (2,)),
            "Box.high = [1, 2, 3]: has shape [3], needs one that broadcasts to [2]",
        ),
        (lambda: Dict([Box(0, 1)]), "needs a mapping of names to spaces"),
        (lambda: Dict({}), "Dict = {}: needs a mapping of names to spaces"),
        (
            lambda: Dict({"a": 3}),
            "Dict['a'] = 3: needs a Discrete, MultiDiscrete, Box or Dict of jaxtrain.types",
        ),
        (lambda: Dict({1: Box(0, 1)}), "Dict = 1: needs names that are text"),
    ],
)
def test_a_space_that_nothing_fits_is_refused_where_it_is_made(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()
