"""Env steps beyond what an int32 or a float32 holds: exact and rising in every sink.

In: a run taken up just below 2^24, 2^31 or 2^32 env steps. Out: what each backend's own reader says.
Knows nothing of how many updates that took: the program counts those, the door multiplies.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, at, every, when
from jaxtrain.loop import callback
from jaxtrain.loop.train import emitter, run_info
from jaxtrain.sinks import Console, JsonLines, Memory, TensorBoard, Wandb
from tests.helpers import Reinforce, keys, tiny
from tests.sinks.test_sinks import events, offline_runs, wandb_rows

PER, AHEAD = 3, 8  # env steps an update, updates made
LIMITS = {"2^24": 2**24, "2^31": 2**31, "2^32": 2**32}


def look(trainer: Trainer, state: Any, key: Any) -> Any:
    return state, {"clock": state.clock}


def advance(trainer: Trainer, begin: int, sinks: list[Any], seeds: int) -> list[str]:
    """The run from update `begin` on, as a resumed one; what its sinks lost."""
    state = trainer.new(keys(seeds) if seeds > 1 else jax.random.key(0)).replace(clock=jnp.int32(begin))
    outlet = callback.connect(sinks, run_info(trainer))

    @jax.jit
    def program(state: Any, run: jax.Array) -> Any:
        callback.started(run, state.clock, num_seeds=seeds)
        return trainer.scan(state, None, AHEAD, emitter(run, seeds > 1))[0]

    try:
        assert int(program(state, jnp.int32(outlet.id)).clock) == begin + AHEAD
    finally:
        losses = outlet.finish()
    return losses


@pytest.mark.parametrize(
    ("limit", "seeds"),
    [
        *((limit, 3) for limit in LIMITS),
        *(pytest.param(limit, 1, marks=pytest.mark.slow) for limit in LIMITS),
    ],
)
def test_env_steps_are_exact_and_rising_in_every_sink_across(limit, seeds, tmp_path):
    begin = (LIMITS[limit] - 1) // PER  # the last update that does not reach the limit
    due = [PER * (begin + n) for n in range(1, AHEAD + 1)]
    assert PER * begin < LIMITS[limit] <= due[0]
    config = tiny(begin + AHEAD, num_envs=1, algorithm=Reinforce(rollout_length=PER))
    # In the middle the records of one update are two, in the order of the events.
    trainer = Trainer(config, [Event("look", at(*due), look), Event("again", at(due[3]), look)])
    assert trainer.timetable["look"] == tuple(range(begin + 1, begin + AHEAD + 1))

    memory, lines, screen = Memory(), JsonLines(tmp_path / "metrics.jsonl"), io.StringIO()
    board, remote = TensorBoard(tmp_path / "board"), Wandb(mode="offline", directory=tmp_path)
    with board, remote, Console(file=screen, seconds_between_lines=0) as console:
        assert advance(trainer, begin, [memory, lines, board, remote, console], seeds) == []

    want = sorted([*due, due[3]])
    assert [record.env_steps for record in memory.records] == want
    assert all(type(record.env_steps) is int for record in memory.records)
    for record in memory.records:  # what the program itself counted is the same number
        assert record.values["clock"].tolist() == [record.update] * seeds
        assert record.env_steps == PER * record.update

    read = [json.loads(line) for line in lines.path.read_text().splitlines()]
    assert [row["env_steps"] for row in read] == want
    assert [row["update"] * PER for row in read] == want

    curves = {tag: [step for step, *_ in points] for tag, points in events(tmp_path / "board").items()}
    assert {tuple(steps) for tag, steps in curves.items() if tag.startswith("look/")} == {tuple(due)}
    assert {tuple(steps) for tag, steps in curves.items() if tag.startswith("again/")} == {(due[3],)}

    (run,) = offline_runs(tmp_path)
    assert [row["env_steps"] for row in wandb_rows(run)] == want

    shown = re.findall(r"^ *([\d,]+) / ([\d,]+) env steps", screen.getvalue(), re.MULTILINE)
    steps = [int(done.replace(",", "")) for done, _ in shown]
    assert steps == sorted(steps)
    assert steps[-1] == want[-1]
    assert set(steps) <= set(want)
    assert {total.replace(",", "") for _, total in shown} == {str(due[-1])}


def test_marks_and_intervals_fall_on_their_own_update_near_the_limit_of_the_programs_counter():
    """Up to 2^31 - 1 updates, 10^12 env steps and more: the timetable is exact integers all the way."""
    updates, per = 2**31 - 1, 512
    total = updates * per
    assert total > 10**12
    config = tiny(updates, num_envs=2, algorithm=Reinforce(rollout_length=per // 2))
    third = total // 3
    trainer = Trainer(
        config,
        [
            Event("before", at(total - AHEAD * per + 1), look),
            Event("last", at(total), look),
            Event("thirds", every(third), look),
            Event("asked", when(lambda state: state.clock > 0, every=third), look),
        ],
    )
    memory = Memory()
    assert advance(trainer, updates - AHEAD, [memory], 1) == []
    found = [(record.name, record.update, record.env_steps) for record in memory.records]
    assert found == [
        ("before", updates - AHEAD + 1, total - (AHEAD - 1) * per),
        *[(name, updates, total) for name in ("last", "thirds", "asked")],
    ]
    assert trainer.timetable["thirds"] == tuple(-(-k * third // per) for k in (1, 2, 3))
    assert all(np.int32(update) == update for update in trainer.timetable["thirds"])
