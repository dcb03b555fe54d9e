"""Bugs to plant in the loop: rollouts, evaluation, updates, schedules.

In: nothing. Out: `MUTANTS`, and the test files that are to notice.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LOOP = (
    "tests/loop/test_trainer.py",
    "tests/loop/test_train_interrupt.py",
    "tests/events/test_event.py",
    "tests/events/test_early_stop.py",
    "tests/events/test_randomize.py",
    "tests/runs/test_launch.py",
    "tests/faults/test_non_finite.py",
)
# What is asked about a bug in a file, the likeliest to notice first.
TESTS = {
    "loop/rollout.py": (
        "tests/loop/test_rollout.py",
        "tests/loop/test_trainer.py",
        "tests/probes/test_probes.py",
    ),
    "loop/evaluate.py": ("tests/loop/test_evaluate.py", "tests/loop/test_trainer.py"),
    "loop/build.py": (
        "tests/loop/test_hyper_sweeps.py",
        "tests/loop/test_hyper.py",
        "tests/events/test_curriculum.py",
        "tests/events/test_early_stop.py",
    ),
    "loop/update.py": (
        "tests/loop/test_contract.py",
        "tests/loop/test_update_errors.py",
        "tests/loop/test_update_replay.py",
        "tests/loop/test_trainer.py",
        "tests/events/test_event.py",
        "tests/probes/test_probes.py",
    ),
    "loop/trainer.py": LOOP,
    "schedule.py": ("tests/test_schedule.py",),
}

ROLLOUT, EVALUATE, BUILD, UPDATE, TRAINER, SCHEDULE = TESTS

MUTANTS = (
    # ---- rollout
    Mutant(
        "time limits do not reset", ROLLOUT, "done = out.terminated | out.truncated", "done = out.terminated"
    ),
    Mutant("next_obs is obs", ROLLOUT, "next_obs=out.obs,", "next_obs=runner.obs,"),
    Mutant(
        "next_obs belongs to the next episode",
        ROLLOUT,
        "next_obs=out.obs,",
        "next_obs=_select(done, out.obs if fresh is None else fresh.obs, out.obs),",
    ),
    Mutant(
        "last observation carried into the next episode",
        ROLLOUT,
        "obs=where(done, fresh.obs, out.obs)",
        "obs=out.obs",
    ),
    Mutant(
        "return carried into the next episode",
        ROLLOUT,
        "episode_return=jnp.where(done, 0.0, total)",
        "episode_return=total",
    ),
    Mutant(
        "carry kept into the next episode",
        ROLLOUT,
        "carry=where(done, self._fresh_carry(), decision.carry)",
        "carry=decision.carry",
    ),
    Mutant("lengths one short", ROLLOUT, "runner.episode_length + 1", "runner.episode_length"),
    Mutant(
        "one key for all environments",
        ROLLOUT,
        "key_act, split(key_env, self.num_envs)",
        "key_act, jnp.repeat(key_env[None], self.num_envs)",
    ),
    Mutant(
        "one key for all starts",
        ROLLOUT,
        "split(key_reset, self.num_envs), key_push",
        "jnp.repeat(key_reset[None], self.num_envs), key_push",
    ),
    Mutant(
        "environment and start share a key",
        ROLLOUT,
        "split(key_reset, self.num_envs), key_push",
        "split(key_env, self.num_envs), key_push",
    ),
    Mutant(
        "policy and environment share a key",
        ROLLOUT,
        "key_act, split(key_env, self.num_envs)",
        "key_env, split(key_env, self.num_envs)",
    ),
    Mutant(
        "every step draws the same",
        ROLLOUT,
        "jax.vmap(self.step_keys)(jax.random.split(key, self.length))",
        "jax.vmap(self.step_keys)(jnp.repeat(key[None], self.length))",
    ),
    Mutant("ring overwrites itself", ROLLOUT, "(self.position + rank - 1) % WINDOW", "(rank - 1) % WINDOW"),
    Mutant(
        "ring keeps the first of many",
        ROLLOUT,
        "kept = done & (rank > count - WINDOW)",
        "kept = done & (rank <= WINDOW)",
    ),
    # ---- evaluation
    Mutant("rewards after the end count", EVALUATE, "active & ~ended", "active"),
    Mutant(
        "what follows an episode counts in a statistic",
        EVALUATE,
        "s.name: jnp.where(counts, _later",
        "s.name: jnp.where(counts | True, _later",
    ),
    Mutant(
        "a statistic's maximum begins at 0", EVALUATE, "jnp.where(time == 0, now, ", "jnp.where(False, now, "
    ),
    Mutant("last reward left out", EVALUATE, "where(counts, moment", "where(counts & ~moment.done, moment"),
    Mutant("cut episodes pass for finished ones", EVALUATE, "active.sum(", "(active & False).sum("),
    Mutant(
        "starts drawn with the key of the steps",
        EVALUATE,
        "collector.start(key_start",
        "collector.start(key_run",
    ),
    Mutant("every evaluation step draws the same", EVALUATE, "jax.random.fold_in(key_run, time)", "key_run"),
    Mutant("ends when the first episode does", EVALUATE, "& jnp.any(carry[3])", "& jnp.all(carry[3])"),
    # ---- the loop
    Mutant(
        "every update draws the same",
        UPDATE,
        'jax.random.fold_in(stream(state.key, "update"), state.clock)',
        'stream(state.key, "update")',
    ),
    Mutant(
        "evaluation draws with training's key",
        TRAINER,
        "state.key.ndim else stream(state.key, name)",
        'state.key.ndim else stream(state.key, "update")',
    ),
    Mutant(
        "evaluation never greedy",
        UPDATE,
        "algorithm.policy if settings.greedy else",
        "algorithm.sample if settings.greedy else",
    ),
    Mutant(
        "a stopped seed goes on",
        TRAINER,
        "kept = where(changed & ~fault, new, old)",
        "kept = where(~fault, new, old)",
    ),
    Mutant(
        "a bad update is kept",
        TRAINER,
        "kept = where(changed & ~fault, new, old)",
        "kept = where(changed, new, old)",
    ),
    Mutant(
        "an infinite agent goes unseen",
        UPDATE,
        'bad = {"agent": not_finite(agent), **runner.faults}',
        'bad = {"agent": not_finite([]), **runner.faults}',
    ),
    Mutant(
        "a resumed event fires again",
        TRAINER,
        "jnp.sum(table <= state.clock)",
        "jnp.sum(table < state.clock)",
    ),
    Mutant("cursors stand still", TRAINER, "cursors + due, stop), None", "cursors, stop), None"),
    Mutant("Ctrl-C in train is not heard", TRAINER, "else running & ~stop)", "else running)"),
    Mutant(
        "a chunk runs over its marks",
        TRAINER,
        "jnp.min(ahead, initial=end, where=ahead >= 0)",
        "jnp.min(ahead, initial=end, where=ahead > end)",
    ),
    Mutant(
        "a chunk tells of a bad update at its next mark",
        TRAINER,
        "goes_on(c[0], until) & ~c[1].any()",
        "goes_on(c[0], until)",
    ),
    Mutant(
        "a chunk of stopped seeds never makes the last update",
        TRAINER,
        "(last | jnp.any(state.status == RUNNING))",
        "jnp.any(state.status == RUNNING)",
    ),
    Mutant("all events draw alike", UPDATE, 'stream(root, f"event/{event.name}")', 'stream(root, "event")'),
    # ---- schedules
    Mutant(
        "marks rounded down",
        SCHEDULE,
        "{-(-mark // env_steps_per_update) for mark",
        "{mark // env_steps_per_update for mark",
    ),
    Mutant(
        "intervals rounded down",
        SCHEDULE,
        "due.update(-(-k * n // env_steps_per_update)",
        "due.update(k * n // env_steps_per_update",
    ),
    Mutant(
        "last mark left out", SCHEDULE, "for k in range(1, total // n + 1)", "for k in range(1, total // n)"
    ),
    Mutant(
        "every(...) fires before the first update",
        SCHEDULE,
        "due.update(range(1, num_updates + 1))",
        "due.update(range(num_updates + 1))",
    ),
    Mutant("finish() fires one update early", SCHEDULE, "due.add(num_updates)", "due.add(num_updates - 1)"),
    Mutant(
        "intervals kept as floats",
        SCHEDULE,
        "-(-k * n // env_steps_per_update)",
        "-int(-float(k * n) // env_steps_per_update)",
    ),
    # ---- the contract
    Mutant(
        "an update collects as it likes",
        UPDATE,
        "if int(count) != 1:",
        "if False:",
    ),
    Mutant(
        "a rate is read from the config", BUILD, "return self._layout.config(rates)[0]", "return self.config"
    ),
    Mutant(
        "an event's parameters are read from the config",
        BUILD,
        "for item in config.events if isinstance(item, EventConfig)}",
        "for item in self.config.events if isinstance(item, EventConfig)}",
    ),
    Mutant(
        "a stopped seed is told that it runs",
        UPDATE,
        "state.status == RUNNING)",
        "state.status == state.status)",
    ),
    Mutant(
        "a choice is made of what is in place",
        "tree.py",
        "if x is y or _in_place(x) or x.ndim < condition.ndim:",
        "if _in_place(x):\n            return InPlace(jax.tree.map(pick, x.value, y.value))\n"
        "        if x is y or x.ndim < condition.ndim:",
    ),
)
