"""Deep Q-learning from a replay of experience.

In: rollouts of an epsilon-greedy policy. Out: an agent with better action values, and the field's metrics.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; van Hasselt et al.
2016, "Deep Reinforcement Learning with Double Q-learning"; Wang et al. 2016, "Dueling Network Architectures
for Deep Reinforcement Learning"; Hessel et al. 2018, "Rainbow", for the n-step targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxtrain.config import field
from jaxtrain.errors import Problem
from jaxtrain.known import Known
from jaxtrain.rl import networks, own, replay
from jaxtrain.rl.distributions import mask_logits
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.types import (
    ActOutput,
    Algorithm,
    Clock,
    Discrete,
    EnvSpec,
    Experience,
    Key,
    Metrics,
    Policy,
    PyTree,
    Space,
)

LEARNED = ("loss", "td_error", "q_mean", "gradient_norm")  # known from `learning_starts` on


Learner: TypeAlias = tuple[PyTree, PyTree]  # parameters, optimizer state


@struct.dataclass
class Agent:
    """All that DQN learns or remembers, of one seed."""

    params: PyTree
    target_params: PyTree
    opt_state: PyTree
    replay: replay.Replay


class ActionValues(nn.Module):
    """A torso and a linear head: f32[N, ...] to f32[N, num_actions].

    Dueling, the head gives advantages, less their mean over the actions, beside a value: equation 9 of Wang
    et al., with one torso for both.
    """

    torso: nn.Module
    num_actions: int
    dueling: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.torso(x)
        head = networks.dense(self.num_actions, 1.0, name="head")(x)
        if not self.dueling:
            return head
        return networks.dense(1, 1.0, name="value")(x) + head - head.mean(axis=-1, keepdims=True)


@dataclass(frozen=True)
class QNetwork:
    """Action values as functions of parameters and observations, which may have any leading axes."""

    space: Space  # of an observation, without its action mask
    num_actions: int
    module: nn.Module

    def init(self, key: Key, obs: PyTree) -> PyTree:
        """Fresh parameters for observations like `obs`, arrays or `jax.ShapeDtypeStruct`s of one."""
        obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), obs)
        x, _ = networks.encode(self.space, networks.split_mask(obs)[0])
        params = networks.init(self.module, key, jax.tree.map(lambda x: x[None], x), "q_network")
        jax.eval_shape(lambda: self.valid(obs, self(params, obs)))  # what does not fit is said here
        return params

    def __call__(self, params: PyTree, obs: PyTree) -> jax.Array:
        """f32[..., num_actions], those of invalid actions among them."""
        x, batch = networks.encode(self.space, networks.split_mask(obs)[0])
        return networks.apply(self.module, params, x, batch, "q_network", (self.num_actions,))

    def valid(self, obs: PyTree, values: jax.Array) -> jax.Array:
        """The same values, but far below all others where the action is invalid."""
        _, mask = networks.split_mask(obs)
        if mask is None:
            return values
        if mask.shape != values.shape:
            raise ValueError(f"action_mask: has shape {mask.shape}, needs {values.shape}")
        return mask_logits(values, mask)


def act(q: QNetwork, params: PyTree, epsilon: jax.Array | None = None) -> Policy:
    """The greedy policy; with `epsilon`, f32[], that is the probability of a random valid action."""

    def policy(obs: PyTree, carry: PyTree, key: Key) -> ActOutput:
        values = q(params, obs)
        if epsilon is not None:
            key_explore, key_noise = jax.random.split(key)
            explore = jax.random.bernoulli(key_explore, epsilon, values.shape[:-1])
            noise = jax.random.uniform(key_noise, values.shape, values.dtype)
            values = jnp.where(explore[..., None], noise, values)  # whose greatest is a uniform draw
        return ActOutput(jnp.argmax(q.valid(obs, values), axis=-1).astype(jnp.int32), carry, ())

    return policy


def _of(action: jax.Array, values: jax.Array) -> jax.Array:
    """f32[N]: of each row of f32[N, num_actions], the value of one action."""
    return jnp.take_along_axis(values, action[:, None], axis=1)[:, 0]


def q_target(
    reward: jax.Array, discount: jax.Array, next_choice: jax.Array, next_value: jax.Array
) -> jax.Array:
    """What Q(obs, action) regresses to.

    Args:
      reward, discount: f32[N], of the steps taken; the discount is 0 where nothing follows.
      next_choice: f32[N, num_actions], whose greatest entry says which action follows: the target network's
        values, or, in double Q-learning, those of the network that learns; invalid actions lie far below.
      next_value: f32[N, num_actions], the target network's, which says what that action is worth.
    """
    return reward + discount * _of(jnp.argmax(next_choice, axis=-1), next_value)


class Plan(NamedTuple):
    """What a config gives in env steps and in transitions, as whole updates."""

    num_blocks: int  # of the replay
    learning_starts: int
    target_update_interval: int
    exploration: int


@field.config
class DQN:
    """Hyperparameters of DQN; rates are pytree leaves and may be arrays under `vmap`."""

    name: str = field.choice("dqn", ("dqn",))
    rollout_length: int = field.integer(
        4, low=1, high=field.INT32, help="env steps of each environment per update, T"
    )
    buffer_size: int | None = field.integer(
        None,
        low=1,
        high=field.INT32,
        help="transitions, rounded down to whole updates; unset: 100,000 rounded up",
    )
    batch_size: int = field.integer(128, low=1, high=field.INT32, help="transitions in a gradient step")
    learning_starts: int | None = field.integer(
        None, low=0, help="env steps before the first gradient step; unset: 1,000 rounded up to whole updates"
    )
    gradient_steps: int = field.integer(8, low=1, high=field.INT32, help="in an update")
    target_update_interval: int | None = field.integer(
        None, low=1, help="env steps between two copies; unset: 1,000 rounded up to whole updates"
    )
    learning_rate: Any = field.rate(2.5e-4, low=0)
    gamma: Any = field.rate(0.99, low=0, high=1, help="discount per step")
    exploration_initial: Any = field.rate(1.0, low=0, high=1, help="probability of a random action at first")
    exploration_final: Any = field.rate(0.05, low=0, high=1, help="and after exploration_steps")
    exploration_steps: int | None = field.integer(
        None, low=1, help="env steps over which it falls linearly; unset: half of those that rates anneal in"
    )
    double: bool = field.flag(True, help="choose the next action by the network that learns")
    dueling: bool = field.flag(False, help="a value and advantages instead of action values")
    # One less, as there is a power of gamma more than steps.
    n_step: int = field.integer(1, low=1, high=field.INT32 - 1, help="most steps whose rewards a target has")
    # Squared, the errors at an episode's end hold values that have grown too great. Where errors are clipped,
    # as Mnih et al. have them, these weigh no more than any other, and CartPole's values diverge.
    loss: str = field.choice("squared", ("squared", "huber"), help="of the temporal-difference error")
    max_grad_norm: Any = field.rate(10.0, above=0, help="one norm over all parameters")
    adam_eps: Any = field.rate(1e-8, above=0)
    network: NetworkConfig = field.nested(NetworkConfig)
    q_network: Any = field.given("a flax module", "init", "apply")
    optimizer: Any = field.given("an optax optimizer", "init", "update", help="it brings its own rates")

    def check(self, spec: EnvSpec) -> list[Problem]:
        """What does not fit the environment, or how many there are."""
        found: list[Problem] = []
        if not isinstance(spec.action_space, Discrete):
            rule = f"needs actions that are one integer each, Discrete, not {spec.action_space}"
            found.append(Problem("name", self.name, rule))
        per = spec.num_envs * self.rollout_length
        sizes = f"{per} env steps ({spec.num_envs} environments x {self.rollout_length} steps)"
        for name in ("learning_starts", "target_update_interval", "exploration_steps"):
            steps = getattr(self, name)
            if steps is not None and steps % per:
                down = steps // per * per
                near = f"{down} and {down + per}" if down or name == "learning_starts" else f"{per}"
                rule = f"needs a whole number of updates of {sizes}; the nearest: {near}"
                found.append(Problem(name, steps, rule))
        if self.buffer_size is not None and self.buffer_size < per:
            rule = f"needs room for one update of {sizes}; the nearest is {per}"
            return [*found, Problem("buffer_size", self.buffer_size, rule)]
        plan = self._plan(spec)
        rows = min(plan.learning_starts + 1, plan.num_blocks) * per
        if self.batch_size > rows:
            rule = (
                f"needs at most the {rows} transitions that there are when learning starts, or greater "
                "learning_starts and buffer_size"
            )
            found.append(Problem("batch_size", self.batch_size, rule))
        if self.q_network is None:
            found += networks.problems(spec.observation_space, self.network)
        found += self._unused()
        return found or self._check_given(spec)

    def _check_given(self, spec: EnvSpec) -> list[Problem]:
        """What does not fit of the objects that only Python gives."""
        q, obs = self._network(spec), spec.observation
        if self.q_network is not None:
            found = own.check_module("q_network", self.q_network, q.space, obs, (q.num_actions,))
            if found:
                return found
        if self.optimizer is None:
            return []
        params = jax.eval_shape(lambda key: q.init(key, obs), jax.random.key(0))
        return own.check_optimizer("optimizer", self.optimizer, params)

    def _unused(self) -> list[Problem]:
        """Fields that are set and would change nothing."""
        found = [
            Problem(f"network.{name}", value, f"DQN has no use for it; needs {plain!r}")
            for name, plain in (("shared", False), ("log_std_init", 0.0), ("recurrent", "none"))
            if (value := getattr(self.network, name)) != plain
        ]
        if self.q_network is not None and self.dueling:
            found.append(Problem("dueling", True, "needs false with a q_network, which has its own head"))
        return found

    def _plan(self, spec: EnvSpec) -> Plan:
        per = spec.num_envs * self.rollout_length

        def updates(steps: int | None, unset: int) -> int:
            return min(-(-(unset if steps is None else steps) // per), field.INT32)

        return Plan(
            num_blocks=updates(None, 100_000) if self.buffer_size is None else self.buffer_size // per,
            learning_starts=updates(self.learning_starts, max(1_000, self.batch_size)),
            target_update_interval=updates(self.target_update_interval, 1_000),
            exploration=updates(self.exploration_steps, max(spec.num_updates // 2, 1) * per),
        )

    def _network(self, spec: EnvSpec) -> QNetwork:
        assert isinstance(spec.action_space, Discrete)  # see `check`
        num_actions, module, space = spec.action_space.n, self.q_network, self.network_space(spec)
        if module is None:
            module = ActionValues(networks.make_torso(space, self.network), num_actions, self.dueling)
        return QNetwork(space, num_actions, module)

    def network_space(self, spec: EnvSpec) -> Space:
        """The observation space as the network sees it."""
        if self.q_network is not None or not self.network.scale_images:
            return spec.observation_space
        return networks.scaled(spec.observation_space, spec.observation)

    def _optimizer(self) -> optax.GradientTransformation:
        """Up to the learning rate, which is applied after it."""
        if self.optimizer is not None:
            return self.optimizer
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=self.adam_eps)
        )

    def make(self, spec: EnvSpec) -> Algorithm[Agent]:
        """The functions that the loop calls, for hyperparameters in which `check` finds nothing."""
        q, optimizer, plan = self._network(spec), self._optimizer(), self._plan(spec)

        def init(key: Key, params: PyTree = None) -> Agent:
            obs = spec.observation
            params = q.init(key, obs) if params is None else params
            action, reward, flag = (
                jnp.zeros((), dtype) for dtype in (jnp.int32, jnp.result_type(float), bool)
            )
            step = replay.Transition(obs, action, reward, flag, flag, obs)
            ring = replay.init(step, plan.num_blocks, self.rollout_length, spec.num_envs)
            # A copy: two names of one buffer could not be donated.
            return Agent(params, jax.tree.map(jnp.copy, params), optimizer.init(params), ring)

        def epsilon(clock: Clock) -> jax.Array:
            share = jnp.minimum(clock / plan.exploration, 1.0)
            return self.exploration_initial + (self.exploration_final - self.exploration_initial) * share

        def sample(agent: Agent, clock: Clock) -> Policy:
            return act(q, agent.params, epsilon(clock))

        def update(
            agent: Agent, runner: PyTree, exp: Experience, clock: Clock, key: Key
        ) -> tuple[Agent, PyTree, Metrics]:
            key_collect, key_learn = jax.random.split(key)
            runner, ro = exp.collect(sample(agent, clock), runner, key_collect)
            rows = replay.Transition(ro.obs, ro.action, ro.reward, ro.terminated, ro.truncated, ro.next_obs)
            ring = replay.add(agent.replay, clock, exp.running, rows)

            def step(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
                batch = replay.sample(ring, clock, key, self.batch_size, gamma=self.gamma, n_step=self.n_step)
                return self._gradient_step(q, optimizer, learner, agent.target_params, batch)

            def learn() -> tuple[Learner, PyTree, jax.Array]:
                new, metrics = lax.scan(step, learner, jax.random.split(key_learn, self.gradient_steps))
                copies = (clock + 1) % plan.target_update_interval == 0
                target_params = lax.cond(copies, lambda: new[0], lambda: agent.target_params)
                return new, target_params, jnp.stack([jnp.mean(metrics[name]) for name in LEARNED])

            # The ring is closed over and in no branch's result, so it is never copied. Targets are copied
            # only where parameters move: each condition halts a GPU for some 20 us.
            learner, ready = (agent.params, agent.opt_state), clock >= plan.learning_starts
            waited = learner, agent.target_params, jnp.zeros(len(LEARNED))
            (params, opt_state), target_params, learned = lax.cond(ready, learn, lambda: waited)
            metrics: Metrics = {n: Known(x, ready) for n, x in zip(LEARNED, learned, strict=True)}
            metrics["epsilon"] = epsilon(clock)
            if self.optimizer is None:  # else its rates are its own
                metrics["learning_rate"] = jnp.asarray(self.learning_rate)
            return Agent(params, target_params, opt_state, ring), runner, metrics

        return Algorithm(
            init=init,
            policy=lambda agent, clock: act(q, agent.params),
            sample=sample,
            update=update,
            value=lambda agent, obs, carry: q.valid(obs, q(agent.params, obs)).max(axis=-1),
        )

    def _gradient_step(
        self,
        q: QNetwork,
        optimizer: optax.GradientTransformation,
        learner: Learner,
        target_params: PyTree,
        batch: replay.Batch,
    ) -> tuple[Learner, Metrics]:
        params, opt_state = learner
        next_value = q(target_params, batch.next_obs)
        next_choice = q(params, batch.next_obs) if self.double else next_value
        target = q_target(batch.reward, batch.discount, q.valid(batch.next_obs, next_choice), next_value)

        def mean(x: jax.Array) -> jax.Array:
            return jnp.sum(batch.weight * x) / jnp.maximum(jnp.sum(batch.weight), 1.0)

        def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
            value = _of(batch.action, q(params, batch.obs))
            error = value - target
            losses = optax.huber_loss(error) if self.loss == "huber" else 0.5 * jnp.square(error)
            metrics = {"loss": mean(losses), "td_error": mean(jnp.abs(error)), "q_mean": mean(value)}
            return metrics["loss"], metrics

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        if self.optimizer is None:
            updates = jax.tree.map(lambda u: -self.learning_rate * u, updates)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return (optax.apply_updates(params, updates), opt_state), metrics
