"""What a record says, as curves."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.sinks import Console, Memory
from jaxtrain.sinks.base import checked, curves, fitting
from jaxtrain.types import Record


def test_small_arrays_become_curves_and_large_ones_are_skipped():
    values = {"small": np.arange(4.0).reshape(2, 2), "large": np.zeros((2, 99)), "inf": np.full(2, np.inf)}
    tags = curves(Record("event", 1, 1, values))
    assert tags["event/small/1/mean"] == 2.0
    assert len(tags) == 8
    assert curves(Record("event", 1, 1, values), seed=1)["event/small/0"] == 2.0


class Deaf(Memory):
    flush = None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (Console(), "sinks = Console: needs a list of sinks: [Console(…)]"),
        ("console", "sinks = 'console': needs a list of sinks"),
        (None, "sinks = NoneType: needs a list of sinks"),
        (["console"], "sinks.0 = 'console': needs an instance; jaxtrain.sinks.make makes one from a name"),
        ([Memory(), Memory], "sinks.1 = Memory: needs an instance; this is a class: Memory(…)"),
        ((Deaf(),), "sinks.0 = Deaf: needs the methods open, write, flush, close; it lacks flush"),
        (
            [print],
            "sinks.0 = print: needs the methods open, write, flush, close; it lacks open, write, flush, c",
        ),
    ],
)
def test_what_is_no_list_of_sinks_is_named_by_its_place(given, line):
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        checked("sinks", given)
    sinks = [Memory(), Console()]
    assert checked("sinks", tuple(sinks)) == sinks


def test_what_an_encoding_has_stays_and_of_the_rest_something_can_be_read():
    assert fitting("1 ± 2 × 3 …", "utf-8") == fitting("1 ± 2 × 3 …", None) == "1 ± 2 × 3 …"
    assert fitting("1 ± 2 × 3 … é", "ascii") == r"1 +- 2 x 3 ... \xe9"
    assert fitting("1 ± 2 × 3 … é", "latin-1") == "1 ± 2 × 3 ... é"
