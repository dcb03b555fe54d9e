"""Policy and critic: from observations to distribution parameters and values.

In: an observation space, an action distribution, and a `NetworkConfig` or flax modules of the user's own.
Out: an `ActorCritic` or a `RecurrentActorCritic`: pure functions of parameters, observations and a carry.

Both have the same methods, so that an algorithm need not know which it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtrain.errors import ConfigError
from jaxtrain.rl import networks
from jaxtrain.rl.distributions import Categorical, Distribution, MultiCategorical, mask_logits
from jaxtrain.rl.networks import (
    Network,
    NetworkConfig,
    apply,
    dense,
    encode,
    init,
    make_torso,
    select,
    split_mask,
)
from jaxtrain.rl.recurrent import CELLS, Cell, unroll
from jaxtrain.types import Carry, Dict, Key, PyTree, Space


@dataclass(frozen=True)
class Heads:
    """The last part of a policy and of a critic, or all of it."""

    distribution: Distribution
    policy: nn.Module
    value: nn.Module
    log_std_init: float
    names: tuple[str, str]  # of their parameters

    def init(self, keys: tuple[Key, Key], x: PyTree, x_value: PyTree) -> dict[str, Any]:
        """Parameters for inputs of one batch axis."""
        policy = {"network": init(self.policy, keys[0], x, "policy")}
        extra = self.distribution.num_extra
        if extra and self._policy(policy, x, 1).shape[-1] == self.distribution.num_params:
            policy["log_std"] = jnp.full(extra, self.log_std_init, jnp.result_type(float))
        return {self.names[0]: policy, self.names[1]: init(self.value, keys[1], x_value, "value")}

    def dist_params(self, params: PyTree, x: PyTree, batch: int, mask: jax.Array | None) -> jax.Array:
        """f32[..., P], the distribution's parameters."""
        params = params[self.names[0]]
        out = self._policy(params, x, batch)
        if "log_std" in params:
            log_std = jnp.broadcast_to(params["log_std"], out.shape[:-1] + params["log_std"].shape)
            out = jnp.concatenate([out, log_std.astype(out.dtype)], axis=-1)
        if mask is None:
            return out
        if not isinstance(self.distribution, Categorical | MultiCategorical):
            raise ValueError("action_mask: needs a discrete action space, this one is continuous")
        if mask.shape != out.shape:
            raise ValueError(f"action_mask: has shape {mask.shape}, needs {out.shape}")
        return mask_logits(out, mask)

    def values(self, params: PyTree, x: PyTree, batch: int) -> jax.Array:
        """f32[...]."""
        out = apply(self.value, params[self.names[1]], x, batch, "value", (), (1,))
        return out.reshape(out.shape[:batch])

    def _policy(self, params: PyTree, x: PyTree, batch: int) -> jax.Array:
        mean, extra = self.distribution.num_params, self.distribution.num_extra
        return apply(self.policy, params["network"], x, batch, "policy", (mean,), (mean + extra,))


@dataclass(frozen=True)
class ActorCritic:
    """A policy and a value network, made by `actor_critic`; fixed for a run.

    Parameters are a dict of "policy" and "value", or of "torso", "policy_head" and "value_head" where
    the torso is shared. The policy's part has "network", and "log_std" where the distribution needs
    what the network does not give. Observations may have any leading axes. There is no carry: it is ().
    """

    policy_space: Space  # what the policy sees, without the action mask
    value_space: Space  # what the critic sees
    torso: nn.Module | None  # of both
    heads: Heads
    carry: Carry = ()

    def init(self, key: Key, obs: PyTree) -> dict[str, Any]:
        """Fresh parameters.

        Args:
          key: used up here.
          obs: one observation, or `jax.ShapeDtypeStruct`s of one.

        Raises:
          ValueError: if the observation, the action mask or what a network gives has a wrong shape.
        """
        key_torso, key_policy, key_value = jax.random.split(key, 3)
        obs = jax.tree.map(jnp.zeros_like, obs)
        spaces = (self.policy_space, self.value_space)
        x, x_value = (jax.tree.map(lambda leaf: leaf[None], encode(s, split_mask(obs)[0])[0]) for s in spaces)
        params = {}
        if self.torso is not None:
            params["torso"] = init(self.torso, key_torso, x, "torso")
            x = x_value = apply(self.torso, params["torso"], x, 1, "torso")
        params |= self.heads.init((key_policy, key_value), x, x_value)
        jax.eval_shape(self.both, params, obs)
        return params

    def policy(self, params: PyTree, obs: PyTree) -> jax.Array:
        """f32[..., P], the distribution's parameters; a mask in `obs` is applied to them."""
        x, batch, mask = self._features(params, self.policy_space, obs)
        return self.heads.dist_params(params, x, batch, mask)

    def value(self, params: PyTree, obs: PyTree, carry: Carry = ()) -> jax.Array:
        """f32[...], in the unit of whatever it was trained on."""
        x, batch, _ = self._features(params, self.value_space, obs)
        return self.heads.values(params, x, batch)

    def both(
        self, params: PyTree, obs: PyTree, carry: Carry = (), started: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`(policy, value)`, with a shared torso computed once."""
        if self.torso is None:
            return self.policy(params, obs), self.value(params, obs)
        x, batch, mask = self._features(params, self.policy_space, obs)
        return self.heads.dist_params(params, x, batch, mask), self.heads.values(params, x, batch)

    def act(self, params: PyTree, obs: PyTree, carry: Carry) -> tuple[jax.Array, Carry]:
        """`(policy, carry)`: the carry as it is."""
        return self.policy(params, obs), carry

    def values(
        self, params: PyTree, obs: PyTree, carry: Carry, started: jax.Array
    ) -> tuple[jax.Array, Carry]:
        """`(value, carry)` of a rollout."""
        return self.value(params, obs), carry

    def _features(self, params: PyTree, space: Space, obs: PyTree) -> tuple[Any, int, jax.Array | None]:
        obs, mask = split_mask(obs)
        x, batch = encode(space, obs)
        if self.torso is not None:
            x = apply(self.torso, params["torso"], x, batch, "torso")
        return x, batch, mask


@dataclass(frozen=True)
class Stem:
    """A torso with a cell behind it: from observations and a carry to features."""

    space: Space  # of what it sees
    torso: nn.Module
    cell: Cell

    def init(self, key: Key, obs: PyTree) -> tuple[PyTree, jax.Array]:
        """Parameters, and features f32[1, H], of one observation."""
        key_torso, key_cell = jax.random.split(key)
        x = jax.tree.map(lambda leaf: leaf[None], encode(self.space, obs)[0])
        torso = init(self.torso, key_torso, x, "torso")
        x = apply(self.torso, torso, x, 1, "torso")
        y, variables = self.cell.init_with_output(key_cell, self.initial_carry(1), x)
        return {"torso": torso, "cell": variables["params"]}, y[1]

    def initial_carry(self, *batch: int) -> Carry:
        """The carry at an episode's start, leaves [*batch, ...]."""
        first = self.cell.initial_carry()
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch, *leaf.shape)), first)

    def step(self, params: PyTree, obs: PyTree, carry: Carry) -> tuple[Carry, jax.Array]:
        """`(carry, features)` one step on, any leading axes."""
        out: Any = self.cell.apply({"params": params["cell"]}, carry, self._embed(params, obs))
        return out

    def unroll(
        self, params: PyTree, obs: PyTree, carry: Carry, started: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """`(carry after each step, features)` of a rollout, as `recurrent.unroll`."""
        return unroll(self.cell, params["cell"], self._embed(params, obs), carry, started)

    def _embed(self, params: PyTree, obs: PyTree) -> jax.Array:
        x, batch = encode(self.space, obs)
        return apply(self.torso, params["torso"], x, batch, "torso")


@dataclass(frozen=True)
class RecurrentActorCritic:
    """A policy and a critic that remember: torso, cell and linear head, with a stem each or a shared one.

    Parameters are a dict of "policy" and "value", or of "shared" (each a "torso" and a "cell"), and of
    "policy_head" and "value_head". The carry has the same names as the stems. A policy that acts also
    advances the critic's carry, so that values can be asked for at any step.
    """

    stems: Mapping[str, Stem]
    heads: Heads

    @property
    def carry(self) -> Carry:
        """Of one environment at an episode's start."""
        return {name: stem.initial_carry() for name, stem in self.stems.items()}

    def init(self, key: Key, obs: PyTree) -> dict[str, Any]:
        """As `ActorCritic.init`."""
        key_policy, key_value, *keys = jax.random.split(key, 2 + len(self.stems))
        obs = jax.tree.map(jnp.zeros_like, obs)
        made = {
            name: stem.init(k, split_mask(obs)[0])
            for (name, stem), k in zip(self.stems.items(), keys, strict=True)
        }
        x = {name: features for name, (_, features) in made.items()}
        params = {name: params for name, (params, _) in made.items()}
        heads = self.heads.init((key_policy, key_value), x[self._of("policy")], x[self._of("value")])
        jax.eval_shape(self.act, params | heads, obs, self.carry)
        return params | heads

    def act(self, params: PyTree, obs: PyTree, carry: Carry) -> tuple[jax.Array, Carry]:
        """`(policy, carry)` one step on, f32[..., P]; a mask in `obs` is applied.

        A critic whose entries `obs` does not have, as where no simulator gives them, stays where it is.
        """
        obs, mask = split_mask(obs)
        made = {
            name: stem.step(params[name], obs, carry[name])
            for name, stem in self.stems.items()
            if name != "value" or _has(obs, stem.space)
        }
        carry = carry | {name: new for name, (new, _) in made.items()}
        x = made[self._of("policy")][1]
        return self.heads.dist_params(params, x, x.ndim - 1, mask), carry

    def value(self, params: PyTree, obs: PyTree, carry: Carry) -> jax.Array:
        """f32[...], of observations and the carry before them, any leading axes."""
        name = self._of("value")
        _, x = self.stems[name].step(params[name], split_mask(obs)[0], carry[name])
        return self.heads.values(params, x, x.ndim - 1)

    def values(
        self, params: PyTree, obs: PyTree, carry: Carry, started: jax.Array
    ) -> tuple[jax.Array, Carry]:
        """Values of a rollout, f32[T, B], and the critic's carry after each step, leaves [T, B, ...].

        Args:
          obs: leaves [T, B, ...].
          carry: before `obs[0]`, leaves [B, ...].
          started: bool[T, B], whether an episode began at t.
        """
        name = self._of("value")
        after, x = self.stems[name].unroll(params[name], split_mask(obs)[0], carry[name], started)
        return self.heads.values(params, x, 2), {name: after}

    def both(
        self, params: PyTree, obs: PyTree, carry: Carry, started: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`(policy, value)` of a rollout, f32[T, B, P] and f32[T, B]; arguments as of `values`."""
        obs, mask = split_mask(obs)
        x = {
            name: stem.unroll(params[name], obs, carry[name], started)[1] for name, stem in self.stems.items()
        }
        policy = self.heads.dist_params(params, x[self._of("policy")], 2, mask)
        return policy, self.heads.values(params, x[self._of("value")], 2)

    def _of(self, part: str) -> str:
        return part if part in self.stems else "shared"


def _has(obs: PyTree, space: Space) -> bool:
    return not isinstance(space, Dict) or all(name in obs for name in space)


def actor_critic(
    space: Space,
    distribution: Distribution,
    network: NetworkConfig | None = None,
    *,
    policy: nn.Module | None = None,
    value: nn.Module | None = None,
    policy_observations: tuple[str, ...] = (),
    critic_observations: tuple[str, ...] = (),
    scaled: Space | None = None,
    **settings: Any,
) -> ActorCritic | RecurrentActorCritic:
    """A policy and a value network for an observation space and an action distribution.

    Args:
      space: of an observation, without its action mask. Box observations become float32, integer ones
        one-hot.
      distribution: what the policy's output parameterizes.
      network: sizes; its defaults where left out.
      policy, value: modules of the user's own instead, from f32[N, *shape] of the (one-hot)
        observation, or a dict of them, to [N, num_params], or [N, num_params + num_extra] where the
        network gives the log standard deviations too, and to [N] or [N, 1].
      policy_observations, critic_observations: entries of a `Dict` space that either sees; none for all.
      scaled: `space` as networks that are built here see it, see `networks.scaled`; left out, as it is.
      settings: fields of `NetworkConfig`, in place of those of `network`.

    Raises:
      ConfigError: a ValueError that names every field that does not fit.

    Source:
      Andrychowicz et al. 2021, "What Matters in On-Policy Reinforcement Learning?", and Huang et al.
      2022, "The 37 Implementation Details of PPO": orthogonal weights scaled √2, in the policy's head
      0.01, in the value's 1; zero biases.
    """
    network = NetworkConfig(**settings) if network is None else dataclasses.replace(network, **settings)
    seen = {"policy_observations": policy_observations, "critic_observations": critic_observations}
    own = policy is not None or value is not None
    if found := networks.problems(space, network, **seen, own_modules=own):
        raise ConfigError(found)
    built = space if scaled is None else scaled
    spaces = {
        "policy": select(built if policy is None else space, policy_observations),
        "value": select(built if value is None else space, critic_observations),
    }
    sizes = {"policy": (distribution.num_params, 0.01), "value": (1, 1.0)}
    if network.shared or network.recurrent != "none":
        policy, value = (dense(*size) for size in sizes.values())
        heads = Heads(distribution, policy, value, network.log_std_init, ("policy_head", "value_head"))
    else:
        policy = policy or Network(make_torso(spaces["policy"], network), *sizes["policy"])
        value = value or Network(make_torso(spaces["value"], network), *sizes["value"])
        heads = Heads(distribution, policy, value, network.log_std_init, ("policy", "value"))
    if network.recurrent == "none":
        torso = make_torso(spaces["policy"], network) if network.shared else None
        return ActorCritic(spaces["policy"], spaces["value"], torso, heads)
    cell = CELLS[network.recurrent](network.recurrent_size)
    parts = {"shared": spaces["policy"]} if network.shared else spaces
    return RecurrentActorCritic(
        {name: Stem(part, make_torso(part, network), cell) for name, part in parts.items()}, heads
    )
