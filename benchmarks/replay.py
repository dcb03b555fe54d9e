"""What a replay costs: an update of DQN at two buffer sizes, in turn, and the memory of the compiled loop.

In: a YAML file of a DQN run, overrides. Out: milliseconds an update at each size, their ratio, and the
temporaries of the program beside the rings; with --warm-up, milliseconds of an update that does not learn
yet, beside those of its rollout alone.

    python benchmarks/replay.py experiments/cartpole_dqn.yaml --sizes 10000 1000000 env.num_envs=64 \\
        algorithm.batch_size=256
    python benchmarks/replay.py experiments/cartpole_dqn.yaml --warm-up --num-seeds 4
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from throughput import about

import jaxtrain
from jaxtrain.loop.state import AXES
from jaxtrain.tools import short


def compiled(config: jaxtrain.Config, num_seeds: int, updates: int) -> tuple[Any, Any, int, int]:
    """`run(state) -> state` of so many updates, a state, bytes of temporaries and of rings."""
    trainer = jaxtrain.Trainer(config)
    key = jax.random.key(0)
    keys = jax.random.split(key, num_seeds) if num_seeds > 1 else key
    state = jax.jit(trainer.init)(keys)
    run = jax.jit(lambda state: trainer.run(state, updates), donate_argnums=0).lower(state).compile()
    ring = sum(x.nbytes for x in jax.tree.leaves(state.agent.replay.rows))
    return run, state, run.memory_analysis().temp_size_in_bytes, ring


def warm_up(config: jaxtrain.Config, num_seeds: int, updates: int) -> dict[str, Callable[[], Any]]:
    """What to time: so many updates before the first gradient step, and as many rollouts."""
    algorithm = dataclasses.replace(config.algorithm, learning_starts=config.total_env_steps)
    trainer = jaxtrain.Trainer(dataclasses.replace(config, algorithm=algorithm))
    keys = jax.random.split(jax.random.key(0), num_seeds)
    state = jax.jit(trainer.init)(keys)

    def rollouts(state: Any) -> Any:
        act, collect = trainer.algorithm(state).sample(state.agent, state.clock), trainer.collector(state)
        runner = collect.begin(state.runner, state.env_params, state.episodes)
        last = jax.eval_shape(lambda k: collect(act, runner, k)[1], state.key)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), last)
        keys = jax.random.split(state.key, updates)
        return jax.lax.scan(lambda c, k: (collect(act, c[0], k), None), (runner, none), keys)[0]

    one_each = jax.jit(jax.vmap(rollouts, in_axes=(AXES,)))
    run = jax.jit(lambda state: trainer.run(state, updates))
    return {"update": lambda: run(state), "rollout": lambda: one_each(state)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*", help="env.num_envs=64 and the like")
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 1_000_000])
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--updates", type=int, default=200, help="in one timed call")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", action="store_true", help="time updates that do not learn yet")
    options = parser.parse_intermixed_args()
    options.updates, options.rounds = short.repeats(options.updates), short.repeats(options.rounds)
    quiet = ["logging.every=0", "evaluation.every=0", *options.overrides]
    if options.warm_up:
        config = short.config(jaxtrain.load_config(options.file, quiet))
        runs = warm_up(config, options.num_seeds, options.updates)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.rounds + 1):
            for name, run in runs.items():
                begun = time.perf_counter()
                jax.block_until_ready(run())
                if turn:  # the first compiles
                    times[name].append(1e3 * (time.perf_counter() - begun) / options.updates)
        medians = {name: statistics.median(found) for name, found in times.items()}
        ratio = medians["update"] / medians["rollout"]
        print(json.dumps({**about(), "num_seeds": options.num_seeds, **medians, "ratio": ratio}, indent=2))
        return
    jobs: dict[int, Any] = {}
    rows: dict[int, dict[str, Any]] = {}
    for size in options.sizes:
        config = short.config(jaxtrain.load_config(options.file, quiet))
        algorithm = dataclasses.replace(config.algorithm, buffer_size=size)
        config = dataclasses.replace(config, algorithm=algorithm)
        run, state, temporaries, ring = compiled(config, options.num_seeds, options.updates)
        jobs[size] = [run, jax.block_until_ready(run(state))]
        rows[size] = {"temporary_bytes": temporaries, "ring_bytes": ring, "times": []}
    for _ in range(options.rounds):
        for size, job in jobs.items():
            begun = time.perf_counter()
            job[1] = jax.block_until_ready(job[0](job[1]))
            rows[size]["times"].append(1e3 * (time.perf_counter() - begun) / options.updates)
    for row in rows.values():
        row["milliseconds_per_update"] = statistics.median(row.pop("times"))
    small, large = (rows[size] for size in options.sizes)
    grown = large["ring_bytes"] - small["ring_bytes"]
    result = {
        **about(),
        "num_seeds": options.num_seeds,
        "sizes": rows,
        "time_ratio": large["milliseconds_per_update"] / small["milliseconds_per_update"],
        "temporaries_per_ring": (large["temporary_bytes"] - small["temporary_bytes"]) / grown,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
