"""A fault is a line with path, value and rule, and a name has its nearest."""

from __future__ import annotations

import copy
import pickle
import re

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import PPO
from jaxtrain.errors import (
    MISSING,
    ConfigError,
    ContractError,
    Fault,
    Problem,
    nearest,
    raised,
    shortened,
    shown,
)
from jaxtrain.loop.train import Interrupted
from jaxtrain.runs.checkpoint import Damaged
from jaxtrain.runs.snapshot import Mismatch


def test_under_puts_a_path_before_every_fault():
    error = ConfigError([Problem("a.b", 1, "needs 2"), Problem("", 1, "needs a mapping")])
    assert [p.path for p in error.under("events.0")] == ["events.0.a.b", "events.0"]


@given(st.lists(st.tuples(st.text(min_size=1), st.integers() | st.text(), st.text(min_size=1)), min_size=1))
def test_an_error_has_a_line_for_each_fault_whatever_is_in_it(faults):
    problems = [Problem(*fault) for fault in faults]
    error = ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error).split("\n") == [str(problem) for problem in problems]


def test_a_value_that_is_missing_is_not_shown():
    assert str(Problem("a.b", MISSING, "is missing")) == "a.b: is missing"
    assert str(Problem("a.b", None, "needs\n  a number")) == "a.b = None: needs a number"


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("gama", ["gamma", "lambda"], "; the nearest known is 'gamma'"),
        ("xyz", ["b", "a"], "; known: a, b"),
        ("xyz", [], ""),
        ("xyz", [f"name {i}" for i in range(13)], ""),
    ],
)
def test_a_name_is_answered_with_the_nearest_or_a_short_list(name, known, words):
    assert nearest(name, known) == words


def test_what_other_code_raised_is_one_line_with_its_innermost_frames_first():
    def deep(n):
        if n == 0:
            raise RuntimeError("two\nlines")
        deep(n - 1)

    with pytest.raises(RuntimeError) as caught:
        deep(6)
    frame = r"test_errors\.py:\d+ in deep"
    assert re.fullmatch(rf"RuntimeError: two \({', '.join([frame] * 4)}\)", raised(caught.value))
    assert raised(ValueError()) == "ValueError"


WAYS = [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in (0, 2, 5))]
VALUES = [MISSING, None, "text", 3.5, (1, "a"), jnp.ones(2), lambda: 0, object(), PPO()]


@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
@pytest.mark.parametrize("way", WAYS)
def test_an_error_says_the_same_in_another_process(way, value):
    error = ConfigError([Problem("a.b", value, "needs 2"), Problem("c", MISSING, "is missing")])
    error.add_note("a note")
    again = way(error)
    assert (type(again), str(again), again.__notes__) == (ConfigError, str(error), ["a note"])
    assert [p.path for p in again.under("x")] == ["x.a.b", "x.c"] and again.problems[1].value is MISSING
    assert str(way(error.problems[0])) == str(error.problems[0])
    assert way(Problem("a", 3, "needs 2")) == Problem("a", 3, "needs 2")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [ContractError, Fault, Damaged, Mismatch])
def test_each_error_of_the_library_goes_to_another_process(way, kind):
    assert str(way(kind("why"))) == "why" and type(way(kind("why"))) is kind
    assert way(Interrupted(None)).result is None


@given(st.text())
def test_what_is_shown_is_one_line_of_characters_that_a_terminal_prints(text):
    assert shown(text).isprintable()
    assert shown(text) == text or not text.isprintable()


def test_orders_to_a_terminal_are_shown_wherever_they_stand_in_an_error():
    said = str(Problem("a\x1b[2J", "\x1b[31m", "is in \x9b1m \u202e \udcff"))
    assert said == r"a\x1b[2J = '\x1b[31m': is in \x9b1m \u202e \udcff"


def test_a_long_value_loses_its_middle_and_one_that_has_no_text_says_its_type():
    assert len(str(Problem("a" * 10**6, ["b"] * 10**6, "needs less"))) < 1200
    assert shortened("ab" * 300) == f"{'ab' * 125} … 100 more … {'ab' * 125}"
    assert str(Problem("a", 10**5000, "needs less")) == "a = <int>: needs less"
