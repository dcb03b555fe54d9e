"""Returns against NumPy loops in float64, on random rollouts with random ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxtrain.rl.returns import (
    discounted_returns,
    gae,
    lambda_returns,
    linear_recurrence,
    n_step_returns,
    vtrace,
)

METHODS = ["scan", "associative"]
GAMMA, LAMBDA = 0.97, 0.9
CASES = [(0, 1), (0, 2), (0, 37), (1, 37)]


def rollout(seed, steps, envs=5):
    """Float64 arrays; both flags are set at once in places."""
    rng = np.random.default_rng(seed)
    reward, value, next_value, log_ratio = rng.normal(size=(4, steps, envs))
    terminated, truncated = rng.random((2, steps, envs)) < 0.2
    following = ~(terminated | truncated)[:-1]
    next_value[:-1] = np.where(following, value[1:], next_value[:-1])
    return reward, value, next_value, terminated, truncated, log_ratio


def close(ours, oracle):
    np.testing.assert_allclose(np.asarray(ours), oracle, rtol=1e-5, atol=1e-5)


def as_f32(arrays):
    return [jnp.asarray(a, bool if a.dtype == bool else jnp.float32) for a in arrays]


def slow_lambda_returns(reward, next_value, terminated, truncated, gamma, lambda_):
    returns = np.zeros_like(reward)
    steps, envs = reward.shape
    for b in range(envs):
        for t in reversed(range(steps)):
            if terminated[t, b]:
                tail = 0.0
            elif truncated[t, b] or t == steps - 1:
                tail = next_value[t, b]
            else:
                tail = (1 - lambda_) * next_value[t, b] + lambda_ * returns[t + 1, b]
            returns[t, b] = reward[t, b] + gamma * tail
    return returns


def slow_n_step_returns(reward, next_value, terminated, truncated, gamma, n):
    returns = np.zeros_like(reward)
    steps, envs = reward.shape
    for b in range(envs):
        for t in range(steps):
            for k in range(t, min(t + n, steps)):
                returns[t, b] += gamma ** (k - t) * reward[k, b]
                if terminated[k, b]:
                    break
                if truncated[k, b] or k == min(t + n, steps) - 1:
                    returns[t, b] += gamma ** (k - t + 1) * next_value[k, b]
                    break
    return returns


def slow_vtrace(reward, value, next_value, terminated, truncated, log_ratio, gamma, lambda_, rho, c, pg):
    steps, envs = reward.shape
    target, advantage = np.zeros_like(reward), np.zeros_like(reward)
    for b in range(envs):
        for t in reversed(range(steps)):
            ratio = np.exp(log_ratio[t, b])
            if terminated[t, b]:
                bootstrap = following = surprise = 0.0
            else:
                bootstrap = following = next_value[t, b]
                surprise = 0.0
                if not truncated[t, b] and t < steps - 1:
                    surprise = target[t + 1, b] - value[t + 1, b]
                    following = lambda_ * target[t + 1, b] + (1 - lambda_) * next_value[t, b]
            delta = min(rho, ratio) * (reward[t, b] + gamma * bootstrap - value[t, b])
            target[t, b] = value[t, b] + delta + gamma * lambda_ * min(c, ratio) * surprise
            advantage[t, b] = min(pg, ratio) * (reward[t, b] + gamma * following - value[t, b])
    return target, advantage


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("seed", "steps"), CASES)
def test_gae_is_the_lambda_return_minus_the_value(seed, steps, method):
    *data, _ = rollout(seed, steps)
    reward, value, *rest = data
    oracle = slow_lambda_returns(reward, *rest, GAMMA, LAMBDA) - value
    close(gae(*as_f32(data), gamma=GAMMA, lambda_=LAMBDA, method=method), oracle)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lambda_", [0.0, LAMBDA, 1.0])
@pytest.mark.parametrize(("seed", "steps"), CASES)
def test_lambda_returns_match_a_loop(seed, steps, lambda_, method):
    reward, _, *rest, _ = rollout(seed, steps)
    ours = lambda_returns(*as_f32([reward, *rest]), gamma=GAMMA, lambda_=lambda_, method=method)
    close(ours, slow_lambda_returns(reward, *rest, GAMMA, lambda_))


@pytest.mark.parametrize("n", [1, 2, 5, 100])
@pytest.mark.parametrize(("seed", "steps"), CASES)
def test_n_step_returns_match_a_loop(seed, steps, n):
    reward, _, *rest, _ = rollout(seed, steps)
    ours = n_step_returns(*as_f32([reward, *rest]), gamma=GAMMA, n=n)
    close(ours, slow_n_step_returns(reward, *rest, GAMMA, n))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("seed", "steps"), CASES)
def test_vtrace_matches_a_loop(seed, steps, method):
    data = rollout(seed, steps)
    clips = {"clip_rho": 1.3, "clip_c": 0.9, "clip_advantage_rho": 1.1}
    ours = vtrace(*as_f32(data), gamma=GAMMA, lambda_=LAMBDA, **clips, method=method)
    target, advantage = slow_vtrace(*data, GAMMA, LAMBDA, *clips.values())
    close(ours.value_target, target)
    close(ours.advantage, advantage)


def test_vtrace_on_policy_gives_the_lambda_returns():
    reward, value, *rest, _ = as_f32(rollout(0, 20))
    ours = vtrace(reward, value, *rest, jnp.zeros_like(reward), gamma=GAMMA, lambda_=LAMBDA)
    close(ours.value_target, lambda_returns(reward, *rest, gamma=GAMMA, lambda_=LAMBDA))


def test_a_time_limit_bootstraps_from_next_value_and_a_death_wins_over_it():
    one = jnp.ones((1, 3))
    terminated, truncated = jnp.array([[False, True, True]]), jnp.array([[True, False, True]])
    ours = gae(one, 2 * one, 10 * one, terminated, truncated, gamma=0.5, lambda_=0.9)
    assert ours.tolist() == [[4.0, -1.0, -1.0]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_recurrence_matches_a_loop(seed, reverse, method):
    rng = np.random.default_rng(seed)
    decay, x, initial = rng.random((23, 4)), rng.normal(size=(23, 4)), rng.normal(size=4)
    oracle, y = np.zeros_like(x), initial
    for t in reversed(range(23)) if reverse else range(23):
        oracle[t] = y = x[t] + decay[t] * y
    ours = linear_recurrence(*as_f32([decay, x]), reverse=reverse, initial=initial, method=method)
    close(ours, oracle)


@pytest.mark.parametrize("method", METHODS)
def test_discounted_returns_go_on_where_the_last_rollout_stopped(method):
    rng = np.random.default_rng(0)
    reward, done = rng.normal(size=(30, 4)), rng.random((30, 4)) < 0.2
    oracle, y = np.zeros_like(reward), np.zeros(4)
    for t in range(30):
        oracle[t] = y = reward[t] + GAMMA * y
        y = np.where(done[t], 0.0, y)
    reward, done = as_f32([reward, done])
    ours, last = [], 0.0
    for part in (slice(0, 1), slice(1, 17), slice(17, 30)):
        got, last = discounted_returns(reward[part], done[part], gamma=GAMMA, initial=last, method=method)
        ours.append(got)
    close(jnp.concatenate(ours), oracle)
    close(last, y)


@pytest.mark.parametrize("method", METHODS)
def test_advantages_have_a_derivative_in_the_values_and_the_discount(method):
    *data, _ = as_f32(rollout(0, 9))

    def total(value, gamma):
        return gae(data[0], value, *data[2:], gamma=gamma, lambda_=LAMBDA, method=method).sum()

    check_grads(total, (data[1], GAMMA), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
