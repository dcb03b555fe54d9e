"""The ring against a plain list of all that was ever collected; every transition has a number of its own."""

from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxtrain import tree
from jaxtrain.rl import replay
from jaxtrain.rl.replay import Place, Transition

GAMMA = 0.9
SIZES = [(1, 1, 1), (1, 3, 2), (2, 2, 1), (3, 1, 2), (4, 3, 2)]  # blocks, T, B


def rollout(seed, clock, length, num_envs, first=0):
    """T steps of B environments, NumPy; the number of a step is in `obs`, `action` and `extras`."""
    rng = np.random.default_rng((seed, clock % 2**31))
    number = first + np.arange(length * num_envs).reshape(length, num_envs)
    terminated, truncated = rng.random((2, length, num_envs)) < 0.2
    number = number.astype(np.float32)
    obs = {"number": number, "pair": np.stack([number / 2, -number], axis=-1)}
    return Transition(
        obs=obs,
        action=number.astype(np.int32),
        reward=rng.normal(size=number.shape).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        next_obs=jax.tree.map(lambda x: x + np.float32(0.25), obs),
        extras=number.astype(np.int32),
    )


def example(rows):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), rows)


@dataclass
class Step:
    """One transition of the plain list, and the one after it unless that was dropped or is still to come."""

    row: Transition
    block: int
    after: "Step | None" = None


class List:
    """All steps of all updates that were kept, in order."""

    def __init__(self):
        self.steps = {}  # (clock, t, b) -> Step

    def add(self, clock, rows):
        length, num_envs = rows.reward.shape
        for b in range(num_envs):
            for t in range(length):
                step = Step(jax.tree.map(lambda x, t=t, b=b: x[t, b], rows), clock)
                self.steps[clock, t, b] = step
                before = self.steps.get((clock, t - 1, b) if t else (clock - 1, length - 1, b))
                if before is not None:
                    before.after = step

    def within(self, clock, num_blocks):
        """Those of the last n updates, by number."""
        recent = [s for s in self.steps.values() if s.block > clock - num_blocks]
        return {int(step.row.action): step for step in recent}


def n_step_return(step, n):
    """`(reward, discount, next_obs)` in float64."""
    total, power = 0.0, 1.0
    while True:
        total, power, n = total + power * float(step.row.reward), power * GAMMA, n - 1
        if step.row.terminated:
            return total, 0.0, step.row.next_obs
        if step.row.truncated or n == 0 or step.after is None:
            return total, power, step.row.next_obs
        step = step.after


@lru_cache
def functions(n_step):
    """`add`, as the loop does it to a seed and keeps or drops the result, and `read`; compiled once."""

    @jax.jit
    def add(old, clock, running, kept, rows):
        return tree.where(kept, replay.add(old, clock, running, rows), old)

    return add, jax.jit(partial(replay.read, gamma=GAMMA, n_step=n_step))


def everywhere(ring):
    """Every place in the ring."""
    rows, envs = ring.rows.value.reward.shape
    return Place(*map(jnp.asarray, np.divmod(np.arange(rows * envs, dtype=np.int32), np.int32(envs))))


def check(ring, kept, clock, num_blocks, n_step):
    """What can be read is what the list has of the last n updates, each step once, and its n-step return."""
    batch = jax.tree.map(np.asarray, functions(n_step)[1](ring, jnp.int32(clock), everywhere(ring)))
    valid = batch.weight == 1
    assert (valid | (batch.weight == 0)).all()
    expected = kept.within(clock, num_blocks)
    assert sorted(batch.action[valid]) == sorted(expected)
    for i in np.flatnonzero(valid):
        step = expected[int(batch.action[i])]
        reward, discount, next_obs = n_step_return(step, n_step)
        np.testing.assert_allclose(batch.reward[i], reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i], discount, rtol=1e-5)
        for name in next_obs:
            np.testing.assert_array_equal(batch.obs[name][i], step.row.obs[name])
            np.testing.assert_array_equal(batch.next_obs[name][i], next_obs[name])
        assert batch.extras[i] == step.row.extras
    for leaf in jax.tree.leaves(batch._replace(place=())):
        assert not leaf[~valid].any()


@settings(max_examples=60)
@given(
    sizes=st.sampled_from(SIZES),
    n_step=st.sampled_from([1, 2, 3, 7]),
    kept=st.lists(st.booleans(), min_size=1, max_size=14),
    seed=st.integers(0, 2**31),
)
def test_what_is_read_is_the_list_of_the_last_updates_whichever_were_dropped(sizes, n_step, kept, seed):
    num_blocks, length, num_envs = sizes
    ring = replay.init(example(rollout(0, 0, length, num_envs)), num_blocks, length, num_envs)
    add, reference = functions(n_step)[0], List()
    for clock, keep in enumerate(kept):
        rows = rollout(seed, clock, length, num_envs, first=1 + clock * length * num_envs)
        spoiled = rows if keep else rows._replace(reward=rows.reward * np.nan)
        ring = add(ring, jnp.int32(clock), True, keep, spoiled)
        if keep:
            reference.add(clock, rows)
        check(ring, reference, clock, num_blocks, n_step)


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_clock_may_be_as_large_as_an_i32(n_step):
    num_blocks, length, num_envs = 3, 2, 2
    ring = replay.init(example(rollout(0, 0, length, num_envs)), num_blocks, length, num_envs)
    add, reference, last = functions(n_step)[0], List(), 2**31 - 1
    for i, clock in enumerate(range(last - 7, last + 1)):
        rows = rollout(1, clock, length, num_envs, first=1 + i * length * num_envs)
        ring = add(ring, jnp.int32(clock), True, i != 4, rows)
        if i != 4:
            reference.add(clock, rows)
        check(ring, reference, clock, num_blocks, n_step)
    place = replay.draw(ring, jnp.int32(last), jax.random.key(0), 1000)
    assert set(np.asarray(place.row)) == set(range(num_blocks * length))


def filled(num_blocks, length, num_envs, dropped, updates):
    """A ring after so many updates, and the clock of the last."""
    add = functions(1)[0]
    ring = replay.init(example(rollout(0, 0, length, num_envs)), num_blocks, length, num_envs)
    for clock in range(updates):
        rows = rollout(0, clock, length, num_envs, first=1 + clock * length * num_envs)
        ring = add(ring, jnp.int32(clock), True, clock not in dropped, rows)
    return ring, updates - 1


@pytest.mark.parametrize(
    ("updates", "dropped"), [(1, ()), (2, ()), (5, ()), (13, ()), (13, (11,)), (13, (9, 10, 11)), (6, (5,))]
)
def test_draws_are_uniform_over_what_is_valid(updates, dropped):
    num_blocks, length, num_envs, draws = 5, 3, 2, 40_000
    ring, clock = filled(num_blocks, length, num_envs, dropped, updates)
    sample = jax.jit(partial(replay.sample, batch_size=draws, gamma=GAMMA))
    batch = sample(ring, jnp.int32(clock), jax.random.key(0))
    numbers = np.asarray(batch.action)[np.asarray(batch.weight) == 1]
    within = [c for c in range(max(0, updates - num_blocks), updates) if c not in dropped]
    expected = np.concatenate([1 + 6 * c + np.arange(6) for c in within])
    found, counts = np.unique(numbers, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    mean, freedom = counts.mean(), len(counts) - 1
    assert abs(((counts - mean) ** 2 / mean).sum() - freedom) < 4 * np.sqrt(2 * freedom)
    share = len(within) / min(updates, num_blocks)
    assert len(numbers) / draws == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / draws))


def test_a_ring_with_nothing_valid_gives_weights_of_zero():
    ring, clock = filled(2, 3, 2, (0, 1, 2), 3)
    assert not replay.sample(ring, jnp.int32(clock), jax.random.key(0), 50, gamma=GAMMA).weight.any()


def test_the_same_key_draws_the_same_and_another_draws_others():
    ring, clock = filled(4, 3, 2, (), 4)
    one, same, other = (replay.draw(ring, jnp.int32(clock), jax.random.key(k), 64) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def of_seed(i, tree):
    return jax.tree.map(lambda x: np.asarray(x[i]), tree)


def test_a_stopped_seed_keeps_every_bit_and_a_running_one_is_as_alone():
    num_blocks, length, num_envs = 3, 2, 2
    rows = [
        jax.tree.map(lambda *x: np.stack(x), *(rollout(s, c, length, num_envs, 100 * s) for s in range(2)))
        for c in range(5)
    ]
    empty = replay.init(example(rollout(0, 0, length, num_envs)), num_blocks, length, num_envs)
    both, alone, before = jax.tree.map(lambda x: np.stack([x, x]), empty), empty, None
    one, add = jax.jit(replay.add), jax.jit(jax.vmap(replay.add, in_axes=(0, None, 0, 0)))
    for clock in range(5):
        both = add(both, jnp.int32(clock), np.array([clock < 2, True]), rows[clock])
        alone = one(alone, jnp.int32(clock), True, of_seed(1, rows[clock]))
        if clock >= 2:
            jax.tree.map(np.testing.assert_array_equal, of_seed(0, both), before)
        before = of_seed(0, both)
    jax.tree.map(np.testing.assert_array_equal, of_seed(1, both), alone)
    keys = jax.random.split(jax.random.key(0), 2)
    draw = partial(replay.sample, clock=jnp.int32(4), batch_size=9, gamma=GAMMA, n_step=3)
    many = jax.jit(jax.vmap(lambda ring, key: draw(ring, key=key)))(both, keys)
    expected = jax.jit(lambda ring, key: draw(ring, key=key))(alone, keys[1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), of_seed(1, many), expected)


@pytest.mark.parametrize("seeds", [None, 4])
def test_no_copy_of_the_ring_is_made_in_a_loop(seeds):
    """Temporaries at two capacities differ by less than 1 % of the difference of the rings."""
    length, num_envs = 4, 8
    rows = rollout(0, 0, length, num_envs)

    def memory(num_blocks):
        def turn(carry, clock):
            ring, key, total = carry
            key, key_sample = jax.random.split(key)
            made = jax.tree.map(lambda x: x + total.astype(x.dtype), rows)
            new = replay.add(ring, clock, total < 1e9, made)

            def learn(total):
                return total + replay.sample(new, clock, key_sample, 32, gamma=GAMMA, n_step=3).reward.sum()

            total = lax.cond(clock >= 2, learn, lambda total: total, total)
            return (tree.where(total < 1e6, new, ring), key, total), None

        def run(ring, key, total):
            many = turn if seeds is None else over_seeds
            return lax.scan(many, (ring, key, total), jnp.arange(100, dtype=jnp.int32))[0]

        def over_seeds(carry, clock):
            return jax.vmap(turn, in_axes=(0, None), out_axes=(0, None))(carry, clock)

        keys = jax.random.key(0) if seeds is None else jax.random.split(jax.random.key(0), seeds)
        ring = replay.init(example(rows), num_blocks, length, num_envs)
        shape = () if seeds is None else (seeds,)
        ring = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape), x.dtype), ring)
        state = ring, keys, jax.ShapeDtypeStruct(shape, jnp.float32)
        compiled = jax.jit(run, donate_argnums=0).lower(*state).compile()
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring.rows))
        return compiled.memory_analysis().temp_size_in_bytes, size

    (small, small_ring), (large, large_ring) = memory(50), memory(5000)
    assert abs(large - small) < 0.01 * (large_ring - small_ring)


def test_a_block_of_another_shape_is_an_error_that_names_the_leaf():
    rows = rollout(0, 0, 3, 2)
    ring = replay.init(example(rows), 2, 3, 2)
    for wrong in (rollout(0, 0, 1, 2), rollout(0, 0, 3, 1)):
        with pytest.raises(ValueError, match=r"rows\.action: has shape \(\d, \d\), needs \(3, 2\)"):
            replay.add(ring, jnp.int32(0), True, rows._replace(action=wrong.action))


@pytest.mark.parametrize("num_blocks", [0, 2**30])
def test_a_ring_without_blocks_or_with_more_rows_than_can_be_counted_is_refused(num_blocks):
    with pytest.raises(ValueError, match=f"num_blocks = {num_blocks}: needs at least 1"):
        replay.init(example(rollout(0, 0, 3, 2)), num_blocks, 3, 2)
