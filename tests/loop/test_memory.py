"""What a run takes on its device is said by part, and where there is not so much, what would fit."""

from __future__ import annotations

import jax
import pytest

from jaxtrain import OutOfMemory, Trainer, train
from jaxtrain.loop import memory
from jaxtrain.sinks import Memory
from tests.faults.processes import Hoard
from tests.helpers import tiny

PARTS = {"agent": 10, "replay": 70, "environments": 8, "history": 4, "rollout": 8}


def test_what_grows_with_the_environments_is_told_from_what_does_not():
    few, many = (memory.by_part(Trainer(tiny(num_envs=n)), saved=True) for n in (2, 20))
    assert [name for name in few if few[name] == many[name]] == ["agent", "history"]
    assert all(10 * few[name] == many[name] for name in ("environments", "rollout"))
    assert many["a checkpoint's copy"] - few["a checkpoint's copy"] == 9 * few["environments"]


def test_the_parts_of_a_state_are_all_of_it_but_what_there_is_one_of():
    trainer = Trainer(tiny())
    state = jax.eval_shape(trainer.new, jax.random.key(0))
    parts = memory.by_part(trainer)
    history = memory.size(jax.eval_shape(trainer.history, state))
    clocks = state.clock, state.status, state.stopped_at
    one_each = memory.size((clocks, state.key, state.hyper, state.events))
    found = sum(parts[name] for name in ("agent", "environments", "history"))
    assert found == memory.size(state) + history - one_each


def test_what_is_said_to_fit_takes_as_much_as_there_is():
    assert memory.total(PARTS) == 100
    assert [memory.num_seeds_in(PARTS, room) for room in (99, 100, 299, 300)] == [0, 1, 2, 3]
    assert [memory.num_envs_in(PARTS, room, 4) for room in (84, 92, 100, 116)] == [0, 2, 4, 8]
    saved = {**PARTS, "a checkpoint's copy": 10 + 8 + 4}
    assert memory.num_envs_in(saved, memory.total(saved) + 3 * 8, 4) == 8
    assert memory.total({**PARTS, "XLA's temporaries": 20}) == 112  # the rollout is among them


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (0, r"history 4 bytes, rollout 8 bytes\), and there are 3$"),
        (250, r"3\. 250 bytes hold, by an estimate, num_seeds = 2 of 4 environments$"),
        (276, r" num_seeds = 2 of 4 environments or num_seeds = 3 of env\.num_envs = 2$"),
        (90, r"90 bytes hold, by an estimate, not one seed; the greatest part is replay$"),
    ],
)
def test_only_what_would_fit_is_said(room, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(memory.sentence(PARTS, 4, 3, room, "a device"))


def test_train_says_what_it_asked_of_a_device_that_has_less():
    with pytest.raises(OutOfMemory, match=r"takes 781\.2 TiB \(agent 12 bytes, replay 781\.2 TiB,") as error:
        train(tiny(algorithm=Hoard()), jax.random.key(0), sinks=[Memory()])
    assert isinstance(error.value.__cause__, jax.errors.JaxRuntimeError)
