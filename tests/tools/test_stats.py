"""Summaries of scores: those of rliable, and what must hold whatever the scores are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxtrain.tools import stats

STORED = json.loads((Path(__file__).parent / "rliable_scores.json").read_text())
# An end of an interval of B draws has a standard error of 0.68 / sqrt(B) of its width, where the statistic is
# about normal: of two, of 4,000 and 20,000 draws, 1.2 %. This is four times that.
MOST = 0.047


@pytest.fixture(params=STORED["matrices"], ids=lambda found: str(np.shape(found["x"])))
def stored(request):
    return {name: np.array(value) for name, value in request.param.items()}


def test_means_probabilities_and_gaps_are_those_of_rliable(stored):
    x, y, target = stored["x"], stored["y"], float(stored["target"])
    assert stats.iqm(x) == pytest.approx(stored["iqm"], abs=1e-6)
    assert stats.probability_of_improvement(x, y) == pytest.approx(stored["improvement"], abs=1e-6)
    assert stats.optimality_gap(x, target) == pytest.approx(stored["gap"], abs=1e-6)


def test_intervals_are_those_of_rliable_but_for_their_draws(stored):
    x, y = stored["x"], stored["y"]
    found = {
        "iqm_interval": stats.iqm_interval(x, 20_000),
        "improvement_interval": stats.improvement_interval(x, y, 20_000),
        "gap_interval": stats.gap_interval(x, float(stored["target"]), 20_000),
    }
    for name, ends in found.items():
        width = np.ptp(stored[name])
        assert width > 0
        np.testing.assert_allclose(ends, stored[name], rtol=0, atol=MOST * width, err_msg=name)


def test_a_band_is_at_each_mark_the_mean_and_the_interval_of_its_runs_alone():
    values = np.random.default_rng(1).normal(size=(7, 9))
    values[2, 4:], values[3] = np.nan, np.nan
    band = stats.iqm_band(values, 20_000)
    for mark, (row, iqm, *ends) in enumerate(zip(values, *band, strict=True)):
        known = row[~np.isnan(row)]
        if mark == 3:
            assert np.isnan([iqm, *ends]).all()
        else:
            assert iqm == pytest.approx(stats.iqm(known), abs=1e-12)
            # The order of scores differs, and so do the draws.
            alone = stats.iqm_interval(known, 20_000)
            np.testing.assert_allclose(ends, alone, atol=MOST * np.ptp(alone), rtol=0)


def test_one_run_is_its_own_mean_and_its_interval_has_no_width():
    assert stats.iqm(np.array([3.0])) == 3.0 and stats.iqm_interval(np.array([3.0])) == (3.0, 3.0)
    assert [list(x) for x in stats.iqm_band(np.array([[1.0], [2.0]]))] == [[1.0, 2.0]] * 3


def test_an_interval_is_the_same_at_every_call_and_has_the_mean_in_it():
    scores = np.random.default_rng(2).normal(size=(20, 3))
    low, high = stats.iqm_interval(scores)
    assert (low, high) == stats.iqm_interval(scores) and low < stats.iqm(scores) < high


def test_an_outlier_moves_no_interquartile_mean():
    scores = np.arange(8.0)
    assert stats.iqm(scores) == 3.5 == stats.iqm(np.where(scores == 7, 1e9, scores))


def test_of_two_that_score_alike_neither_is_an_improvement():
    x, y = np.random.default_rng(3).normal(size=(2, 12))
    assert stats.probability_of_improvement(x, x) == 0.5
    assert stats.probability_of_improvement(x, y) + stats.probability_of_improvement(y, x) == pytest.approx(1)
    assert stats.probability_of_improvement(x + 99, y) == 1.0
    assert stats.improvement_interval(x + 99, y) == (1.0, 1.0)


def test_above_the_target_there_is_no_gap():
    assert stats.optimality_gap(np.array([0.0, 2.0, 9.0]), 2.0) == pytest.approx(2 / 3)
    assert stats.gap_interval(np.array([3.0, 4.0]), 2.0) == (0.0, 0.0)
