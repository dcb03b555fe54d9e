"""gymnax's environments as an `Env`: no auto-reset, one set of dtypes, parameters that agree.

In: a gymnax id, or an object in gymnax's manner (`reset_env`, `step_env`, `is_truncated`).
Out: an `Env`. gymnax itself is imported when an id is asked for: it costs seconds.
Knows nothing of rollouts; `rollout.py` resets.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.envs.wrappers import cast
from jaxtrain.errors import raised
from jaxtrain.types import Box, Discrete, Key, MultiDiscrete, PyTree, Space, Step

METHODS = ("reset_env", "step_env", "is_truncated", "default_params", "observation_space", "action_space")
UNAVAILABLE = {
    "MNISTBandit-bsuite": "downloads its images when it is made; where that may be, give "
    "'gymnax.environments.bsuite.mnist:MNISTBandit'",
}


class Derived(NamedTuple):
    """A parameter that gymnax stores beside those it follows from."""

    sources: tuple[str, ...]
    rule: Callable[..., Any]


# By the module of the parameters' class. CartPole's is the only one: Acrobot's centers of mass and
# moment of inertia are parameters in their own right, as in its source (Sutton 1996).
DERIVED: dict[str, dict[str, Derived]] = {
    "gymnax.environments.classic_control.cartpole": {
        "total_mass": Derived(("masscart", "masspole"), operator.add),
        "polemass_length": Derived(("masspole", "length"), operator.mul),
    },
}


@dataclass(frozen=True)
class Gymnax:
    """An object in gymnax's manner as an `Env`; two of one object are equal. Made by `adapt`.

    Both spaces are those of the default parameters: an override of `max_torque` changes what the
    environment does with an action, not the bounds a policy is told.
    """

    env: Any
    observation_space: Space = field(compare=False)
    action_space: Space = field(compare=False)
    derived_params: Mapping[str, Derived] = field(compare=False, repr=False)
    dtypes: tuple[PyTree, PyTree] = field(compare=False, repr=False)  # of (obs, state)

    @property
    def default_params(self) -> PyTree:
        return self.env.default_params

    def reset(self, key: Key, params: PyTree) -> tuple[PyTree, PyTree]:
        return cast(self.env.reset_env(key, self.complete(params)), self.dtypes)

    def step(self, key: Key, state: PyTree, action: jax.Array, params: PyTree) -> Step:
        params = self.complete(params)
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        truncated = self.env.is_truncated(state, params)
        obs, state = cast((obs, state), self.dtypes)
        return Step(
            obs,
            state,
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(terminated),
            jnp.asarray(truncated),
            info,
        )

    def complete(self, params: PyTree) -> PyTree:
        """`params` with what follows from other fields made to follow again."""
        if not self.derived_params:
            return params
        return replace(
            params,
            **{
                name: rule(*(getattr(params, source) for source in sources))
                for name, (sources, rule) in self.derived_params.items()
            },
        )


def ids() -> tuple[str, ...]:
    """All ids that gymnax knows, those of `UNAVAILABLE` among them."""
    import gymnax

    return tuple(gymnax.registered_envs)


@cache  # one object per id, so that what was compiled for it is found again
def load(env_id: str) -> Gymnax:
    """The environment of an id in `ids()`."""
    # A constant made while something else is traced would belong to that trace.
    with jax.ensure_compile_time_eval():
        import gymnax

        env, _ = gymnax.make(env_id)
    return adapt(env)


@cache
def adapt(env: Any) -> Gymnax:
    """Make an `Env` of an object in gymnax's manner.

    Args:
      env: has `reset_env(key, params)`, `step_env(key, state, action, params)`,
        `is_truncated(state, params)`, `default_params`, and the two spaces as functions of params.

    Raises:
      ValueError: a space of another kind than Box or Discrete; `reset_env` and `step_env` disagree
        on the shape of the observation or the state; a reward that is not a scalar; either fails.
    """
    with jax.ensure_compile_time_eval():
        params = env.default_params
        observation_space = _space(env.observation_space(params))
        action_space = _space(env.action_space(params))
    raw = Gymnax(
        env=env,
        observation_space=observation_space,
        action_space=action_space,
        derived_params=DERIVED.get(type(params).__module__, {}),
        dtypes=((), ()),
    )

    def start_and_step(key: Key, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        params = raw.complete(params)
        started = env.reset_env(key, params)
        action = jnp.zeros(action_space.shape, jnp.float32 if isinstance(action_space, Box) else jnp.int32)
        obs, state, reward, _, _ = env.step_env(key, started[1], action, params)
        env.is_truncated(state, params)
        return started, (obs, state), reward

    try:
        # The parameters as arrays, which is how they come in a run.
        arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
        started, stepped, reward = jax.eval_shape(start_and_step, jax.random.key(0), arrays)
    except Exception as error:
        raise ValueError(f"reset_env and step_env cannot be traced: {raised(error)}") from error
    for what, first, then in zip(("observation", "state"), started, stepped, strict=True):
        if _shapes(first) != _shapes(then):
            raise ValueError(f"the {what} of reset_env, {first}, and of step_env, {then}, differ in shape")
    if jnp.shape(reward) != ():
        raise ValueError(f"the reward of step_env has shape {jnp.shape(reward)}, needs ()")
    # `time=0` at the reset and an i32 afterwards could not be carried through a scan.
    dtypes = jax.tree.map(lambda a, b: _promote(a.dtype, b.dtype), started, stepped)
    return replace(raw, dtypes=dtypes)


def _space(space: Any) -> Box | Discrete | MultiDiscrete:
    if isinstance(space, Discrete | MultiDiscrete | Box):
        return space
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low") and hasattr(space, "high"):
        bounds = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        return Box(*bounds, shape=tuple(space.shape))
    raise ValueError(f"the space {space!r} is neither Box nor Discrete")


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [leaf.shape for leaf in leaves]


def _promote(a: Any, b: Any) -> Any:
    return a if a == b else jnp.promote_types(a, b)  # of PRNG keys there is no promotion
