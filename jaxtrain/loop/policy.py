"""A trained policy as a function, for people: feed-forward or recurrent.

In: an algorithm, an agent and a clock. Out: actions and values for observations with any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.random import as_key
from jaxtrain.types import Algorithm, Clock, Key, PyTree


@dataclass(frozen=True)
class Policy:
    """`policy(obs, key=None) -> action`; a recurrent one: `policy(obs, carry, key=None) -> (action, carry)`.

    Without a key the greedy action, with one a sampled one. `obs` may have any leading axes. The carry of a
    recurrent policy begins as `initial_carry(batch_shape)` at each episode's start.
    """

    algorithm: Algorithm[Any]
    agent: PyTree
    clock: Clock
    observation: PyTree  # shapes of one, as in `EnvSpec`

    @property
    def recurrent(self) -> bool:
        """Whether it has a carry."""
        return bool(jax.tree.leaves(self.algorithm.carry))

    def initial_carry(self, batch_shape: int | tuple[int, ...] = ()) -> PyTree:
        """The recurrent state at an episode's start, leaves [*batch_shape, ...]; () without one."""
        shape = (batch_shape,) if isinstance(batch_shape, int) else tuple(batch_shape)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), self.algorithm.carry)

    def __call__(self, obs: PyTree, *args: Any, **named: Any) -> Any:
        """Act.

        Raises:
          TypeError: a recurrent policy without its carry, or one that is none with it; names the form.
        """
        return self.act(obs, *self.arguments(*args, **named))

    def arguments(self, *args: Any, **named: Any) -> tuple[PyTree, Key | None]:
        """The carry and the key that a call was given; errors as in a call."""
        return (self._recurrent if self.recurrent else self._plain)(*args, **named)

    def act(self, obs: PyTree, carry: PyTree, key: Key | None) -> Any:
        """What a call comes to once its arguments have been looked at."""
        make = self.algorithm.policy if key is None else self.algorithm.sample
        key = jax.random.key(0) if key is None else key  # a greedy action draws nothing
        policy = make(self.agent, self.clock)
        if not self.recurrent:
            return policy(obs, carry, key).action
        self._check_batch(carry, obs)
        out = policy(obs, carry, key)
        return out.action, out.carry

    def value(self, obs: PyTree, carry: PyTree = ()) -> jax.Array:
        """The critic, f32[...], in the environment's reward unit.

        Raises:
          TypeError: an algorithm without a critic, or a recurrent one without its carry.
        """
        if self.algorithm.value is None:
            raise TypeError("this algorithm has no critic")
        if self.recurrent:
            self._check_carry(carry, "value(obs, carry)")
            self._check_batch(carry, obs)
        return self.algorithm.value(self.agent, obs, carry)

    def _plain(self, *args: Any, **named: Any) -> tuple[PyTree, Key | None]:
        form = "this policy has no carry: it is called policy(obs, key=None)"
        if len(args) + len(named) > 1 or not named.keys() <= {"key"}:
            raise TypeError(form)
        (key,) = (*args, *named.values()) or (None,)
        try:
            return (), None if key is None else as_key(key)
        except ValueError as error:
            raise TypeError(f"{form}; {error}") from None

    def _recurrent(self, carry: PyTree = None, key: Key | None = None) -> tuple[PyTree, Key | None]:
        self._check_carry(carry, "policy(obs, carry, key=None)")
        return carry, None if key is None else as_key(key)

    def _check_carry(self, carry: PyTree, form: str) -> None:
        given = f"{type(carry).__name__} in its place"
        if carry is None or (isinstance(carry, tuple) and not carry):
            given = "no carry"
        elif jax.tree.structure(carry) == jax.tree.structure(self.algorithm.carry):
            pairs = list(zip(jax.tree.leaves(carry), jax.tree.leaves(self.algorithm.carry), strict=True))
            if all(_is_like(x, one) for x, one in pairs):
                return
            given = "a key in its place" if any(_is_key(x) for x, _ in pairs) else "a carry of other arrays"
        begin = "begin an episode with policy.initial_carry(batch_shape)"
        raise TypeError(f"a recurrent policy is called {form}, got {given}; {begin}")

    def _check_batch(self, carry: PyTree, obs: PyTree) -> None:
        """Raise a TypeError where the carry or the observations would be broadcast to the other's batch."""
        first = jax.tree.leaves(obs)[0]
        batch = jnp.shape(first)[: jnp.ndim(first) - jax.tree.leaves(self.observation)[0].ndim]
        for x, one in zip(jax.tree.leaves(carry), jax.tree.leaves(self.algorithm.carry), strict=True):
            if jnp.shape(x) != (*batch, *jnp.shape(one)):
                has = jnp.shape(x)[: jnp.ndim(x) - jnp.ndim(one)]
                rule = f"the carry is of a batch of shape {has}, the observations are of {batch}"
                raise TypeError(f"{rule}; begin an episode with policy.initial_carry({batch})")


def _is_key(x: Any) -> bool:
    dtype = jnp.result_type(x)
    return dtype == jnp.uint32 or jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _is_like(x: Any, one: Any) -> bool:
    """Whether an array may be a batch of `one`s."""
    shape, end = jnp.shape(x), jnp.shape(one)
    return jnp.result_type(x) == jnp.result_type(one) and shape[len(shape) - len(end) :] == end
