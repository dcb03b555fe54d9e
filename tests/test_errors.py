"""A fault is a line with path, value and rule, and a name has its nearest."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.errors import MISSING, ConfigError, Problem, nearest, raised, shortened, shown


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
