"""Train reinforcement-learning agents in JAX: a whole run as one compiled, pure program."""

from jaxtrain import sinks
from jaxtrain.algorithms.ppo import PPO
from jaxtrain.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvaluationConfig,
    LoggingConfig,
    dump,
    load_config,
    to_dict,
)
from jaxtrain.events import Event, OnReset, OnStep
from jaxtrain.fields import ConfigError
from jaxtrain.launch import launch
from jaxtrain.saved import load_policy
from jaxtrain.schedule import at, every, finish, startup, when
from jaxtrain.state import TrainState
from jaxtrain.train import Result, train
from jaxtrain.trainer import Trainer
from jaxtrain.version import __version__

__all__ = [
    "PPO",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EvaluationConfig",
    "Event",
    "LoggingConfig",
    "OnReset",
    "OnStep",
    "Result",
    "TrainState",
    "Trainer",
    "__version__",
    "at",
    "dump",
    "every",
    "finish",
    "launch",
    "load_config",
    "load_policy",
    "sinks",
    "startup",
    "to_dict",
    "train",
    "when",
]
