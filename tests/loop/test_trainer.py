"""The pieces for people who drive the loop themselves: pure, exact however they are cut, differentiable."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtrain import ConfigError, EvaluationConfig, Event, OnReset, OnStep, every, finish, train
from jaxtrain.loop.state import shared_clock
from jaxtrain.loop.trainer import Trainer
from tests.helpers import Reinforce, Walk, differing, keys, tiny, tiny_ppo
from tests.probes.envs import Counter

PER = tiny().env_steps_per_update


def shake(trainer, state, key):
    """An event that changes the state at random."""
    moved = state.agent["policy"] + 0.1 * jax.random.normal(key, state.agent["policy"].shape)
    return state.replace(agent=state.agent | {"policy": moved}), {"weights": moved}


EVENTS = (Event("shake", every(5 * PER), shake),)
CONFIG = tiny(evaluation={"every": 5 * PER, "num_episodes": 3})


@pytest.fixture(scope="module", params=[1, 3], ids=["a seed", "seeds"])
def whole(request):
    """`(trainer, run, key, first, last)`: a run of 12 updates in one piece."""
    trainer = Trainer(CONFIG, EVENTS)
    key = jax.random.key(0) if request.param == 1 else keys(request.param)
    run = jax.jit(trainer.run, static_argnums=1)
    first = jax.jit(trainer.init)(key)
    return trainer, run, key, first, run(first, 12)


def test_a_run_cut_anywhere_ends_in_the_same_bits(whole):
    _, run, _, first, last = whole
    state = first
    for _ in range(3):
        state = run(state, 4)
    assert differing(state, last) == []


def test_a_run_is_what_train_does(whole):
    _, _, key, _, last = whole
    one = lambda key: train(CONFIG, key, events=EVENTS).state  # noqa: E731
    trained = jax.vmap(one)(key) if key.ndim else one(key)
    assert differing(trained.replace(clock=last.clock), last) == []
    assert (trained.clock == 12).all()


def test_a_state_that_came_out_of_vmap_goes_on_as_it_is():
    trainer = Trainer(CONFIG, EVENTS)
    first = trainer.new(keys(3))
    copies = first.replace(clock=jnp.full(3, 4, jnp.int32))  # what vmap makes of the one clock
    assert differing(shared_clock(copies), first.replace(clock=jnp.int32(4))) == []
    for go in (trainer.update, partial(trainer.run, num_updates=4)):
        assert jax.eval_shape(go, copies) == jax.eval_shape(go, first)


def test_an_evaluation_by_hand_is_the_one_that_was_logged(whole):
    trainer, _, _, _, last = whole
    report = jax.jit(trainer.evaluate)(last)
    for name, value in report.items():
        np.testing.assert_array_equal(value, last.metrics[f"evaluation/{name}"])
    assert (np.asarray(report["episodes"]) == 3).all()


# ---- update


def test_an_update_is_differentiable_with_respect_to_a_rate():
    def weights(learning_rate):
        """A smooth function of what two updates make of the critic; the draws stay the same."""
        # No bootstrapped target: the update stops the gradient there.
        trainer = Trainer(tiny(algorithm=Reinforce(learning_rate=learning_rate, gamma=0.0)))
        state = trainer.new(jax.random.key(0))
        state, _ = lax.scan(lambda state, _: (trainer.update(state), None), state, length=2)
        return jnp.sin(state.agent["value"]).sum()

    with jax.enable_x64(True):
        rate, step = jnp.float64(0.05), 1e-5
        slope = np.asarray(jax.jit(jax.grad(weights))(rate))
        ends = np.asarray(jax.jit(jax.vmap(weights))(jnp.array([rate - step, rate + step])))
    assert slope != 0
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-6)


def test_an_update_of_ppo_is_differentiable_with_respect_to_a_rate():
    def parameters(learning_rate):
        trainer = Trainer(tiny(algorithm=tiny_ppo(learning_rate=learning_rate, num_minibatches=1)))
        return trainer.update(trainer.new(jax.random.key(0))).agent.params

    tangents = jax.tree.leaves(jax.jit(jax.jacrev(parameters))(0.01))
    assert all(np.isfinite(x).all() for x in tangents)
    assert sum(float(jnp.abs(x).sum()) for x in tangents) > 1


def test_updates_alone_are_the_run_without_its_events():
    trainer = Trainer(tiny())
    first = jax.jit(trainer.new)(jax.random.key(0))
    scanned = jax.jit(lambda s: lax.scan(lambda s, _: (trainer.update(s), None), s, length=4)[0])(first)
    assert differing(scanned, jax.jit(trainer.run, static_argnums=1)(first, 4)) == []
    assert int(scanned.clock) == 4


def test_no_key_is_used_twice():
    hooks = [OnReset("same", lambda key, params: params._replace(end=0.1 + 0.1 * jax.random.uniform(key)))]
    hooks += [OnStep("jump", lambda key, s, p: s._replace(position=jax.random.normal(key)), (1, 3))]
    trainer = Trainer(tiny(evaluation={"every": PER, "num_episodes": 2, "events": hooks}), [*hooks, *EVENTS])
    with jax.debug_key_reuse(True):
        state = jax.jit(trainer.new)(jax.random.key(0))
        state = jax.jit(trainer.update)(state)
        for event in trainer.events:
            jax.jit(lambda s, e=event: trainer._report(e, s))(state)


# ---- evaluation


def test_greedy_is_the_most_probable_action_and_otherwise_one_is_drawn():
    """In the counter every reward is the time, so the policy shows in the observed actions alone."""
    trainer = Trainer(tiny(env=Walk(), num_envs=2))
    state = trainer.new(jax.random.key(0))
    report = {
        greedy: [
            jax.jit(
                lambda s, k, g=greedy: trainer.evaluate(s, k, EvaluationConfig(greedy=g, num_episodes=64))
            )(state, k)
            for k in keys(2)
        ]
        for greedy in (True, False)
    }
    obs = jnp.linspace(-1, 1, 256)[:, None]
    act = trainer.policy(state)
    np.testing.assert_array_equal(act(obs), (obs @ state.agent["policy"]).argmax(-1))
    drawn = act(jnp.broadcast_to(obs[:1], (4000, 1)), keys(1)[0])
    expected = jax.nn.softmax(obs[0] @ state.agent["policy"])[1]
    assert abs(drawn.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)
    assert all(a["return_mean"] != b["return_mean"] for a, b in zip(report[True], report[False], strict=True))
    assert report[True][0]["return_mean"] != report[True][1]["return_mean"]


def test_hooks_of_training_are_none_of_evaluations_and_the_other_way_round():
    def longer(key, params):
        return params._replace(length=params.length + 2)

    hook = OnReset("longer", longer)
    lengths = {}
    for name, inside, outside in (("none", [], []), ("training", [], [hook]), ("evaluation", [hook], [])):
        trainer = Trainer(tiny(env=Counter(), evaluation={"events": inside, "num_episodes": 2}), outside)
        state = trainer.new(jax.random.key(0))
        lengths[name] = float(trainer.evaluate(state)["length_mean"]), state.env_params.length.tolist()
    assert lengths == {"none": (3, [3, 3]), "training": (3, [5, 5]), "evaluation": (5, [3, 3])}


def test_evaluation_may_have_an_environment_of_its_own():
    own = EvaluationConfig(env={"id": Walk(), "params": {"end": 1.0}}, num_episodes=4)
    trainer = Trainer(tiny())
    assert trainer.evaluate(trainer.new(jax.random.key(0)), settings=own)["length_mean"] == 1


def test_an_event_of_the_loop_among_the_hooks_of_evaluation_is_refused():
    with pytest.raises(ConfigError, match="'late': only events on: reset and on: step act in evaluation"):
        EvaluationConfig(events=[Event("late", finish(), shake)])


# ---- policy and value


@pytest.mark.parametrize("algorithm", [Reinforce(), tiny_ppo()], ids=["reinforce", "ppo"])
def test_policy_and_value_take_any_leading_axes(algorithm):
    trainer = Trainer(tiny(algorithm=algorithm))
    state = trainer.new(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (2, 3, 1))
    value, action = trainer.value(state, obs), trainer.policy(state)(obs)
    assert value.shape == action.shape == (2, 3)
    np.testing.assert_allclose(trainer.value(state, obs[1, 2]), value[1, 2], rtol=1e-6)
    np.testing.assert_array_equal(trainer.policy(state)(obs[1, 2]), action[1, 2])
    assert trainer.policy(state)(obs, jax.random.key(2)).shape == (2, 3)


# ---- keys


def test_an_old_key_is_the_typed_one():
    trainer = Trainer(tiny())
    assert differing(trainer.init(jax.random.PRNGKey(3)), trainer.init(jax.random.key(3))) == []
    old = jnp.stack([jax.random.PRNGKey(0), jax.random.PRNGKey(1)])
    assert trainer.init(old).key.shape == (2,)


@pytest.mark.parametrize(
    "key", [0, None, "0", np.uint32(0), jnp.zeros(3, jnp.uint32), jnp.zeros(2), np.int64([0, 1])]
)
def test_what_is_no_key_is_refused(key):
    for use in (Trainer(tiny()).init, lambda key: train(tiny(), key)):
        with pytest.raises(ValueError, match=r"needs jax.random.key\(seed\) or jax.random.PRNGKey\(seed\)"):
            use(key)


def test_too_many_keys_are_refused_with_the_way_to_use_them():
    with pytest.raises(ValueError, match=r"key has shape \[2, 3\]: needs one key, or keys \[S\]"):
        Trainer(tiny()).init(keys(6).reshape(2, 3))
    with pytest.raises(ValueError, match=r"key has shape \[3\]: use jax.vmap\(train"):
        train(tiny(), keys(3))


def test_a_run_takes_a_number_of_updates_of_any_kind_of_int():
    trainer = Trainer(tiny())
    state = trainer.init(jax.random.key(0))
    assert differing(trainer.run(state, np.int64(2)), trainer.run(state, 2)) == []
    with pytest.raises(TypeError):
        trainer.run(state, 2.0)
