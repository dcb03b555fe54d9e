"""The one table of names: algorithms, stock events, sinks, and where each is.

In: a name in a config. Out: the object at `package.module:name`, imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxtrain.errors import Fault, nearest


def load_object(name: str) -> Any:
    """The object at `package.module:name`.

    Raises:
      Fault: if there is no such module or no such name in it; says which.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the module does while it is imported
        raise Fault(f"cannot import {module!r} ({type(error).__name__}: {error})") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Fault(f"{module!r} has no {attribute!r}" + nearest(part, vars(found)))
        found = getattr(found, part)
    return found


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
