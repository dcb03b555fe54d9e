"""Where records go: a console, a text file, TensorBoard, Weights & Biases, a list in memory.

In: `Record`s of NumPy arrays. Out: one class a backend, imported when it is first asked for.
Knows nothing of JAX, of the loop, or of the threads that call a sink.

NaN means "nothing to report": a value that is NaN for every seed is left out by all of them.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtrain.types import Sink

if TYPE_CHECKING:
    from jaxtrain.sinks.console import Console as Console
    from jaxtrain.sinks.jsonlines import JsonLines as JsonLines
    from jaxtrain.sinks.memory import Memory as Memory
    from jaxtrain.sinks.tensorboard import TensorBoard as TensorBoard
    from jaxtrain.sinks.wandb import Wandb as Wandb

NAMES = ("console", "jsonlines", "tensorboard", "wandb", "memory")
_CLASSES = dict(zip(("Console", "JsonLines", "TensorBoard", "Wandb", "Memory"), NAMES, strict=True))


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)


def make(name: str, directory: str | Path, /, **options: Any) -> Sink:
    """Make a sink from its name in a config.

    Args:
      name: one of `NAMES`.
      directory: of the run. JSON lines go to `metrics.jsonl` in it, TensorBoard's files to `tensorboard/`,
        those of Weights & Biases to `wandb/`.
      options: as the sink's class takes them.

    Raises:
      ValueError: no such sink, or no such option.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1) or [", ".join(NAMES)]
        raise ValueError(f"sink {name!r}: unknown, needs one of {', '.join(NAMES)}; the nearest is {near[0]}")
    place = {
        "jsonlines": {"path": Path(directory) / "metrics.jsonl"},
        "tensorboard": {"directory": Path(directory) / "tensorboard"},
        "wandb": {"directory": Path(directory)},
    }
    make_sink = __getattr__(next(cls for cls, module in _CLASSES.items() if module == name))
    try:
        return make_sink(**{**place.get(name, {}), **options})
    except TypeError as error:
        raise ValueError(f"sink {name!r}: {error}") from error
