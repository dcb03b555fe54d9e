"""All bugs to plant, and the test files asked about a bug in a file, the likeliest to notice first."""

from __future__ import annotations

from tests.mutants import config, learning, life_cycle, loop

MUTANTS = (*learning.MUTANTS, *loop.MUTANTS, *config.MUTANTS, *life_cycle.MUTANTS)
TESTS = {**learning.TESTS, **loop.TESTS, **config.TESTS, **life_cycle.TESTS}
