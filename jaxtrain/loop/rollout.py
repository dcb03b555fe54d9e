"""Collect experience: step B environments with a policy, reset those that ended, count episodes.

In: an `Env`, a policy and a `RolloutState`. Out: the same T steps on, and a time-major `Rollout`.
Knows nothing of losses, optimizers or logging. The one place that resets, so `next_obs` is right once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxtrain.errors import ContractError
from jaxtrain.events.event import OnReset, OnStep, Statistic, Transition
from jaxtrain.known import Known
from jaxtrain.loop import hooks
from jaxtrain.tree import not_finite, same_tree, where
from jaxtrain.types import ActOutput, Env, Key, Metrics, Policy, PyTree, Rollout, Step

WINDOW = 100  # finished episodes that `rollout/return_mean` and the like look back on


@struct.dataclass
class Episodes:
    """The last 100 finished episodes of one seed, as a ring."""

    returns: jax.Array  # f32[100], in the environment's reward unit, undiscounted
    lengths: jax.Array  # i32[100], steps
    position: jax.Array  # i32[], where the next one goes
    finished: jax.Array  # i32[], how many have finished; stays at 2^31 - 1 from there on

    @classmethod
    def empty(cls) -> Episodes:
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros(WINDOW), jnp.zeros(WINDOW, jnp.int32), zero, zero)

    def add(self, done: jax.Array, returns: jax.Array, lengths: jax.Array) -> Episodes:
        """Put in the episodes that ended, in order of time: all three are [T, B]."""
        done, returns, lengths = done.reshape(-1), returns.reshape(-1), lengths.reshape(-1)
        rank = jnp.cumsum(done, dtype=jnp.int32)  # the k-th to finish has rank k
        count = rank[-1]
        kept = done & (rank > count - WINDOW)
        slot = jnp.where(kept, (self.position + rank - 1) % WINDOW, WINDOW)
        room = jnp.iinfo(jnp.int32).max - self.finished
        return Episodes(
            returns=self.returns.at[slot].set(returns, mode="drop"),
            lengths=self.lengths.at[slot].set(lengths, mode="drop"),
            position=(self.position + count) % WINDOW,
            finished=self.finished + jnp.minimum(count, room),
        )

    def metrics(self) -> Metrics:
        """Mean and standard deviation over the window; unknown while no episode has finished."""
        held = jnp.minimum(self.finished, WINDOW)
        inside = jnp.arange(WINDOW) < held

        def mean(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(inside, x, 0)) / jnp.maximum(held, 1)

        return_mean = mean(self.returns)
        means = {
            "return_mean": return_mean,
            "return_std": jnp.sqrt(mean((self.returns - return_mean) ** 2)),
            "length_mean": mean(self.lengths.astype(jnp.float32)),
        }
        known = {f"rollout/{name}": Known(value, held > 0) for name, value in means.items()}
        return {**known, "rollout/episodes": self.finished}


FAULTS = ("observation", "reward", "extras")  # what of a rollout is looked at for what is not finite
RESET_BYTES = 2**26  # fresh starts of a rollout are drawn before it while they fit in this


class Runner(struct.PyTreeNode):
    """Where B environments stand."""

    env: PyTree  # environment states, leaves [B, ...]
    obs: PyTree  # what the policy sees next, leaves [B, ...]
    carry: PyTree  # recurrent state of the policy, leaves [B, ...]
    episode_return: jax.Array  # f32[B], so far
    episode_length: jax.Array  # i32[B], so far
    countdown: dict[str, jax.Array]  # i32[B] for each `OnStep`: steps until it acts
    sums: dict[str, jax.Array]  # f32[B] for each statistic per episode: so far
    nominal: dict[str, jax.Array]  # [B, ...] of parameters that hooks read and change: see `hooks.py`


class RolloutState(struct.PyTreeNode):
    """What collecting reads and advances; a runner to the algorithm, which passes it on."""

    runner: Runner
    env_params: PyTree  # leaves [B, ...]
    episodes: Episodes
    statistics: Metrics  # of the last rollout
    faults: dict[str, jax.Array]  # bool[] by what it is of: whether something collected is not finite
    collects: jax.Array  # i32[], rollouts collected in this update


class Start(NamedTuple):
    """Starts of episodes, leaves [B, ...]."""

    obs: PyTree
    env: PyTree
    env_params: PyTree  # as the `OnReset` hooks left them; None without hooks


class StepKeys(NamedTuple):
    """One step's sources of randomness."""

    act: Key
    env: Key  # [B]
    reset: Key  # [B]
    push: Key
    intervals: Key


class StepOutput(NamedTuple):
    """One step of B environments, before any reset."""

    rollout: Rollout  # leaves [B, ...]
    done: jax.Array  # bool[B]
    episode_return: jax.Array  # f32[B], this step included
    episode_length: jax.Array  # i32[B], this step included
    numbers: dict[str, jax.Array]  # f32[B] for each statistic


@dataclass(frozen=True)
class Collector:
    """How experience is collected; fixed for a run.

    Args:
      env: without auto-reset.
      num_envs: B.
      length: T.
      carry: recurrent state of the policy at an episode's start, of one environment.
      on_reset, on_step: hooks, applied in this order given.
      statistics: more numbers than return and length.
      watch: look whether what is collected is finite.
    """

    env: Env
    num_envs: int
    length: int
    carry: PyTree = ()
    on_reset: tuple[OnReset, ...] = ()
    on_step: tuple[OnStep, ...] = ()
    statistics: tuple[Statistic, ...] = field(default=())
    watch: bool = False

    def start(self, key: Key, env_params: PyTree) -> tuple[Runner, PyTree]:
        """B fresh episodes, and the parameters they were started with (hooks may have moved them)."""
        key_reset, key_hooks = jax.random.split(key)
        nominal = hooks.remembered(self.on_reset, env_params) if self.on_reset else {}
        return self._started(jax.random.split(key_reset, self.num_envs), key_hooks, env_params, nominal)

    def _started(
        self, keys: Key, key_hooks: Key, env_params: PyTree, nominal: dict[str, jax.Array]
    ) -> tuple[Runner, PyTree]:
        fresh = self._reset(keys, env_params, nominal)
        zeros = jnp.zeros(self.num_envs)
        runner = Runner(
            env=fresh.env,
            obs=fresh.obs,
            carry=self._fresh_carry(),
            episode_return=zeros,
            episode_length=zeros.astype(jnp.int32),
            countdown=self._intervals(key_hooks),
            sums={s.name: zeros for s in self.statistics if s.reduction == "episode"},
            nominal=nominal,
        )
        return runner, fresh.env_params if self.on_reset else env_params

    def _fresh_carry(self) -> PyTree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_envs, *jnp.shape(x))), self.carry)

    def begin(self, runner: Runner, env_params: PyTree, episodes: Episodes) -> RolloutState:
        """What an update is handed: nothing collected yet."""
        return RolloutState(
            runner=runner,
            env_params=env_params,
            episodes=episodes,
            statistics={f"rollout/{s.name}": Known(jnp.zeros(()), jnp.bool_(False)) for s in self.statistics},
            faults={name: jnp.zeros((), bool) for name in FAULTS},
            collects=jnp.zeros((), jnp.int32),
        )

    def restart(self, state: RolloutState, key: Key, group: int = 1) -> RolloutState:
        """Fresh episodes in every environment; those under way are not counted.

        Args:
          state: one seed.
          key: used up here.
          group: so many environments, one behind the other, share a start.

        Raises:
          ValueError: `group` does not divide the number of environments.
        """
        if self.num_envs % group:
            raise ValueError(f"restart: group = {group}: needs to divide num_envs = {self.num_envs}")
        key_reset, key_hooks = jax.random.split(key)
        keys = jnp.repeat(jax.random.split(key_reset, self.num_envs // group), group, axis=0)
        runner, env_params = self._started(keys, key_hooks, state.env_params, state.runner.nominal)
        return state.replace(runner=runner, env_params=env_params)

    def _reset(self, keys: Key, env_params: PyTree, nominal: dict[str, jax.Array]) -> Start:
        def one(key: Key, last: PyTree, nominal: dict[str, jax.Array]) -> Start:
            key_reset, *keys = jax.random.split(key, 1 + len(self.on_reset))
            params = hooks.begin(self.on_reset, keys, hooks.nominal(last, nominal), last)
            obs, state = self.env.reset(key_reset, params)
            return Start(obs, state, params if self.on_reset else None)

        return jax.vmap(one)(keys, env_params, nominal)

    def _intervals(self, key: Key) -> dict[str, jax.Array]:
        keys = jax.random.split(key, max(len(self.on_step), 1))
        return {
            hook.name: jax.random.randint(k, (self.num_envs,), hook.every[0], hook.every[1] + 1)
            for hook, k in zip(self.on_step, keys, strict=False)
        }

    def _push(self, runner: Runner, env_params: PyTree, key: Key) -> Runner:
        """Apply the `OnStep` hooks that are due, each in its own environments."""
        env, countdown = runner.env, dict(runner.countdown)
        key_next, *keys = jax.random.split(key, 1 + len(self.on_step))
        fresh = self._intervals(key_next)
        for hook, key_hook in zip(self.on_step, keys, strict=True):
            due = countdown[hook.name] <= 1
            pushed = jax.vmap(hook.run)(jax.random.split(key_hook, self.num_envs), env, env_params)
            env = where(due, same_tree(f"OnStep {hook.name!r}", env, pushed), env)
            countdown[hook.name] = jnp.where(due, fresh[hook.name], countdown[hook.name] - 1)
        return runner.replace(env=env, countdown=countdown)

    def step_keys(self, key: Key) -> StepKeys:
        """Everything that one step draws from, named."""
        key_act, key_env, key_reset, key_push, key_intervals = jax.random.split(key, 5)
        split = jax.random.split
        return StepKeys(
            key_act, split(key_env, self.num_envs), split(key_reset, self.num_envs), key_push, key_intervals
        )

    def step(
        self, policy: Policy, runner: Runner, env_params: PyTree, keys: StepKeys, fresh: Start | None = None
    ) -> tuple[Runner, PyTree, StepOutput]:
        """Act, step, and start anew where an episode ended.

        Args:
          fresh: starts drawn beforehand; left out, they are drawn here.

        Raises:
          ContractError: while tracing: a policy that gave no `ActOutput`, or another carry.
        """
        decision: Any = policy(runner.obs, runner.carry, keys.act)
        if not isinstance(decision, ActOutput):
            raise ContractError(
                f"the policy gave {type(decision).__name__}, needs ActOutput(action, carry, extras)"
            )
        decision = decision._replace(carry=same_tree("the policy's carry", runner.carry, decision.carry))
        pushed = self._push(runner, env_params, keys.push) if self.on_step else runner
        out = Step(*jax.vmap(self.env.step)(keys.env, pushed.env, decision.action, env_params))
        done = out.terminated | out.truncated
        total, length = runner.episode_return + out.reward, runner.episode_length + 1
        numbers = self._numbers(runner, decision.action, out)
        sums = {name: value + numbers[name] for name, value in runner.sums.items()}
        moment = StepOutput(
            Rollout(
                obs=runner.obs,
                action=decision.action,
                reward=out.reward,
                terminated=out.terminated,
                truncated=out.truncated,
                next_obs=out.obs,
                started=done,  # by the next step
                extras=decision.extras,
            ),
            done,
            total,
            length,
            {**numbers, **sums},
        )
        if fresh is None:
            fresh = self._reset(keys.reset, env_params, runner.nominal)
            env_params = where(done, fresh.env_params, env_params) if self.on_reset else env_params
        countdown = pushed.countdown
        if self.on_step:
            countdown = where(done, self._intervals(keys.intervals), countdown)
        runner = Runner(
            env=where(done, fresh.env, out.state),
            obs=where(done, fresh.obs, out.obs),
            carry=where(done, self._fresh_carry(), decision.carry),
            episode_return=jnp.where(done, 0.0, total),
            episode_length=jnp.where(done, 0, length),
            countdown=countdown,
            sums={name: jnp.where(done, 0.0, value) for name, value in sums.items()},
            nominal=runner.nominal,
        )
        return runner, env_params, moment

    def _numbers(self, runner: Runner, action: jax.Array, out: Step) -> dict[str, jax.Array]:
        """Every statistic of one step, f32[B]."""
        if not self.statistics:
            return {}
        transition = Transition(
            runner.obs, action, out.reward, out.obs, out.terminated, out.truncated, out.info
        )
        return jax.vmap(lambda t: {s.name: s(t) for s in self.statistics})(transition)

    def __call__(self, policy: Policy, state: RolloutState, key: Key) -> tuple[RolloutState, Rollout]:
        """T steps of every environment.

        Args:
          policy: `(obs, carry, key) -> ActOutput`, leaves [B, ...].
          state: one seed.
          key: used up here.
        """
        keys = jax.vmap(self.step_keys)(jax.random.split(key, self.length))
        # Drawn before the rollout, all at once, unless a hook decides their parameters on the way.
        ahead = not self.on_reset and self._reset_bytes(state) <= RESET_BYTES
        draw = jax.vmap(self._reset, in_axes=(0, None, None))
        fresh = draw(keys.reset, state.env_params, {}) if ahead else None

        def step(
            carry: tuple[Runner, PyTree], x: tuple[StepKeys, Start | None]
        ) -> tuple[tuple[Runner, PyTree], StepOutput]:
            runner, env_params, moment = self.step(policy, *carry, *x)
            return (runner, env_params), moment

        # A turn of a loop costs several µs on a GPU and next to nothing on a CPU, where unrolling is slower.
        unroll = 8 if jax.default_backend() != "cpu" else 1
        (runner, env_params), moment = lax.scan(
            step, (state.runner, state.env_params), (keys, fresh), unroll=min(unroll, self.length)
        )
        reduced = {
            f"rollout/{s.name}": _reduce(s.reduction, moment.numbers[s.name], moment.done)
            for s in self.statistics
        }
        episodes = state.episodes.add(moment.done, moment.episode_return, moment.episode_length)
        made = moment.rollout._replace(
            started=jnp.concatenate([jnp.zeros_like(moment.done[:1]), moment.done[:-1]]),
            carry=state.runner.carry,
        )
        watched = {"observation": (made.obs, made.next_obs), "reward": made.reward, "extras": made.extras}
        faults = state.faults
        if self.watch:
            faults = {name: faults[name] | not_finite(watched[name]) for name in FAULTS}
        after = RolloutState(runner, env_params, episodes, reduced, faults, state.collects + 1)
        return after, made

    def _reset_bytes(self, state: RolloutState) -> int:
        leaves = jax.tree.leaves((state.runner.env, state.runner.obs))
        return self.length * sum(x.size * x.dtype.itemsize for x in leaves)


def _reduce(reduction: str, values: jax.Array, done: jax.Array) -> Known:
    """Over [T, B]."""
    if reduction == "episode":
        return Known(jnp.sum(jnp.where(done, values, 0.0)) / jnp.maximum(done.sum(), 1), done.any())
    reductions = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max, "last": lambda x: jnp.mean(x[-1])}
    return Known(reductions[reduction](values), jnp.bool_(True))
