"""Returns and advantages over a rollout.

In: time-major rewards, values and end flags, [T, ...]. Out: targets of the same shape.
Knows nothing of networks, losses or how the rollout was made. No gradient is stopped here.

One treatment of ends throughout: `next_value[t]` is the value of where the action led, before any
reset. A terminated step is bootstrapped from zero, a truncated one and the last of the rollout from
`next_value`; where both flags are set, terminated wins.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Method = Literal["scan", "associative"]


def linear_recurrence(
    decay: jax.Array,
    x: jax.Array,
    *,
    reverse: bool = False,
    initial: jax.Array | float = 0.0,
    method: Method | None = None,
) -> jax.Array:
    """`y[t] = x[t] + decay[t] * y[t - 1]`, or `y[t + 1]` if `reverse`.

    Args:
      decay: f32[T, ...], broadcast to `x`.
      x: f32[T, ...].
      reverse: run from the end of the rollout to its start.
      initial: f32[...], what stands before the first step (after the last one if `reverse`).
      method: "scan" takes T steps of little work, "associative" log T of more. Left out, the second
        except on CPU. They agree up to rounding.

    Returns:
      f32[T, ...].

    Source:
      Blelloch 1990, "Prefix Sums and Their Applications", section 1.4.
    """
    dtype = jnp.result_type(decay, x, initial)
    x = jnp.asarray(x, dtype)
    decay = jnp.broadcast_to(jnp.asarray(decay, dtype), x.shape)
    initial = jnp.broadcast_to(jnp.asarray(initial, dtype), x.shape[1:])
    if method is None:
        method = "scan" if jax.default_backend() == "cpu" else "associative"
    if method == "scan":

        def step(y: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            y = at[1] + at[0] * y
            return y, y

        return lax.scan(step, initial, (decay, x), reverse=reverse)[1]

    def compose(
        first: tuple[jax.Array, jax.Array], then: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return first[0] * then[0], then[1] + then[0] * first[1]

    # A kernel of its own: on a GPU, XLA joins to this tree a sum over what it reads, such as whether all
    # rewards are finite; that takes a minute to compile, and ten times as long to run.
    decay, x = lax.optimization_barrier((decay, x))
    product, y = lax.associative_scan(compose, (decay, x), reverse=reverse)
    return lax.optimization_barrier(y + product * initial[None])


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: jax.Array | float,
    lambda_: jax.Array | float,
    method: Method | None = None,
) -> jax.Array:
    """Generalized advantage estimates; added to `value` they are the λ-returns.

    Args:
      reward, value, next_value: f32[T, ...]; `value[t]` is of where the action was taken.
      terminated, truncated: bool[T, ...].
      gamma, lambda_: discount and trace decay per step.
      method: as in `linear_recurrence`.

    Returns:
      f32[T, ...], in the unit of `reward`.

    Source:
      Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage
      Estimation", equation 16; Pardo et al. 2018, "Time Limits in Reinforcement Learning".
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, gamma * lambda_)
    return linear_recurrence(decay, delta, reverse=True, method=method)


def lambda_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: jax.Array | float,
    lambda_: jax.Array | float,
    method: Method | None = None,
) -> jax.Array:
    """`G[t] = r[t] + γ ((1 - λ) V[t + 1] + λ G[t + 1])`, without the value of `t` itself.

    Args:
      reward, next_value: f32[T, ...].
      terminated, truncated: bool[T, ...].
      gamma, lambda_: discount and trace decay per step.
      method: as in `linear_recurrence`.

    Returns:
      f32[T, ...], in the unit of `reward`.

    Source:
      Sutton and Barto 2018, "Reinforcement Learning", equation 12.20 (TD(λ) targets).
    """
    trace = jnp.where(terminated | truncated, 0.0, lambda_)
    x = reward + gamma * (1.0 - trace) * jnp.where(terminated, 0.0, next_value)
    return linear_recurrence(gamma * trace, x, reverse=True, initial=next_value[-1], method=method)


def n_step_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: jax.Array | float,
    n: int,
) -> jax.Array:
    """Rewards of n steps, then the value; of fewer where the episode or the rollout ends before.

    Args:
      reward, next_value: f32[T, ...].
      terminated, truncated: bool[T, ...].
      gamma: discount per step.
      n: at least 1.

    Returns:
      f32[T, ...], in the unit of `reward`.

    Source:
      Sutton and Barto 2018, "Reinforcement Learning", equation 7.1.
    """
    bootstrap = jnp.where(terminated, 0.0, next_value)

    def lengthen(_: int, returns: jax.Array) -> jax.Array:
        following = jnp.concatenate([returns[1:], bootstrap[-1:]])
        return reward + gamma * jnp.where(terminated | truncated, bootstrap, following)

    return lax.fori_loop(1, n, lengthen, reward + gamma * bootstrap)


class VTrace(NamedTuple):
    """Off-policy corrected targets, f32[T, ...] each."""

    value_target: jax.Array  # what the critic regresses to
    advantage: jax.Array  # weight of the policy gradient, with its importance ratio


def vtrace(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    log_ratio: jax.Array,
    *,
    gamma: jax.Array | float,
    lambda_: jax.Array | float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_advantage_rho: float = 1.0,
    method: Method | None = None,
) -> VTrace:
    """V-trace targets for a rollout that another policy made.

    Args:
      reward, value, next_value: f32[T, ...]; `value[t]` is of where the action was taken.
      terminated, truncated: bool[T, ...].
      log_ratio: f32[T, ...], log-probability of the action now minus when it was taken, nats.
      gamma, lambda_: discount and trace decay per step.
      clip_rho, clip_c, clip_advantage_rho: upper limits of the importance ratios.
      method: as in `linear_recurrence`.

    Source:
      Espeholt et al. 2018, "IMPALA", equation 1 and section 4.2; λ as in rlax.
    """
    ratio, ended = jnp.exp(log_ratio), terminated | truncated
    bootstrap = jnp.where(terminated, 0.0, next_value)
    delta = jnp.minimum(clip_rho, ratio) * (reward + gamma * bootstrap - value)
    decay = jnp.where(ended, 0.0, gamma * lambda_ * jnp.minimum(clip_c, ratio))
    target = value + linear_recurrence(decay, delta, reverse=True, method=method)
    following = jnp.concatenate([target[1:], bootstrap[-1:]])
    following = jnp.where(ended, bootstrap, lambda_ * following + (1.0 - lambda_) * bootstrap)
    advantage = jnp.minimum(clip_advantage_rho, ratio) * (reward + gamma * following - value)
    return VTrace(target, advantage)


def discounted_returns(
    reward: jax.Array,
    done: jax.Array,
    *,
    gamma: jax.Array | float,
    initial: jax.Array | float = 0.0,
    method: Method | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The discounted sum of the rewards so far, from each episode's start.

    Args:
      reward: f32[T, ...].
      done: bool[T, ...], whether the episode ended with this step, for either reason.
      gamma: discount per step.
      initial: f32[...], the second result for the rollout before; zero at the very start.
      method: as in `linear_recurrence`.

    Returns:
      f32[T, ...], the sum up to and with each step, and f32[...], what the next rollout goes on from.
    """
    fresh = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
    returns = linear_recurrence(jnp.where(fresh, 0.0, gamma), reward, initial=initial, method=method)
    return returns, jnp.where(done[-1], 0.0, returns[-1])
