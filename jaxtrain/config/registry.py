"""The one table of names: algorithms, stock events, sinks, and where each is.

In: a name in a config. Out: the object at `package.module:name`, imported when it is asked for.
"""

from __future__ import annotations

from jaxtrain.names import load_object as load_object

ALGORITHMS = {"dqn": "jaxtrain.algorithms.dqn:DQN", "ppo": "jaxtrain.algorithms.ppo:PPO"}
EVENTS = {
    "curriculum": "jaxtrain.events.curriculum:curriculum",
    "early_stop": "jaxtrain.events.early_stop:early_stop",
    "evaluation": "jaxtrain.events.evaluation:evaluation",
    "randomize": "jaxtrain.events.randomize:randomize",
    "reduce_rate": "jaxtrain.events.reduce_rate:reduce_rate",
}
# Those that also act inside the environments, by where.
HOOKS = {("randomize", "reset"): "jaxtrain.events.randomize:randomize_at_reset"}
SINKS = ("console", "jsonlines", "tensorboard", "wandb")
