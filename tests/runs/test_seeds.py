"""Seeds are read in one way, and keep their keys in any company."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import ConfigError
from jaxtrain.runs.seeds import Seeds, asked_seeds
from tests.helpers import keys

MOST = "and <= 4294967295"


def words(keys):
    return np.asarray(jax.random.key_data(keys)).tolist()


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({"seed": 1, "key": jax.random.key(0)}, ["give a seed or a key, not both"]),
        ({"num_seeds": 0}, [f"needs an int >= 1 {MOST}"]),
        ({"seeds": []}, [f"needs different ints >= 0 {MOST}"]),
        (
            {"seeds": "1", "num_seeds": "4", "seed": 1.5},
            [f"needs an int >= 1 {MOST}", f"needs an int >= 0 {MOST}", f"needs different ints >= 0 {MOST}"],
        ),
        ({"key": 3}, ["needs jax.random.key(seed) or jax.random.PRNGKey(seed)"]),
        ({"key": keys(3)}, ["has shape [3]: needs one key, and num_seeds for more seeds"]),
    ],
)
def test_seeds_that_are_none_are_refused_all_at_once(given, rules):
    with pytest.raises(ConfigError) as error:
        asked_seeds(**({"seed": None, "key": None, "num_seeds": None, "seeds": None} | given))
    assert [problem.rule for problem in error.value.problems] == rules


def test_only_what_was_given_is_asked_for_and_a_key_in_place_of_the_seed():
    assert asked_seeds(None, None, None, None) == {}
    for seed, num_seeds, chosen in ((3, 2, [1]), (np.int64(3), np.uint8(2), np.array([1]))):
        asked = asked_seeds(seed, None, num_seeds, chosen)
        assert json.loads(json.dumps(asked)) == {"seed": 3, "key": None, "num_seeds": 2, "chosen": [1]}
    assert asked_seeds(None, jax.random.PRNGKey(3), None, None) == asked_seeds(
        None, jax.random.key(3), None, None
    )


@given(
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.integers(1, 5),
    st.one_of(st.none(), st.just((0,)), st.just((4, 1))),
)
def test_seeds_are_read_back_from_what_run_json_has(seed, num_seeds, chosen):
    key = ("threefry2x32", (0, 3)) if seed is None else None
    seeds = Seeds(seed, key, num_seeds, chosen)
    assert Seeds.of(json.loads(json.dumps(seeds.about()))) == seeds
    assert len(seeds.all) == seeds.count


def test_some_seeds_have_the_keys_that_they_have_in_company():
    every = Seeds(7, None, 5)
    assert words(every.narrowed({"chosen": (3, 0)}).keys()) == [words(every.keys())[i] for i in (3, 0)]
    assert words(every.narrowed({"chosen": (2,)}).keys()) == words(every.keys())[2]  # one has no axis
    by_key = Seeds(None, ("threefry2x32", tuple(words(jax.random.key(7)))), 5)
    assert words(by_key.keys()) == words(every.keys())
    with pytest.raises(ConfigError, match=r"num_seeds = 9: the run has 5\nseeds = \[5\]: the run has \[0, 1"):
        every.narrowed({"num_seeds": 9, "chosen": (1, 5)})
