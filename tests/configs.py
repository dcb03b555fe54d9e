"""A sound config that uses most of what there is, for the tests of configs to read and to spoil.

In: a directory. Out: a file in it. The functions are those that the config names.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

from jaxtrain import Trainer, load_config

TEXT = """
env: {id: "tests.helpers:Walk", num_envs: 4, params: {push: 0.2}}
algorithm: {rollout_length: 8, num_minibatches: 2, learning_rate: 3e-4, network: {hidden_sizes: [4]}}
total_env_steps: 320
evaluation:
  every: 64
  num_episodes: 4
  env: {id: "tests.helpers:Walk", params: {push: 1}}
  events: [{name: pushes, run: "tests.configs:push", on: step, every_steps: "2, 5"}]
logging:
  every: 32
  sinks: jsonlines, tensorboard
  tensorboard: {seeds: separate}
  statistics: [{name: moved, source: moved, reduction: episode}]
events:
- {name: noise, run: randomize, every: 64, params: {scale: {low: 0.5, high: 2}}}
- {name: harder, run: curriculum, every: 32, params: {field: push, marks: [0, 320], values: [0.1, 0.3]}}
- {name: solved, run: early_stop, every: 64, params: {metric: rollout/return_mean, threshold: 5}}
- {name: starts, run: randomize, on: reset, params: {end: {distribution: gaussian, mean: 0.2, std: 0.01}}}
- {name: look, run: "tests.configs:report", every: 32, when: rollout/return_mean > 1e1, once: yes}
- {name: peek, run: "tests.configs:report", at: 1e2, finish: true, when: null, params: {offset: 1.5}}
"""


def push(key, state, params):
    del key, params
    return state


def report(trainer, state, key, *, offset=0.0):
    del trainer, key
    return state, {"offset": jnp.asarray(offset)}


def solved(state):
    return state.clock > 0


def written(directory: Path) -> Path:
    """The config as a file."""
    path = directory / "config.yaml"
    path.write_text(TEXT)
    Trainer(load_config(path))  # whatever JAX compiles for single operations is compiled by now
    return path
