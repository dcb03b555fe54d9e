"""JAX's own tools: a sound run passes with each, and what is wrong in a user's code is found where it is.

In: tiny runs with events of every kind, under each of JAX's debugging settings. Out: they end as without it;
or the error is JAX's, and names the user's line.
"""

from __future__ import annotations

import shutil
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import DQN, ConfigError, launch, train
from jaxtrain.loop.state import NON_FINITE
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.sinks import Memory
from tests.helpers import Reinforce, Walk, arrays, differing, keys, tiny, tiny_ppo

PER = tiny().env_steps_per_update
EVENTS = [
    {"name": "noise", "run": "randomize", "every": 2 * PER, "params": {"scale": {"low": 0.5, "high": 2}}},
    {
        "name": "harder",
        "run": "curriculum",
        "every": PER,
        "params": {"field": "push", "marks": [0, 40], "values": [0.1, 0.3]},
    },
    {
        "name": "solved",
        "run": "early_stop",
        "every": 2 * PER,
        "params": {"metric": "rollout/return_mean", "threshold": 50},
    },
    {
        "name": "starts",
        "run": "randomize",
        "on": "reset",
        "params": {"end": {"distribution": "gaussian", "mean": 0.2, "std": 0.01}},
    },
    {"name": "look", "run": "tests.configs:report", "every": PER, "when": "rollout/return_mean > 1e0"},
    {"name": "slow", "run": "reduce_rate", "every": PER, "params": {"metric": "evaluation/return_mean"}},
]
STATISTICS = [{"name": "moved", "source": "moved", "reduction": "episode"}]
NETWORK = NetworkConfig(hidden_sizes=(4,))
ALGORITHMS = {
    "reinforce": Reinforce(),
    "ppo": tiny_ppo(normalize_observations=True, normalize_rewards=True),
    "recurrent ppo": tiny_ppo(network=NetworkConfig(hidden_sizes=(4,), recurrent="lstm", layer_norm=True)),
    "dqn": DQN(
        rollout_length=4,
        buffer_size=32,
        batch_size=4,
        learning_starts=8,
        gradient_steps=2,
        target_update_interval=8,
        n_step=3,
        dueling=True,
        network=NETWORK,
    ),
}
TOOLS = {
    "jax_debug_nans": partial(jax.debug_nans, True),
    "jax_debug_infs": partial(jax.debug_infs, True),
    "jax_check_tracer_leaks": jax.checking_leaks,
    "jax_numpy_rank_promotion": partial(jax.numpy_rank_promotion, "raise"),
    "jax_default_matmul_precision": partial(jax.default_matmul_precision, "highest"),
}


def config_of(algorithm, **given):
    """Four updates in which nothing is known at first: no episode has ended, no evaluation was made."""
    return tiny(
        4,
        algorithm=algorithm,
        logging={"every": PER, "statistics": STATISTICS, "sinks": []},
        evaluation={"every": 3 * PER, "num_episodes": 2, "max_episode_steps": 7},
        events=EVENTS,
        **given,
    )


def using(stack, *tools):
    for tool in tools:
        stack.enter_context(TOOLS[tool]())


def seeds(name, sink):
    return jax.vmap(partial(train, config_of(ALGORITHMS[name]), sinks=[sink]))(keys(2))


@cache
def plain(name):
    sink = Memory()
    return seeds(name, sink), sink.records


def same_records(found, wanted):
    """Of each the same values, NaN where they are NaN."""
    assert [(r.name, r.update) for r in found] == [(r.name, r.update) for r in wanted]
    for r, other in zip(found, wanted, strict=True):
        assert differing(dict(r.values), dict(other.values)) == []


# ---- what is seen while a program is traced


@pytest.mark.parametrize("name", ["ppo", "recurrent ppo", "dqn"])
def test_nothing_leaks_and_no_rank_is_promoted_in_silence(name):
    with ExitStack() as stack:
        using(stack, "jax_check_tracer_leaks", "jax_numpy_rank_promotion")
        run = partial(train, config_of(ALGORITHMS[name]), sinks=[Memory()])
        result = jax.eval_shape(jax.vmap(run), keys(2))
    assert result.state.metrics["rollout/return_mean"].shape == (2,)


# ---- what is seen as a program runs


@pytest.mark.parametrize(
    "name", ["reinforce", *(pytest.param(n, marks=pytest.mark.slow) for n in ALGORITHMS if n != "reinforce")]
)
def test_a_sound_run_has_the_same_bits_with_each_tool_that_looks_at_numbers(name):
    sink = Memory()
    with ExitStack() as stack:
        using(stack, "jax_debug_nans", "jax_debug_infs")
        result = seeds(name, sink)
    wanted, records = plain(name)
    assert differing(result, wanted) == []
    same_records(sink.records, records)
    assert np.isnan(result.history["slow"]["best"][:, :2]).all()  # there was no evaluation yet


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_sound_run_passes_with_each_tool(tool, name):
    jax.clear_caches()
    with ExitStack() as stack:
        using(stack, tool)
        result = seeds(name, Memory())
    assert result.state.status.tolist() == [0, 0]


# ---- a fault of the user's


@dataclass(frozen=True)
class Root(Walk):
    """Its rewards are roots, of numbers that may be negative."""

    def step(self, key, state, action, params):
        out = super().step(key, state, action, params)
        return out._replace(reward=jnp.sqrt(out.reward - 0.5))


@pytest.mark.parametrize(("on_nan", "num_seeds"), [("freeze", 2), ("raise", 0)])
def test_a_nan_of_the_users_is_found_in_their_line(on_nan, num_seeds):
    run = partial(train, tiny(2, env=Root(), on_nan=on_nan))
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"nan.*sqrt") as error:
        jax.vmap(run)(keys(num_seeds)) if num_seeds else run(jax.random.key(0))
    lines = [frame.line for frame in traceback.extract_tb(error.value.__traceback__)]
    assert any("jnp.sqrt(out.reward - 0.5)" in line for line in lines if line)


def test_a_seed_that_is_not_finite_is_stopped_as_ever_where_nobody_looks():
    result = train(tiny(2, env=Root()), jax.random.key(0))
    assert int(result.state.status) == NON_FINITE


# ---- without compiling


def test_a_run_ends_without_compiling_and_one_in_a_directory_is_refused_before_it_is_made(tmp_path):
    config = tiny(2, logging={"every": PER})
    with jax.disable_jit():
        result = train(config, jax.random.key(0))
        with pytest.raises(ConfigError, match="jax_disable_jit = True: a run in a directory"):
            launch(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    for (path, x), (_, y) in zip(arrays(result), arrays(train(config, jax.random.key(0))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=path)


# ---- 64 bits


@pytest.mark.slow
def test_with_64_bits_a_run_in_a_directory_goes_on_where_it_stopped_and_counters_have_32(tmp_path):
    config = config_of(Reinforce(), checkpoint={"every": PER, "keep_last": 9})
    sink, more = Memory(), Memory()
    with jax.enable_x64(True), jax.debug_nans(True):
        whole = launch(config, tmp_path / "run", cache=False, more_sinks=[sink])
        for env_steps in (3 * PER, 4 * PER):
            shutil.rmtree(tmp_path / "run" / "checkpoints" / f"{env_steps:013}")
        again = launch(config, tmp_path / "run", cache=False, more_sinks=[more])
    assert again.resumed_at == 2 * PER
    assert differing(again.result, whole.result) == []
    same_records(more.records, [r for r in sink.records if r.update > 2])
    kinds = {x.dtype for _, x in arrays(whole.result) if x.dtype.kind == "i"}
    assert kinds == {np.dtype("int32")}
