"""DQN: problems whose answer is known, a gradient step against NumPy, and what its program is made of."""

from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain import Trainer, train, tree
from jaxtrain.algorithms.dqn import DQN, LEARNED
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.types import Box, Discrete, EnvSpec, Experience, MultiDiscrete, Rollout
from tests.helpers import equations
from tests.probes import envs as probes
from tests.recorded import config_of

GAMMA, NUM_ENVS = 0.9, 16


def dqn(**changes):
    small = {"rollout_length": 4, "buffer_size": 4096, "batch_size": 64, "learning_starts": 64}
    small |= {"target_update_interval": 5 * 64, "exploration_steps": 100 * 64, "gradient_steps": 4}
    return DQN(**{**small, "gamma": GAMMA, "network": {"hidden_sizes": (16,)}, **changes})


def learn(env, *, updates=300, **changes):
    small = dqn(**changes)
    steps = optax.adam(optax.cosine_decay_schedule(1e-2, updates * small.gradient_steps))
    config = config_of(env, replace(small, optimizer=steps), NUM_ENVS, updates)
    return Trainer(config), train(config, jax.random.key(0)).state


ONE, THREE = {"loss": "huber"}, {"n_step": 3, "dueling": True, "double": False}


@pytest.mark.parametrize(
    ("probe", "tolerance", "changes"),
    [
        (probes.OneStep, 0.01, ONE),
        pytest.param(probes.ObsIsReward, 0.02, THREE, marks=pytest.mark.slow),
        pytest.param(probes.TwoSteps, 0.02, ONE, marks=pytest.mark.slow),
        (probes.TwoSteps, 0.02, THREE),
        (probes.Cycle, 0.016, ONE),  # 1 % of the smallest value
        pytest.param(probes.Cycle, 0.016, THREE, marks=pytest.mark.slow),
        pytest.param(
            probes.CycleTimed, 0.0065, ONE, marks=pytest.mark.slow
        ),  # 1 % of the smallest that is not 0
        (probes.CycleTimed, 0.0065, THREE),
        (probes.CycleBoth, 0.0065, THREE),
    ],
)
def test_the_values_are_the_true_ones(probe, tolerance, changes):
    trainer, state = learn(probe(), **changes)
    value = trainer.value(state, probe().observations())
    np.testing.assert_allclose(value, probe().values(GAMMA), rtol=0, atol=tolerance)


@pytest.mark.parametrize("probe", [probes.TwoActions, probes.ActionByObservation])
def test_the_greedy_policy_is_the_best(probe):
    trainer, state = learn(probe())
    np.testing.assert_array_equal(trainer.policy(state)(probe().observations()), probe().best())


# One update of a rollout that is given, without a loop. --------------------------------------------------


def spec_of(obs, actions=None, num_envs=1):
    """`obs` is one observation, NumPy."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), obs)
    plain = obs["observation"] if isinstance(obs, dict) else obs
    return EnvSpec(Box(-np.inf, np.inf, plain.shape), actions or Discrete(3), shapes, num_envs, 100)


def random_rollout(rng, masked=False, length=1, num_envs=1, size=4, actions=3):
    """Float32 NumPy; no action that is taken or asked for is invalid everywhere."""
    batch = (length, num_envs)

    def observe():
        obs = rng.normal(size=(*batch, size)).astype(np.float32)
        mask = rng.random((*batch, actions)) < 0.5
        mask[..., 1] = True
        return {"observation": obs, "action_mask": mask} if masked else obs

    terminated, truncated = rng.random((2, *batch)) < 0.3
    return Rollout(
        obs=observe(),
        action=np.ones(batch, np.int32),
        reward=rng.normal(size=batch).astype(np.float32) * 2,
        terminated=terminated,
        truncated=truncated,
        next_obs=observe(),
        started=np.zeros(batch, bool),
        extras=(),
    )


def given_as(rollout, running=True):
    return Experience(lambda policy, runner, key: (runner, rollout), None, jnp.asarray(running))


@cache
def linear(double, loss, masked):
    """A linear network that learns by one plain gradient step from the one transition that it has."""
    algorithm = DQN(
        rollout_length=1,
        buffer_size=1,
        batch_size=1,
        learning_starts=0,
        gradient_steps=1,
        target_update_interval=1000,
        gamma=GAMMA,
        double=double,
        loss=loss,
        q_network=nn.Dense(3),
        optimizer=optax.sgd(1.0),
    )
    obs = jax.tree.map(lambda x: x[0, 0], random_rollout(np.random.default_rng(0), masked).obs)
    made = algorithm.make(spec_of(obs))
    return made, jax.jit(lambda agent, rollout: made.update(agent, (), given_as(rollout), jnp.int32(3), KEY))


KEY = jax.random.key(0)


def slow_step(params, target_params, rollout, double, loss):
    """`(gradient of the loss in the action's value, value, target)` of one transition, in float64."""
    obs, next_obs = (x["observation"] if isinstance(x, dict) else x for x in (rollout.obs, rollout.next_obs))
    mask = rollout.next_obs["action_mask"][0, 0] if isinstance(rollout.next_obs, dict) else np.ones(3, bool)

    def q(params, obs):
        return obs[0, 0].astype(np.float64) @ params["kernel"] + params["bias"]

    choice = q(params if double else target_params, next_obs)
    best = max((i for i in range(3) if mask[i]), key=lambda i: choice[i])
    target = float(rollout.reward[0, 0])
    if not rollout.terminated[0, 0]:
        target += GAMMA * q(target_params, next_obs)[best]
    value = q(params, obs)[1]
    error = value - target
    return (np.clip(error, -1, 1) if loss == "huber" else error), value, target


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.booleans(), st.booleans(), st.sampled_from(["huber", "squared"]))
def test_a_gradient_step_is_that_of_a_loop_in_numpy(seed, masked, double, loss):
    rng = np.random.default_rng(seed)
    made, update = linear(double, loss, masked)
    rollout = random_rollout(rng, masked)
    params, target_params = (
        {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)} for _ in range(2)
    )
    agent = jax.jit(made.init)(KEY)
    params32, target32 = (jax.tree.map(np.float32, x) for x in (params, target_params))
    agent = agent.replace(params=params32, target_params=target32)
    new, _, metrics = update(agent, rollout)
    slope, value, target = slow_step(params, target_params, rollout, double, loss)
    obs = rollout.obs["observation"] if masked else rollout.obs
    expected = jax.tree.map(np.copy, params)
    expected["kernel"][:, 1] -= slope * obs[0, 0]
    expected["bias"][1] -= slope
    for name, x in expected.items():
        np.testing.assert_allclose(new.params[name], x, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, new.target_params, agent.target_params)
    assert metrics["q_mean"].value == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert metrics["td_error"].value == pytest.approx(abs(value - target), rel=1e-4, abs=1e-4)


def updates(algorithm, num_updates, *, dropped=(), num_envs=2, seed=0):
    """Agents before the first and after each update, and metrics; those dropped bring NaN."""
    rng, agents, rows = np.random.default_rng(seed), [], []
    length = algorithm.rollout_length
    made = algorithm.make(spec_of(np.zeros(4, np.float32), num_envs=num_envs))

    @jax.jit
    def turn(agent, rollout, clock, key, kept):
        new, _, metrics = made.update(agent, (), given_as(rollout), clock, key)
        return tree.where(kept, new, agent), metrics

    first = jax.jit(made.init)(KEY)
    # Targets of their own, as a run that begins from another has them.
    agents.append(first.replace(target_params=jax.tree.map(lambda x: x + 1, first.target_params)))
    for clock in range(num_updates):
        rollout = random_rollout(rng, length=length, num_envs=num_envs)
        kept = clock not in dropped
        if not kept:
            rollout = rollout._replace(reward=rollout.reward * np.nan, next_obs=rollout.next_obs * np.nan)
        key = jax.random.fold_in(KEY, clock)
        agent, metrics = turn(agents[-1], rollout, jnp.int32(clock), key, kept)
        agents.append(agent)
        rows.append(metrics)
    return agents, rows


def same(x, y):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, x, y)))


def test_nothing_moves_before_learning_starts_and_then_the_target_is_copied_when_its_interval_is_over():
    per, starts, every = 4, 5, 3
    algorithm = dqn(
        rollout_length=2,
        batch_size=8,
        learning_starts=starts * per,
        target_update_interval=every * per,
        exploration_steps=10 * per,
        exploration_final=0.2,
    )
    agents, metrics = updates(algorithm, 14)
    for clock in range(14):
        before, after, row = agents[clock], agents[clock + 1], metrics[clock]
        assert same(before.params, after.params) == (clock < starts)
        known = [row[name].known for name in LEARNED]
        assert known == [clock >= starts] * len(LEARNED)
        copied = clock >= starts and (clock + 1) % every == 0
        expected = after.params if copied else before.target_params
        assert same(after.target_params, expected)
        assert row["epsilon"] == pytest.approx(max(1 - 0.08 * clock, 0.2))
        assert row["learning_rate"] == pytest.approx(algorithm.learning_rate)
        assert (np.asarray(after.replay.written) == clock).sum() == 1
    assert not same(agents[-1].target_params, agents[0].target_params)


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_what_an_update_that_is_dropped_brought_is_never_learned_from(loss):
    algorithm = dqn(rollout_length=2, batch_size=8, learning_starts=8, buffer_size=12, n_step=3, loss=loss)
    agents, _ = updates(replace(algorithm, target_update_interval=None), 12, dropped=(4, 6, 7, 8, 9))
    for agent in agents:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((agent.params, agent.opt_state)))
    assert np.isnan(agents[10].replay.rows.value.reward).any()  # it lies there all the same


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_an_action_is_random_with_probability_epsilon_and_never_invalid(epsilon):
    num, actions = 4000, 5
    rng = np.random.default_rng(0)
    obs = {"observation": np.zeros((num, 4), np.float32), "action_mask": np.ones((num, actions), bool)}
    obs["action_mask"][: num // 2] = rng.random((num // 2, actions)) < 0.4
    obs["action_mask"][: num // 2, 3] = True
    algorithm = dqn(exploration_initial=epsilon, exploration_final=epsilon, dueling=True)
    one = jax.tree.map(lambda x: x[0], obs)
    made = algorithm.make(spec_of(one, Discrete(actions)))
    agent = jax.jit(made.init)(KEY)
    draw = jax.jit(lambda key: made.sample(agent, jnp.int32(0))(obs, (), key).action)
    greedy = np.asarray(jax.jit(made.policy(agent, jnp.int32(0)))(obs, (), KEY).action)
    action = np.asarray(draw(KEY))
    for chosen in (greedy, action):
        assert chosen.dtype == np.int32
        assert obs["action_mask"][np.arange(num), chosen].all()
    free = slice(num // 2, None)  # all the same observation, with every action valid
    assert len(set(greedy[free])) == 1
    share = (action[free] != greedy[free]).mean()
    expected = epsilon * (1 - 1 / actions)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / (num // 2)) if epsilon else 0)
    if epsilon == 1.0:
        counts = np.bincount(action[free], minlength=actions)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 20
    value = made.value(agent, obs, ())
    alone = made.value(agent, jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), obs), ())
    np.testing.assert_allclose(value.reshape(2, -1), alone, rtol=1e-6)


def test_dueling_values_do_not_change_with_a_constant_in_all_advantages():
    made = dqn(dueling=True).make(spec_of(np.zeros(4, np.float32)))
    agent, obs = jax.jit(made.init)(KEY), jax.random.normal(KEY, (7, 4))
    head = {**agent.params["head"], "bias": agent.params["head"]["bias"] + 3.0}
    shifted = agent.replace(params={**agent.params, "head": head})
    np.testing.assert_allclose(made.value(agent, obs, ()), made.value(shifted, obs, ()), atol=1e-5)


def test_images_and_modules_of_ones_own_are_taken():
    image = np.zeros((6, 6, 2), np.float32)
    agent = jax.eval_shape(dqn().make(spec_of(image)).init, KEY)
    assert agent.params["torso"]["Dense_0"]["kernel"].shape == (9 * 2, 16)  # patches of 3 × 3
    given_module = dqn(q_network=nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)]))
    made = given_module.make(spec_of(image))
    agent = jax.jit(made.init)(KEY)
    assert made.value(agent, jnp.zeros((5, 2, 6, 6, 2)), ()).shape == (5, 2)
    with pytest.raises(ValueError, match=r"q_network: gave shape \(1, 4\) .* needs \(3,\)"):
        jax.eval_shape(dqn(q_network=nn.Dense(4)).make(spec_of(np.zeros(4, np.float32))).init, KEY)
    masked = {"observation": np.zeros(4, np.float32), "action_mask": np.ones(2, bool)}
    with pytest.raises(ValueError, match=r"action_mask: has shape \(2,\), needs \(3,\)"):
        jax.eval_shape(dqn().make(spec_of(masked)).init, KEY)


# In the loop. --------------------------------------------------------------------------------------------


def conditions(jaxpr):
    """`(number of arrays that come out, whether a branch has a loop)` of each condition on an i32[]."""
    for eqn, _ in equations(jaxpr):
        if eqn.primitive.name == "cond" and eqn.invars[0].aval.shape == ():
            inside = [e.primitive.name for b in eqn.params["branches"] for e, _ in equations(b.jaxpr)]
            yield len(eqn.outvars), "scan" in inside


def test_warm_up_and_target_copy_are_conditions_that_no_seed_axis_reaches():
    trainer = Trainer(config_of(probes.TwoActions(), dqn(), NUM_ENVS, 10))
    keys = jax.random.split(KEY, 4)
    state = jax.eval_shape(trainer.init, keys)
    found = list(conditions(jax.make_jaxpr(trainer.update)(state).jaxpr))
    num_params, num_opt = (len(jax.tree.leaves(x)) for x in (state.agent.params, state.agent.opt_state))
    assert found == [(2 * num_params + num_opt + 1, True), (num_params, False)]  # the second is in the first


# What is refused. ----------------------------------------------------------------------------------------


SIZES = "64 env steps (16 environments x 4 steps)"


def faults(changes, space=None):
    """Value and rule of each problem by its path; an update is 64 env steps."""
    spec = spec_of(np.zeros(4, np.float32), space, NUM_ENVS)
    return {p.path: (p.value, p.rule) for p in DQN(**{"rollout_length": 4, **changes}).check(spec)}


@pytest.mark.parametrize("sizes", [(1, 1), (7, 3), (64, 4), (4096, 128)])
def test_what_is_unset_fits_any_size(sizes):
    num_envs, length = sizes
    spec = spec_of(np.zeros(4, np.float32), num_envs=num_envs)
    assert DQN(rollout_length=length).check(spec) == []
    assert DQN(rollout_length=length, batch_size=2000).check(spec) == []


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("learning_starts", 100, f"a whole number of updates of {SIZES}; the nearest: 64 and 128"),
        ("learning_starts", 10, "the nearest: 0 and 64"),
        ("target_update_interval", 1000, "the nearest: 960 and 1024"),
        ("target_update_interval", 10, "the nearest: 64"),
        ("exploration_steps", 130, "the nearest: 128 and 192"),
        ("buffer_size", 63, f"room for one update of {SIZES}; the nearest is 64"),
    ],
)
def test_what_does_not_fit_an_update_is_named_with_what_would(name, value, rule):
    (found,) = faults({name: value}).items()
    assert found[0] == name
    assert found[1][0] == value
    assert rule in found[1][1]


def test_more_samples_than_there_are_when_learning_starts_are_refused():
    for changes, rows in (({"learning_starts": 64}, 128), ({"buffer_size": 200}, 192)):
        assert not faults({**changes, "batch_size": rows})
        found = faults({**changes, "batch_size": rows + 1})
        assert list(found) == ["batch_size"]
        assert f"at most the {rows} transitions" in found["batch_size"][1]


@pytest.mark.parametrize("space", [Box(-1.0, 1.0, (2,)), MultiDiscrete((2, 3))])
def test_actions_other_than_one_integer_are_refused_by_name(space):
    found = faults({}, space)
    assert list(found) == ["name"]
    assert type(space).__name__ in found["name"][1]


def test_fields_that_would_do_nothing_are_refused():
    unused = {"shared": True, "log_std_init": 1.0, "recurrent": "gru"}
    assert set(faults({"network": NetworkConfig(**unused)})) == {f"network.{name}" for name in unused}
    assert set(faults({"q_network": nn.Dense(2), "dueling": True})) == {"dueling"}
