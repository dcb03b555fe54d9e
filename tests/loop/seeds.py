"""Seeds of one run that go different ways: what stops one of three, or makes it not finite.

In: nothing. Out: events that pick the seed whose episodes end more often, the states that follow, and a DQN.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxtrain import Trainer
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.loop.state import RUNNING, STOPPED
from tests.helpers import keys, tiny

PER = tiny().env_steps_per_update


def small_dqn(**changes):
    given = {"rollout_length": 4, "buffer_size": 64, "batch_size": 8, "learning_starts": 2 * PER}
    given |= {"target_update_interval": 3 * PER, "gradient_steps": 1, "network": {"hidden_sizes": (4,)}}
    return DQN(**{**given, **changes})


def poison(trainer, state, key):
    """The rewards of the seed whose episodes end more often are NaN from here on."""
    scale = jnp.where(state.hyper["env.params.end"] > 0.3, jnp.nan, state.env_params.scale)
    return state.replace(env_params=state.env_params._replace(scale=scale)), {}


def heal(trainer, state, key):
    return state.replace(env_params=state.env_params._replace(scale=jnp.ones(2))), {}


def stop(trainer, state, key):
    """Stop the seed whose episodes end more often, as a stock event does."""
    over = (state.hyper["env.params.end"] > 0.3) & (state.status == RUNNING)
    status = jnp.where(over, STOPPED, state.status)
    return state.replace(status=status, stopped_at=jnp.where(over, state.clock, state.stopped_at)), {}


def seeds_of(config, events):
    """`ends -> states` of three seeds with these `end`s before the run and after each update; one program."""
    trainer, key = Trainer(config, events), keys(3)
    run = jax.jit(partial(trainer.run, num_updates=1))

    @jax.jit
    def new(ends):
        rates = jax.tree.map(lambda x: jnp.broadcast_to(x, key.shape), trainer.rates())
        return trainer.new(key, rates.replace({"env.params.end": ends}))

    def states(ends):
        found = [new(jnp.array(ends))]
        for _ in range(trainer.num_updates):
            found.append(run(found[-1]))
        return found

    return states


ENDS = [0.2, 0.4, 0.2]
