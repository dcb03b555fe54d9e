"""A trained policy as a function: with a carry or without one, and what a call of another form is told."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Trainer, envs, load_policy
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.config import field
from jaxtrain.runs.launch import launch
from jaxtrain.types import ActOutput, Algorithm
from tests.helpers import Reinforce, seed, tiny, tiny_ppo

CELLS = ("gru", "lstm")
FORM = r"policy\(obs, carry, key=None\)"


@field.config
class Counting(Reinforce):
    """A recurrent policy whose carry is one array: it counts the steps of an episode, and acts by that."""

    name: str = field.text("counting")

    def make(self, spec):
        made = super().make(spec)

        def act(obs, carry, key):
            carry = carry + jnp.zeros(obs.shape[:-1], jnp.int32)
            return ActOutput((carry % 3 == 0).astype(jnp.int32), carry + 1, ())

        return made._replace(
            policy=lambda agent, clock: act,
            sample=lambda agent, clock: act,
            carry=jnp.int32(0),
            value=lambda agent, obs, carry: carry * 10.0 + 0 * obs[..., 0],
            update=lambda agent, runner, experience, clock, key: (
                agent,
                experience.collect(act, runner, key)[0],
                {},
            ),
        )


@field.config
class Blind(Reinforce):
    """It has no critic."""

    name: str = field.text("blind")

    def make(self, spec):
        return super().make(spec)._replace(value=None)


def algorithm_of(cell):
    if cell == "counting":
        return Counting()
    return tiny_ppo(network={"hidden_sizes": (4,), "recurrent": cell, "recurrent_size": 5}, num_minibatches=1)


QUIET = {"every": 0, "sinks": ["jsonlines"]}


PLACE = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, PLACE)


@cache
def trained(cell):
    """`(trainer, state)` of a recurrent policy after some updates; those of a GRU are a run in `PLACE`."""
    trainer = Trainer(tiny(4, algorithm=algorithm_of(cell), logging=QUIET))
    if cell == "gru":
        return trainer, launch(trainer.config, PLACE / cell).result.state
    return trainer, jax.jit(trainer.run, static_argnums=1)(trainer.init(jax.random.key(0)), 3)


@cache
def plain(algorithm=Reinforce):
    trainer = Trainer(tiny(algorithm=algorithm()))
    return trainer, trainer.init(jax.random.key(0))


@pytest.fixture(scope="module", params=["trainer", "load_policy"])
def recurrent(request):
    """A policy of a GRU, and the trainer and state that it is of."""
    trainer, state = trained("gru")
    if request.param == "trainer":
        return trainer.policy(state), trainer, state
    return load_policy(PLACE / "gru", "last", config=trainer.config), trainer, state


@pytest.fixture(scope="module", params=["trainer", "load_policy"])
def feedforward(request, tmp_path_factory):
    if request.param == "trainer":
        trainer, state = plain()
        return trainer.policy(state)
    config, place = tiny(3, logging=QUIET), tmp_path_factory.mktemp("plain") / "run"
    launch(config, place)
    return load_policy(place, "last", config=config)


OBS = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3, 1)

# ---- forms


def test_a_policy_without_a_carry_is_a_function_of_observations_and_a_key(feedforward):
    policy, key = feedforward, jax.random.key(1)
    assert not policy.recurrent and policy.initial_carry((2, 3)) == ()
    assert policy(OBS).shape == policy(OBS, key).shape == (2, 3)
    np.testing.assert_array_equal(policy(OBS, key), policy(OBS, key=key))
    np.testing.assert_array_equal(policy(OBS, key), policy(OBS, jax.random.PRNGKey(1)))
    np.testing.assert_array_equal(policy(OBS), policy(OBS, None))
    many = jnp.broadcast_to(OBS[0, 0], (500, 1))
    assert len(set(np.asarray(policy(many, key)).tolist())) == 2  # drawn
    assert len(set(np.asarray(policy(many)).tolist())) == 1


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_recurrent_policy_gives_its_next_carry_in_the_batch_of_the_observations(recurrent, batch):
    policy, _, _ = recurrent
    obs, carry = jnp.ones((*batch, 1)), policy.initial_carry(batch)
    action, after = policy(obs, carry)
    assert action.shape == batch
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert [x.shape for x in jax.tree.leaves(after)] == [x.shape for x in jax.tree.leaves(carry)]
    assert all(x.shape[: len(batch)] == batch for x in jax.tree.leaves(carry))
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (after, carry)), strict=True))
    drawn, _ = policy(obs, carry, jax.random.key(1))
    named, _ = policy(obs, carry=carry, key=jax.random.key(1))
    assert drawn.shape == batch
    np.testing.assert_array_equal(drawn, named)


def test_a_batch_may_be_said_by_its_size(recurrent):
    policy, _, _ = recurrent
    for x, y in zip(
        *map(jax.tree.leaves, (policy.initial_carry(3), policy.initial_carry((3,)))), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ((), "no carry"),
        ((None,), "no carry"),
        (((),), "no carry"),
        ((jax.random.key(0),), "key"),
        ((jax.random.PRNGKey(0),), "in its place"),
        ((None, jax.random.key(0)), "no carry"),
    ],
)
def test_a_recurrent_policy_without_its_carry_names_the_form_and_how_to_begin(recurrent, args, given):
    with pytest.raises(TypeError, match=rf"{FORM}.*initial_carry\(batch_shape\)") as error:
        recurrent[0](OBS, *args)
    assert given in str(error.value).lower()


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)])
def test_a_key_is_no_carry_where_that_is_one_array_either(key):
    trainer, state = trained("counting")
    with pytest.raises(TypeError, match=FORM):
        trainer.policy(state)(OBS[0, 0], key)


@pytest.mark.parametrize("cell", [*CELLS, "counting"])
def test_a_carry_of_another_batch_is_refused_where_it_would_only_be_broadcast(cell):
    trainer, state = trained(cell)
    policy = trainer.policy(state)
    for batch in ((), (3,), (1, 3)):
        words = re.escape(f"the carry is of a batch of shape {batch}, the observations are of (2, 3)")
        for use in (policy, policy.value):
            with pytest.raises(TypeError, match=words):
                use(OBS, policy.initial_carry(batch))
    for use in (policy, policy.value):
        with pytest.raises(TypeError, match=re.escape("a batch of shape (5,), the observations are of ()")):
            use(OBS[0, 0], policy.initial_carry(5))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("carry", [(), jnp.zeros(3), {"gru": jnp.zeros(3)}])
def test_a_carry_for_a_policy_without_one_names_the_form(feedforward, carry, named):
    message = r"this policy has no carry: it is called policy\(obs, key=None\)"
    for more in ({}, {"key": jax.random.key(0)}):
        with pytest.raises(TypeError, match=message):
            feedforward(OBS, carry=carry, **more) if named else feedforward(OBS, carry, *more.values())


# ---- acting


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("cell", [*CELLS, "counting"])
def test_step_by_step_with_the_carry_reset_it_acts_as_in_a_rollout(cell, greedy):
    trainer, state = trained(cell)
    collector, algorithm, key = trainer.collector(state), trainer.algorithm(state), jax.random.key(5)
    act = (algorithm.policy if greedy else algorithm.sample)(state.agent, state.clock)
    begun = collector.begin(state.runner, state.env_params, state.episodes)
    after, rollout = jax.jit(partial(collector, act))(begun, key)
    steps = jax.vmap(collector.step_keys)(jax.random.split(key, collector.length))
    policy = trainer.policy(state)
    carry, fresh = rollout.carry, policy.initial_carry(2)
    assert rollout.started.any()

    def reset(started, carry):
        def pick(x, y):
            return jnp.where(started.reshape(-1, *[1] * (x.ndim - 1)), x, y)

        return jax.tree.map(pick, fresh, carry)

    for t in range(collector.length):
        carry = reset(rollout.started[t], carry)
        action, carry = policy(rollout.obs[t], carry, None if greedy else steps.act[t])
        np.testing.assert_array_equal(action, rollout.action[t])
    over = rollout.terminated[-1] | rollout.truncated[-1]
    for x, y in zip(*map(jax.tree.leaves, (reset(over, carry), after.runner.carry)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "counting"])
def test_whole_episodes_by_hand_are_the_evaluation(cell):
    trainer, state = trained(cell)
    num, key = 10, jax.random.key(3)
    settings = trainer.config.evaluation.__class__(num_episodes=num, max_episode_steps=16)
    report = jax.jit(lambda s: trainer.evaluate(s, key, settings))(state)
    env, policy = trainer.env, trainer.policy(state)
    params = envs.batch(envs.params(env, {}), num)
    key_start, key_run = jax.random.split(key)
    reset_keys = jax.random.split(jax.random.split(key_start)[0], num)
    obs, world = jax.vmap(lambda k, p: env.reset(jax.random.split(k, 1)[0], p))(reset_keys, params)
    carry, alive, total = policy.initial_carry(num), np.ones(num, bool), np.zeros(num)
    step, act = jax.jit(jax.vmap(env.step)), jax.jit(lambda obs, carry: policy(obs, carry))
    for time in range(6):
        action, carry = act(obs, carry)
        keys = jax.random.split(jax.random.split(jax.random.fold_in(key_run, time), 5)[1], num)
        out = step(keys, world, action, params)
        obs, world = out.obs, out.state
        total += np.where(alive, out.reward, 0)
        alive &= ~np.asarray(out.terminated | out.truncated)
    assert not alive.any()
    np.testing.assert_allclose(report["return_mean"], total.mean(), rtol=1e-5)
    np.testing.assert_allclose(report["return_max"], total.max(), rtol=1e-5)


def test_a_policy_of_one_seed_of_many_is_that_seeds():
    trainer = Trainer(tiny(algorithm=algorithm_of("counting")))
    state = trainer.init(jax.random.split(jax.random.key(0), 3))
    policy = trainer.policy(seed(1, state))
    action, carry = policy(OBS, policy.initial_carry((2, 3)))
    assert action.shape == carry.shape == (2, 3)


# ---- value


@pytest.mark.parametrize("cell", [*CELLS, "counting"])
def test_the_value_is_of_an_observation_and_the_carry_before_it(cell):
    trainer, state = trained(cell)
    policy = trainer.policy(state)
    fresh = policy.initial_carry((2, 3))
    _, carry = policy(OBS, fresh)
    value = trainer.value(state, OBS, carry)
    assert value.shape == (2, 3)
    np.testing.assert_allclose(value, policy.value(OBS, carry))
    assert (np.asarray(value) != np.asarray(trainer.value(state, OBS, fresh))).any()
    one = jax.tree.map(lambda x: x[1, 2], carry)
    np.testing.assert_allclose(trainer.value(state, OBS[1, 2], one), value[1, 2], rtol=1e-5)


@pytest.mark.parametrize("carry", [(), None, jax.random.key(0)])
def test_a_recurrent_critic_without_its_carry_names_the_form(carry):
    trainer, state = trained("gru")
    with pytest.raises(TypeError, match=r"value\(obs, carry\)"):
        trainer.value(state, OBS, carry)


def test_an_algorithm_without_a_critic_says_so():
    trainer, state = plain(Blind)
    with pytest.raises(TypeError, match="algorithm has no critic"):
        trainer.value(state, OBS)
    assert trainer.policy(state)(OBS).shape == (2, 3)


def test_the_value_of_dqn_is_that_of_its_greedy_action():
    trainer, state = plain(partial(DQN, buffer_size=64, batch_size=8, learning_starts=8))
    value = trainer.value(state, OBS)
    assert value.shape == (2, 3) and np.isfinite(value).all()
    assert isinstance(trainer.algorithm(state), Algorithm)
