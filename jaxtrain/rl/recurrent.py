"""Recurrent cells, and a cell unrolled over a rollout.

In: features of one step and a carry, or features [T, B, F] and where episodes started. Out: what the cell
gives, and its carry after each step.

A carry belongs to an environment. It is zero at an episode's start, and the loop resets it there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain import tree
from jaxtrain.rl.networks import orthogonal
from jaxtrain.types import Carry, Key, PyTree


def _gates(count: int) -> Any:
    """An initializer of `count` orthogonal matrices side by side, one for each gate."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        keys = jax.random.split(key, count)
        return jnp.concatenate([orthogonal(1.0)(k, (rows, columns // count), dtype) for k in keys], axis=-1)

    return init


def _bias(*values: float) -> Any:
    """An initializer of biases, one value for all units of a gate."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.repeat(jnp.asarray(values, dtype), shape[0] // len(values))

    return init


class Cell(nn.Module):
    """What a recurrent network asks of a cell: one step is `advance(carry, project(x))`.

    `project` does not depend on the carry, so `unroll` does it for all steps in one product. All arrays may
    have any leading axes.
    """

    size: int  # units, H

    def initial_carry(self) -> Carry:
        """The carry of one environment at an episode's start."""
        raise NotImplementedError

    def project(self, x: jax.Array) -> jax.Array:
        """The part of the gates that depends on the input, f32[..., gates * H]."""
        raise NotImplementedError

    def advance(self, carry: Carry, projected: jax.Array) -> tuple[Carry, jax.Array]:
        """One step: `(carry, y)`, y is f32[..., H]."""
        raise NotImplementedError

    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        return self.advance(carry, self.project(x))

    def _dense(self, gates: int, *bias: float) -> nn.Dense:
        return nn.Dense(
            gates * self.size,
            use_bias=bool(bias),
            kernel_init=_gates(gates),
            bias_init=_bias(*(bias or (0.0,))),
            param_dtype=jnp.result_type(float),
        )


class GRU(Cell):
    """A gated recurrent unit; its carry is f32[..., H], which is what it gives too.

    The reset gate acts after the recurrent product, so that all three gates need only one.

    Source:
      Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", version 1.
    """

    def setup(self) -> None:
        self.input = self._dense(3, 0.0, 0.0, 0.0)
        self.recurrent = self._dense(3)

    def initial_carry(self) -> jax.Array:
        return jnp.zeros(self.size, jnp.result_type(float))

    def project(self, x: jax.Array) -> jax.Array:
        return self.input(x)

    def advance(self, carry: jax.Array, projected: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_reset, x_update, x_new = jnp.split(projected, 3, axis=-1)
        h_reset, h_update, h_new = jnp.split(self.recurrent(carry), 3, axis=-1)
        new = jnp.tanh(x_new + nn.sigmoid(x_reset + h_reset) * h_new)
        update = nn.sigmoid(x_update + h_update)
        carry = (1.0 - update) * new + update * carry
        return carry, carry


class LSTMCarry(NamedTuple):
    """What an LSTM keeps, f32[..., H] each."""

    cell: jax.Array
    hidden: jax.Array  # what it gives


class LSTM(Cell):
    """A long short-term memory.

    Source:
      Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Jozefowicz et al. 2015, "An Empirical
      Exploration of Recurrent Network Architectures": a bias of 1 in the forget gate at first.
    """

    def setup(self) -> None:
        self.input = self._dense(4, 0.0, 1.0, 0.0, 0.0)
        self.recurrent = self._dense(4)

    def initial_carry(self) -> LSTMCarry:
        zero = jnp.zeros(self.size, jnp.result_type(float))
        return LSTMCarry(zero, zero)

    def project(self, x: jax.Array) -> jax.Array:
        return self.input(x)

    def advance(self, carry: LSTMCarry, projected: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        gates = projected + self.recurrent(carry.hidden)
        write, forget, new, read = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(forget) * carry.cell + nn.sigmoid(write) * jnp.tanh(new)
        hidden = nn.sigmoid(read) * jnp.tanh(cell)
        return LSTMCarry(cell, hidden), hidden


CELLS: dict[str, type[Cell]] = {"gru": GRU, "lstm": LSTM}


def unroll(
    cell: Cell, params: PyTree, x: jax.Array, carry: Carry, started: jax.Array
) -> tuple[Carry, jax.Array]:
    """Apply a cell to a rollout, with a fresh carry from each episode's first step on.

    Args:
      cell: fixed for a run.
      params: the cell's.
      x: f32[T, B, F].
      carry: before `x[0]`, leaves [B, ...].
      started: bool[T, B], whether an episode began at t: then `x[t]` is the first that the fresh carry sees.
        Where `carry` is already that of an episode's start, row 0 may be False or True.

    Returns:
      The carry after each step, before any reset, leaves [T, B, ...]; it goes with where the action of that
      step led, the last observation of an episode among them. And what the cell gives, f32[T, B, H].
    """
    fresh = jax.tree.map(lambda leaf, first: jnp.broadcast_to(first, leaf.shape), carry, cell.initial_carry())

    def step(carry: Carry, at: tuple[jax.Array, jax.Array]) -> tuple[Carry, tuple[Carry, jax.Array]]:
        projected, start = at
        carry = tree.where(start, fresh, carry)
        out: Any = cell.apply({"params": params}, carry, projected, method="advance")
        return out[0], out

    projected: Any = cell.apply({"params": params}, x, method="project")
    return lax.scan(step, carry, (projected, started))[1]
