"""Train reinforcement-learning agents in JAX: a whole run as one compiled, pure program."""

import sys as _sys
from importlib.util import find_spec as _find_spec

# `python -m` has put the working directory first: of this program, no file there is imported as a library.
if (
    _sys.argv[:1] == ["-m"]
    and not _sys.flags.safe_path
    and any(way in "\0".join(_sys.orig_argv) for way in ("m\0jaxtrain", "-mjaxtrain"))
):
    del _sys.path[0]

if _find_spec("fcntl") is None:
    raise ImportError(
        "jaxtrain needs a POSIX system, Linux or macOS: Python has no module fcntl here, by which one "
        "process holds the directory of a run. On Windows it runs in WSL 2",
        name="fcntl",
    )

from jaxtrain import rl, sinks
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.algorithms.ppo import PPO
from jaxtrain.config.rate import per_env_steps
from jaxtrain.config.schema import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvaluationConfig,
    LoggingConfig,
    dump,
    load_config,
    to_dict,
)
from jaxtrain.errors import ConfigError, ContractError, OutOfMemory
from jaxtrain.events.event import Event, OnReset, OnStep
from jaxtrain.loop.hyper import scale_rate
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.train import Result, train
from jaxtrain.loop.trainer import Trainer
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import load, load_policy
from jaxtrain.schedule import at, every, finish, startup, when
from jaxtrain.version import __version__

__all__ = [
    "DQN",
    "PPO",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "ContractError",
    "EnvConfig",
    "EvaluationConfig",
    "Event",
    "LoggingConfig",
    "NetworkConfig",
    "OnReset",
    "OnStep",
    "OutOfMemory",
    "Result",
    "TrainState",
    "Trainer",
    "__version__",
    "at",
    "dump",
    "every",
    "finish",
    "launch",
    "load",
    "load_config",
    "load_policy",
    "per_env_steps",
    "rl",
    "scale_rate",
    "sinks",
    "startup",
    "to_dict",
    "train",
    "when",
]
