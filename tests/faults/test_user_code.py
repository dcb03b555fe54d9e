"""What others wrote goes wrong inside a run: an event while tracing, an event's host callback, a sink.

In: `train` with such an event or sink. Out: who is named, what is raised, what the other sinks hold.
Knows nothing of the door or the trainer alone.
"""

from __future__ import annotations

import json
import threading
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from jaxtrain import ConfigError, Event, Trainer, at, every, finish, startup, train, when
from jaxtrain.loop import callback
from jaxtrain.runs.launch import launch
from jaxtrain.sinks import JsonLines, Memory
from jaxtrain.sinks.dispatch import Dispatcher
from tests.helpers import Walk, differing, keys, tiny

UPDATES, PER = 12, tiny().env_steps_per_update
HANG_SECONDS = 120


def within(seconds: float, act: Any) -> Any:
    """What `act()` returns or raises; fails if it does neither in time."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((act(), None))
        except BaseException as error:
            done.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, f"nothing after {seconds} s"
    result, error = done[0]
    if error is not None:
        raise error
    return result


def look(trainer, state, key):
    return state, {"weight": state.agent["policy"][0, 0]}


LOOK = Event("look", every(PER), look)


def threads_and_doors():
    """What a run has on the host: the threads of its sinks, and its door."""
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("jaxtrain-")}
    return threads | set(callback._runs.values())


@pytest.fixture
def left_behind():
    """A function: the threads and doors that outlive the test's runs.

    A run inside `jax.jit` keeps its own, to be called again: those of other files' tests are not counted.
    """
    earlier = threads_and_doors()
    return lambda: threads_and_doors() - earlier


# ---- an event that gives back something else


def agent_of(state, policy):
    return state.replace(agent={**state.agent, "policy": policy})


def halved(trainer, state, key):
    return agent_of(state, state.agent["policy"].astype(jnp.bfloat16)), {}


def grown(trainer, state, key):
    return agent_of(state, jnp.concatenate([state.agent["policy"]] * 2)), {}


def shrunk(trainer, state, key):
    return state.replace(agent={"policy": state.agent["policy"]}), {}


def best_alone(trainer, state, key):
    return agent_of(state, state.agent["policy"][0]), {}


def miscounted(trainer, state, key):
    return state.replace(events={**state.events, "mine": state.events["mine"].astype(float)}), {}


BAD = {
    "another dtype": (
        halved,
        every(PER),
        {},
        r"\.agent\['policy'\] was float32\[1, 2\], is bfloat16\[1, 2\]",
    ),
    "another shape": (grown, startup(), {}, r"\.agent\['policy'\] was float32\[1, 2\], is float32\[2, 2\]"),
    "another tree": (shrunk, at(3 * PER), {}, r"another tree than before: lacks \.agent\['value'\]"),
    "at a trigger": (halved, when(lambda s: s.clock > 3, every=PER), {}, r"float32\[1, 2\], is bfloat16"),
    "no seed axis": (best_alone, finish(), {"scope": "population"}, r"was float32\[\d, 1, 2\], is float32"),
    "in its memory": (
        miscounted,
        every(PER),
        {"init": lambda trainer: jnp.int32(0)},
        r"\.events\['mine'\] was int32\[\], is float32\[\]",
    ),
}


@pytest.mark.parametrize("seeds", [0, 3], ids=["a key", "3 seeds"])
@pytest.mark.parametrize("case", BAD)
def test_an_event_that_changes_the_tree_is_named_before_anything_runs(case, seeds, left_behind):
    act, schedule, more, words = BAD[case]
    sink = Memory()
    run = partial(train, tiny(), events=[LOOK, Event("mine", schedule, act, **more)], sinks=[sink])
    with pytest.raises(TypeError, match=rf"^event 'mine': the state.*{words}"):
        jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0))
    assert (sink.run, sink.records) == (None, [])
    assert left_behind() == set()


def test_a_whole_number_to_which_an_event_adds_a_half_is_another_dtype():
    def add(trainer, state, key):
        return state.replace(events={**state.events, "mine": state.events["mine"] + 0.5}), {}

    event = Event("mine", every(PER), add, init=lambda trainer: jnp.int32(0))
    with pytest.raises(TypeError, match=r"^event 'mine': .*\.events\['mine'\] was int32\[\], is float32\[\]"):
        train(tiny(), jax.random.key(0), events=[event])


def test_what_an_event_raises_while_tracing_comes_out_as_it_is(left_behind):
    error = KeyError("no such joint: 'elbow'")

    def broken(trainer, state, key):
        raise error

    sink = Memory()
    with pytest.raises(KeyError) as caught:
        train(tiny(), jax.random.key(0), events=[LOOK, Event("mine", every(PER), broken)], sinks=[sink])
    assert caught.value is error
    assert (sink.run, sink.records) == (None, [])
    assert left_behind() == set()


# ---- an event's own host callback


def measure(clock):
    if clock == 7:
        raise ValueError("the robot's arm is gone")
    return np.float32(clock)


FLOAT = jax.ShapeDtypeStruct((), jnp.float32)
CALLBACKS = {
    "io": partial(io_callback, measure, FLOAT),
    "io, ordered": partial(io_callback, measure, FLOAT, ordered=True),
    "pure": partial(jax.pure_callback, measure, FLOAT, vmap_method="sequential"),
}


@pytest.mark.parametrize(("kind", "seeds"), [("io", 2), ("io, ordered", 0), ("pure", 0), ("pure", 2)])
def test_a_callback_that_raises_ends_the_run_with_its_message_and_every_record_before_it(
    kind, seeds, tmp_path, left_behind
):
    def act(trainer, state, key):
        return state, {"angle": CALLBACKS[kind](state.clock + 0 * state.status)}  # of each seed

    memory, lines = Memory(), JsonLines(tmp_path / "metrics.jsonl")
    run = partial(train, tiny(), events=[Event("mine", every(PER), act), LOOK], sinks=[memory, lines])
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: the robot's arm is gone"):
        within(HANG_SECONDS, lambda: jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0)))
    before = [(name, update) for update in range(1, 7) for name in ("mine", "look")]
    assert [(record.name, record.update) for record in memory.records] == before
    read = [json.loads(line) for line in lines.path.read_text().splitlines()]
    assert [(row["name"], row["update"]) for row in read] == before
    assert left_behind() == set()

    again = Memory()
    train(tiny(), jax.random.key(1), events=[LOOK], sinks=[again])  # nothing of it sticks to the process
    assert [record.update for record in again.records] == list(range(1, UPDATES + 1))


def test_a_callback_that_raises_where_nobody_watches_is_raised_where_the_result_is_used():
    def act(trainer, state, key):
        return agent_of(state, state.agent["policy"] + 0 * CALLBACKS["pure"](state.clock)), {}

    def run():
        return jax.block_until_ready(
            train(tiny(), jax.random.key(0), events=[Event("mine", every(PER), act)])
        )

    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: the robot's arm is gone"):
        within(HANG_SECONDS, run)


# ---- a sink


class Raises(Memory):
    """Takes two records."""

    def write(self, record):
        if len(self.records) == 2:
            raise RuntimeError("the printer is out of paper")
        super().write(record)


class Blocks(Memory):
    """Does not come back from the method named, until it is released."""

    def __init__(self, where):
        super().__init__()
        self.where, self.release = where, threading.Event()

    def _perhaps(self, where):
        if where == self.where:
            self.release.wait(HANG_SECONDS)

    def open(self, run):
        self._perhaps("open")
        super().open(run)

    def write(self, record):
        self._perhaps("write")
        super().write(record)

    def flush(self):
        self._perhaps("flush")


class Impatient(Dispatcher):
    """The door, with a shorter deadline."""

    def __init__(self, sinks, info, **given):
        super().__init__(sinks, info, deadline_seconds=0.3, **given)


@pytest.fixture(scope="module")
def unwatched():
    return train(tiny(), jax.random.key(0), events=[LOOK])


@pytest.mark.parametrize("fault", ["raises", "open", "write", "flush"])
@pytest.mark.parametrize("first", [True, False], ids=["before the others", "after the others"])
def test_a_sink_that_fails_is_reported_once_by_name_and_changes_nothing_else(
    fault, first, unwatched, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(callback, "Dispatcher", Impatient)
    bad = Raises() if fault == "raises" else Blocks(fault)
    others = [Memory(), JsonLines(tmp_path / "metrics.jsonl")]
    order = [bad, *others] if first else [*others, bad]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = within(HANG_SECONDS, lambda: train(tiny(), jax.random.key(0), events=[LOOK], sinks=order))
    problem = {
        "raises": f"sink Raises failed with RuntimeError: the printer is out of paper; 10 of {UPDATES}",
        "flush": f"sink Blocks was not done 0.3 s after the program was; 0 of {UPDATES}",
    }.get(fault, f"sink Blocks was not done 0.3 s after the program was; {UPDATES} of {UPDATES}")
    assert [str(w.message) for w in caught] == [f"jaxtrain: {problem} records lost"]
    assert [w.category for w in caught] == [RuntimeWarning]
    assert len([r for r in caplog.records if r.name == "jaxtrain"]) == 1

    assert differing(result.state, unwatched.state) == []
    assert differing(result.history, unwatched.history) == []
    want = list(range(1, UPDATES + 1))
    assert [record.update for record in others[0].records] == want
    read = [json.loads(line)["update"] for line in others[1].path.read_text().splitlines()]
    assert read == want
    if isinstance(bad, Blocks):
        bad.release.set()


def test_what_is_no_list_of_sinks_is_refused_before_anything_is_made(tmp_path, left_behind):
    with pytest.raises(ConfigError, match=r"^sinks = Memory: needs a list of sinks"):
        train(tiny(), jax.random.key(0), sinks=Memory())
    with pytest.raises(ConfigError, match=r"^more_sinks.0 = 'console': needs an instance"):
        launch(tiny(env="tests.helpers:Walk"), tmp_path / "run", more_sinks=["console"])
    with pytest.raises(
        ConfigError, match=r"^events.0 = look: needs Event, .* Event\('look', every\(N\), look\)"
    ):
        launch(tiny(env="tests.helpers:Walk"), tmp_path / "run", events=[look])
    assert left_behind() == set() and not (tmp_path / "run").exists()


# ---- an environment


@dataclass(frozen=True)
class Loose(Walk):
    """A walk with a plain number and a plain tuple, which do as well."""

    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return obs, state._replace(time=0)

    def step(self, key, state, action, params):
        return tuple(super().step(key, state, action, params))


@dataclass(frozen=True)
class Fallen(Walk):
    """A walk that cannot be stepped."""

    def step(self, key, state, action, params):
        raise RuntimeError("fell over")


def test_a_run_of_an_environment_that_is_cast_has_the_bits_of_one_that_needs_no_cast(unwatched):
    result = train(tiny(env=Loose()), jax.random.key(0), events=[LOOK])
    assert differing(result.state, unwatched.state) == []


def test_what_an_environment_raises_is_told_with_its_lines_and_no_directory_is_left(tmp_path):
    with pytest.raises(ConfigError, match=LINE) as error:
        launch(tiny(env=f"{__name__}:Fallen"), tmp_path / "run")
    assert isinstance(error.value.__cause__, RuntimeError) and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"^evaluation\.env\.id = Fallen: step: raised RuntimeErr"):
        Trainer(tiny(evaluation={"every": PER, "env": {"id": Fallen()}}))


LINE = r"^env\.id = '.*:Fallen': step: raised RuntimeError: fell over \(test_user_code\.py:\d+ in step\)$"


@pytest.mark.parametrize("source", [lambda t: t.obs, lambda t: "high"], ids=["an array", "a text"])
def test_a_statistic_that_is_not_one_number_is_named(source):
    logging = {"every": 0, "statistics": [{"name": "height", "source": source}]}
    with pytest.raises(ConfigError, match=r"^statistic 'height': its source gives .*, needs one number"):
        jax.eval_shape(Trainer(tiny(logging=logging)).new, jax.random.key(0))
