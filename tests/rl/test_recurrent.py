"""Cells against NumPy and flax, and what a cell unrolled over a rollout does where episodes start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxtrain.rl.recurrent import CELLS, unroll

T, B, FEATURES, SIZE = 6, 3, 4, 5
KEYS = jax.random.split(jax.random.key(0), 3)


def made(name):
    """A cell and parameters none of which is zero."""
    cell = CELLS[name](SIZE)
    params = cell.init(KEYS[0], cell.initial_carry(), jnp.zeros(FEATURES))["params"]
    leaves, structure = jax.tree.flatten(params)
    noise = jax.random.split(KEYS[1], len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, noise, strict=True)]
    return cell, jax.tree.unflatten(structure, moved)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(name, params, carry, x):
    """`(carry, y)` of one environment; a carry is an array, or the two of an LSTM."""
    projected = x @ params["input"]["kernel"] + params["input"]["bias"]
    if name == "gru":
        xs, hs = np.split(projected, 3), np.split(carry @ params["recurrent"]["kernel"], 3)
        reset, update = sigmoid(xs[0] + hs[0]), sigmoid(xs[1] + hs[1])
        carry = (1 - update) * np.tanh(xs[2] + reset * hs[2]) + update * carry
        return carry, carry
    write, forget, new, read = np.split(projected + carry[1] @ params["recurrent"]["kernel"], 4)
    cell = sigmoid(forget) * carry[0] + sigmoid(write) * np.tanh(new)
    hidden = sigmoid(read) * np.tanh(cell)
    return np.stack([cell, hidden]), hidden


def numpy_unroll(name, params, x, carry, started):
    after, y = np.zeros((T, *carry.shape)), np.zeros((T, B, SIZE))
    for b in range(B):
        now = carry[b]
        for t in range(T):
            now = np.zeros_like(now) if started[t, b] else now
            now, y[t, b] = numpy_step(name, params, now, x[t, b])
            after[t, b] = now
    return after, y


def as_carry(name, array):
    """From [..., SIZE] or, of an LSTM, [..., 2, SIZE]."""
    return array if name == "gru" else CELLS[name](SIZE).initial_carry()._make(np.moveaxis(array, -2, 0))


RUNS = {name: (*made(name), jax.jit(unroll, static_argnums=0)) for name in CELLS}


@pytest.mark.parametrize("name", CELLS)
@given(started=arrays(bool, (T, B)), seed=st.integers(0, 99))
def test_a_step_sees_its_episode_from_the_first_step_on_and_nothing_of_the_one_before(name, started, seed):
    """Wherever episodes start, every step among them; a reset that is late by one would differ."""
    cell, params, run = RUNS[name]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(T, B, FEATURES)).astype(np.float32)
    carry = rng.normal(size=(B, SIZE) if name == "gru" else (B, 2, SIZE)).astype(np.float32)
    after, y = run(cell, params, x, as_carry(name, carry), started)
    expected, y_expected = numpy_unroll(name, jax.tree.map(np.asarray, params), x, carry, started)
    np.testing.assert_allclose(y, y_expected, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(as_carry(name, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_what_an_episode_gives_does_not_depend_on_the_one_before(name):
    cell, params, run = RUNS[name]
    x = jax.random.normal(KEYS[1], (T, B, FEATURES))
    started = jnp.zeros((T, B), bool).at[3].set(True)
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), cell.initial_carry())
    slope = jax.grad(lambda x: run(cell, params, x, carry, started)[1][3:].sum())(x)
    assert not slope[:3].any() and slope[3:].all()


@pytest.mark.parametrize("name", CELLS)
def test_steps_one_by_one_are_the_rollout_at_once(name):
    cell, params, run = RUNS[name]
    x = jax.random.normal(KEYS[1], (T, B, FEATURES))
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), cell.initial_carry())
    after, y = run(cell, params, x, carry, jnp.zeros((T, B), bool))
    step = jax.jit(lambda carry, x: cell.apply({"params": params}, carry, x))
    for t in range(T):
        carry, out = step(carry, x[t])
        np.testing.assert_allclose(out, y[t], atol=1e-6)
        for one, many in zip(jax.tree.leaves(carry), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(one, many[t], atol=1e-6)


def flax_params(gates, ours):
    """Our weights under flax's names: an input and a recurrent matrix for each gate."""
    count = len(gates)
    theirs = {}
    for gate, kernel, bias, recurrent in zip(
        gates,
        np.split(ours["input"]["kernel"], count, axis=1),
        np.split(ours["input"]["bias"], count),
        np.split(ours["recurrent"]["kernel"], count, axis=1),
        strict=True,
    ):
        theirs["i" + gate] = {"kernel": kernel, "bias": bias}
        theirs["h" + gate] = {"kernel": recurrent}
    return theirs


def test_cells_are_those_of_flax_with_the_same_weights():
    x = jax.random.normal(KEYS[1], (B, FEATURES))
    h, c = jax.random.normal(KEYS[2], (2, B, SIZE))
    gru, params, _ = RUNS["gru"]
    theirs = flax_params("rzn", params)
    theirs["hn"]["bias"] = np.zeros(SIZE)  # theirs has one more, inside the reset
    expected, _ = nn.GRUCell(SIZE).apply({"params": theirs}, h, x)
    np.testing.assert_allclose(gru.apply({"params": params}, h, x)[1], expected, atol=1e-6)
    lstm, params, _ = RUNS["lstm"]
    theirs = flax_params("ifgo", params)
    theirs = {k: v if k[0] == "h" else {"kernel": v["kernel"]} for k, v in theirs.items()}
    for gate, bias in zip("ifgo", np.split(params["input"]["bias"], 4), strict=True):
        theirs["h" + gate]["bias"] = bias  # flax adds it there
    (c_expected, h_expected), _ = nn.OptimizedLSTMCell(SIZE).apply({"params": theirs}, (c, h), x)
    carry, _ = lstm.apply({"params": params}, as_carry("lstm", np.stack([c, h], axis=1)), x)
    np.testing.assert_allclose(carry.cell, c_expected, atol=1e-6)
    np.testing.assert_allclose(carry.hidden, h_expected, atol=1e-6)


@pytest.mark.parametrize(("name", "gates"), [("gru", 3), ("lstm", 4)])
def test_every_gate_starts_with_orthogonal_matrices(name, gates):
    cell = CELLS[name](SIZE)
    params = cell.init(KEYS[0], cell.initial_carry(), jnp.zeros(FEATURES))["params"]
    for part in ("input", "recurrent"):
        blocks = np.split(params[part]["kernel"], gates, axis=1)
        for block in blocks:
            np.testing.assert_allclose(np.linalg.svd(block, compute_uv=False), 1.0, rtol=1e-5)
        assert not np.allclose(blocks[0], blocks[1])
    bias = np.zeros((gates, SIZE))
    if name == "lstm":
        bias[1] = 1.0  # it does not forget at first
    np.testing.assert_array_equal(params["input"]["bias"], bias.ravel())
    assert set(params["recurrent"]) == {"kernel"}
