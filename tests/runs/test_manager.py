"""Which checkpoints stay: properties of the rule, and one run that follows it."""

from __future__ import annotations

import errno
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain.config.schema import CheckpointConfig
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.launch import launch
from tests.faults.processes import Drift
from tests.helpers import tiny

METRIC = "evaluation/return_mean"
values = st.none() | st.just(math.nan) | st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(allow_nan=True)


def manifest(value, finite, metric=METRIC):
    return {"best": None if metric is None else {"metric": metric, "value": value}, "finite": finite}


def timed(said, seconds):
    """With the time by which each was saved, which no later one is behind."""
    return {
        n: {**said[n], "elapsed_seconds": at} for n, at in zip(sorted(said), sorted(seconds), strict=False)
    }


manifests = st.builds(
    timed,
    st.dictionaries(
        st.integers(0, 500),
        st.builds(manifest, values, st.booleans(), st.sampled_from([METRIC, METRIC, "train/loss", None])),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.floats(0, 1500), min_size=12, max_size=12),
)
configs = st.builds(
    CheckpointConfig,
    keep_last=st.integers(1, 4),
    keep_every=st.sampled_from([0, 0, 7, 100]),
    keep_every_minutes=st.sampled_from([0, 0, 1, 10]),
    best_mode=st.sampled_from(["max", "min"]),
)


def measured(said, metric=METRIC):
    """Those whose value counts."""
    return {
        n: m["best"]["value"]
        for n, m in said.items()
        if m["best"] and m["best"]["metric"] == metric and m["best"]["value"] is not None
        if not math.isnan(m["best"]["value"])
    }


def scales(said, config):
    """What is kept for ever: of how many, and where on that scale each checkpoint lies."""
    of_time = {n: m["elapsed_seconds"] for n, m in said.items()}
    found = [(config.keep_every, {n: n for n in said}), (60 * config.keep_every_minutes, of_time)]
    return [(length, scale) for length, scale in found if length]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_seed_that_is_not_finite_counts_for_nothing_among_those_that_are(bad):
    assert manager.over_seeds([1.0, bad, 3.0]) == 2.0
    assert manager.over_seeds([bad, bad]) is None is manager.over_seeds(bad)


@given(manifests, st.sampled_from(["max", "min"]))
def test_the_best_has_no_better_and_the_newest_of_equals_wins_and_nan_never(said, mode):
    best, counted = manager.best(said, METRIC, mode), measured(said)
    if not counted:
        assert best is None
        return
    assert best in counted
    for n, value in counted.items():
        assert value <= counted[best] if mode == "max" else value >= counted[best]
        assert value != counted[best] or n <= best


@given(manifests)
def test_without_a_metric_there_is_no_best_and_a_value_of_another_metric_does_not_count(said):
    assert manager.best(said, "no/such", "max") is None
    assert manager.best(said, None, "max") is None or any(m["best"] is None for m in said.values())


@given(manifests, configs)
def test_the_newest_the_best_and_the_last_finite_always_stay(said, config):
    stay = manager.kept(said, config, METRIC)
    assert stay <= said.keys()
    assert stay >= set(sorted(said)[-config.keep_last :])
    best = manager.best(said, METRIC, config.best_mode)
    assert best is None or best in stay
    finite = [n for n in said if said[n]["finite"]]
    assert not finite or max(finite) in stay


@given(manifests, configs)
def test_nothing_stays_without_a_reason(said, config):
    reasons = set(sorted(said)[-config.keep_last :])
    reasons |= {manager.best(said, METRIC, config.best_mode)}
    reasons |= {max((n for n in said if said[n]["finite"]), default=None)}
    for n in manager.kept(said, config, METRIC) - reasons:
        # The first at or behind a multiple: none between that and itself.
        assert any(
            multiple > 0 and not any(multiple <= scale[other] and other < n for other in said)
            for length, scale in scales(said, config)
            for multiple in [scale[n] // length * length]
        )


@given(manifests, configs)
def test_what_was_kept_for_a_multiple_stays_for_ever(said, config):
    """However the checkpoints come in, one after the other, with the rule after each."""
    there = {}
    for n in sorted(said):
        there[n] = said[n]
        there = {m: there[m] for m in manager.kept(there, config, METRIC)}
    for length, scale in scales(said, config):
        for interval in {scale[n] // length for n in said} - {0}:
            assert min(n for n in said if scale[n] // length == interval) in there


@given(manifests, configs)
def test_applied_twice_the_rule_keeps_what_it_kept(said, config):
    once = {n: said[n] for n in manager.kept(said, config, METRIC)}
    assert manager.kept(once, config, METRIC) == once.keys()


@given(manifests, configs)
def test_the_best_of_all_time_survives_the_rule_after_every_checkpoint(said, config):
    there = {}
    for n in sorted(said):
        there[n] = said[n]
        there = {m: there[m] for m in manager.kept(there, config, METRIC)}
    assert manager.best(there, METRIC, config.best_mode) == manager.best(said, METRIC, config.best_mode)


@given(st.sets(st.integers(0, 10**13 - 1)))
def test_names_sort_as_the_numbers_that_they_are(tmp_path_factory, numbers):
    place = tmp_path_factory.getbasetemp()
    names = [manager.place(place, n).name for n in sorted(numbers)]
    assert names == sorted(names) and [int(name) for name in names] == sorted(numbers)


def test_what_is_no_checkpoint_is_passed_over(tmp_path):
    copies = ("8", "16", "00000000000016", "\u0661")  # of what somebody copied: they hide nothing
    for name in (
        "0000000000008",
        "0000000000016",
        "notes",
        ".part-1",
        "0000000000024.set-aside",
        "-8",
        *copies,
    ):
        (tmp_path / name).mkdir()
    found = {8: tmp_path / "0000000000008", 16: tmp_path / "0000000000016"}
    assert manager.found(tmp_path) == found and list(found) == [8, 16]
    assert manager.found(tmp_path / "nowhere") == {}


def test_what_is_set_aside_replaces_nothing(tmp_path):
    names = []
    for text in "abc":
        (tmp_path / "8").mkdir()
        (tmp_path / "8" / "x").write_text(text)
        names.append(manager.set_aside(tmp_path / "8").name)
    assert names == ["8.set-aside", "8.set-aside-1", "8.set-aside-2"]
    assert [(tmp_path / name / "x").read_text() for name in names] == list("abc")


@pytest.fixture
def committer(tmp_path):
    """Of a run that had curves before; keeps one checkpoint."""
    committer = manager.CheckpointManager(
        tmp_path, CheckpointConfig(keep_last=1), None, {"tensorboard/old": 7}
    )
    yield committer
    committer.close()


def draft(env_steps, lengths, needed=None, ring=0.0, in_place=("state.agent['ring'].value",)):
    facts = {"env_steps": env_steps, "best": None}
    arrays = {"state.agent['w']": np.arange(4.0), "state.agent['ring'].value": np.full(4, ring)}
    return manager.PendingSave(
        env_steps, lambda: arrays, lambda: lengths, lambda arrays: facts, needed, frozenset(in_place)
    )


def test_a_manifest_has_the_length_of_every_log_those_of_earlier_starts_too(tmp_path, committer):
    log = tmp_path / "metrics.jsonl"
    log.write_text("abc")
    committer.submit(draft(8, {log: 3, tmp_path.parent / "elsewhere": 5}, log))
    committer.wait()
    (said,) = manager.manifests(committer.directory).values()
    assert said["logs"] == {"metrics.jsonl": 3, "tensorboard/old": 7}


def test_a_replay_that_holds_what_was_dropped_makes_no_checkpoint_one_that_is_not_finite(committer):
    found = []
    for env_steps, in_place in ((8, ("state.agent['ring'].value",)), (16, ())):
        committer.submit(draft(env_steps, {}, ring=np.nan, in_place=in_place))
        committer.wait()
        found.append(manager.manifests(committer.directory)[env_steps]["finite"])
    assert found == [True, False]


def test_without_the_length_of_its_log_nothing_is_saved(tmp_path, committer):
    """The log's sink has failed: rows would be missing for ever behind such a checkpoint."""
    committer.submit(draft(8, {}, tmp_path / "metrics.jsonl"))
    committer.wait()
    assert list(committer.directory.iterdir()) == [] and committer.last is None


@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later one"])
def test_no_checkpoint_goes_for_one_that_is_not_what_was_written(tmp_path, committer, monkeypatch, first):
    if first:  # of this process: an earlier one saved before it
        earlier = manager.CheckpointManager(tmp_path, CheckpointConfig(keep_last=1), None, {})
        earlier.submit(draft(8, {}))
        earlier.wait()
        earlier.close()
    else:
        committer.submit(draft(8, {}))
        committer.wait()
    sync = checkpoint.fsync_tree

    def sync_to_a_bad_disk(place):
        sync(place)
        file = max((place / "arrays").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
        file.write_bytes(bytes(file.stat().st_size))

    monkeypatch.setattr(checkpoint, "fsync_tree", sync_to_a_bad_disk)
    committer.submit(draft(16, {}))
    with pytest.raises(OSError, match=r"not what was written.*0000000000016") as caught:
        committer.wait()
    assert caught.value.errno == errno.EIO
    assert list(manager.found(committer.directory)) == [8]  # none newer, which could be called the best
    checkpoint.verify(manager.place(committer.directory, 8))


def test_the_first_save_of_each_process_is_read_back_arrays_included(committer, monkeypatch):
    """Whatever orbax makes of the place that it is to write to, with no error and with sound files."""
    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda place, held: write(place, dict(list(held.items())[:1])))
    committer.submit(draft(8, {}))
    with pytest.raises(OSError, match=r"not what was written: array .* reads back as"):
        committer.wait()
    assert list(committer.directory.iterdir()) == [] and committer.last is None


EVALUATED = {"every": 24, "num_episodes": 2, "greedy": False}


@pytest.mark.parametrize(
    ("settings", "stay"),
    [
        ({"every": 8, "keep_last": 1, "best": "none"}, {96}),
        ({"every": 8, "keep_last": 3, "best": "none"}, {80, 88, 96}),
        ({"every": 0, "keep_last": 9, "best": "none"}, {0, 96}),
        ({"every": 16, "keep_last": 1, "keep_every": 40, "best": "none"}, {40, 80, 96}),
    ],
)
def test_a_run_leaves_the_checkpoints_that_its_config_says(tmp_path, settings, stay):
    config = tiny(12, algorithm=Drift(), logging={"every": 0, "sinks": []}, checkpoint=settings)
    launch(config, tmp_path / "run", cache=False)
    place = tmp_path / "run" / "checkpoints"
    assert set(manager.found(place)) == stay
    assert sorted(path.name for path in place.iterdir()) == [
        manager.place(place, n).name for n in sorted(stay)
    ]
    for path in manager.found(place).values():
        checkpoint.verify(path)


@pytest.mark.parametrize(
    ("mode", "every"), [("max", 8), ("min", 0)], ids=["saved anyway", "saved as it is the best"]
)
def test_the_best_of_a_run_stays_and_says_of_which_evaluation(tmp_path, mode, every):
    settings = {"every": every, "keep_last": 1, "best_mode": mode}
    quiet = {"every": 0, "sinks": []}
    restless = {"algorithm": Drift(learning_rate=30.0), "params": {"push": 0.5}}
    config = tiny(12, **restless, evaluation=EVALUATED, logging=quiet, checkpoint=settings)
    ending = launch(config, tmp_path / "run", cache=False)
    said = manager.manifests(tmp_path / "run" / "checkpoints")
    means = [float(x) for x in ending.result.history["evaluation"]["return_mean"]]
    marks = [24, 48, 72, 96]
    assert len(means) == len(marks)
    assert len(set(means)) > 1
    sign = 1 if mode == "max" else -1
    _, best = max((sign * value, n) for value, n in zip(means, marks, strict=True))
    assert said.keys() == {best, 96}
    assert said[best]["best"] == {"metric": METRIC, "value": means[marks.index(best)]}


def test_a_run_whose_agent_is_no_longer_finite_keeps_the_last_that_was(tmp_path):
    finite = {}
    for keep_last in (2, 99):
        config = tiny(
            12,
            params={"scale": 3e38},  # its square is infinite
            logging={"every": 0, "sinks": []},
            checkpoint={"every": 8, "keep_last": keep_last},
            on_nan="ignore",
        )
        launch(config, tmp_path / f"run{keep_last}", cache=False)
        said = manager.manifests(tmp_path / f"run{keep_last}" / "checkpoints")
        finite[keep_last] = {n: m["finite"] for n, m in said.items()}
    last = max(n for n, is_finite in finite[99].items() if is_finite)
    assert finite[2] == {last: True, 88: False, 96: False}


@pytest.mark.parametrize("name", ["every_minutes", "keep_every_minutes"])
def test_a_checkpoint_is_due_when_the_last_is_older_than_that(tmp_path, monkeypatch, name):
    """A clock that runs a minute ahead at each look; whatever else asks for the time gets it too."""
    import time

    from jaxtrain.runs import train_loop as drive

    class Clock:
        ahead = 0.0
        perf_counter = staticmethod(time.perf_counter)

        def monotonic(self) -> float:
            self.ahead += 60.0
            return time.monotonic() + self.ahead

    reasons = {}
    for minutes in (0, 3):
        monkeypatch.setattr(drive, "time", Clock())
        settings = {"every": 0, "every_minutes": 0, "keep_last": 99} | {name: minutes}
        config = tiny(48, algorithm=Drift(), logging={"every": 0, "sinks": []}, checkpoint=settings)
        directory = tmp_path / f"run{minutes}"
        launch(config, directory, cache=False)
        said = manager.manifests(directory / "checkpoints")
        reasons[minutes] = [said[n]["reason"] for n in sorted(said)]
    assert reasons[0] == ["start", "finish"]
    assert reasons[3][0] == "start" and reasons[3][-1] == "finish"
    assert set(reasons[3][1:-1]) == {"time"}
