"""Which leaves of an agent another run takes, and what is made anew of its parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import struct

from jaxtrain import DQN, PPO, Trainer
from jaxtrain.loop import adopt
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.tree import InPlace
from jaxtrain.types import Algorithm
from tests.helpers import tiny, tiny_ppo


class Ring(NamedTuple):
    rows: InPlace
    written: jax.Array


@struct.dataclass
class Agent:
    params: Any
    rest: Any


def agent_of(algorithm: Any) -> Any:
    """The shapes of a fresh agent."""
    trainer = Trainer(tiny(algorithm=algorithm))
    return jax.eval_shape(lambda key: trainer.new(key).agent, jax.random.key(0))


def roots(paths: Any) -> set[str]:
    return {path.split(".")[1].split("[")[0] for path in paths}


def test_all_of_a_ppo_agent_is_handed_on_but_the_returns_of_episodes_under_way():
    agent = agent_of(tiny_ppo(normalize_observations=True, normalize_rewards=True))
    left = adopt.leaves(agent).keys() - adopt.handed_on(agent).keys()
    assert left == {".reward_scale.running"}
    assert roots(adopt.params(agent)) == {"params"}


def test_all_of_a_dqn_agent_is_handed_on_but_its_replay_as_a_whole():
    agent = agent_of(DQN(buffer_size=64, batch_size=8, network=NetworkConfig(hidden_sizes=(4,))))
    left = adopt.leaves(agent).keys() - adopt.handed_on(agent).keys()
    assert roots(left) == {"replay"} and ".replay.written" in left
    assert left == {path for path in adopt.leaves(agent) if path.startswith(".replay")}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(optax.linear_schedule(1e-3, 0.0, 8)),
        optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1e-3, 0.0, 8)),
        optax.chain(optax.scale_by_adam(), optax.contrib.reduce_on_plateau(), optax.scale(-1e-3)),
    ],
    ids=["schedule", "injected", "plateau"],
)
def test_an_optimizer_keeps_its_moments_and_not_the_place_in_a_schedule_of_its_own(optimizer):
    """An annealed rate would be 0 from the new run's first update on."""
    state = optimizer.init({"w": jnp.ones(3)})
    used = jax.tree.map(lambda x: x + jnp.ones_like(x), state)
    agent = Agent({"w": jnp.ones(3)}, state)
    taken = {path: adopt.leaves(Agent({}, used))[path] for path in adopt.handed_on(Agent({}, used))}
    new = adopt.adopted(Algorithm(lambda key: agent, *3 * [lambda: None]), agent, jax.random.key(0), taken)
    moved = {p for p, x in adopt.leaves(new).items() if (x != adopt.leaves(agent)[p]).any()}
    assert {path.rpartition(".")[2] for path in moved} == {"count", "mu['w']", "nu['w']"}
    assert len([path for path in moved if path.endswith("count")]) == 1  # of Adam's bias correction


def test_what_lies_beside_an_in_place_array_stays_with_it_and_deeper_nodes_are_looked_into():
    ring = Ring(InPlace(jnp.ones(4)), jnp.ones(2))
    agent = {"params": {"w": jnp.ones(1), "none": None}, "deep": [{"ring": ring, "step": jnp.ones(1)}]}
    assert adopt.handed_on(agent).keys() == {"['params']['w']", "['deep'][0]['step']"}
    assert adopt.handed_on(InPlace(jnp.ones(1))) == adopt.handed_on(ring) == {}


def test_what_an_algorithm_makes_of_its_parameters_is_made_of_those_that_are_taken():
    def init(key, params=None):
        params = jax.random.normal(key, (3,)) if params is None else params
        return {"params": params, "target": 2 * params}

    key, theirs = jax.random.key(0), jnp.arange(3.0)
    algorithm = Algorithm(init, *3 * [lambda: None])
    new = adopt.adopted(algorithm, init(key), key, {"['params']": theirs})
    assert (new["params"] == theirs).all() and (new["target"] == 2 * theirs).all()
    # With all of an agent its own target is taken, too.
    both = {"['params']": theirs, "['target']": theirs}
    assert (adopt.adopted(algorithm, init(key), key, both)["target"] == theirs).all()


def test_a_key_in_an_agent_is_taken_as_its_words():
    agent, theirs = {"key": jax.random.key(0)}, jax.random.key_data(jax.random.key(1))
    algorithm = Algorithm(lambda key: agent, *3 * [lambda: None])
    new = adopt.adopted(algorithm, agent, jax.random.key(0), {"['key']": theirs})
    assert new["key"] == jax.random.key(1)


def test_leaves_that_may_be_made_of_fresh_parameters_are_those_that_depend_on_the_key():
    def init(key):
        params = {"w": jax.random.normal(key, (3,))}
        optimizer = optax.adam(1e-3).init(params)
        return {"params": params, "optimizer": optimizer, "target": jax.tree.map(jnp.copy, params)}

    assert adopt.drawn(init, jax.random.key(0)) == ["['target']['w']"]


@pytest.mark.parametrize("algorithm", [PPO(), DQN()])
def test_the_stock_algorithms_begin_from_given_parameters(algorithm):
    config = tiny(num_envs=4, algorithm=algorithm)
    trainer = Trainer(config)
    assert adopt.takes_params(trainer.algorithm(jax.eval_shape(trainer.new, jax.random.key(0))))
