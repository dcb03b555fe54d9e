"""The short form of a run: two updates of the same program, for any config that is sound."""

from __future__ import annotations

import dataclasses

import pytest

import jaxtrain
from jaxtrain.config import experiments, modules
from jaxtrain.config.schema import INTERVALS, Config
from jaxtrain.tools import short
from tests.helpers import tiny


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setenv(short.VARIABLE, "1")


def report(trainer, state, key):
    return state, {"clock": state.clock}


@pytest.mark.parametrize("name", experiments.known())
def test_an_experiment_is_two_updates_of_the_same_sizes_and_fits_its_environment(name):
    whole = jaxtrain.load_config(name)
    cut = short.cut(whole)
    assert cut.num_updates == 2 and short.cut(cut) == cut
    assert (cut.env, cut.algorithm.rollout_length) == (whole.env, whole.algorithm.rollout_length)
    assert [event.name for event in cut.events] == [event.name for event in whole.events]
    with modules.looking_in([experiments.known()[name].parent]):
        marks = jaxtrain.Trainer(cut).timetable
    assert marks.keys() == jaxtrain.Trainer(whole).timetable.keys()
    assert all(set(due) <= {0, 1, 2} for due in marks.values())
    if name.endswith("dqn"):
        per = cut.env_steps_per_update
        algorithm = cut.algorithm
        assert algorithm.learning_starts < cut.total_env_steps  # so it learns within the run
        assert algorithm.buffer_size == 2 * per and algorithm.batch_size <= algorithm.buffer_size


def test_marks_and_intervals_of_events_come_within_the_run_in_their_order():
    event = jaxtrain.Event("own", jaxtrain.at(0, 8, 40, 80) | jaxtrain.every(24) | jaxtrain.finish(), report)
    push = jaxtrain.OnReset("push", lambda key, params: params)
    named = {"name": "named", "run": "tests.configs:report", "at": "0,40", "every": 16}
    whole = tiny(updates=10, events=(event, push, named))
    cut = short.cut(whole)
    assert cut.events[0].schedule.marks == (0, 8, 16) and cut.events[0].schedule.intervals == (8,)
    assert cut.events[0].schedule.at_finish and cut.events[1] is push
    assert cut.events[2].at == (0, 8) and cut.events[2].every == 8
    assert set(jaxtrain.Trainer(cut).timetable["own"]) == {0, 1, 2}


def test_what_never_happens_still_never_does_and_a_run_that_is_shorter_stays_as_it_is():
    whole = tiny(updates=1)
    assert short.cut(whole) == dataclasses.replace(whole, evaluation=short.cut(whole).evaluation)
    never = tiny(updates=10, checkpoint={"every": 0})
    assert all(getattr(short.cut(never), name).every == 0 for name in INTERVALS)


def test_it_is_said_and_only_where_the_environment_asks_for_it(capsys, asked, monkeypatch):
    cut = short.config(tiny(updates=10))
    assert cut == short.cut(tiny(updates=10)) and short.repeats(7) == 2 and short.repeats(1) == 1
    assert "JAXTRAIN_SHORT=1: 2 updates of 8 env steps, and at most 2 seeds" in capsys.readouterr().err
    monkeypatch.setenv(short.VARIABLE, "0")
    assert short.config(tiny(updates=10)) == tiny(updates=10) and short.repeats(7) == 7
    assert short.seeds([3, 7], 2) == [3, 7] and capsys.readouterr().err == ""
    monkeypatch.setenv(short.VARIABLE, "yes")
    with pytest.raises(jaxtrain.ConfigError, match="JAXTRAIN_SHORT = 'yes': needs 1, or 0"):
        short.config(Config())


def test_a_run_goes_on_for_two_updates_more_and_with_seeds_that_it_has(asked, capsys):
    before = tiny(updates=2)
    assert short.longer(tiny(updates=100), before) == tiny(updates=4)
    assert short.longer(before, before) == before
    assert short.seeds([3, 7], 2) == [1] and short.seeds([0, 1], 2) == [0, 1]
    assert "seeds 1 in place of 3, 7" in capsys.readouterr().err
