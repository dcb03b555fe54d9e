"""Policy and value networks: from observations to distribution parameters and values.

In: an observation space, an action distribution, and sizes or flax modules of the user's own. Out: an
`ActorCritic`, pure functions of parameters and observations.
Knows nothing of losses, rollouts or environments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.rl.distributions import Categorical, Distribution, MultiCategorical, mask_logits
from jaxtrain.types import Box, Discrete, Key, MultiDiscrete, PyTree, Space

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "swish": nn.swish,
    "gelu": nn.gelu,
    "elu": nn.elu,
}


def orthogonal(scale: float) -> Callable[..., jax.Array]:
    """An initializer: uniformly random matrices with orthonormal rows or columns, times `scale`.

    Gram-Schmidt on Gaussian columns, each projected twice. Not LAPACK's QR, as flax has it: batched over
    seeds, jaxlib's waits for the threads of the pool that it runs in, and on few cores never ends (seen on
    0.10.2 with 2), while on a GPU it takes the seeds one by one (jax-ml/jax#8542).

    Source:
      Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
      networks"; Giraud et al. 2005, "Rounding error analysis of the classical Gram-Schmidt
      orthogonalization process": why twice.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        length, count = max(rows, columns), min(rows, columns)

        def project(j: int, q: jax.Array) -> jax.Array:
            v, earlier = q[:, j], jnp.arange(count) < j
            for _ in range(2):
                along = jnp.where(earlier, jnp.dot(v, q, precision="highest"), 0.0)
                v = v - jnp.dot(q, along, precision="highest")
            return q.at[:, j].set(v / jnp.linalg.norm(v))

        q = lax.fori_loop(0, count, project, jax.random.normal(key, (length, count), dtype))
        return scale * (q if rows >= columns else q.T).reshape(shape)

    return init


def _dense(features: int, scale: float, name: str | None = None) -> nn.Dense:
    return nn.Dense(features, kernel_init=orthogonal(scale), param_dtype=jnp.result_type(float), name=name)


class MLP(nn.Module):
    """Dense layers with an activation after each: f32[N, ...], flattened, to f32[N, hidden_sizes[-1]]."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for size in self.hidden_sizes:
            x = ACTIVATIONS[self.activation](_dense(size, math.sqrt(2))(x))
        return x


class CNN(nn.Module):
    """Convolutions of stride 1 without padding, then an `MLP`: f32[N, H, W, C] to f32[N, features].

    Source:
      Young and Tian 2019, "MinAtar": the default of one layer with 16 kernels of 3 × 3.
    """

    channels: tuple[int, ...] = (16,)
    kernel_size: int = 3
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in self.channels:
            # Patches times a matrix: a convolution whose kernel is batched, as over seeds, would be a
            # grouped one, which is slower (2 to 3 times on CPU, gradient included).
            for axis in (2, 1):
                size = x.shape[axis] - self.kernel_size + 1
                shifts = [lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(self.kernel_size)]
                x = jnp.concatenate(shifts, axis=-1)
            x = ACTIVATIONS[self.activation](_dense(channels, math.sqrt(2))(x))
        return MLP(self.hidden_sizes, self.activation)(x)


class Network(nn.Module):
    """A torso and a linear head: f32[N, ...] to f32[N, features]."""

    torso: nn.Module
    features: int
    scale: float  # of the head's initial weights

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _dense(self.features, self.scale, name="head")(self.torso(x))


def _encode(space: Space, obs: jax.Array) -> tuple[jax.Array, int]:
    """f32[..., *shape] and its number of leading axes; integers one-hot (MultiDiscrete end to end)."""
    obs, dtype = jnp.asarray(obs), jnp.result_type(float)
    batch = obs.ndim - len(space.shape)
    if batch < 0 or obs.shape[batch:] != space.shape:
        raise ValueError(f"obs: has shape {obs.shape}, needs {space.shape} after any leading axes")
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n, dtype=dtype), batch
    if isinstance(space, MultiDiscrete):
        hot = [jax.nn.one_hot(obs[..., i], n, dtype=dtype) for i, n in enumerate(space.nvec)]
        return jnp.concatenate(hot, axis=-1), batch
    return obs.astype(dtype), batch


def _init(module: nn.Module, key: Key, x: jax.Array, name: str) -> Any:
    variables = module.init(key, x)
    if others := sorted(set(variables) - {"params"}):
        raise ValueError(f"{name}: keeps {others} besides 'params', which would never be updated")
    return variables.get("params", {})


def _apply(
    module: nn.Module, params: Any, x: jax.Array, batch: int, name: str, *shapes: tuple[int, ...]
) -> jax.Array:
    """Apply to exactly one batch axis, which is what most modules can take, and check the result.

    Args:
      batch: number of leading axes of `x`.
      shapes: what the module may give per observation; none for anything.
    """

    def apply(x: jax.Array) -> jax.Array:
        out = jnp.asarray(module.apply({"params": params}, x))
        if shapes and out.shape not in [(len(x), *shape) for shape in shapes]:
            needs = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
            raise ValueError(
                f"{name}: gave shape {out.shape} for {len(x)} observations of shape {x.shape[1:]}, "
                f"needs {needs} for each"
            )
        return out

    if batch == 0:
        return apply(x[None])[0]
    for _ in range(batch - 1):  # not a reshape, which would gather what lies on several devices
        apply = jax.vmap(apply)
    return apply(x)


@dataclass(frozen=True)
class ActorCritic:
    """A policy and a value network, made by `actor_critic`; fixed for a run.

    Parameters are a dict of "policy" and "value", or of "torso", "policy_head" and "value_head" where
    the torso is shared. The policy's part has "network", and "log_std" where the distribution needs
    what the network does not give. Observations may have any leading axes.
    """

    space: Space  # of an observation, without its action mask
    distribution: Distribution
    torso: nn.Module | None
    policy_net: nn.Module
    value_net: nn.Module
    log_std_init: float

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
        x, _ = self._encode(obs)
        x, params = x[None], {}
        if self.torso is not None:
            params["torso"] = _init(self.torso, key_torso, x, "torso")
            x = _apply(self.torso, params["torso"], x, 1, "torso")
        policy = {"network": _init(self.policy_net, key_policy, x, "policy")}
        extra = self.distribution.num_extra
        if extra and self._head(policy, x, 1).shape[-1] == self.distribution.num_params:
            policy["log_std"] = jnp.full(extra, self.log_std_init, jnp.result_type(float))
        params[self._names[0]] = policy
        params[self._names[1]] = _init(self.value_net, key_value, x, "value")
        jax.eval_shape(self.both, params, obs)
        return params

    def policy(self, params: PyTree, obs: PyTree) -> jax.Array:
        """f32[..., P], the distribution's parameters; a mask in `obs` is applied to them."""
        return self._policy(params, obs, *self._features(params, obs))

    def value(self, params: PyTree, obs: PyTree) -> jax.Array:
        """f32[...], in the unit of whatever it was trained on."""
        return self._value(params, *self._features(params, obs))

    def both(self, params: PyTree, obs: PyTree) -> tuple[jax.Array, jax.Array]:
        """`(policy, value)`, with a shared torso computed once."""
        x, batch = self._features(params, obs)
        return self._policy(params, obs, x, batch), self._value(params, x, batch)

    @property
    def _names(self) -> tuple[str, str]:
        return ("policy", "value") if self.torso is None else ("policy_head", "value_head")

    def _encode(self, obs: PyTree) -> tuple[jax.Array, int]:
        return _encode(self.space, obs["observation"] if isinstance(obs, Mapping) else obs)

    def _features(self, params: PyTree, obs: PyTree) -> tuple[jax.Array, int]:
        x, batch = self._encode(obs)
        return (x if self.torso is None else _apply(self.torso, params["torso"], x, batch, "torso")), batch

    def _head(self, params: PyTree, x: jax.Array, batch: int) -> jax.Array:
        mean, extra = self.distribution.num_params, self.distribution.num_extra
        return _apply(self.policy_net, params["network"], x, batch, "policy", (mean,), (mean + extra,))

    def _policy(self, params: PyTree, obs: PyTree, x: jax.Array, batch: int) -> jax.Array:
        params = params[self._names[0]]
        out = self._head(params, x, batch)
        if "log_std" in params:
            log_std = jnp.broadcast_to(params["log_std"], out.shape[:-1] + params["log_std"].shape)
            out = jnp.concatenate([out, log_std.astype(out.dtype)], axis=-1)
        if not isinstance(obs, Mapping):
            return out
        mask = obs["action_mask"]
        if not isinstance(self.distribution, Categorical | MultiCategorical):
            raise ValueError("action_mask: needs a discrete action space, this one is continuous")
        if mask.shape != out.shape:
            raise ValueError(f"action_mask: has shape {mask.shape}, needs {out.shape}")
        return mask_logits(out, mask)

    def _value(self, params: PyTree, x: jax.Array, batch: int) -> jax.Array:
        out = _apply(self.value_net, params[self._names[1]], x, batch, "value", (), (1,))
        return out.reshape(out.shape[:batch])


def actor_critic(
    space: Space,
    distribution: Distribution,
    *,
    torso: Literal["auto", "mlp", "cnn"] = "auto",
    hidden_sizes: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    channels: tuple[int, ...] = (16,),
    kernel_size: int = 3,
    shared: bool = False,
    log_std_init: float = 0.0,
    policy: nn.Module | None = None,
    value: nn.Module | None = None,
) -> ActorCritic:
    """A policy and a value network for an observation space and an action distribution.

    Args:
      space: of an observation, without its action mask. Box observations become float32, integer ones
        one-hot.
      distribution: what the policy's output parameterizes.
      torso: "auto" is "cnn" for a Box of three axes (height, width, channels) that is large enough for
        the convolutions, otherwise "mlp".
      hidden_sizes: dense layers, those after the convolutions for a "cnn".
      activation: one of `ACTIVATIONS`.
      channels, kernel_size: convolutions of a "cnn", stride 1, no padding.
      shared: one torso for both, with two linear heads.
      log_std_init: initial log standard deviation of a Gaussian.
      policy, value: modules of the user's own instead, from f32[N, *shape] of the (one-hot)
        observation to [N, num_params], or [N, num_params + num_extra] where the network gives the
        log standard deviations too, and to [N] or [N, 1].

    Raises:
      ValueError: naming the argument that does not fit.

    Source:
      Andrychowicz et al. 2021, "What Matters in On-Policy Reinforcement Learning?", and Huang et al.
      2022, "The 37 Implementation Details of PPO": orthogonal weights scaled √2, in the policy's head
      0.01, in the value's 1; zero biases.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: needs one of {', '.join(ACTIVATIONS)}")
    if torso not in ("auto", "mlp", "cnn"):
        raise ValueError(f"torso = {torso!r}: needs one of auto, mlp, cnn")
    if shared and (policy is not None or value is not None):
        raise ValueError("shared = True: needs both networks to be built here, not given as modules")
    smallest = 1 + len(channels) * (kernel_size - 1)
    image = isinstance(space, Box) and len(space.shape) == 3 and min(space.shape[:2]) >= smallest
    if torso == "cnn" and not image:
        raise ValueError(
            f"torso = 'cnn': needs observations of shape (height, width, channels), at least {smallest} "
            f"high and wide for {len(channels)} kernels of size {kernel_size}, not {space.shape}"
        )

    def make_torso() -> nn.Module:
        if image and torso != "mlp":
            return CNN(channels, kernel_size, hidden_sizes, activation)
        return MLP(hidden_sizes, activation)

    heads = {"policy": (distribution.num_params, 0.01), "value": (1, 1.0)}
    if shared:
        policy, value = (_dense(*head) for head in heads.values())
    return ActorCritic(
        space=space,
        distribution=distribution,
        torso=make_torso() if shared else None,
        policy_net=policy or Network(make_torso(), *heads["policy"]),
        value_net=value or Network(make_torso(), *heads["value"]),
        log_std_init=log_std_init,
    )
