"""What a rollout holds, against environments whose every observation says where and when it was made."""

from __future__ import annotations

from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain import envs
from jaxtrain.events.event import OnReset, OnStep, Statistic
from jaxtrain.known import filled
from jaxtrain.loop.rollout import Collector, Episodes
from jaxtrain.tree import same_tree
from jaxtrain.types import ActOutput
from tests.helpers import Walk, WalkParams, differing
from tests.probes.envs import Counter, CounterParams

T, B = 40, 5


def policy(obs, carry, key):
    """Actions at random, and a carry that counts the steps of the episode."""
    before = carry
    carry = carry + 1 if isinstance(carry, jax.Array) else carry
    return ActOutput(jax.random.randint(key, obs.shape[:1], 0, 2), carry, {"seen": obs, "carry": before})


def collect(collector, params, rollouts=1, key=0):
    """`[(RolloutState, Rollout)]`, one after the other."""
    key_start, *keys = jax.random.split(jax.random.key(key), 1 + rollouts)
    runner, env_params = jax.jit(collector.start)(key_start, params)
    world, made = collector.begin(runner, env_params, Episodes.empty()), []
    roll = jax.jit(partial(collector, policy))
    for k in keys:
        world, rollout = roll(world, k)
        made.append(jax.tree.map(np.asarray, (world, rollout)))
    return made


@pytest.fixture(scope="module")
def counted():
    """Two rollouts of the counter, one after the other, with a carry; leaves [2 T, B]."""
    collector = Collector(Counter(), B, T, jnp.zeros(1))
    made = collect(collector, Counter().batched_params(B), rollouts=2)
    return made[-1][0], jax.tree.map(lambda *x: np.concatenate(x), *(rollout for _, rollout in made))


def test_time_is_the_first_axis_and_the_environment_the_second(counted):
    _, rollout = counted
    assert rollout.obs.shape == rollout.next_obs.shape == (2 * T, B, 3)
    assert (rollout.obs[..., 0] == np.arange(B)).all()
    assert (rollout.next_obs[..., 0] == np.arange(B)).all()


def test_every_step_of_an_episode_comes_in_its_order_across_rollouts_too(counted):
    _, rollout = counted
    length = np.arange(B) % 5 + 1
    times = np.arange(2 * T)[:, None] % length
    np.testing.assert_array_equal(rollout.obs[..., 1], times)
    np.testing.assert_array_equal(rollout.next_obs[..., 1], times + 1)
    np.testing.assert_array_equal(rollout.reward, times + 1)
    np.testing.assert_array_equal(rollout.terminated | rollout.truncated, times + 1 == length)


def test_next_obs_belongs_to_the_episode_that_ended_and_obs_to_the_one_that_began(counted):
    _, rollout = counted
    done = rollout.terminated | rollout.truncated
    np.testing.assert_array_equal(rollout.next_obs[..., 2], rollout.obs[..., 2])
    episode, following = rollout.obs[:-1, :, 2], rollout.obs[1:, :, 2]
    np.testing.assert_array_equal(following != episode, done[:-1])
    np.testing.assert_array_equal(rollout.obs[1:][~done[:-1]], rollout.next_obs[:-1][~done[:-1]])


def test_an_end_is_terminated_or_truncated_as_the_environment_said(counted):
    _, rollout = counted
    done, odd = rollout.terminated | rollout.truncated, rollout.obs[..., 2] % 2 == 1
    np.testing.assert_array_equal(rollout.truncated, done & odd)
    np.testing.assert_array_equal(rollout.terminated, done & ~odd)
    assert rollout.truncated.any() and rollout.terminated.any()


def test_the_policy_saw_the_observation_that_the_rollout_holds(counted):
    _, rollout = counted
    np.testing.assert_array_equal(rollout.extras["seen"], rollout.obs)


def test_the_carry_starts_anew_with_each_episode(counted):
    world, rollout = counted
    # After 80 steps, the steps of the episode under way.
    np.testing.assert_array_equal(world.runner.carry[:, 0], 2 * T % (np.arange(B) % 5 + 1))
    np.testing.assert_array_equal(world.runner.episode_length, world.runner.carry[:, 0])
    np.testing.assert_array_equal(rollout.extras["carry"][..., 0], rollout.obs[..., 1])


def test_a_rollout_says_where_a_carry_is_reset_and_what_it_was_at_the_start(counted):
    _, _rollout = counted
    (first, _), (_, second) = rollouts = collect(
        Collector(Counter(), B, T, jnp.zeros(1)), Counter().batched_params(B), rollouts=2
    )
    for _, made in rollouts:
        done = made.terminated | made.truncated
        np.testing.assert_array_equal(made.started[1:], done[:-1])
        assert not made.started[0].any()
        np.testing.assert_array_equal(made.carry, made.extras["carry"][0])
    np.testing.assert_array_equal(second.carry, first.runner.carry)


def test_a_restart_is_fresh_everywhere_and_groups_share_it():
    collector = Collector(Walk(), 6, T)
    params = envs.batch(envs.params(Walk(), {}), 6)
    begun = collector.begin(*collector.start(jax.random.key(0), params), Episodes.empty())
    state = collector.restart(collector(policy, begun, jax.random.key(1))[0], jax.random.key(2), 3)
    obs = np.asarray(state.runner.obs[:, 0])
    assert (state.runner.episode_length == 0).all()
    assert len(set(obs.tolist())) == 2
    np.testing.assert_array_equal(obs.reshape(2, 3), np.repeat(obs[::3, None], 3, axis=1))
    with pytest.raises(ValueError, match="group = 4: needs to divide num_envs = 6"):
        collector.restart(begun, jax.random.key(2), 4)


@pytest.mark.parametrize("what", ["observation", "reward", "extras"])
def test_what_is_not_finite_in_a_rollout_is_named(what):
    collector = Collector(Walk(), 3, 4, watch=True)
    params = envs.batch(envs.params(Walk(), {}), 3)
    if what == "reward":
        params = params._replace(scale=params.scale.at[1].set(jnp.inf))

    def spoilt(obs, carry, key):
        made = policy(obs, carry, key)
        return made._replace(extras=made.extras["seen"] / 0.0) if what == "extras" else made

    runner, params = collector.start(jax.random.key(0), params)
    if what == "observation":
        runner = runner.replace(obs=runner.obs.at[0].set(jnp.nan))
    state, _ = collector(spoilt, collector.begin(runner, params, Episodes.empty()), jax.random.key(1))
    # The policy here hands its observation on, so one that is not finite is in two places.
    found = {name for name, bad in state.faults.items() if bad}
    assert found == ({what, "extras"} if what == "observation" else {what})


def test_returns_and_lengths_are_those_of_the_last_hundred_episodes(counted):
    world, _ = counted
    ends = [(t, b % 5 + 1) for t in range(2 * T) for b in range(B) if (t + 1) % (b % 5 + 1) == 0]
    window = deque((length for _, length in ends), maxlen=100)
    metrics = filled(world.episodes.metrics())
    returns = [length * (length + 1) / 2 for length in window]
    assert int(metrics["rollout/episodes"]) == len(ends) > 100
    np.testing.assert_allclose(metrics["rollout/return_mean"], np.mean(returns), rtol=1e-6)
    np.testing.assert_allclose(metrics["rollout/return_std"], np.std(returns), rtol=1e-6)
    np.testing.assert_allclose(metrics["rollout/length_mean"], np.mean(window), rtol=1e-6)


# ---- the ring of episodes

add = jax.jit(Episodes.add)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**31), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_ring_is_a_deque_of_a_hundred_whatever_ends_when(rollouts):
    episodes, window, finished = Episodes.empty(), deque(maxlen=100), 0
    for seed, share in rollouts:  # 150 places: at times more end in one rollout than the ring holds
        rng = np.random.default_rng(seed)
        done, length = rng.random((30, 5)) < share, rng.integers(1, 1000, (30, 5)).astype(np.int32)
        episodes = add(episodes, done, np.float32(length) / 2, length)
        window.extend(length[done].tolist())  # in order of time
        finished += done.sum()
    held = np.concatenate([episodes.lengths[episodes.position :], episodes.lengths[: episodes.position]])
    held = held if finished >= 100 else episodes.lengths[:finished]
    assert held.tolist() == list(window)
    metrics = filled(episodes.metrics())
    assert int(metrics["rollout/episodes"]) == finished
    expected = [np.mean(window), np.mean(window) / 2, np.std(window) / 2] if window else [np.nan] * 3
    names = ("rollout/length_mean", "rollout/return_mean", "rollout/return_std")
    np.testing.assert_allclose([metrics[n] for n in names], expected, rtol=1e-5, atol=1e-5)


def test_the_count_of_finished_episodes_stays_at_its_largest():
    nearly = Episodes.empty().replace(finished=jnp.int32(2**31 - 3))
    done, zeros = jnp.ones((4, 1), bool), jnp.zeros((4, 1))
    full = add(nearly, done, zeros, zeros.astype(jnp.int32))
    assert int(full.finished) == 2**31 - 1
    assert int(add(full, done, zeros, zeros.astype(jnp.int32)).finished) == 2**31 - 1


# ---- statistics


def test_every_reduction_of_a_statistic_is_numpys():
    def distance(transition):
        return jnp.abs(transition.next_obs[0] - transition.obs[0]) * (1 + transition.action)

    names = ("mean", "sum", "max", "last", "episode")
    statistics = [Statistic(f"{r}_info", "moved", r) for r in names]
    statistics += [Statistic(f"{r}_function", distance, r) for r in names]
    collector = Collector(Walk(), B, T, statistics=tuple(statistics))
    (_, before), (world, rollout) = collect(collector, envs.batch(WalkParams(), B), rollouts=2)
    moved = rollout.next_obs[..., 0] - rollout.obs[..., 0]
    # Exact but for the rounding of position + moved - position.
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    earlier = before.next_obs[..., 0] - before.obs[..., 0]
    values = {"info": (earlier, moved)}
    values["function"] = (abs(earlier) * (1 + before.action), abs(moved) * (1 + rollout.action))
    ended = before.terminated | before.truncated, rollout.terminated | rollout.truncated
    for kind, (old, now) in values.items():
        got = {r: filled(world.statistics)[f"rollout/{r}_{kind}"] for r in names}
        check(got["mean"], now.mean())
        check(got["sum"], now.sum())
        check(got["max"], now.max())
        check(got["last"], now[-1].mean())
        sums, finished = np.zeros(B), []
        for t, (row, done) in enumerate(zip(np.concatenate([old, now]), np.concatenate(ended), strict=True)):
            sums = sums + row
            finished += sums[done].tolist() if t >= T else []  # those that ended in the second rollout
            sums = np.where(done, 0, sums)
        check(got["episode"], np.mean(finished))


def test_a_statistic_per_episode_is_unknown_where_none_ended():
    collector = Collector(Counter(), 2, 3, statistics=(Statistic("steps", lambda t: 1.0, "episode"),))
    (first, _), (second, _) = collect(collector, envs.batch(CounterParams(0, 4), 2), rollouts=2)
    assert not first.statistics["rollout/steps"].known
    assert filled(second.statistics)["rollout/steps"] == 4


def test_a_statistic_of_no_entry_names_those_there_are():
    collector = Collector(Walk(), 2, 3, statistics=(Statistic("speed", "sped"),))
    with pytest.raises(ValueError, match="statistic 'speed': info has no 'sped'; it has moved"):
        collect(collector, envs.batch(WalkParams(), 2))


# ---- hooks


def test_on_reset_draws_once_for_each_episode_and_environment():
    def relabel(key, params):  # the number of the environment, which every observation shows
        return params._replace(env=jax.random.randint(key, (), 0, 2**20))

    params = CounterParams(jnp.zeros(B, jnp.int32), jnp.arange(B, dtype=jnp.int32) % 5 + 1)
    world, rollout = collect(Collector(Counter(), B, T, on_reset=(OnReset("label", relabel),)), params)[0]
    label, episode = rollout.obs[..., 0], rollout.obs[..., 2]
    np.testing.assert_array_equal(rollout.next_obs[..., 0], label)
    drawn = {}
    for e, n in zip(episode.flat, label.flat, strict=True):
        assert drawn.setdefault(e, n) == n  # the same through an episode
    assert len(set(drawn.values())) == len(drawn) > 50  # another in every episode and environment
    np.testing.assert_array_equal(world.env_params.length, params.length)


def test_a_hook_that_changes_nothing_changes_no_bit():
    params = envs.batch(WalkParams(), B)
    plain = collect(Collector(Walk(), B, T), params)[0]
    hooked = collect(
        Collector(Walk(), B, T, on_reset=(OnReset("same", lambda key, params: params),)), params
    )[0]
    assert differing(plain[1], hooked[1]) == []


def test_on_step_acts_at_intervals_of_its_range_and_counts_anew_in_each_episode():
    def mark(key, state, params):  # the episode's number, negative from the first push on
        return state._replace(episode=-jax.random.randint(key, (), 1, 2**20))

    length, low, high = 12, 3, 5
    hook = OnStep("push", mark, (low, high))
    collector = Collector(Counter(), B, 10 * length, on_step=(hook,))
    _, rollout = collect(collector, envs.batch(CounterParams(0, length), B))[0]
    pushed = rollout.next_obs[..., 2] != rollout.obs[..., 2]
    gaps = set()
    for b in range(B):
        for start in range(0, 10 * length, length):
            steps = np.flatnonzero(pushed[start : start + length, b]) + 1
            gaps.update(np.diff(steps, prepend=0).tolist())  # the first counts from the episode's start
            assert length - steps[-1] < high
    assert gaps == {3, 4, 5}
    first = pushed.reshape(10, length, B).argmax(1)
    assert all(len(set(row)) > 1 for row in first.T.tolist())  # not the same in every episode


def test_a_push_lies_between_the_observation_and_the_step():
    def forward(key, state, params):
        return state._replace(time=state.time + 1)

    collector = Collector(Counter(), 1, 6, on_step=(OnStep("skip", forward, (2, 2)),))
    _, rollout = collect(collector, envs.batch(CounterParams(0, 100), 1))[0]
    assert rollout.obs[:, 0, 1].tolist() == [0, 1, 3, 4, 6, 7]
    assert rollout.next_obs[:, 0, 1].tolist() == [1, 3, 4, 6, 7, 9]


def test_an_interval_below_one_step_is_refused():
    with pytest.raises(ValueError, match=r"OnStep 'push': every = \(0, 2\): needs 1 <= low <= high"):
        OnStep("push", lambda *_: None, (0, 2))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda key, p: p._replace(env=jnp.float32(0)),
            r"OnReset 'bad': \.env was int32\[\], is float32\[\]",
        ),
        (lambda key, p: p._replace(length=jnp.zeros(2, jnp.int32)), r"\.length was int32\[\], is int32\[2\]"),
        (lambda key, p: {"env": 1}, "OnReset 'bad' is another tree than before"),
    ],
)
def test_a_hook_that_returns_something_else_is_named(run, words):
    collector = Collector(Counter(), 2, 3, on_reset=(OnReset("bad", run),))
    with pytest.raises(TypeError, match=words):
        collect(collector, envs.batch(CounterParams(jnp.int32(0), jnp.int32(3)), 2))


def test_python_numbers_in_a_tree_take_the_dtype_they_replace():
    old = {"a": jnp.float32(1), "b": jnp.int32(2)}
    new = same_tree("hook", old, {"a": 3.0, "b": 4})
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, old)
