"""How runs are summarized and compared: interquartile mean, intervals, probability of improvement, gap.

In: arrays of scores. Out: numbers. Knows nothing of runs, and of no library but NumPy.

Each is what rliable 1.2.0 has under that name, its intervals but for the random draws. Scores are
f64[runs, tasks], a row for each seed; [runs] is one task. They are finite, and there is at least one.

Source:
  Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

Interval: TypeAlias = tuple[float, float]  # the ends of one of 95 %

_ENDS = (2.5, 97.5)  # percentiles
_CUT = 0.25  # of the scores at each end, rounded down to whole scores
SAMPLES = 2000  # draws of a bootstrap: each end of its interval is known to about 2 % of the width


def iqm(scores: np.ndarray) -> float:
    """The interquartile mean: of all scores without the least and the greatest quarter.

    A quarter is rounded down to whole scores, so that of 10 six are left, and of fewer than 4 all.
    """
    ordered = np.sort(np.ravel(scores))
    return float(_middle(np.ones(len(ordered))) @ ordered)


def _middle(counts: np.ndarray) -> np.ndarray:
    """What scores in order weigh in the interquartile mean, of how often each was drawn, [..., n]."""
    n = counts.shape[-1]
    cut = int(_CUT * n)
    upto = np.concatenate([np.zeros((*counts.shape[:-1], 1)), np.cumsum(counts, -1)], -1)
    return np.diff(np.clip(upto, cut, n - cut)) / (n - 2 * cut)


def iqm_interval(scores: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> Interval:
    """The 95 % interval of the interquartile mean: percentiles of a stratified bootstrap.

    Args:
      scores: [runs, tasks] or [runs]; each task has its own draws of its runs.
      samples: how many draws.
      seed: of the draws.
    """
    flat = _by_task(scores).ravel()
    order = np.argsort(flat)
    drawn = _draws(_by_task(scores), samples, np.random.default_rng(seed))
    counts = np.moveaxis(drawn, 0, 1).reshape(samples, -1)
    return _ends(_middle(counts[:, order]) @ flat[order])


class Band(NamedTuple):
    """An interquartile mean along a curve, f64[marks] each, NaN where no run has a value."""

    iqm: np.ndarray
    low: np.ndarray  # the ends of its 95 % interval
    high: np.ndarray


def iqm_band(values: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> Band:
    """The interquartile mean at each mark of a curve, and its interval as `iqm_interval` has it.

    Args:
      values: f64[marks, runs]; at each mark the runs whose value there is NaN are left out.
      samples, seed: all marks with as many runs share their draws.
    """
    ordered, counts = np.sort(values, axis=1), (~np.isnan(values)).sum(1)  # NaN comes last
    band = np.full((3, len(values)), np.nan)
    for n in np.unique(counts[counts > 0]):
        here, found = counts == n, ordered[counts == n, :n].T
        drawn = _draws(found.T[:1], samples, np.random.default_rng(seed))[0]
        band[0, here] = _middle(np.ones(n)) @ found
        band[1:, here] = np.percentile(_middle(drawn) @ found, _ENDS, axis=0)
    return Band(*band)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """How probable it is that a run of `x` scores more than one of `y`; a tie counts as half.

    Args:
      x, y: [runs, tasks] or [runs], of the same tasks; of several it is the mean over them.

    Source:
      Mann & Whitney 1947: their U, divided by the number of pairs.
    """
    return float(_wins(x, y).mean())


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether each run of `x` scores more than each of `y`, f64[tasks, n, m]: 1, 0 or 0.5."""
    a, b = _by_task(x)[:, :, None], _by_task(y)[:, None]
    return (a > b) + 0.5 * (a == b)


def improvement_interval(x: np.ndarray, y: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> Interval:
    """The 95 % interval of the probability of improvement; runs of `x` and of `y` are drawn independently."""
    rng, wins = np.random.default_rng(seed), _wins(x, y)
    of_x, of_y = (_draws(_by_task(scores), samples, rng) for scores in (x, y))
    pairs = wins.shape[1] * wins.shape[2]
    return _ends(((of_x @ wins) * of_y).sum(-1).mean(0) / pairs)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> float:
    """By how much runs fall short of a target, on average; one that does better falls short by nothing."""
    return float(target - np.minimum(scores, target).mean())


def gap_interval(scores: np.ndarray, target: float = 1.0, samples: int = SAMPLES, seed: int = 0) -> Interval:
    """The 95 % interval of the optimality gap, by draws as those of `iqm_interval`."""
    short = target - np.minimum(_by_task(scores), target)
    drawn = _draws(short, samples, np.random.default_rng(seed))
    return _ends(np.einsum("trn,tn->r", drawn, short) / short.size)


def _by_task(scores: np.ndarray) -> np.ndarray:
    """[runs, tasks] or [runs] to f64[tasks, runs]."""
    return np.atleast_2d(np.asarray(scores, float).T)


def _draws(scores: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each run is drawn, f64[tasks, samples, runs], of scores [tasks, runs]: with replacement."""
    tasks, n = scores.shape
    return rng.multinomial(n, np.full(n, 1 / n), (tasks, samples)).astype(float)


def _ends(statistics: np.ndarray) -> Interval:
    low, high = np.percentile(statistics, _ENDS)
    return float(low), float(high)
