"""Runs as samples of seeds: which are taken together, and where their curves are compared."""

from __future__ import annotations

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.runs import curves
from jaxtrain.runs.curves import Curve
from jaxtrain.tools import groups
from tests import made

nan = np.nan
METRIC = "evaluation/return_mean"


def read(*places):
    return curves.read(places)


def test_each_run_is_a_group_of_its_name_and_of_what_makes_it_another(tmp_path):
    places = [
        made.run(tmp_path / name, [1.0], algorithm={"learning_rate": rate})
        for name, rate in (("a", 1), ("b", 2))
    ]
    assert [g.label for g in groups.grouped(read(*places), None)] == [
        "a: learning_rate=1",
        "b: learning_rate=2",
    ]
    assert [g.label for g in groups.grouped(read(places[0]), None)] == ["a"]


def test_runs_of_the_same_name_have_their_whole_paths(tmp_path):
    places = [made.run(tmp_path / name / "run", [1.0]) for name in "ab"]
    assert [g.label for g in groups.grouped(read(*places), None)] == [str(place) for place in places]


def test_runs_with_the_same_value_of_a_field_are_one_sample(tmp_path):
    for i, (rate, seeds) in enumerate([(1, 2), (2, 3), (1, 4)]):
        made.run(tmp_path / str(i), np.ones((2, seeds)), algorithm={"learning_rate": rate}, seed=i)
    found = groups.grouped(read(tmp_path), "algorithm.learning_rate")
    assert {g.label: g.seeds for g in found} == {
        "algorithm.learning_rate=1": 6,
        "algorithm.learning_rate=2": 3,
    }
    with pytest.raises(
        ConfigError, match=r"by = 'lr': no run has such a field.*differ in algorithm.learning_rate"
    ):
        groups.grouped(read(tmp_path), "lr")


def test_between_its_records_a_seed_is_on_a_line_behind_its_last_as_it_was_and_before_its_first_unknown():
    curve = Curve(np.array([10, 20, 30]), np.array([1.0, 2, 3]), np.array([[nan, 0], [4, nan], [nan, 8]]))
    found = groups.at(curve, "env_steps", np.array([10, 15, 20, 25, 30]))
    np.testing.assert_array_equal(found[:, 0], [nan, nan, 4, 4, 4])
    np.testing.assert_array_equal(found[:, 1], [0, 2, 4, 6, 8])


def test_runs_of_other_grids_and_lengths_are_a_mean_only_where_all_of_them_are(tmp_path):
    """Of two straight lines the mean is one as well."""
    a = made.run(tmp_path / "a", np.arange(1.0, 11), every=10)  # x / 10, to 100
    b = made.run(tmp_path / "b", 3 * np.arange(1.0, 9), every=25)  # 3 x / 25, to 200
    (group,) = groups.grouped(read(a, b), "env.id")
    marks, band = groups.band(group, METRIC, "env_steps")
    assert marks.tolist() == [25, 30, 40, 50, 60, 70, 75, 80, 90, 100]
    np.testing.assert_allclose(band.iqm, (marks / 10 + 3 * marks / 25) / 2)


def test_a_seed_that_stops_pulls_no_mean_where_it_stops(tmp_path):
    values = np.tile(np.arange(8.0), (6, 1))
    values[3:, :2] = nan
    (group,) = groups.grouped(read(made.run(tmp_path / "a", values)), None)
    assert np.ptp(groups.band(group, METRIC, "env_steps")[1].iqm) == 0


def test_a_long_curve_has_as_many_marks_as_can_be_seen_its_ends_among_them(tmp_path):
    (group,) = groups.grouped(read(made.run(tmp_path / "a", np.arange(2000.0), every=1)), None)
    marks, band = groups.band(group, METRIC, "env_steps")
    assert len(marks) == groups.MOST_MARKS and (marks[0], marks[-1]) == (1, 2000)
    np.testing.assert_array_equal(band.iqm, marks - 1)


def test_records_without_a_time_have_no_place_on_an_axis_of_time():
    curve = Curve(np.array([1, 2, 3]), np.array([2.0, nan, 1.0]), np.array([[1.0], [2.0], [3.0]]))
    assert groups.along(curve, "env_steps") is curve
    assert groups.along(curve, "seconds").values.tolist() == [[3.0], [1.0]]
