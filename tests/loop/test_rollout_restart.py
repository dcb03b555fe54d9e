"""`Experience.restart`: an algorithm begins its episodes anew, whatever was under way."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, OnReset, Trainer, every, train
from jaxtrain.config import field
from jaxtrain.events.event import traits
from jaxtrain.types import ActOutput
from tests.helpers import Reinforce, differing, keys, tiny

NUM_ENVS = 6


@field.config
class Anew(Reinforce):
    """Each update is of fresh episodes, of which groups of so many share a start; its carry counts steps."""

    name: str = field.text("anew")
    group: int = field.integer(1, low=1)
    first: bool = field.flag(True)  # before it collects, or after

    def make(self, spec):
        made = super().make(spec)

        def act(obs, carry, key):
            return ActOutput((obs[:, 0] > 0).astype(jnp.int32), carry + 1, carry)

        def update(agent, runner, experience, clock, key):
            key_restart, key_collect = jax.random.split(key)
            if self.first:
                runner = experience.restart(runner, key_restart, self.group)
            runner, rollout = experience.collect(act, runner, key_collect)
            if not self.first:
                runner = experience.restart(runner, key_restart, self.group)
            return {"obs": rollout.obs, "carry": rollout.carry, "extras": rollout.extras}, runner, {}

        def init(key):
            obs = jnp.zeros((self.rollout_length, spec.num_envs, 1))
            carry = jnp.zeros((spec.num_envs,), jnp.int32)
            extras = jnp.zeros((self.rollout_length, spec.num_envs), jnp.int32)
            return {"obs": obs, "carry": carry, "extras": extras}

        return made._replace(
            init=init,
            policy=lambda agent, clock: act,
            sample=lambda agent, clock: act,
            update=update,
            carry=jnp.int32(0),
            value=None,
        )


def look(trainer, state, key):
    return state, dict(state.agent) | {"length": state.runner.episode_length, "push": state.env_params.push}


LOOK = Event("look", every(4 * NUM_ENVS), look)


@pytest.mark.parametrize(("group", "seeds"), [(1, 3), (2, 0), (2, 3), (6, 0)])
def test_groups_share_a_start_in_every_update_and_no_two_groups_do(group, seeds):
    config = tiny(5, num_envs=NUM_ENVS, params={"end": 0.0}, algorithm=Anew(group=group))
    run = partial(train, config, events=[LOOK])
    history = (jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0))).history["look"]
    starts = np.asarray(history["obs"])[..., 0, :, 0].reshape(-1, NUM_ENVS)  # of each seed and update
    groups = starts.reshape(len(starts), NUM_ENVS // group, group)
    assert (groups == groups[..., :1]).all()
    distinct = groups[..., 0].ravel()
    assert len(set(distinct.tolist())) == distinct.size
    assert (np.asarray(history["carry"]) == 0).all()
    extras = np.asarray(history["extras"]).reshape(-1, 4, NUM_ENVS)
    assert (extras == np.arange(4)[:, None]).all()  # the carry begins anew with the episode


def test_what_was_under_way_is_not_counted_and_what_follows_begins_at_nothing():
    # No episode ends by itself within an update of 4 steps; after 6 they would.
    def finished(**given):
        config = tiny(5, num_envs=NUM_ENVS, params={"end": 0.0}, algorithm=Anew(**given))
        result = train(config, jax.random.key(0), events=[LOOK])
        return result.state, np.asarray(result.history["look"]["length"])

    for first, length in ((True, 4), (False, 0)):
        state, lengths = finished(first=first)
        assert int(state.episodes.finished) == 0
        assert (lengths == length).all()


def test_a_restart_is_an_episodes_start_to_the_hooks_too():
    @traits(last=True)
    def double(key, params, last):  # of the last, and the other of the nominal
        return params._replace(push=last.push * 2, scale=params.scale * 2)

    config = tiny(4, num_envs=NUM_ENVS, params={"end": 0.0, "push": 1.0}, algorithm=Anew(group=3))
    result = train(config, jax.random.key(0), events=[LOOK, OnReset("double", double)])
    expected = 2.0 ** np.arange(2, 6)  # once at the beginning, once in each update
    pushes = result.history["look"]["push"]
    np.testing.assert_array_equal(pushes, np.broadcast_to(expected[:, None], (4, NUM_ENVS)))
    assert result.state.env_params.scale.tolist() == [2.0] * NUM_ENVS


def test_a_group_that_does_not_divide_the_environments_is_refused_while_tracing():
    trainer = Trainer(tiny(num_envs=NUM_ENVS, algorithm=Anew(group=4)))
    with pytest.raises(ValueError, match="restart: group = 4: needs to divide num_envs = 6"):
        jax.eval_shape(trainer.new, keys(2))


def test_a_run_with_restarts_may_be_cut_anywhere():
    trainer = Trainer(tiny(6, num_envs=NUM_ENVS, algorithm=Anew(group=2)))
    run, first = jax.jit(trainer.run, static_argnums=1), trainer.init(keys(2))
    assert differing(run(run(first, 2), 4), run(run(first, 4), 2)) == []
