"""The loop's promises on a GPU, where it unrolls rollouts and scans associatively.

JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu tests/test_gpu.py
"""

from __future__ import annotations

import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain
from jaxtrain.rl.returns import gae
from tests.helpers import differing, keys

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs a GPU; this machine has none"),
]


def config(**given):
    return jaxtrain.Config(
        **{
            "env": {"id": "CartPole-v1", "num_envs": 64},
            "algorithm": {"rollout_length": 32},
            "total_env_steps": 64 * 32 * 12,
            "evaluation": {"every": 64 * 32 * 4, "num_episodes": 8},
        }
        | given
    )


def test_watching_changes_no_bit_of_many_seeds():
    sink = jaxtrain.sinks.Memory()
    watched = jax.vmap(lambda key: jaxtrain.train(config(), key, sinks=[sink]))(keys(3))
    alone = jax.vmap(lambda key: jaxtrain.train(config(evaluation={"every": 0}, logging={"every": 0}), key))(
        keys(3)
    )
    assert differing(watched.state.agent, alone.state.agent) == []
    evaluations = [r for r in sink.records if r.name == "evaluation"]
    assert [r.update for r in evaluations] == [4, 8, 12]
    assert all(r.values["return_mean"].shape == (3,) for r in evaluations)


def test_a_run_cut_in_two_has_the_bits_of_the_whole():
    trainer = jaxtrain.Trainer(config())
    run = jax.jit(trainer.run, static_argnums=1)
    state = jax.jit(trainer.init)(jax.random.key(0))
    assert differing(run(run(state, 5), 7), run(state, 12)) == []


def test_one_update_agrees_with_the_cpu():
    with jax.default_matmul_precision("highest"):
        trainer = jaxtrain.Trainer(config())
        agents = []
        for platform in ("cpu", jax.default_backend()):
            with jax.default_device(jax.devices(platform)[0]):
                state = jax.jit(trainer.init)(jax.random.key(0))
                agents.append(jax.device_get(jax.jit(trainer.update)(state).agent.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *agents)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(agents[1]))


def test_no_sum_over_the_rewards_joins_the_kernel_of_the_advantages():
    # Joined, it takes a minute to compile.
    def both(reward, value, ends):
        found = gae(reward, value, value, ends, ends, gamma=0.99, lambda_=0.95, method="associative")
        return found, jnp.isfinite(reward).all(), reward.mean()

    like = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    text = jax.jit(both).lower(like, like, jax.ShapeDtypeStruct((128, 64), bool)).as_text()
    assert "stablehlo.pad" in text and "stablehlo.reduce" in text
    kernels = jax.jit(both).lower(like, like, jax.ShapeDtypeStruct((128, 64), bool)).compile().as_text()
    kernels = kernels.split("\n\n")
    assert any(" pad(" in kernel for kernel in kernels)
    assert not any(" pad(" in kernel and " reduce(" in kernel for kernel in kernels)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_launched_run_ends_in_the_bits_of_train_however_often_it_was_stopped(num_seeds, tmp_path):
    class Stop:
        """Sends the signal that a scheduler sends, at the first evaluation that this process makes."""

        def open(self, run): ...

        def write(self, record):
            if record.name == "evaluation":
                os.kill(os.getpid(), signal.SIGTERM)

        def flush(self): ...

        def close(self): ...

    given = config(logging={"every": 64 * 32, "sinks": ["jsonlines"]})
    keys = jax.random.key(0) if num_seeds == 1 else jax.random.split(jax.random.key(0), num_seeds)
    run = jaxtrain.train if num_seeds == 1 else jax.vmap(jaxtrain.train, (None, 0))
    starts = 0
    while (
        ending := jaxtrain.launch(given, tmp_path / "run", num_seeds=num_seeds, more_sinks=[Stop()])
    ).signal is not None:
        starts += 1
        assert starts < 4
    assert starts >= 1
    whole = run(given, keys)
    clock = ending.result.state.clock  # `vmap` gives every seed one
    assert differing(ending.result.state, whole.state.replace(clock=clock)) == []
    assert differing(ending.result.history, whole.history) == []


def test_ten_times_the_memory_of_the_device_is_one_error_that_says_what_fits(tmp_path):
    limit = jax.local_devices()[0].memory_stats()["bytes_limit"]
    replay = {"name": "dqn", "rollout_length": 4, "buffer_size": limit // 10 // 42}  # bytes of a transition
    given = config(algorithm=replay, logging={"every": 0, "sinks": []})
    with pytest.raises(jaxtrain.OutOfMemory, match=r"replay [\d.]+ GiB, .*, and there are 100\. ") as error:
        jaxtrain.launch(given, tmp_path / "run", num_seeds=100)
    fits = re.search(r"hold, by an estimate, num_seeds = (\d+) of 64 environments", str(error.value))
    assert fits is not None and 5 <= int(fits[1]) <= 10
