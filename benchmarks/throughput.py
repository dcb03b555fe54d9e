"""Env steps per second of a config, and of its parts alone.

In: a YAML file and overrides. Out: a table, and JSON with versions and device. Every program is compiled
first (its time apart), then all are timed in turn, round after round; medians, and (max - min) / median.

    python benchmarks/throughput.py experiments/cartpole_ppo.yaml --rounds 7
    python benchmarks/throughput.py experiments/cartpole_ppo.yaml --rounds 7 env.num_envs=2048  # on a GPU

whole: `train` with logging and evaluation as the config says, into a sink in memory. run: the same updates
with no events. update: learning from a rollout given beforehand. rollout: acting and stepping. stepping:
actions that do not look at the observation. The last three are floors:
no loop is faster than its slowest part.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax
import jax
import jax.numpy as jnp

import jaxtrain
from jaxtrain.loop.rollout import RolloutState
from jaxtrain.tools import short
from jaxtrain.types import ActOutput, Experience

Job = tuple[Callable[[int], Any], int]  # (run from that seed, env steps it takes)


def jobs(config: jaxtrain.Config, updates: int) -> dict[str, Job]:
    """The whole run, and `updates` turns of each of its parts."""
    trainer = jaxtrain.Trainer(config)
    quiet = replace(
        config, logging=replace(config.logging, every=0), evaluation=replace(config.evaluation, every=0)
    )
    bare = jaxtrain.Trainer(quiet)
    state = jax.jit(trainer.init)(jax.random.key(0))
    algorithm, collector = trainer.algorithm(state), trainer.collector(state)
    world = collector.begin(state.runner, state.env_params, state.episodes)
    steps = updates * trainer.env_steps_per_update

    def whole(seed: int) -> Any:
        return jaxtrain.train(config, jax.random.key(seed), sinks=[jaxtrain.sinks.Memory()]).state.agent

    act = algorithm.sample(state.agent, state.clock)

    def uniform(obs: Any, carry: Any, key: Any) -> ActOutput:
        """Actions for an observation that stays the same: the compiler computes the network once."""
        return ActOutput(act(jax.tree.map(jnp.zeros_like, obs), carry, key).action, carry, {})

    def collect(policy: Any) -> Callable[[jax.Array], Any]:
        def turns(key: jax.Array) -> Any:
            def turn(world: RolloutState, key: jax.Array) -> tuple[RolloutState, Any]:
                world, rollout = collector(policy, world, key)
                return world, jax.tree.map(jnp.sum, rollout.reward)

            return jax.lax.scan(turn, world, jax.random.split(key, updates))

        return jax.jit(turns)

    _, rollout = jax.jit(lambda key: collector(act, world, key))(jax.random.key(1))

    same = Experience(lambda policy, runner, key: (runner, rollout), lambda *_: (), jnp.ones((), bool))

    @jax.jit
    def learn(key: jax.Array) -> Any:
        def turn(agent: Any, key: jax.Array) -> tuple[Any, Any]:
            agent, _, metrics = algorithm.update(agent, (), same, state.clock, key)
            return agent, metrics

        return jax.lax.scan(turn, state.agent, jax.random.split(key, updates))

    advance = jax.jit(lambda key: bare.run(bare.init(key), updates).agent)
    rollout_job, stepping = collect(act), collect(uniform)
    return {
        "whole": (whole, config.total_env_steps),
        "run": (lambda seed: advance(jax.random.key(seed)), steps),
        "update": (lambda seed: learn(jax.random.key(seed)), steps),
        "rollout": (lambda seed: rollout_job(jax.random.key(seed)), steps),
        "stepping": (lambda seed: stepping(jax.random.key(seed)), steps),
    }


def measure(jobs: dict[str, Job], rounds: int) -> dict[str, dict[str, float]]:
    """Every job once to compile, then all in turn."""
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for name, (run, _) in jobs.items():
        begun = time.perf_counter()
        jax.block_until_ready(run(0))
        first[name] = time.perf_counter() - begun
    for seed in range(1, rounds + 1):
        for name, (run, _) in jobs.items():
            begun = time.perf_counter()
            jax.block_until_ready(run(seed))
            times[name].append(time.perf_counter() - begun)
    rows: dict[str, dict[str, float]] = {}
    for name, (_, steps) in jobs.items():
        median = statistics.median(times[name])
        rows[name] = {
            "env_steps_per_second": steps / median,
            "spread": (max(times[name]) - min(times[name])) / median,
            "seconds": median,
            "first_call_seconds": first[name],
        }
    return rows


def about() -> dict[str, Any]:
    """Where and with what a number was measured."""
    device = jax.devices()[0]
    versions = {"jaxtrain": jaxtrain.__version__, "jax": jax.__version__, "flax": flax.__version__}
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "versions": {**versions, "python": platform.python_version()},
        "command": " ".join(sys.argv),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*", help="env.num_envs=2048 and the like")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="of each part alone")
    parser.add_argument("--json", help="write the result to this file as well")
    options = parser.parse_intermixed_args()
    options.updates, options.rounds = short.repeats(options.updates), short.repeats(options.rounds)
    config = short.config(jaxtrain.load_config(options.file, options.overrides))
    result = {
        **about(),
        "config": jaxtrain.to_dict(config),
        "jobs": measure(jobs(config, options.updates), options.rounds),
    }
    for name, row in result["jobs"].items():
        print(
            f"{name:10s} {row['env_steps_per_second']:14,.0f} env steps/s   spread {row['spread']:.2f}   "
            f"first call {row['first_call_seconds']:.1f} s"
        )
    text = json.dumps(result, indent=2)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
