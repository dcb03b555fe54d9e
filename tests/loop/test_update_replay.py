"""A replay in the loop: seeds that stop keep theirs, what was dropped is never drawn, and no copy is made."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, at, every, train
from jaxtrain.loop.state import NON_FINITE, RUNNING
from jaxtrain.rl import replay
from jaxtrain.runs.program import Programs
from jaxtrain.sinks import Memory
from jaxtrain.tree import in_place
from tests.helpers import arrays, differing, keys, seed, tiny
from tests.loop.seeds import ENDS, PER, heal, poison, seeds_of, small_dqn, stop

SOUND = (0.2,) * 3


@cache
def program(how):
    config = tiny(params={"end": 0.2}, algorithm=small_dqn(), on_nan="skip" if how == "healed" else "freeze")
    events = {
        "nan": [Event("poison", at(5 * PER), poison)],
        "healed": [Event("poison", at(5 * PER), poison), Event("heal", at(8 * PER), heal)],
        "stop": [Event("stop", at(5 * PER), stop)],
    }[how]
    return seeds_of(config, events)


@cache
def dqn_states(how, ends=(*ENDS,)):
    """Of three seeds, before the run and after each update."""
    return program(how)(ends)


@pytest.mark.parametrize(("how", "stopped_at"), [("nan", 6), ("stop", 5)])
def test_a_stopped_seed_keeps_every_bit_of_its_replay(how, stopped_at):
    states = dqn_states(how)
    then, last = states[stopped_at], states[12]
    assert last.stopped_at.tolist() == [-1, stopped_at, -1]
    assert differing(seed(1, then.agent), seed(1, last.agent)) == []
    for i in (0, 2):
        assert differing(seed(i, then.agent.replay), seed(i, last.agent.replay)) != []


@pytest.mark.parametrize("how", ["nan", "stop"])
def test_what_becomes_of_one_seed_changes_no_bit_of_the_replay_of_the_others(how):
    last, sound = dqn_states(how)[12], dqn_states(how, SOUND)[12]
    for i in (0, 2):
        assert differing(seed(i, last), seed(i, sound)) == []


def test_an_update_that_was_skipped_lies_in_the_replay_and_is_never_drawn():
    states = dqn_states("healed")
    before, between, last = states[5], states[8], states[10]
    assert last.status.tolist() == [RUNNING] * 3
    for state, kept in ((between, [0, 1, 2, 3, 4]), (last, [2, 3, 4, 8, 9])):
        ring = seed(1, state.agent).replay
        assert np.isnan(ring.rows.value.reward).any()  # the rows stay where they were written
        clock = jnp.int32(int(state.clock) - 1)
        batch = replay.sample(ring, clock, jax.random.key(0), 500, gamma=0.9, n_step=3)
        weight = np.asarray(batch.weight) > 0
        assert weight.any() and not weight.all()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(batch))
        blocks = np.asarray(batch.place.row)[weight] // 4
        assert sorted({int(x) for x in np.asarray(ring.written)[blocks]}) == kept
    agent = seed(1, last.agent)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((agent.params, agent.opt_state)))
    assert differing(agent.params, seed(1, between.agent.params)) != []  # it learns again
    assert differing(seed(1, between.agent.params), seed(1, before.agent.params)) == []


def test_a_nan_reward_of_dqn_is_named_in_its_update_and_the_others_go_on():
    sink, config = Memory(), tiny(params={"end": 0.2}, algorithm=small_dqn(), on_nan="freeze")

    def one(end, key):
        given = tiny(params={"end": end}, algorithm=config.algorithm, on_nan="freeze")
        return train(given, key, events=[Event("poison", at(5 * PER), poison)], sinks=[sink])

    result = jax.vmap(one)(jnp.array(ENDS), keys(3))
    (record,) = [r for r in sink.records if r.name == "non_finite"]
    assert record.update == 6
    assert record.values["reward"].tolist() == [False, True, False]
    assert not record.values["agent"].any() or record.values["agent"].tolist() == [False, True, False]
    assert result.state.status.tolist() == [RUNNING, NON_FINITE, RUNNING]
    sound = dqn_states("nan", SOUND)[12]
    for i in (0, 2):
        assert differing(seed(i, result.state.agent), seed(i, sound.agent)) == []
    for _, x in arrays((result.state.agent.params, result.state.agent.opt_state)):
        assert np.isfinite(x).all()


# ---- memory


@pytest.mark.parametrize(
    ("what", "seeds"),
    [("run", 4), ("launch", 4), *(pytest.param(w, 0, marks=pytest.mark.slow) for w in ("run", "launch"))],
)
def test_no_copy_of_a_replay_is_made_whatever_its_size(what, seeds):
    """All temporaries together are less than 1 % of a large ring: no part of it is among them."""
    key = keys(seeds) if seeds else jax.random.key(0)
    per = 64  # a stamp for so many transitions is copied, 4 bytes of what all of them have
    events = [Event("stop", every(2 * per), stop), Event("poison", at(5 * per), poison)]
    sizes = {"learning_starts": 2 * per, "target_update_interval": 3 * per}
    config = tiny(
        params={"end": 0.2},
        num_envs=16,
        algorithm=small_dqn(buffer_size=10**7, **sizes),  # is compiled for and never there
        logging={"every": 4 * per},
        evaluation={"every": 4 * per, "num_episodes": 2},
        on_nan="freeze",
    )
    trainer = Trainer(config, events)
    state = jax.eval_shape(trainer.new, key)
    if what == "run":
        run = jax.jit(trainer.run, static_argnums=1, donate_argnums=0)
        compiled = run.lower(state, 12).compile()
    else:
        compiled = Programs(config, events, key, 0)._advance
    ring = sum(x.size * x.dtype.itemsize for x in in_place(state.agent))
    assert ring > 10**8 and compiled.memory_analysis().temp_size_in_bytes < 0.01 * ring
