"""Bugs to plant in the life cycle of a run: checkpoints, resume, signals, the run's directory, the door.

In: nothing. Out: `MUTANTS`, and the test files that are to notice.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

TESTS = {
    "runs/manager.py": (
        "tests/runs/test_manager.py",
        "tests/runs/test_launch.py",
        "tests/faults/test_corruption.py",
        "tests/faults/test_disk_full.py",
        "tests/faults/test_kill.py",
        "tests/faults/test_power_loss.py",
    ),
    "runs/checkpoint.py": (
        "tests/runs/test_checkpoint.py",
        "tests/faults/test_corruption.py",
        "tests/faults/test_disk_full.py",
    ),
    "runs/resume.py": (
        "tests/runs/test_launch.py",
        "tests/faults/test_mismatch.py",
        "tests/faults/test_resume.py",
        "tests/faults/test_corruption.py",
        "tests/faults/test_kill.py",
    ),
    "runs/snapshot.py": (
        "tests/runs/test_snapshot.py",
        "tests/faults/test_mismatch.py",
        "tests/faults/test_resume.py",
    ),
    "runs/launch.py": (
        "tests/runs/test_manager.py",
        "tests/runs/test_launch.py",
        "tests/runs/test_program.py",
        "tests/faults/test_signals.py",
        "tests/faults/test_disk_full.py",
    ),
    "runs/train_loop.py": (
        "tests/runs/test_launch.py",
        "tests/runs/test_manager.py",
        "tests/faults/test_signals.py",
        "tests/faults/test_disk_full.py",
    ),
    "runs/program.py": ("tests/runs/test_program.py", "tests/runs/test_launch.py"),
    "runs/transfer.py": ("tests/runs/test_transfer.py", "tests/runs/test_program.py"),
    "runs/directory.py": (
        "tests/faults/test_directory.py",
        "tests/faults/test_two_writers.py",
        "tests/faults/test_power_loss.py",
        "tests/faults/test_hostile.py",
    ),
    "runs/lock.py": ("tests/runs/test_lock.py", "tests/faults/test_directory.py"),
    "sinks/dispatch.py": (
        "tests/sinks/test_dispatch.py",
        "tests/loop/test_callback.py",
        "tests/faults/test_resume.py",
    ),
    "tree.py": (
        "tests/test_tree.py",
        "tests/test_tree_packing.py",
        "tests/rl/test_replay.py",
        "tests/runs/test_launch.py",
    ),
    "signals.py": ("tests/test_signals.py", "tests/faults/test_signals.py"),
    "runs/seeds.py": ("tests/runs/test_seeds.py", "tests/faults/test_resume.py"),
    "runs/init_from.py": ("tests/runs/test_init_from.py",),
    "runs/load.py": ("tests/runs/test_load.py",),
    "loop/adopt.py": ("tests/loop/test_adopt.py",),
}

(
    MANAGER,
    CHECKPOINT,
    RESUME,
    SNAPSHOT,
    LAUNCH,
    TRAIN_LOOP,
    PROGRAM,
    TRANSFER,
    DIRECTORY,
    LOCK,
    DISPATCH,
    TREE,
    SIGNALS,
    SEEDS,
    INIT,
    LOAD,
    ADOPT,
) = TESTS

MUTANTS = (
    # ---- which checkpoints stay, and which is gone on from
    Mutant(
        "the newest checkpoints go", MANAGER, "newest[-settings.keep_last :]", "newest[: settings.keep_last]"
    ),
    Mutant("the oldest of equals is best", MANAGER, "(values[n], n)", "(values[n], -n)"),
    Mutant("a seed that is NaN makes all so", MANAGER, "values[np.isfinite(values)]", "values"),
    Mutant(
        "more is always the best seed",
        LOAD,
        'sign = 1 if trainer.config.checkpoint.best_mode == "max" else -1',
        "sign = 1",
    ),
    Mutant("NaN may be best", MANAGER, "if not math.isnan(v)}", "}"),
    Mutant("the last finite checkpoint goes", MANAGER, '[n for n in newest if said[n]["finite"]]', "[]"),
    Mutant("the last of each interval stays", MANAGER, "first.setdefault(i, n)", "first[i] = n"),
    Mutant(
        "no older checkpoint than the newest is looked at",
        MANAGER,
        "there = list(found(directory).values())\n",
        "there = list(found(directory).values())[-1:]\n",
    ),
    Mutant(
        "a checkpoint under another's name is taken",
        MANAGER,
        'if place(directory, manifest["env_steps"]) != path:',
        "if False:",
    ),
    Mutant(
        "a checkpoint is saved without its log", MANAGER, "if draft.needed is not None and", "if False and"
    ),
    Mutant("logs of earlier starts are forgotten", MANAGER, "logs = dict(self._earlier)", "logs = {}"),
    Mutant(
        "older checkpoints go before the new one is verified",
        CHECKPOINT,
        "verify(part, restore=read_back)",
        "read_manifest(part)",
    ),
    Mutant(
        "what orbax did not save is found when it is missed",
        MANAGER,
        "read_back=self.last is None",
        "read_back=False",
    ),
    Mutant("a log's name is not on disk", MANAGER, "disk.fsync_name(path, self._run)", "pass"),
    Mutant("that there are checkpoints is not on disk", MANAGER, "disk.fsync_name(self.directory)", "pass"),
    # ---- what a checkpoint can prove
    Mutant("a changed file passes", CHECKPOINT, "if _file(place / name) != wanted:", "if False:"),
    Mutant(
        "a file too many passes",
        CHECKPOINT,
        'sorted(found ^ manifest["files"].keys())',
        'sorted(manifest["files"].keys() - found)',
    ),
    Mutant(
        "what orbax reads is believed",
        CHECKPOINT,
        "if said[name] != about:",
        "if False:",
    ),
    Mutant("a link is a checkpoint", CHECKPOINT, "if place.is_symlink():", "if False:"),
    Mutant("a changed manifest passes", CHECKPOINT, 'if digest != f"', 'if False and digest != f"'),
    Mutant(
        "a save that failed leaves its files",
        CHECKPOINT,
        "    finally:\n        _remove(part)",
        "    finally:\n        pass",
    ),
    # ---- going on
    Mutant("logs are not cut back", RESUME, "disk.cut(path, length)", "pass"),
    Mutant("curves of after the checkpoint stay", RESUME, "            path.unlink()", "            pass"),
    Mutant(
        "another algorithm goes on", RESUME, '    "checkpoint",\n)', '    "checkpoint",\n    "algorithm",\n)'
    ),
    Mutant("a longer run anneals anew", RESUME, "anneal = old_total", "anneal = total"),
    Mutant(
        "lost checkpoints are a fresh start", RESUME, "if _has_updates(inside(directory, LOG)):", "if False:"
    ),
    Mutant(
        "rows of a longer run move", SNAPSHOT, "made[here] = old[there]", "made[: len(there)] = old[there]"
    ),
    Mutant("one seed of many is the first", SNAPSHOT, "seeds[0] if len(seeds) == 1", "0 if len(seeds) == 1"),
    Mutant("another dtype fits", SNAPSHOT, 'f"{x.dtype}{list(x.shape)}"', 'f"{list(x.shape)}"'),
    Mutant(
        "some seeds start from the first keys", SEEDS, "keys[np.array(self.chosen)]", "keys[: self.count]"
    ),
    Mutant(
        "the timetable of before is that of now",
        RESUME,
        "old_marks=Trainer(then, events).timetable",
        "old_marks=trainer.timetable",
    ),
    Mutant("a run may end before where it is", RESUME, "done > total_env_steps:", "False:"),
    # ---- between two chunks
    Mutant(
        "a signal is not looked for",
        TRAIN_LOOP,
        "while clock < end and not self._caught:",
        "while clock < end:",
    ),
    Mutant(
        "a run that is stopped is not saved",
        TRAIN_LOOP,
        "if self._committed != clock:",
        "if self._committed != clock and clock == end:",
    ),
    Mutant(
        "a log that failed goes unseen",
        TRAIN_LOOP,
        "if error is not None:\n            raise error",
        "if False:\n            raise error",
    ),
    Mutant(
        "worse is better",
        TRAIN_LOOP,
        "return sign * value > sign * said",
        "return sign * value < sign * said",
    ),
    Mutant(
        "a chunk runs past what is due",
        TRAIN_LOOP,
        "stops[bisect_right(stops, clock)] - clock",
        "end - clock",
    ),
    Mutant("chunks grow whatever they take", TRAIN_LOOP, "min(fits, 4 * self.updates)", "4 * self.updates"),
    Mutant("a second signal waits", SIGNALS, "for n in came) > 1:", "for n in came) > 2:"),
    Mutant(
        "a terminal that hangs up twice is not waited for",
        SIGNALS,
        "if number[0] in ENDING and sum(n in ENDING",
        "if sum(True",
    ),
    Mutant("a handler that was there is forgotten", SIGNALS, "if callable(handler) and", "if False and"),
    Mutant(
        "a run goes on whatever start_from says",
        RESUME,
        "if start_from is not None and began",
        "if False and began",
    ),
    # ---- the directory and the door
    Mutant(
        "two processes hold one directory",
        LOCK,
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
    ),
    Mutant("a run writes to what has become another's", DIRECTORY, "if self._lock.is_held:", "if True:"),
    Mutant("a forked child keeps the lock", LOCK, "        lock.close()", "        pass"),
    Mutant("that there is a directory is not on disk", DIRECTORY, "disk.fsync_name(path)  #", "pass  #"),
    Mutant("secrets are written down", DIRECTORY, "if not _SECRET.search(k)", "if k"),
    Mutant(
        "a link leads out of the directory",
        DIRECTORY,
        "if not path.resolve().is_relative_to(directory.resolve()):",
        "if not path.absolute().is_relative_to(directory.absolute()):",
    ),
    Mutant("a resumed run counts its records anew", DISPATCH, "self.records = records", "self.records = 0"),
    Mutant(
        "the time of earlier starts is forgotten",
        DISPATCH,
        "self._earlier = elapsed_seconds",
        "self._earlier = 0.0",
    ),
    # ---- from the device to the host
    Mutant(
        "a replay is copied on the device",
        PROGRAM,
        "self._big = snapshot.in_place(*shapes)",
        "self._big = []",
    ),
    Mutant(
        "a replay leaves the device when training has gone on",
        PROGRAM,
        "self._transfer.to_host([found[name] for name in self._big])",
        "[found[name] for name in self._big]",
    ),
    Mutant(
        "what is on the host is a view of the device's memory",
        TRANSFER,
        "return found",
        "return [np.asarray(x) for x in arrays]",
    ),
    Mutant("the last piece begins too late", TRANSFER, "begin = min(begin, size - cut.length)", "pass"),
    Mutant("all pieces are of the first seed", TRANSFER, "[*before, begin]", "[*[0] * len(before), begin]"),
    Mutant("the host holds two replays", TRAIN_LOOP, "self._checkpoints.wait()  # else", "pass  # else"),
    Mutant(
        "what a run went on from stays on the host",
        LAUNCH,
        "begin, run_plan = run_plan",
        "begin, _ = run_plan",
    ),
    Mutant("words of two arrays change places", TREE, "begin = end", "begin = begin"),
    # ---- beginning from another run
    Mutant(
        "the replay of another run is taken",
        ADOPT,
        "elif not any(isinstance(x, InPlace)",
        "elif not any(False",
    ),
    Mutant(
        "a replay's stamps are taken without it", ADOPT, "(node, *(child for _, child in below))", "(node,)"
    ),
    Mutant(
        "an optimizer goes on in the schedule of another run",
        ADOPT,
        'optax.ScaleByScheduleState: ("count",)',
        "optax.ScaleByScheduleState: ()",
    ),
    Mutant("returns of another run's episodes go on", ADOPT, '"begins_anew", ()', '"begins_not", ()'),
    Mutant("a target is of fresh parameters", ADOPT, "if takes_params(algorithm) and", "if False and"),
    Mutant(
        "a checkpoint that was replaced is begun from again",
        INIT,
        'if source.record["sha256"] == record["sha256"]:',
        "if True:",
    ),
    Mutant(
        "all seeds begin from the first",
        INIT,
        "return x if many or seeds.count == 1",
        "return x * 0 + x[:1] if many else x if seeds.count == 1",
    ),
    Mutant("another kind of space fits", INIT, 'manifest.get("spaces") or here', "here"),
    Mutant(
        "a seed that is not finite is taken",
        INIT,
        "zip(source.seeds, np.atleast_1d(bad), strict=True) if is_bad",
        "zip(source.seeds, np.atleast_1d(bad), strict=True) if False",
    ),
)
