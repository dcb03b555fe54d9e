"""The timetable is what a walk through the run, one env step after the other, would find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import Event, Trainer, at, every, finish, startup, when
from jaxtrain.errors import ConfigError
from jaxtrain.schedule import MOST_MARKS, Schedule, too_many
from tests.helpers import tiny

PER, UPDATES = st.integers(1, 12), st.integers(1, 15)


def walk(per: int, updates: int, due: set[int]) -> tuple[int, ...]:
    """The updates that reach a mark, counted env step by env step."""
    fires = {0} if 0 in due else set()
    steps = 0
    for update in range(1, updates + 1):
        for _ in range(per):
            steps += 1
            if steps in due:
                fires.add(update)
    return tuple(sorted(fires))


@given(PER, UPDATES, st.data())
def test_every_fires_after_each_update_that_completes_another_n_env_steps(per, updates, data):
    total = per * updates
    n = data.draw(st.integers(1, total))
    assert every(n).updates(per, updates) == walk(per, updates, set(range(n, total + 1, n)))


@given(PER, UPDATES, st.data())
def test_joined_schedules_fire_where_either_does_and_once_where_both_do(per, updates, data):
    total = per * updates
    marks = data.draw(st.lists(st.integers(0, total), min_size=1, max_size=5))
    n = data.draw(st.integers(1, total))
    joined = (at(*marks) | every(n) | startup() | finish()).updates(per, updates)
    assert joined == walk(per, updates, {0, total, *marks, *range(n, total + 1, n)})


@given(st.integers(1, 10**9), st.integers(1, 2**31 - 1), st.data())
def test_marks_are_exact_at_any_size(per, updates, data):
    mark = data.draw(st.integers(1, per * updates))
    (update,) = at(mark).updates(per, updates)
    assert (update - 1) * per < mark <= update * per


def test_a_run_of_a_million_million_env_steps_has_an_exact_timetable():
    config = tiny(10**6 // 4, num_envs=10**6, evaluation={"every": 10**10 + 1})
    trainer = Trainer(config, [Event("late", at(10**12 - 1, 4 * 10**6 + 1), lambda t, s, k: (s, {}))])
    assert config.total_env_steps == 10**12
    assert trainer.timetable["late"] == (2, 250_000)
    assert trainer.timetable["evaluation"] == (*(k * 2500 + 1 for k in range(1, 100)), 250_000)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (every(97), "every(97) never fires in a run of 96 env steps"),
        (at(1, 100), "at(100) lies behind the end of the run, 96 env steps"),
        (Schedule(), "it never fires"),
        (when(lambda state: True, every=200), "every(200) never fires"),
    ],
)
def test_what_would_never_fire_is_an_error_that_names_the_event(schedule, words):
    with pytest.raises(ConfigError, match=r"event 'probe'") as error:
        _ = Trainer(tiny(12), [Event("probe", schedule, lambda t, s, k: (s, {}))]).timetable
    assert words in str(error.value)


@pytest.mark.parametrize("n", [-1, 1.5, "8", True, float("inf"), float("nan"), None, 1j])
@pytest.mark.parametrize("make", [every, at, lambda n: when(bool, every=n)])
def test_an_interval_that_is_no_count_of_env_steps_is_refused(make, n):
    with pytest.raises(ValueError, match="needs a whole number of env steps"):
        make(n)


def test_zero_is_a_mark_and_no_interval():
    assert at(0) == startup()
    with pytest.raises(ValueError, match="needs a whole number of env steps >= 1"):
        every(0)


@pytest.mark.parametrize("n", [1000, 1e3, np.int64(1000), np.float32(1e3)])
def test_whole_numbers_of_any_type_are_env_steps(n):
    assert every(n) == every(1000)
    assert at(n) == at(1000)


def test_what_cannot_be_joined_says_so():
    with pytest.raises(ValueError, match="use two events"):
        _ = when(lambda state: True, every=8) | finish()
    with pytest.raises(ValueError, match="at least one"):
        at()
    with pytest.raises(ValueError, match="needs a function of the state"):
        when(True, every=8)


def test_a_schedule_reads_as_it_was_written():
    assert str(every(1000) | at(8) | startup() | finish()) == "every 1,000, at 8, startup, finish"
    assert str(when(np.isnan, every=8, once=True)) == "every 8, when isnan, once"


@given(st.integers(1, 100), st.integers(1, 10**12), st.integers(1, 10**12))
def test_what_is_due_too_often_is_told_an_interval_that_will_do(per, updates, interval):
    if rule := too_many(interval, per, updates):
        least = int(rule.split("needs ")[1].split()[0])
        assert interval < least and too_many(least, per, updates) is None
    else:
        assert per * updates // max(interval, per) <= MOST_MARKS


@pytest.mark.parametrize(
    "field", ["evaluation.every", "logging.every", "checkpoint.every", "checkpoint.keep_every"]
)
def test_a_thousand_million_marks_are_refused_before_they_are_counted_out(field):
    part, name = field.split(".")
    with pytest.raises(ConfigError, match=r"1,000,000,000 times, at most .*; needs 4000 env steps or more"):
        _ = Trainer(tiny(10**9, **{part: {name: 8}})).timetable
