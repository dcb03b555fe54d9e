"""A state and its history as named arrays, and back: into a program of another length, and of some seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.runs import snapshot
from tests.helpers import arrays, differing

timetables = st.sets(st.integers(0, 40), max_size=12).map(sorted)


def history_of(marks, seeds=()):
    """Rows that say of which mark, and of which seed, they are."""
    rows = np.asarray(marks, np.float32).reshape(-1, *(1 for _ in seeds)) + np.zeros(seeds, np.float32)
    whole = rows.astype(np.int32)
    return {"look": {"loss": rows + np.arange(np.prod(seeds), dtype=np.float32) / 8, "count": whole}}


@given(timetables, timetables, st.sampled_from([(), (3,)]))
def test_rows_of_marks_in_both_timetables_are_carried_over_and_others_say_nothing(old, new, seeds):
    before, wanted = history_of(old, seeds), history_of(new, seeds)
    _, found = snapshot.from_arrays(
        snapshot.to_arrays({}, before), {}, wanted, marks={"look": new}, old_marks={"look": old}
    )
    for row, mark in enumerate(new):
        loss, count = found["look"]["loss"][row], found["look"]["count"][row]
        if mark in old:
            np.testing.assert_array_equal(loss, wanted["look"]["loss"][row])
            np.testing.assert_array_equal(count, wanted["look"]["count"][row])
        else:
            assert np.isnan(loss).all() and not count.any()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_some_seeds_are_those_and_a_single_one_has_no_seed_axis(seeds):
    keys = jax.random.split(jax.random.key(0), 5)
    state = {"key": keys, "agent": jnp.arange(10.0).reshape(5, 2)}
    history = history_of([4, 8, 9], (5,))
    held = {name: np.asarray(x) for name, x in snapshot.to_arrays(state, history).items()}
    index = seeds[0] if len(seeds) == 1 else np.array(seeds)
    wanted = jax.tree.map(lambda x: x[index], state), jax.tree.map(lambda x: x[:, index], history)
    marks = {"look": [4, 8, 9]}
    found = snapshot.from_arrays(snapshot.of_seeds(held, seeds), *wanted, marks=marks, old_marks=marks)
    assert differing(found, wanted) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"w": jnp.zeros(3, jnp.bfloat16)},
            r"state\['w'\]: the checkpoint has float32\[3\], the config makes bfloat16",
        ),
        (
            {"w": jnp.zeros(4)},
            r"state\['w'\]: the checkpoint has float32\[3\], the config makes float32\[4\]",
        ),
        (
            {"v": jnp.zeros(3)},
            r"state\['v'\]: the checkpoint has nothing, .*\nstate\['w'\]: .* makes nothing",
        ),
    ],
    ids=["dtype", "shape", "name"],
)
def test_an_array_that_does_not_fit_is_named_with_what_it_is_and_what_it_should_be(other, words):
    held = dict(arrays({"w": jnp.zeros(3)}))
    held = {f"state{name}": x for name, x in held.items()}
    with pytest.raises(snapshot.Mismatch, match=words):
        snapshot.from_arrays(held, other, {}, marks={}, old_marks={})


class Told(NamedTuple):
    metrics: dict[str, Any]


def test_a_metric_that_an_earlier_version_did_not_have_is_unknown_and_one_too_many_is_named():
    old = Told({"loss": jnp.ones(2)})
    new = Told({"loss": jnp.zeros(2), "later": jnp.zeros(2), "count": jnp.ones(2, jnp.int32)})
    held, none = snapshot.to_arrays(old, {}), {"marks": {}, "old_marks": {}}
    found, _ = snapshot.from_arrays(held, new, {}, **none)
    unknown = Told({"loss": jnp.ones(2), "later": jnp.full(2, jnp.nan), "count": jnp.zeros(2, jnp.int32)})
    assert differing(found, unknown) == []
    with pytest.raises(snapshot.Mismatch, match=r"metrics\['later'\]: the checkpoint has .* makes nothing"):
        snapshot.from_arrays(snapshot.to_arrays(new._replace(metrics=unknown.metrics), {}), old, {}, **none)
