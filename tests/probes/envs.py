"""Tiny environments whose answer is known, to train on.

In: nothing. Out: `Env`s, hashable and comparable. Where values are the answer, `values(gamma)[i]` is
that of `observations()[i]`; where a decision is, `best()[i]` is the action there.
Knows nothing of the algorithms that are tried on them.

`continuous=True` gives a probe whose actions do not matter a Box of actions instead of a Discrete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.types import Box, Discrete, Key, Space, Step


class Params(NamedTuple):
    scale: Any = 1.0  # of the reward


def _step(obs: Any, state: Any, reward: Any, terminated: Any = True, truncated: Any = False) -> Step:
    reward = jnp.asarray(reward, jnp.float32)
    return Step(obs, state, reward, jnp.asarray(terminated, bool), jnp.asarray(truncated, bool), {})


class _Env:
    @property
    def observation_space(self) -> Space:
        return Box(-1.0, 1.0, self.observations().shape[1:])

    @property
    def action_space(self) -> Space:
        return Discrete(2)

    @property
    def default_params(self) -> Any:
        return Params()

    def observations(self) -> np.ndarray:
        return np.zeros((1, 1), np.float32)


@dataclass(frozen=True)
class _Probe(_Env):
    continuous: bool = False

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (1,)) if self.continuous else Discrete(2)


@dataclass(frozen=True)
class OneStep(_Probe):
    """One step, reward 1: V = 1."""

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, Any]:
        return jnp.zeros(1), ()

    def step(self, key: Key, state: Any, action: jax.Array, params: Params) -> Step:
        return _step(jnp.zeros(1), (), 1.0 * params.scale)

    def values(self, gamma: float) -> np.ndarray:
        return np.ones(1)


@dataclass(frozen=True)
class ObsIsReward(_Probe):
    """One step, reward = observation = +1 or -1: V = observation."""

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, jax.Array]:
        obs = jax.random.rademacher(key, (1,), jnp.float32)
        return obs, obs

    def step(self, key: Key, state: jax.Array, action: jax.Array, params: Params) -> Step:
        return _step(state, state, state[0] * params.scale)

    def observations(self) -> np.ndarray:
        return np.array([[-1.0], [1.0]], np.float32)

    def values(self, gamma: float) -> np.ndarray:
        return np.array([-1.0, 1.0])


@dataclass(frozen=True)
class TwoSteps(_Probe):
    """Two steps, reward 1 on the second: V = (gamma, 1). The observation is one-hot, the end all zeros."""

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, jax.Array]:
        return jax.nn.one_hot(0, 2), jnp.int32(0)

    def step(self, key: Key, state: jax.Array, action: jax.Array, params: Params) -> Step:
        return _step(jax.nn.one_hot(state + 1, 2), state + 1, (state == 1) * params.scale, state == 1)

    def observations(self) -> np.ndarray:
        return np.eye(2, dtype=np.float32)

    def values(self, gamma: float) -> np.ndarray:
        return np.array([gamma, 1.0])


@dataclass(frozen=True)
class TwoActions(_Env):
    """One step, reward 1 for action 1 and 0 for action 0."""

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, Any]:
        return jnp.zeros(1), ()

    def step(self, key: Key, state: Any, action: jax.Array, params: Params) -> Step:
        return _step(jnp.zeros(1), (), action * params.scale)

    def best(self) -> np.ndarray:
        return np.array([1])


@dataclass(frozen=True)
class ActionByObservation(_Env):
    """One step, reward 1 for the action whose number the one-hot observation shows, else 0."""

    num_actions: int = 3

    @property
    def action_space(self) -> Space:
        return Discrete(self.num_actions)

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, jax.Array]:
        state = jax.random.randint(key, (), 0, self.num_actions)
        return jax.nn.one_hot(state, self.num_actions), state

    def step(self, key: Key, state: jax.Array, action: jax.Array, params: Params) -> Step:
        return _step(jax.nn.one_hot(state, self.num_actions), state, (action == state) * params.scale)

    def observations(self) -> np.ndarray:
        return np.eye(self.num_actions, dtype=np.float32)

    def best(self) -> np.ndarray:
        return np.arange(self.num_actions)


@dataclass(frozen=True)
class ContinuousTarget(_Env):
    """One step, reward -|action - target|^2 with the target as the observation: best action = observation."""

    size: int = 1  # of the action

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (self.size,))

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, jax.Array]:
        target = jax.random.uniform(key, (self.size,), minval=-0.5, maxval=0.5)
        return target, target

    def step(self, key: Key, state: jax.Array, action: jax.Array, params: Params) -> Step:
        return _step(state, state, -jnp.square(action - state).sum() * params.scale)

    def observations(self) -> np.ndarray:
        return np.tile(np.linspace(-0.5, 0.5, 5, dtype=np.float32)[:, None], (1, self.size))

    def best(self) -> np.ndarray:
        return self.observations()


class CycleState(NamedTuple):
    position: jax.Array  # i32[]
    time: jax.Array  # i32[]


@dataclass(frozen=True)
class Cycle(_Probe):
    """5 states in a circle, reward 1 on leaving state 4, cut off after 8 steps: always at state 3.

    The observation is the state, one-hot. Where the cut is bootstrapped from the true last
    observation, V(s) = gamma^(4-s) / (1 - gamma^5), as if there were none.
    """

    num_states: int = 5
    time_limit: int = 8

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, CycleState]:
        state = CycleState(jnp.int32(0), jnp.int32(0))
        return self._observe(state), state

    def step(self, key: Key, state: CycleState, action: jax.Array, params: Params) -> Step:
        reward = (state.position == self.num_states - 1) * params.scale
        state = CycleState((state.position + 1) % self.num_states, state.time + 1)
        return _step(self._observe(state), state, reward, *self._end(state.time >= self.time_limit))

    def observations(self) -> np.ndarray:
        return np.eye(self.num_states, dtype=np.float32)

    def values(self, gamma: float) -> np.ndarray:
        return gamma ** np.arange(self.num_states)[::-1] / (1 - gamma**self.num_states)

    def _observe(self, state: CycleState) -> jax.Array:
        return jax.nn.one_hot(state.position, self.num_states)

    def _end(self, over: jax.Array) -> tuple[Any, Any]:
        return False, over


@dataclass(frozen=True)
class CycleTimed(Cycle):
    """The cycle with the time in the observation, and dead after 8 steps.

    The observation is state and time, one-hot each; `values` has one entry for each time 0 .. 7,
    V(t) = sum over k < 8 - t of gamma^k r(t + k).
    """

    def observations(self) -> np.ndarray:
        times = np.arange(self.time_limit)
        return np.hstack(
            [np.eye(self.num_states)[times % self.num_states], np.eye(self.time_limit + 1)[times]]
        ).astype(np.float32)

    def values(self, gamma: float) -> np.ndarray:
        times = np.arange(self.time_limit)
        rewards = times % self.num_states == self.num_states - 1
        return np.array([(gamma ** (times[t:] - t) * rewards[t:]).sum() for t in times])

    def _observe(self, state: CycleState) -> jax.Array:
        return jnp.concatenate([super()._observe(state), jax.nn.one_hot(state.time, self.time_limit + 1)])

    def _end(self, over: jax.Array) -> tuple[Any, Any]:
        return over, False


@dataclass(frozen=True)
class CycleBoth(CycleTimed):
    """As `CycleTimed`, terminated and truncated at the same step: terminated wins, so the same values."""

    def _end(self, over: jax.Array) -> tuple[Any, Any]:
        return over, over


class MDPParams(NamedTuple):
    transition: Any  # f32[S, A, S], probability of the next state
    reward: Any  # f32[S, A]


@dataclass(frozen=True)
class RandomMDP(_Env):
    """A random finite MDP without an end, cut off after `time_limit` steps; starts in any state.

    The observation is the state, one-hot.
    """

    num_states: int = 4
    num_actions: int = 2
    seed: int = 0
    time_limit: int = 20

    @property
    def action_space(self) -> Space:
        return Discrete(self.num_actions)

    @property
    def default_params(self) -> MDPParams:
        return MDPParams(*(table.astype(np.float32) for table in self.tables()))

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """`(transition f64[S, A, S], reward f64[S, A])`."""
        rng = np.random.default_rng(self.seed)
        transition = rng.dirichlet(np.ones(self.num_states), (self.num_states, self.num_actions))
        return transition, rng.normal(size=(self.num_states, self.num_actions))

    def reset(self, key: Key, params: MDPParams) -> tuple[jax.Array, CycleState]:
        state = CycleState(jax.random.randint(key, (), 0, self.num_states), jnp.int32(0))
        return jax.nn.one_hot(state.position, self.num_states), state

    def step(self, key: Key, state: CycleState, action: jax.Array, params: MDPParams) -> Step:
        transition, reward = jnp.asarray(params.transition), jnp.asarray(params.reward)
        position = jax.random.categorical(key, jnp.log(transition[state.position, action]))
        reward = reward[state.position, action]
        state = CycleState(position.astype(jnp.int32), state.time + 1)
        obs = jax.nn.one_hot(position, self.num_states)
        return _step(obs, state, reward, False, state.time >= self.time_limit)

    def observations(self) -> np.ndarray:
        return np.eye(self.num_states, dtype=np.float32)

    def values(self, gamma: float, policy: np.ndarray | None = None) -> np.ndarray:
        """(I - gamma P)^-1 r of `policy` f[S, A], by default the uniform one; f64[S]."""
        transition, reward = self.tables()
        if policy is None:
            policy = np.full((self.num_states, self.num_actions), 1 / self.num_actions)
        mean_transition = np.einsum("sa,san->sn", policy, transition)
        mean_reward = (policy * reward).sum(1)
        return np.linalg.solve(np.eye(self.num_states) - gamma * mean_transition, mean_reward)


@dataclass(frozen=True)
class EntropyOnly(_Env):
    """One step, reward 0 whatever the action: with an entropy bonus the policy becomes uniform."""

    num_actions: int = 4

    @property
    def action_space(self) -> Space:
        return Discrete(self.num_actions)

    def reset(self, key: Key, params: Params) -> tuple[jax.Array, Any]:
        return jnp.zeros(1), ()

    def step(self, key: Key, state: Any, action: jax.Array, params: Params) -> Step:
        return _step(jnp.zeros(1), (), 0.0)

    def entropy(self) -> float:
        """Of the uniform policy, nats."""
        return float(np.log(self.num_actions))


class CounterParams(NamedTuple):
    env: Any = 0  # its number
    length: Any = 3  # of its episodes, steps


class CounterState(NamedTuple):
    time: jax.Array  # i32[], steps since the reset
    episode: jax.Array  # i32[]


@dataclass(frozen=True)
class Counter(_Probe):
    """Observation (environment, time, episode), exact in f32; the reward is the time after the step.

    A reset knows nothing of the episode before, so the episode's number is drawn from the reset's
    key, below 2^20: the same through an episode, another in every other environment, seed and
    episode. An even one ends terminated, an odd one truncated. The return is L (L + 1) / 2.
    """

    @property
    def observation_space(self) -> Space:
        return Box(0.0, float(2**20), (3,))

    @property
    def default_params(self) -> CounterParams:
        return CounterParams()

    def batched_params(self, num_envs: int) -> CounterParams:
        """Environments 0 .. B-1, with episodes of 1, 2, 3, 4, 5, 1, ... steps; leaves i32[B]."""
        env = jnp.arange(num_envs, dtype=jnp.int32)
        return CounterParams(env, env % 5 + 1)

    def reset(self, key: Key, params: CounterParams) -> tuple[jax.Array, CounterState]:
        state = CounterState(jnp.int32(0), jax.random.randint(key, (), 0, 2**20))
        return self._observe(state, params), state

    def step(self, key: Key, state: CounterState, action: jax.Array, params: CounterParams) -> Step:
        state = state._replace(time=state.time + 1)
        over, odd = state.time >= params.length, state.episode % 2 == 1
        return _step(self._observe(state, params), state, state.time, over & ~odd, over & odd)

    def _observe(self, state: CounterState, params: CounterParams) -> jax.Array:
        return jnp.stack([jnp.asarray(params.env), state.time, state.episode]).astype(jnp.float32)
