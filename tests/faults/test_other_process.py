"""Runs that go on in an interpreter started anew: nothing of them hangs on Python's own hashes.

In: a run that is killed or asked to stop, and an interpreter with another `PYTHONHASHSEED` that takes it up.
Out: the bits of the last checkpoint and the log of a run that was never broken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import Config, Event, OnReset, OnStep, every
from jaxtrain.algorithms.dqn import DQN
from tests.faults.processes import Watch, arrays, ended, left_over, rows, run, start, until
from tests.helpers import Reinforce, tiny, tiny_ppo
from tests.xla import FAST

UPDATES, PER = 40, 8


def nudge(trainer, state, key, *, by):
    """Rates and environments that move at random, so that every draw of an event shows in the end."""
    draw = jax.random.normal(key)
    name = "algorithm.learning_rate"
    hyper = state.hyper.replace({name: state.hyper[name] * jnp.exp(by * draw)})
    return state.replace(hyper=hyper), {"draw": draw, "rate": hyper[name]}


def count(trainer, state, key):
    """An event that remembers."""
    memory = state.events["count"] + 1 + jax.random.bernoulli(key)
    return state.replace(events={**state.events, "count": memory}), {"count": memory}


def push(key, params, *, low):
    return params._replace(push=jax.random.uniform(key, minval=low, maxval=0.2))


def jump(key, state, params, *, far):
    return state._replace(position=state.position + far * jax.random.normal(key))


EVENTS = (
    Event("nudge", every(2 * PER), nudge, {"by": 0.1}),
    Event("count", every(3 * PER), count, init=lambda trainer: jnp.int32(0)),
    OnReset("push", push, {"low": 0.05}),
    OnStep("jump", jump, (1, 3), {"far": 0.1}),
)
ALGORITHMS = {
    "reinforce": Reinforce(),
    "dqn": DQN(
        rollout_length=4,
        buffer_size=64,
        batch_size=8,
        learning_starts=2 * PER,
        target_update_interval=3 * PER,
        gradient_steps=1,
        network={"hidden_sizes": (4,)},
    ),
    "gru": tiny_ppo(
        network={"hidden_sizes": (4,), "recurrent": "gru", "recurrent_size": 4},
        num_minibatches=1,
        normalize_observations=True,
    ),
}


def config_of(name: str) -> Config:
    """A run with events of every kind, saved after each update."""
    stock = {
        "name": "drawn",
        "run": "randomize",
        "every": 5 * PER,
        "params": {"end": {"low": 0.1, "high": 0.3}},
    }
    return tiny(
        updates=UPDATES,
        algorithm=ALGORITHMS[name],
        events=[stock],
        logging={"every": PER, "sinks": ["jsonlines"]},
        evaluation={"every": 10 * PER, "num_episodes": 2},
        checkpoint={"every": PER, "keep_last": 2},
    )


def main(name: str, directory: str, *, seeds: int) -> None:
    """What a child does: begin or go on."""
    print("hash", hash("jaxtrain"), flush=True)
    place = Path(directory)
    begun = {} if place.exists() else {"seed": 3, "num_seeds": seeds}
    run(config_of(name), place, events=EVENTS, **begun)


def interpreter(name: str, directory: Path, hash_seed: int, seeds: int) -> subprocess.Popen[bytes]:
    """A Python that has imported nothing yet."""
    call = (
        f"from tests.faults.test_other_process import main; main({name!r}, {str(directory)!r}, seeds={seeds})"
    )
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FAST}", "PYTHONHASHSEED": str(hash_seed)}
    with directory.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", call],
            env=os.environ | flags,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.parametrize(
    ("name", "seeds", "how"),
    [
        ("reinforce", 2, signal.SIGKILL),
        pytest.param("reinforce", 2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("dqn", 2, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("gru", 1, signal.SIGKILL, marks=pytest.mark.slow),
    ],
    ids=lambda x: x.name if isinstance(x, signal.Signals) else str(x),
)
def test_a_run_that_another_interpreter_takes_up_ends_in_the_bits_of_an_unbroken_one(
    tmp_path, name, seeds, how
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    log = broken.with_suffix(".log")
    unbroken = start(whole.with_suffix(".log"), main, name, str(whole), seeds=seeds)
    assert ended(unbroken) == 0, whole.with_suffix(".log").read_text()
    first, watch = interpreter(name, broken, 2, seeds), Watch(broken)
    until(lambda: watch.saved() >= 5 * PER, first)
    first.send_signal(how)
    assert ended(first) == (0 if how == signal.SIGTERM else -how), log.read_text()
    assert 5 * PER <= watch.saved() < UPDATES * PER
    assert ended(interpreter(name, broken, 3, seeds)) == 0, log.read_text()
    hashes = {line for line in log.read_text().splitlines() if line.startswith("hash ")}
    assert len(hashes) == 2
    assert arrays(broken) == arrays(whole)
    assert rows(broken) == rows(whole)
    assert left_over(broken) == []
