"""Proximal policy optimization.

In: rollouts from `collect`. Out: an agent with better parameters, and the field's metrics.
Knows nothing of environments, events or the loop around it.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; the details of Huang et al.
2022, "The 37 Implementation Details of Proximal Policy Optimization".
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxtrain.config import field
from jaxtrain.errors import Problem
from jaxtrain.rl import normalize
from jaxtrain.rl.distributions import Distribution, distribution
from jaxtrain.rl.minibatch import permutation
from jaxtrain.rl.networks import ACTIVATIONS, ActorCritic, actor_critic
from jaxtrain.rl.returns import gae
from jaxtrain.tree import any_over_seeds
from jaxtrain.types import ActOutput, Box, Collect, Env, EnvSpec, Key, Metrics, PyTree, Rollout


@struct.dataclass
class Agent:
    """All that PPO learns or remembers, of one seed."""

    params: PyTree
    opt_state: PyTree
    updates: jax.Array  # i32[], done so far; what schedules read
    obs_stats: normalize.Stats | None  # None: observations are not normalized
    reward_scale: normalize.RewardScale | None


class Batch(NamedTuple):
    """Samples of a rollout, leaves [N, ...]."""

    obs: PyTree  # normalized
    action: jax.Array  # before it is clipped or squashed for the environment
    log_prob: jax.Array  # nats, of the policy that acted
    value: jax.Array
    advantage: jax.Array
    target: jax.Array  # what the critic regresses to


@field.config
class NetworkConfig:
    """Policy and value networks, with a torso each or a shared one."""

    torso: str = field.choice("auto", ("auto", "mlp", "cnn"), help="auto: cnn for images, else mlp")
    hidden_sizes: tuple[int, ...] = field.integers((64, 64), low=1, help="dense layers")
    activation: str = field.choice("tanh", tuple(ACTIVATIONS))
    channels: tuple[int, ...] = field.integers((16,), low=1, help="convolutions of a cnn")
    kernel_size: int = field.integer(3, low=1)
    shared: bool = field.flag(False, help="one torso, two heads")
    log_std_init: float = field.static_float(0.0, help="of a Gaussian policy")


@field.config
class PPO:
    """Hyperparameters of PPO; rates are pytree leaves and may be arrays under `vmap`."""

    name: str = field.choice("ppo", ("ppo",))
    rollout_length: int = field.integer(128, low=1, help="env steps of each environment per update, T")
    num_epochs: int = field.integer(4, low=1, help="passes over a rollout")
    num_minibatches: int = field.integer(4, low=1, help="gradient steps in a pass")
    learning_rate: Any = field.rate(2.5e-4, low=0)
    anneal_learning_rate: bool = field.flag(True, help="linearly to 0 over the run")
    gamma: Any = field.rate(0.99, low=0, high=1, help="discount per step")
    gae_lambda: Any = field.rate(0.95, low=0, high=1)
    clip_range: Any = field.rate(0.2, above=0, help="of the probability ratio")
    clip_value: bool = field.flag(True, help="clip the value's change by value_clip_range")
    value_clip_range: Any = field.rate(None, above=0, help="in units of value; unset: clip_range")
    anneal_clip_range: bool = field.flag(False, help="linearly to 0 over the run")
    normalize_advantages: bool = field.flag(True, help="to mean 0 and variance 1, per minibatch")
    entropy_coef: Any = field.rate(0.01, low=0)
    value_coef: Any = field.rate(0.5, low=0)
    max_grad_norm: Any = field.rate(0.5, above=0, help="one norm over all parameters")
    adam_eps: Any = field.rate(1e-5, above=0)
    target_kl: Any = field.rate(
        None, above=0, help="no further gradient step in an update beyond 1.5 times this"
    )
    normalize_observations: bool = field.flag(False, help="by running mean and variance")
    normalize_rewards: bool = field.flag(False, help="by the std of the running discounted return")
    squash_actions: bool = field.flag(False, help="tanh-squash continuous actions into their bounds")
    network: NetworkConfig = field.nested(NetworkConfig)
    policy_network: Any = field.given("a flax module", "init", "apply")
    value_network: Any = field.given("a flax module", "init", "apply")
    optimizer: Any = field.given("an optax optimizer", "init", "update", help="it brings its own rates")

    def problems(self, num_envs: int, env: Env) -> list[Problem]:
        """Rules that need to know the environment and how many there are."""
        found: list[Problem] = []
        size, n = num_envs * self.rollout_length, self.num_minibatches
        if size % n:
            low = next(d for d in range(min(n, size), 0, -1) if size % d == 0)
            high = next((d for d in range(n, size + 1) if size % d == 0), low)
            rule = (
                f"needs to divide the {size} samples of a rollout ({num_envs} environments x "
                f"{self.rollout_length} steps); the nearest: {f'{low} and {high}' if low < high else low}"
            )
            found.append(Problem("num_minibatches", n, rule))
        space = env.action_space
        if self.squash_actions and not (isinstance(space, Box) and space.bounded):
            rule = f"needs continuous actions with bounds, not {space}"
            found.append(Problem("squash_actions", True, rule))
        if self.normalize_observations and not isinstance(env.observation_space, Box):
            rule = f"needs observations that are numbers, not {env.observation_space}"
            found.append(Problem("normalize_observations", True, rule))
        return found

    def _distribution(self, spec: EnvSpec) -> Distribution:
        return distribution(spec.action_space, squash=self.squash_actions)

    def _network(self, spec: EnvSpec) -> ActorCritic:
        settings = {f.name: getattr(self.network, f.name) for f in dataclasses.fields(self.network)}
        return actor_critic(
            spec.observation_space,
            self._distribution(spec),
            **settings,
            policy=self.policy_network,
            value=self.value_network,
        )

    def _optimizer(self) -> optax.GradientTransformation:
        """Up to the learning rate, which is a schedule of the update and applied after it."""
        if self.optimizer is not None:
            return self.optimizer
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=self.adam_eps)
        )

    def init(self, spec: EnvSpec, key: Key) -> Agent:
        params, space = self._network(spec).init(key, spec.observation), spec.observation_space
        return Agent(
            params=params,
            opt_state=self._optimizer().init(params),
            updates=jnp.zeros((), jnp.int32),
            obs_stats=normalize.init(space.shape)
            if self.normalize_observations and isinstance(space, Box)
            else None,
            reward_scale=normalize.init_reward_scale(spec.num_envs) if self.normalize_rewards else None,
        )

    def memory(self, spec: EnvSpec) -> PyTree:
        return ()

    def act(
        self, spec: EnvSpec, agent: Agent, obs: PyTree, memory: PyTree, key: Key, *, greedy: bool
    ) -> ActOutput:
        dist = self._distribution(spec)
        params = self._network(spec).policy(agent.params, normalize.apply(agent.obs_stats, obs))
        action = dist.mode(params) if greedy else dist.sample(params, key)
        env_action = dist.to_env(action)
        # Log-probabilities come after the rollout, in one batch: fewer kernels in each step.
        extras = {"dist": params} if env_action is action else {"dist": params, "action": action}
        return ActOutput(env_action, memory, extras)

    def value(self, spec: EnvSpec, agent: Agent, obs: PyTree) -> jax.Array:
        value = self._network(spec).value(agent.params, normalize.apply(agent.obs_stats, obs))
        return value if agent.reward_scale is None else value * normalize.scale(agent.reward_scale)

    def update(
        self, spec: EnvSpec, agent: Agent, collect: Collect, runner: PyTree, key: Key
    ) -> tuple[Agent, PyTree, Metrics]:
        key_collect, key_learn = jax.random.split(key)
        runner, rollout = collect(agent, runner, key_collect)
        batch, reward_scale = self._batch(spec, agent, rollout)
        params, opt_state, metrics = self._learn(spec, agent, batch, key_learn)
        metrics["explained_variance"] = _explained_variance(batch.value, batch.target)
        agent = Agent(
            params=params,
            opt_state=opt_state,
            updates=agent.updates + 1,
            # Only now: the whole update sees observations as the policy saw them when it acted.
            obs_stats=normalize.update(agent.obs_stats, rollout.obs),
            reward_scale=reward_scale,
        )
        return agent, runner, metrics

    def _batch(
        self, spec: EnvSpec, agent: Agent, rollout: Rollout
    ) -> tuple[Batch, normalize.RewardScale | None]:
        """Values, advantages and log-probabilities of a rollout, leaves [T, B, ...]."""
        net = self._network(spec)
        obs = normalize.apply(agent.obs_stats, rollout.obs)
        value = net.value(agent.params, obs)

        def value_of(next_obs: PyTree) -> jax.Array:
            return net.value(agent.params, normalize.apply(agent.obs_stats, next_obs))

        last = value_of(jax.tree.map(lambda x: x[-1], rollout.next_obs))
        following = jnp.concatenate([value[1:], last[None]])  # right wherever no episode ended
        cut = rollout.truncated & ~rollout.terminated
        # `obs[t + 1]` belongs to the next episode there, so the critic has to see `next_obs[t]` itself.
        next_value = lax.cond(
            any_over_seeds(cut),
            lambda: jnp.where(cut, value_of(rollout.next_obs), following),
            lambda: following,
        )
        reward, reward_scale = rollout.reward, agent.reward_scale
        if reward_scale is not None:
            done = rollout.terminated | rollout.truncated
            reward_scale, reward = normalize.update_and_scale(reward_scale, reward, done, self.gamma)
        advantage = gae(
            reward,
            value,
            next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        action = rollout.extras.get("action", rollout.action)
        log_prob = self._distribution(spec).log_prob(rollout.extras["dist"], action)
        return Batch(obs, action, log_prob, value, advantage, advantage + value), reward_scale

    def _remaining(self, spec: EnvSpec, agent: Agent) -> jax.Array:
        """1 in the first update, 0 once the planned number is done, and from then on."""
        left = jnp.maximum(spec.num_updates - agent.updates, 0)
        return left.astype(jnp.result_type(float)) / spec.num_updates

    def _learn(self, spec: EnvSpec, agent: Agent, batch: Batch, key: Key) -> tuple[PyTree, PyTree, Metrics]:
        """`num_epochs` passes over the samples of one rollout, in minibatches."""
        time, envs = batch.value.shape
        flat = jax.tree.map(lambda x: x.reshape(time * envs, *x.shape[2:]), batch)
        remaining = self._remaining(spec, agent)
        learning_rate = self.learning_rate * (remaining if self.anneal_learning_rate else 1.0)
        clip_range = self.clip_range * (remaining if self.anneal_clip_range else 1.0)
        optimizer = self._optimizer()

        def minibatch(carry: tuple[Any, ...], x: tuple[jax.Array, Key]) -> tuple[tuple[Any, ...], Metrics]:
            params, opt_state, learning = carry
            samples = jax.tree.map(lambda leaf: jnp.take(leaf, x[0], axis=0), flat)
            grads, metrics = jax.grad(self._loss, argnums=1, has_aux=True)(
                spec, params, samples, clip_range, x[1]
            )
            if self.target_kl is not None:
                learning = learning & (metrics["approx_kl"] <= 1.5 * self.target_kl)
            updates, new_opt_state = optimizer.update(grads, opt_state, params)
            if self.optimizer is None:
                updates = jax.tree.map(lambda u: -learning_rate * u, updates)
            new_params = optax.apply_updates(params, updates)
            metrics["gradient_norm"] = optax.tree.norm(grads)
            if self.target_kl is not None:  # under vmap a `cond` would be this select
                keep = lambda new, old: jnp.where(learning, new, old)  # noqa: E731
                new_params = jax.tree.map(keep, new_params, params)
                new_opt_state = jax.tree.map(keep, new_opt_state, opt_state)
            return (new_params, new_opt_state, learning), metrics

        def epoch(carry: tuple[Any, ...], key: Key) -> tuple[tuple[Any, ...], Metrics]:
            key_shuffle, key_loss = jax.random.split(key)
            order = permutation(key_shuffle, time, envs).reshape(self.num_minibatches, -1)
            return lax.scan(minibatch, carry, (order, jax.random.split(key_loss, self.num_minibatches)))

        carry = (agent.params, agent.opt_state, jnp.ones((), bool))
        (params, opt_state, _), metrics = lax.scan(epoch, carry, jax.random.split(key, self.num_epochs))
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        if self.optimizer is None:  # else its rates are its own
            metrics["learning_rate"] = jnp.asarray(learning_rate)
        return params, opt_state, metrics

    def _loss(
        self, spec: EnvSpec, params: PyTree, batch: Batch, clip_range: jax.Array, key: Key
    ) -> tuple[jax.Array, Metrics]:
        """The clipped surrogate objective, equations 7 and 9, on one minibatch [N]."""
        dist = self._distribution(spec)
        dist_params, value = self._network(spec).both(params, batch.obs)
        log_ratio = dist.log_prob(dist_params, batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = batch.advantage
        if self.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        error = jnp.square(value - batch.target)
        if self.clip_value:
            limit = clip_range if self.value_clip_range is None else self.value_clip_range
            near = batch.value + jnp.clip(value - batch.value, -limit, limit)
            error = jnp.maximum(error, jnp.square(near - batch.target))
        value_loss = 0.5 * jnp.mean(error)
        entropy = jnp.mean(dist.entropy(dist_params, key))
        loss = policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss
        return loss, {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            # Schulman 2020, "Approximating KL Divergence": k3, unbiased and never negative.
            "approx_kl": jnp.mean(ratio - 1.0 - log_ratio),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > clip_range),
        }


def _explained_variance(value: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var[target - value] / Var[target]; 0 where the target does not vary."""
    variance = jnp.var(target)
    return jnp.where(
        variance > 0, 1.0 - jnp.var(target - value) / jnp.where(variance > 0, variance, 1.0), 0.0
    )
