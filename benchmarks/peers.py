"""jaxtrain beside PureJaxRL's PPO, in one process, timed in turn.

In: a folder with a clone of luchris429/purejaxrl, used as it is. Out: env steps/s of both and their ratio,
pair by pair. Both have PureJaxRL's network, an MLP that images are flattened for, whose shapes are compared
before anything is timed. Ours logs and evaluates as `experiments/cartpole_ppo.yaml` does, scaled to the run's
length; PureJaxRL does neither. It needs distrax, which is no dependency of ours: `pip install distrax`.

    PUREJAXRL=clones/purejaxrl python benchmarks/peers.py --num-envs 64

gymnax 1.0 tells termination from truncation, PureJaxRL expects one `done` and five values from `step`;
both are given to it by a subclass of the same environment. Its wrappers import navix and brax, which gymnax
environments do not use: empty modules stand in for them.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import os
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
from throughput import about

import jaxtrain
from jaxtrain.tools import short

NETWORK = jaxtrain.NetworkConfig(torso="mlp", hidden_sizes=(64, 64), activation="tanh")
SAID = "two MLPs of 64 x 64 units, tanh, of the flat observation, for policy and value"


def purejaxrl(env_id: str, num_envs: int, updates: int) -> Any:
    """Its `train(key)`, jitted, with the same sizes and rates as ours."""
    import gymnax

    for name in ("navix", "brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training"):
        module = types.ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined]
        module.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(Path(os.environ["PUREJAXRL"]) / "purejaxrl"))

    real, (env, params) = gymnax.make, gymnax.make(env_id)

    class FiveValues(type(env)):  # type: ignore[misc]
        def step(self, key: Any, state: Any, action: Any, params: Any = None) -> Any:
            obs, state, reward, terminated, truncated, info = super().step(key, state, action, params)
            return obs, state, reward, terminated | truncated, info

    gymnax.make = lambda *_: (FiveValues(), params)
    try:
        make_train = importlib.import_module("ppo").make_train
        config = {
            "LR": 2.5e-4, "NUM_ENVS": num_envs, "NUM_STEPS": 128, "TOTAL_TIMESTEPS": num_envs * 128 * updates,
            "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4, "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2,
            "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh", "ENV_NAME": env_id,
            "ANNEAL_LR": True, "DEBUG": False,
        }  # fmt: skip
        return jax.jit(make_train(config))
    finally:
        gymnax.make = real


def config_of(env_id: str, num_envs: int, updates: int) -> jaxtrain.Config:
    """Ours: an evaluation every eighth of the run and metrics every 64th."""
    per = num_envs * 128
    return jaxtrain.Config(
        env=jaxtrain.EnvConfig(id=env_id, num_envs=num_envs),
        algorithm=jaxtrain.PPO(network=NETWORK),
        total_env_steps=per * updates,
        evaluation=jaxtrain.EvaluationConfig(every=per * max(1, updates // 8)),
        logging=jaxtrain.LoggingConfig(every=per * max(1, updates // 64)),
    )


def shapes(params: Any) -> list[tuple[int, ...]]:
    """Of every array, in no order but their own."""
    return sorted(tuple(x.shape) for x in jax.tree.leaves(params))


def check_networks(theirs: Any, config: jaxtrain.Config) -> int:
    """How many parameters both have.

    Raises:
      SystemExit: their networks have other shapes than ours: there is nothing to compare.
    """
    runner_state = jax.eval_shape(theirs, jax.random.PRNGKey(0))["runner_state"]
    their = shapes(runner_state[0].params)
    our = shapes(jax.eval_shape(jaxtrain.Trainer(config).new, jax.random.key(0)).agent.params)
    if their != our:
        raise SystemExit(f"other networks: PureJaxRL's arrays are {their}, jaxtrain's {our}")
    return sum(map(math.prod, our))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--updates", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    options.updates, options.rounds = short.repeats(options.updates), short.repeats(options.rounds)
    sizes = (options.env, options.num_envs, options.updates)
    theirs, config = purejaxrl(*sizes), config_of(*sizes)
    network = {"both": SAID, "parameters": check_networks(theirs, config)}
    ours = functools.partial(jaxtrain.train, config, sinks=[jaxtrain.sinks.Memory()])
    jobs = {"purejaxrl": theirs, "jaxtrain": ours}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    first: dict[str, float] = {}
    for seed in range(options.rounds + 1):
        for name, run in jobs.items():
            begun = time.perf_counter()
            jax.block_until_ready(jax.tree.leaves(run(jax.random.PRNGKey(seed))))
            took = time.perf_counter() - begun
            if seed:
                times[name].append(took)
            else:
                first[name] = took  # compilation included
    steps = options.num_envs * 128 * options.updates
    ratios = [a / b for a, b in zip(times["purejaxrl"], times["jaxtrain"], strict=True)]
    rows = {
        name: {
            "env_steps_per_second": steps / statistics.median(t),
            "spread": (max(t) - min(t)) / statistics.median(t),
            "first_call_seconds": first[name],
        }
        for name, t in times.items()
    }
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    print(
        json.dumps({**about(), **vars(options), "network": network, "jobs": rows, "ratio": ratio}, indent=2)
    )


if __name__ == "__main__":
    main()
