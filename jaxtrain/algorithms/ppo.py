"""Proximal policy optimization, feed-forward or recurrent.

In: rollouts from `Experience.collect`. Out: an agent with better parameters, and the field's metrics.

The two differ in the networks' carry, which is () without a recurrent cell, and in their minibatches: single
samples, or whole sequences of some environments.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; the details of Huang et al.
2022, "The 37 Implementation Details of Proximal Policy Optimization".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxtrain import tree
from jaxtrain.config import field
from jaxtrain.errors import Problem
from jaxtrain.rl import minibatch, networks, normalize, own
from jaxtrain.rl.actor_critic import ActorCritic, RecurrentActorCritic, actor_critic
from jaxtrain.rl.distributions import Distribution, distribution
from jaxtrain.rl.networks import NetworkConfig, observation_names
from jaxtrain.rl.returns import gae
from jaxtrain.types import (
    ActOutput,
    Algorithm,
    Box,
    Carry,
    Clock,
    EnvSpec,
    Experience,
    Key,
    Metrics,
    Policy,
    PyTree,
    Rollout,
    Space,
)


@struct.dataclass
class Agent:
    """All that PPO learns or remembers, of one seed."""

    params: PyTree
    opt_state: PyTree
    obs_stats: normalize.Stats | None  # None: observations are not normalized
    reward_scale: normalize.RewardScale | None


class Batch(NamedTuple):
    """A rollout made ready for learning, leaves [T, B, ...], or a minibatch of it."""

    obs: PyTree  # normalized
    action: jax.Array  # before it is clipped or squashed for the environment
    log_prob: jax.Array  # nats, of the policy that acted
    value: jax.Array
    advantage: jax.Array
    target: jax.Array  # what the critic regresses to
    started: jax.Array  # where a recurrent network begins anew


@field.config
class PPO:
    """Hyperparameters of PPO; rates are pytree leaves and may be arrays under `vmap`."""

    name: str = field.choice("ppo", ("ppo",))
    rollout_length: int = field.integer(
        128, low=1, high=field.INT32, help="env steps of each environment per update, T"
    )
    num_epochs: int = field.integer(4, low=1, high=field.INT32, help="passes over a rollout")
    num_minibatches: int = field.integer(4, low=1, high=field.INT32, help="gradient steps in a pass")
    learning_rate: Any = field.rate(2.5e-4, low=0, anneal="anneal_learning_rate")
    anneal_learning_rate: bool = field.flag(
        True, help="a number linearly to 0 over the run; a schedule stays as it is"
    )
    gamma: Any = field.rate(0.99, low=0, high=1, help="discount per step")
    gae_lambda: Any = field.rate(0.95, low=0, high=1)
    clip_range: Any = field.rate(0.2, above=0, anneal="anneal_clip_range", help="of the probability ratio")
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
    policy_observations: tuple[str, ...] = observation_names(
        help="entries of a Dict observation that the policy sees; none: all"
    )
    critic_observations: tuple[str, ...] = observation_names(
        help="entries of a Dict observation that the critic sees; none: all"
    )
    policy_network: Any = field.given("a flax module", "init", "apply")
    value_network: Any = field.given("a flax module", "init", "apply")
    optimizer: Any = field.given("an optax optimizer", "init", "update", help="it brings its own rates")

    def rules(self) -> list[Problem]:
        if self.anneal_clip_range and field.scheduled(self.clip_range):
            rule = "needs false where clip_range is a schedule, which says itself where it goes"
            return [Problem("anneal_clip_range", True, rule)]
        return []

    def check(self, spec: EnvSpec) -> list[Problem]:
        """What does not fit the environment, or how many there are."""
        recurrent = self.network.recurrent != "none"
        found = minibatch.check(
            self.num_minibatches, self.rollout_length, spec.num_envs, whole_sequences=recurrent
        )
        samples = self.rollout_length * spec.num_envs
        if not found and self.normalize_advantages and samples == self.num_minibatches:
            low = f"num_minibatches below {samples}" if samples > 1 else "a longer rollout"
            rule = f"needs more than one sample in a minibatch, of which each would be 0: {low}, or false"
            found.append(Problem("normalize_advantages", True, rule))
        space = spec.action_space
        if self.squash_actions and not (isinstance(space, Box) and space.bounded):
            rule = f"needs continuous actions with bounds, not {space}"
            found.append(Problem("squash_actions", True, rule))
        space = spec.observation_space
        if self.normalize_observations and normalize.normalized_shapes(space, spec.observation) is None:
            found.append(
                Problem("normalize_observations", True, f"needs observations that are numbers, not {space}")
            )
        found += networks.problems(
            space,
            self.network,
            policy_observations=self.policy_observations,
            critic_observations=self.critic_observations,
            own_modules=not (self.policy_network is None and self.value_network is None),
        )
        return found or self._check_given(spec)

    def _check_given(self, spec: EnvSpec) -> list[Problem]:
        """What does not fit of the objects that only Python gives."""
        dist = distribution(spec.action_space, squash=self.squash_actions)
        sizes = ((dist.num_params,), (dist.num_params + dist.num_extra,))
        parts = (
            ("policy_network", self.policy_network, self.policy_observations, sizes),
            ("value_network", self.value_network, self.critic_observations, ((), (1,))),
        )
        found: list[Problem] = []
        for path, module, names, shapes in parts:
            if module is not None:
                space = networks.select(spec.observation_space, names)
                found += own.check_module(path, module, space, spec.observation, *shapes)
        if found or self.optimizer is None:
            return found
        net = self._network(spec, dist)
        params = jax.eval_shape(lambda key: net.init(key, spec.observation), jax.random.key(0))
        return own.check_optimizer("optimizer", self.optimizer, params)

    def _network(self, spec: EnvSpec, dist: Distribution) -> ActorCritic | RecurrentActorCritic:
        return actor_critic(
            spec.observation_space,
            dist,
            self.network,
            policy=self.policy_network,
            value=self.value_network,
            policy_observations=self.policy_observations,
            critic_observations=self.critic_observations,
            scaled=self.network_space(spec),
        )

    def network_space(self, spec: EnvSpec) -> Space:
        """The observation space as networks that are built here see it."""
        space = spec.observation_space
        own = self.policy_network is not None and self.value_network is not None
        normalized = self.normalize_observations and isinstance(space, Box)  # bytes no more
        if own or normalized or not self.network.scale_images:
            return space
        return networks.scaled(space, spec.observation)

    def make(self, spec: EnvSpec) -> Algorithm[Agent]:
        """Build the networks and the optimizer, once, and the functions that use them."""
        dist = distribution(spec.action_space, squash=self.squash_actions)
        net = self._network(spec, dist)
        optimizer = self.optimizer or optax.chain(  # the learning rate is applied after it
            optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=self.adam_eps)
        )
        ppo = _Learner(self, spec, dist, net, optimizer)
        return Algorithm(
            init=ppo.init,
            policy=lambda agent, clock: ppo.policy(agent, greedy=True),
            sample=lambda agent, clock: ppo.policy(agent, greedy=False),
            update=ppo.update,
            carry=net.carry,
            value=ppo.value,
        )


class _Learner(NamedTuple):
    """PPO for one kind of environment; fixed for a run but for the rates in `hyper`."""

    hyper: PPO
    spec: EnvSpec
    dist: Distribution
    net: ActorCritic | RecurrentActorCritic
    optimizer: optax.GradientTransformation

    def init(self, key: Key, params: PyTree = None) -> Agent:
        hyper, spec = self.hyper, self.spec
        params = self.net.init(key, spec.observation) if params is None else params
        shapes = normalize.normalized_shapes(spec.observation_space, spec.observation)
        return Agent(
            params=params,
            opt_state=self.optimizer.init(params),
            obs_stats=normalize.init(shapes) if hyper.normalize_observations else None,
            reward_scale=normalize.init_reward_scale(spec.num_envs) if hyper.normalize_rewards else None,
        )

    def policy(self, agent: Agent, *, greedy: bool) -> Policy:
        def act(obs: PyTree, carry: Carry, key: Key) -> ActOutput:
            obs = normalize.apply(agent.obs_stats, obs)
            params, carry = self.net.act(agent.params, obs, carry)
            action = self.dist.mode(params) if greedy else self.dist.sample(params, key)
            env_action = self.dist.to_env(action)
            # Log-probabilities come after the rollout, in one batch: fewer kernels in each step.
            extras = {"dist": params} if env_action is action else {"dist": params, "action": action}
            return ActOutput(env_action, carry, extras)

        return act

    def value(self, agent: Agent, obs: PyTree, carry: Carry) -> jax.Array:
        value = self.net.value(agent.params, normalize.apply(agent.obs_stats, obs), carry)
        return value if agent.reward_scale is None else value * normalize.scale(agent.reward_scale)

    def update(
        self, agent: Agent, runner: PyTree, experience: Experience, clock: Clock, key: Key
    ) -> tuple[Agent, PyTree, Metrics]:
        key_collect, key_learn = jax.random.split(key)
        runner, rollout = experience.collect(self.policy(agent, greedy=False), runner, key_collect)
        batch, reward_scale = self._batch(agent, rollout)
        params, opt_state, metrics = self._learn(agent, batch, rollout.carry, clock, key_learn)
        metrics["explained_variance"] = _explained_variance(batch.value, batch.target)
        agent = Agent(
            params=params,
            opt_state=opt_state,
            # Only now: the whole update sees observations as the policy saw them when it acted.
            obs_stats=normalize.update(agent.obs_stats, rollout.obs),
            reward_scale=reward_scale,
        )
        return agent, runner, metrics

    def _batch(self, agent: Agent, rollout: Rollout) -> tuple[Batch, normalize.RewardScale | None]:
        """Values, advantages and log-probabilities of a rollout, leaves [T, B, ...]."""
        hyper = self.hyper
        obs = normalize.apply(agent.obs_stats, rollout.obs)
        value, carry = self.net.values(agent.params, obs, rollout.carry, rollout.started)
        next_value = self._next_value(agent, rollout, value, carry)
        reward, reward_scale = rollout.reward, agent.reward_scale
        if reward_scale is not None:
            done = rollout.terminated | rollout.truncated
            reward_scale, reward = normalize.update_and_scale(reward_scale, reward, done, hyper.gamma)
        advantage = gae(
            reward,
            value,
            next_value,
            rollout.terminated,
            rollout.truncated,
            gamma=hyper.gamma,
            lambda_=hyper.gae_lambda,
        )
        action = rollout.extras.get("action", rollout.action)
        log_prob = self.dist.log_prob(rollout.extras["dist"], action)
        batch = Batch(obs, action, log_prob, value, advantage, advantage + value, rollout.started)
        return batch, reward_scale

    def _next_value(self, agent: Agent, rollout: Rollout, value: jax.Array, carry: Carry) -> jax.Array:
        """Values of where each action led, f32[T, B]; after a terminated step it means nothing.

        Args:
          value: f32[T, B], of the observations acted on.
          carry: after each step and before any reset, leaves [T, B, ...].
        """

        def value_of(next_obs: PyTree, carry: Carry) -> jax.Array:
            return self.net.value(agent.params, normalize.apply(agent.obs_stats, next_obs), carry)

        last = value_of(*jax.tree.map(lambda x: x[-1], (rollout.next_obs, carry)))
        following = jnp.concatenate([value[1:], last[None]])  # right wherever no episode ended
        cut = rollout.truncated & ~rollout.terminated
        # `obs[t + 1]` belongs to the next episode there, so the critic has to see `next_obs[t]` itself.
        return lax.cond(
            tree.any_over_seeds(cut),
            lambda: jnp.where(cut, value_of(rollout.next_obs, carry), following),
            lambda: following,
        )

    def _learn(
        self, agent: Agent, batch: Batch, carry: Carry, clock: Clock, key: Key
    ) -> tuple[PyTree, PyTree, Metrics]:
        """`num_epochs` passes over one rollout, in minibatches; `carry` is that before it, [B, ...]."""
        hyper = self.hyper
        remaining = self._remaining(clock)
        learning_rate = hyper.learning_rate * (remaining if hyper.anneal_learning_rate else 1.0)
        clip_range = hyper.clip_range * (remaining if hyper.anneal_clip_range else 1.0)

        def step(
            state: tuple[PyTree, PyTree, jax.Array], samples: Batch, carry: Carry, key: Key
        ) -> tuple[tuple[PyTree, PyTree, jax.Array], Metrics]:
            params, opt_state, learning = state
            grads, metrics = jax.grad(self._loss, has_aux=True)(params, samples, carry, clip_range, key)
            if hyper.target_kl is not None:
                # With a KL that is NaN the step is made, so that the fault shows in the parameters.
                learning = learning & ~(metrics["approx_kl"] > 1.5 * hyper.target_kl)
            updates, new_opt_state = self.optimizer.update(grads, opt_state, params)
            if hyper.optimizer is None:
                updates = jax.tree.map(lambda u: -learning_rate * u, updates)
            new_params = optax.apply_updates(params, updates)
            metrics["gradient_norm"] = optax.tree.norm(grads)
            if hyper.target_kl is not None:  # under vmap a `cond` would be this select
                new_params = tree.where(learning, new_params, params)
                new_opt_state = tree.where(learning, new_opt_state, opt_state)
            return (new_params, new_opt_state, learning), metrics

        (params, opt_state, _), metrics = minibatch.epochs(
            step,
            (agent.params, agent.opt_state, jnp.ones((), bool)),
            batch,
            carry,
            key,
            num_epochs=hyper.num_epochs,
            num_minibatches=hyper.num_minibatches,
            whole_sequences=bool(jax.tree.leaves(self.net.carry)),
        )
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        if hyper.optimizer is None:  # else its rates are its own
            metrics["learning_rate"] = jnp.asarray(learning_rate)
        return params, opt_state, metrics

    def _remaining(self, clock: Clock) -> jax.Array:
        """1 in the first update, 0 once the planned number is done, and from then on."""
        left = jnp.maximum(self.spec.num_updates - clock, 0)
        return left.astype(jnp.result_type(float)) / self.spec.num_updates

    def _loss(
        self, params: PyTree, batch: Batch, carry: Carry, clip_range: jax.Array, key: Key
    ) -> tuple[jax.Array, Metrics]:
        """The clipped surrogate objective, equations 7 and 9, on one minibatch [N] or [T, N]."""
        hyper = self.hyper
        dist_params, value = self.net.both(params, batch.obs, carry, batch.started)
        log_ratio = self.dist.log_prob(dist_params, batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = batch.advantage
        if hyper.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        error = jnp.square(value - batch.target)
        if hyper.clip_value:
            limit = clip_range if hyper.value_clip_range is None else hyper.value_clip_range
            near = batch.value + jnp.clip(value - batch.value, -limit, limit)
            error = jnp.maximum(error, jnp.square(near - batch.target))
        value_loss = 0.5 * jnp.mean(error)
        entropy = jnp.mean(self.dist.entropy(dist_params, key))
        loss = policy_loss - hyper.entropy_coef * entropy + hyper.value_coef * value_loss
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
