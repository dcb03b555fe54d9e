"""Networks: their settings, flax modules and initial weights, and observations made ready for them.

In: an observation space and a `NetworkConfig`. Out: a torso, from encoded observations to features, on which
any algorithm puts its own heads.

Observations are arrays or dicts of them, and may come with an action mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.config import field
from jaxtrain.errors import ConfigError, Fault, Problem, nearest
from jaxtrain.tree import lead
from jaxtrain.types import Box, Dict, Discrete, Key, MultiDiscrete, PyTree, Space

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "swish": nn.swish,
    "gelu": nn.gelu,
    "elu": nn.elu,
}


@field.config
class NetworkConfig:
    """Networks of any algorithm: a torso each or a shared one, with a recurrent cell behind it or without."""

    torso: str = field.choice("auto", ("auto", "mlp", "cnn"), help="auto: cnn for images, else mlp")
    hidden_sizes: tuple[int, ...] = field.integers((64, 64), low=1, high=field.INT32, help="dense layers")
    activation: str = field.choice("tanh", tuple(ACTIVATIONS))
    layer_norm: bool = field.flag(False, help="normalize each layer before its activation")
    channels: tuple[int, ...] = field.integers((16,), low=1, high=field.INT32, help="convolutions of a cnn")
    kernel_size: int = field.integer(3, low=1, high=field.INT32)
    scale_images: bool = field.flag(
        True, help="images of bounded uint8 from 0 to 1; a module given sees bytes"
    )
    shared: bool = field.flag(False, help="one torso, two heads")
    log_std_init: float = field.static_float(0.0, help="of a Gaussian policy")
    recurrent: str = field.choice("none", ("none", "gru", "lstm"), help="a cell between torso and head")
    recurrent_size: int = field.integer(64, low=1, high=field.INT32, help="units of the cell")


@dataclass(frozen=True, eq=False)
class ByteImage(Box):
    """An image whose uint8 numbers networks see from 0, its `low`, to 1, its `high`."""


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
        q = _orthonormal(key, max(rows, columns), min(rows, columns), dtype)
        return scale * (q if rows >= columns else q.T).reshape(shape)

    return init


# Outside of a program a loop is compiled at every call, and a jitted function once for each shape.
@partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
def _orthonormal(key: Key, length: int, count: int, dtype: Any) -> jax.Array:
    """f[length, count], `count` orthonormal columns."""

    def project(j: int, q: jax.Array) -> jax.Array:
        v, earlier = q[:, j], jnp.arange(count) < j
        for _ in range(2):
            along = jnp.where(earlier, jnp.dot(v, q, precision="highest"), 0.0)
            v = v - jnp.dot(q, along, precision="highest")
        return q.at[:, j].set(v / jnp.linalg.norm(v))

    return lax.fori_loop(0, count, project, jax.random.normal(key, (length, count), dtype))


def dense(features: int, scale: float, name: str | None = None) -> nn.Dense:
    """A linear layer with orthogonal weights times `scale` and zero biases."""
    return nn.Dense(features, kernel_init=orthogonal(scale), param_dtype=jnp.result_type(float), name=name)


def _hidden(x: jax.Array, features: int, activation: str, layer_norm: bool) -> jax.Array:
    x = dense(features, math.sqrt(2))(x)
    if layer_norm:
        x = nn.LayerNorm(param_dtype=jnp.result_type(float))(x)
    return ACTIVATIONS[activation](x)


class MLP(nn.Module):
    """Dense layers with an activation after each: f32[N, ...], flattened, to f32[N, hidden_sizes[-1]].

    With `layer_norm`, each layer is normalized over its units before the activation.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for size in self.hidden_sizes:
            x = _hidden(x, size, self.activation, self.layer_norm)
        return x


class CNN(nn.Module):
    """Convolutions of stride 1 without padding, then an `MLP`: f32[N, H, W, C] to f32[N, F].

    With `layer_norm`, each layer is normalized over its channels or units before the activation.

    Source:
      Young and Tian 2019, "MinAtar": the default of one layer with 16 kernels of 3 × 3.
    """

    channels: tuple[int, ...] = (16,)
    kernel_size: int = 3
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in self.channels:
            # Patches times a matrix: a convolution whose kernel is batched, as over seeds, would be a
            # grouped one, which is slower (2 to 3 times on CPU, gradient included).
            for axis in (2, 1):
                size = x.shape[axis] - self.kernel_size + 1
                shifts = [lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(self.kernel_size)]
                x = jnp.concatenate(shifts, axis=-1)
            x = _hidden(x, channels, self.activation, self.layer_norm)
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(x)


class Entries(nn.Module):
    """A dict of arrays to features: {name: f32[N, ...]} to f32[N, F].

    Each entry of `images` goes through convolutions of its own; what they give and all other entries are
    flattened, joined in the order of their names, and go through one `MLP`.
    """

    images: tuple[str, ...]
    channels: tuple[int, ...] = (16,)
    kernel_size: int = 3
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: dict[str, jax.Array]) -> jax.Array:
        flat: list[jax.Array] = []
        for name in sorted(x):
            entry = x[name]
            if name in self.images:
                cnn = CNN(self.channels, self.kernel_size, (), self.activation, self.layer_norm, name=name)
                entry = cnn(entry)
            flat.append(entry.reshape(entry.shape[0], -1))
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(jnp.concatenate(flat, axis=-1))


class Network(nn.Module):
    """A torso and a linear head: encoded observations of N environments to f32[N, features]."""

    torso: nn.Module
    features: int
    scale: float  # of the head's initial weights

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        return dense(self.features, self.scale, name="head")(self.torso(x))


def observation_names(help: str) -> Any:
    """A config field: names of entries of a `Dict` observation space; none for all of them."""

    def read(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [name.strip() for name in value.strip("[]() ").split(",") if name.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
            raise Fault("needs a list of names")
        return tuple(dict.fromkeys(value))

    accepts = {"type": ["array", "string"], "items": {"type": "string"}}
    return field.custom((), read, "NAME,NAME,…", accepts=accepts, help=help)


def problems(
    space: Space,
    network: NetworkConfig,
    *,
    policy_observations: tuple[str, ...] = (),
    critic_observations: tuple[str, ...] = (),
    own_modules: bool = False,
) -> list[Problem]:
    """What does not fit an observation space, by the fields' paths in an algorithm's config.

    Args:
      space: of an observation, without its action mask.
      network: the settings.
      policy_observations, critic_observations: entries of a `Dict` space; none for all.
      own_modules: whether the user gives a module for the policy or the critic.
    """
    seen = {"policy_observations": policy_observations, "critic_observations": critic_observations}
    if found := [fault for path, names in seen.items() for fault in _unknown_names(space, path, names)]:
        return found
    if isinstance(space, Dict) and network.shared:
        policy, critic = (names or tuple(space) for names in seen.values())
        if set(policy) != set(critic):
            rule = f"needs the policy's entries where the torso is shared, which are {', '.join(policy)}"
            found.append(Problem("critic_observations", critic, rule))
    for setting, default in (("shared", False), ("recurrent", "none")):
        value = getattr(network, setting)
        if own_modules and value != default:
            rule = "needs both networks to be built here, not given as modules"
            found.append(Problem(f"network.{setting}", value, rule))
    spaces = [select(space, names) for names in seen.values()]
    if network.torso == "cnn" and not all(_images(part, network) for part in spaces):
        smallest = _smallest(network)
        rule = (
            f"needs observations of shape (height, width, channels), at least {smallest} high and wide for "
            f"{len(network.channels)} kernels of size {network.kernel_size}, not {_shapes(space)}"
        )
        found.append(Problem("network.torso", "cnn", rule))
    return found


def _unknown_names(space: Space, path: str, names: tuple[str, ...]) -> list[Problem]:
    if not names:
        return []
    if not isinstance(space, Dict):
        return [Problem(path, names, f"needs a Dict as observation space, not {space}")]
    missing = [name for name in names if name not in space]
    rules = (f"the observation space has no {name!r}{nearest(name, space)}" for name in missing)
    return [Problem(path, names, rule) for rule in rules]


def select(space: Space, names: tuple[str, ...]) -> Space:
    """The space with only these entries; all of it without names."""
    return Dict({name: space[name] for name in names}) if names and isinstance(space, Dict) else space


def scaled(space: Space, observation: PyTree) -> Space:
    """The space with each Box of bounded uint8 numbers and three axes a `ByteImage`.

    Args:
      space: of an observation, without its action mask.
      observation: one, or its `jax.ShapeDtypeStruct`s; with or without a mask.
    """
    observation, _ = split_mask(observation)
    if isinstance(space, Dict):
        return Dict({name: scaled(part, observation[name]) for name, part in space.items()})
    if not isinstance(space, Box) or observation.dtype != jnp.uint8:
        return space
    image = len(space.shape) == 3 and space.bounded
    return ByteImage(space.low, space.high, space.shape) if image else space


def byte_images(space: Space, name: str = "observations") -> dict[str, ByteImage]:
    """Those in a space, by name."""
    if isinstance(space, Dict):
        parts = (byte_images(part, f"{name}.{key}") for key, part in space.items())
        return {name: image for part in parts for name, image in part.items()}
    return {name: space} if isinstance(space, ByteImage) else {}


def split_mask(obs: PyTree) -> tuple[PyTree, jax.Array | None]:
    """The observation itself, and the mask of valid actions that it came with, or None."""
    if isinstance(obs, Mapping) and set(obs) == {"observation", "action_mask"}:
        return obs["observation"], obs["action_mask"]
    return obs, None


def encode(space: Space, obs: PyTree) -> tuple[Any, int]:
    """Observations as floats, integers one-hot (MultiDiscrete end to end), and their number of leading axes.

    Args:
      space: Discrete, MultiDiscrete or Box: f32[..., *shape]; a `ByteImage`: from 0 to 1. Dict:
        {name: f32[..., *shape]}, with the names of a Dict within it joined by dots; entries that the space
        does not have are left out.
      obs: without an action mask, any leading axes.

    Raises:
      ValueError: an entry is missing, or has another shape.
    """
    if isinstance(space, Dict):
        return _encode_entries(space, obs)
    obs, dtype = jnp.asarray(obs), jnp.result_type(float)
    batch = obs.ndim - len(space.shape)
    if batch < 0 or obs.shape[batch:] != space.shape:
        raise ValueError(f"obs: has shape {obs.shape}, needs {space.shape} after any leading axes")
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n, dtype=dtype), batch
    if isinstance(space, MultiDiscrete):
        hot = [jax.nn.one_hot(obs[..., i], n, dtype=dtype) for i, n in enumerate(space.nvec)]
        return jnp.concatenate(hot, axis=-1), batch
    x = obs.astype(dtype)
    return (_from_0_to_1(space, x) if isinstance(space, ByteImage) else x), batch


def _from_0_to_1(space: Box, x: jax.Array) -> jax.Array:
    low, high = (lead(jnp.asarray(bound, x.dtype), x) for bound in (space.low, space.high))
    return (x - low) / jnp.where(high > low, high - low, 1)


def _encode_entries(space: Dict, obs: PyTree) -> tuple[dict[str, jax.Array], int]:
    entries: dict[str, jax.Array] = {}
    axes: dict[str, int] = {}
    for name, part in space.items():
        if not isinstance(obs, Mapping) or name not in obs:
            has = ", ".join(obs) if isinstance(obs, Mapping) else type(obs).__name__
            raise ValueError(f"obs: needs an entry {name!r}, has {has}")
        try:
            x, axes[name] = encode(part, obs[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        entries |= {f"{name}.{inner}": y for inner, y in x.items()} if isinstance(x, dict) else {name: x}
    if len(set(axes.values())) != 1:
        raise ValueError(f"obs: its entries have {axes} leading axes, needs as many for all")
    return entries, next(iter(axes.values()))


def _smallest(network: NetworkConfig) -> int:
    """Height and width that the convolutions need."""
    return 1 + len(network.channels) * (network.kernel_size - 1)


def _images(space: Space, network: NetworkConfig, name: str = "") -> tuple[str, ...]:
    """Names in the encoded observation of what is large enough for the convolutions; "" for a Box itself."""
    if isinstance(space, Dict):
        parts = [_images(part, network, f"{name}.{key}" if name else key) for key, part in space.items()]
        return tuple(image for part in parts for image in part)
    image = isinstance(space, Box) and len(space.shape) == 3
    return (name,) if image and min(space.shape[:2]) >= _smallest(network) else ()


def _shapes(space: Space) -> Any:
    return {name: _shapes(part) for name, part in space.items()} if isinstance(space, Dict) else space.shape


def make_torso(space: Space, network: NetworkConfig) -> nn.Module:
    """From encoded observations of this space, [N, ...], to features f32[N, F].

    "auto" is a `CNN` for a Box of three axes (height, width, channels) that is large enough for the
    convolutions, otherwise an `MLP`. Of a Dict, each such entry has convolutions of its own, and what they
    give goes with all other entries, flattened, through one `MLP`. "mlp" flattens images too.

    Raises:
      ConfigError: "cnn", and there is no such image.
    """
    images = _images(space, network) if network.torso != "mlp" else ()
    if network.torso == "cnn" and not images:
        raise ConfigError(problems(space, network))
    convolutions = (network.channels, network.kernel_size)
    layers = (network.hidden_sizes, network.activation, network.layer_norm)
    if isinstance(space, Dict):
        return Entries(images, *convolutions, *layers)
    return CNN(*convolutions, *layers) if images else MLP(*layers)


def init(module: nn.Module, key: Key, x: PyTree, name: str) -> PyTree:
    """Fresh parameters for encoded observations of one batch axis.

    Raises:
      ValueError: the module has variables besides parameters.
    """
    variables = module.init(key, x)
    if others := sorted(set(variables) - {"params"}):
        raise ValueError(f"{name}: keeps {others} besides 'params', which would never be updated")
    return variables.get("params", {})


def apply(
    module: nn.Module, params: PyTree, x: PyTree, batch: int, name: str, *shapes: tuple[int, ...]
) -> jax.Array:
    """Apply to exactly one batch axis, which is what most modules can take, and check the result.

    Args:
      x: an array or a dict of them.
      batch: number of leading axes of `x`.
      name: what errors call the module.
      shapes: what the module may give per observation; none for anything.

    Raises:
      ValueError: it gave another shape.
    """

    def apply(x: PyTree) -> jax.Array:
        out = jnp.asarray(module.apply({"params": params}, x))
        each = jax.tree.map(lambda leaf: leaf.shape[1:], x)
        size = jax.tree.leaves(x)[0].shape[0]
        if shapes and out.shape not in [(size, *shape) for shape in shapes]:
            needs = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
            raise ValueError(
                f"{name}: gave shape {out.shape} for {size} observations of shape {each}, "
                f"needs {needs} for each"
            )
        return out

    if batch == 0:
        return apply(jax.tree.map(lambda leaf: leaf[None], x))[0]
    for _ in range(batch - 1):  # not a reshape, which would gather what lies on several devices
        apply = jax.vmap(apply)
    return apply(x)
