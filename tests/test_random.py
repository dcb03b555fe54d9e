"""Sources of randomness by name, and keys of either kind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.random import as_key, stream

NAMES = ("agent", "environment", "evaluation", "event/a", "event/b", "update", "")


def words(key):
    return np.asarray(jax.random.key_data(key)).tobytes()


def test_each_name_and_each_key_has_draws_of_its_own_and_the_same_again():
    roots = jax.random.split(jax.random.key(0), 3)
    found = {words(stream(root, name)) for root in roots for name in NAMES} | {words(root) for root in roots}
    assert len(found) == 3 * len(NAMES) + 3
    assert words(stream(roots[0], "agent")) == words(stream(roots[0], "agent"))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_an_old_key_is_the_typed_one_whatever_its_axes(shape):
    typed = jax.random.key(3) if shape == () else jax.random.split(jax.random.key(3), shape)
    old = jax.random.key_data(typed)
    assert as_key(typed) is typed
    for given in (old, np.asarray(old)):
        made = as_key(given)
        assert made.shape == shape and words(made) == words(typed)


@pytest.mark.parametrize(
    "key", [0, None, "0", np.uint32(0), jnp.zeros(3, jnp.uint32), jnp.zeros(2), np.int64([0, 1])]
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match=r"needs jax.random.key\(seed\) or jax.random.PRNGKey\(seed\)"):
        as_key(key)
