"""What a record says, as curves."""

from __future__ import annotations

import numpy as np

from jaxtrain.sinks.base import curves
from jaxtrain.types import Record


def test_small_arrays_become_curves_and_large_ones_are_skipped():
    values = {"small": np.arange(4.0).reshape(2, 2), "large": np.zeros((2, 99)), "inf": np.full(2, np.inf)}
    tags = curves(Record("event", 1, 1, values))
    assert tags["event/small/1/mean"] == 2.0
    assert len(tags) == 8
    assert curves(Record("event", 1, 1, values), seed=1)["event/small/0"] == 2.0
