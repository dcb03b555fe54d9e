"""Bugs to plant in what a config names: rates that move, modules of one's own.

In: nothing. Out: `MUTANTS`, and the test files that are to notice.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

# What is asked about a bug in a file, the likeliest to notice first.
TESTS = {
    "config/rate.py": ("tests/config/test_rate.py", "tests/loop/test_rates.py"),
    "events/reduce_rate.py": ("tests/events/test_reduce_rate.py",),
    "config/modules.py": ("tests/config/test_modules.py", "tests/faults/test_own_module.py"),
}

RATE, REDUCE, MODULES = TESTS

MUTANTS = (
    # ---- schedules
    Mutant("a mark holds an update late", RATE, "clock >= min(", "clock > min("),
    Mutant("a mark between two updates holds too early", RATE, "-(-mark // per)", "mark // per"),
    Mutant("a cosine begins to fall in its warm-up", RATE, "of=end - self.warmup", "of=end"),
    Mutant("a warm-up rises too fast", RATE, "/ (self.warmup / per)", "/ (self.warmup / per) * 2"),
    Mutant("a schedule goes on falling when it is over", RATE, "jnp.maximum(left, 0)", "left"),
    Mutant("a schedule cannot be scaled", RATE, "return self.scale * value", "return value"),
    Mutant("the end of a schedule is not exact", RATE, "share * first + (1 - share) * last", "last + share"),
    Mutant("a schedule without an end takes an update less", RATE, "num_updates * per if", "num_updates if"),
    Mutant(
        "a function of env steps is given updates", RATE, "isinstance(self.function, PerEnvSteps)", "False"
    ),
    # ---- a rate that falls when a metric stalls
    Mutant("what is not known counts", REDUCE, 'memory["stalled"] + known', 'memory["stalled"] + 1'),
    Mutant("less is better", REDUCE, '1.0 if mode == "max" else -1.0', "-1.0"),
    Mutant("a rate falls one firing late", REDUCE, "stalled >= patience", "stalled > patience"),
    Mutant("a rate falls at each firing from then on", REDUCE, "jnp.where(due, 0, stalled)", "stalled"),
    Mutant(
        "a rate rises to the lowest",
        REDUCE,
        "jnp.minimum(old, jnp.maximum",
        "jnp.maximum(old * 0, jnp.maximum",
    ),
    # ---- modules of one's own
    Mutant(
        "a module that was changed is imported",
        MODULES,
        'elif (now := _sha256(path)) != said["sha256"]:',
        "elif (now := _sha256(path)) == '':",
    ),
    Mutant(
        "a module in a run's directory is executed", MODULES, "        if in_run(path):", "        if False:"
    ),
    Mutant("a module is imported twice", MODULES, "elif not loaded:", "else:"),
    Mutant("what a module is of is not recorded", MODULES, "found[name] = {", "_ = {"),
)
