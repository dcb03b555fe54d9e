"""What rliable 1.2.0 makes of three matrices: the numbers in `rliable_scores.json`, which tests compare with.

rliable 1.2.0 does not import beside pandas 3, so it has an environment of its own:

    python -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable==1.2.0 "pandas<3"
    /tmp/rliable/bin/python tests/tools/rliable_scores.py

Knows nothing of jaxtrain. Some scores are equal, as ties count.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

SHAPES = ((10, 1), (10, 6), (5, 26))  # [runs, tasks]
REPS = 4_000
TARGET = 0.9


def interval(scores: Any, statistic: Any, seed: int) -> list[float]:
    """The ends of the 95 % interval of a statistic, as rliable draws it."""
    state = np.random.RandomState(seed)
    _, ends = library.get_interval_estimates({"a": scores}, statistic, reps=REPS, random_state=state)
    return [float(x) for x in ends["a"].ravel()]


def main() -> None:
    """Write the numbers beside this file."""
    rng, found = np.random.default_rng(12), []
    for shape in SHAPES:
        x, y = (rng.normal(mean, 0.3, shape) for mean in (0.8, 0.7))
        y[:2] = x[2:4]
        found.append(
            {
                "x": x.tolist(),
                "y": y.tolist(),
                "target": TARGET,
                "iqm": float(metrics.aggregate_iqm(x)),
                "iqm_interval": interval(x, lambda s: np.array([metrics.aggregate_iqm(s)]), 0),
                "improvement": float(metrics.probability_of_improvement(x, y)),
                "improvement_interval": interval((x, y), metrics.probability_of_improvement, 0),
                "gap": float(metrics.aggregate_optimality_gap(x, TARGET)),
                "gap_interval": interval(
                    x, lambda s: np.array([metrics.aggregate_optimality_gap(s, TARGET)]), 0
                ),
            }
        )
    text = json.dumps({"rliable": "1.2.0", "reps": REPS, "matrices": found})
    (Path(__file__).parent / "rliable_scores.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
