"""The planted bugs fit the code as it is. `run.py` says which tests notice them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, TESTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_one_place_into_code_that_parses(mutant):
    source = (ROOT / "jaxtrain" / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    changed = source.replace(mutant.old, mutant.new)
    assert changed != source
    compile(changed, mutant.file, "exec")


def test_there_are_thirty_or_more_and_each_has_its_name_and_its_tests():
    assert len(MUTANTS) >= 30
    assert [name for name, count in Counter(m.what for m in MUTANTS).items() if count > 1] == []
    assert all((ROOT / path).is_file() for paths in TESTS.values() for path in paths)
