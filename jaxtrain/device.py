"""Whether JAX has the device that is asked for, before anything is computed on it.

In: the settings of this process. Out: one error that says what was asked, what is there, and what works.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from jaxtrain.errors import ConfigError, Problem

VARIABLE = "JAX_PLATFORMS"
_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
_DRIVER = Path("/dev/nvidiactl")  # which the driver makes


def check(*, callbacks: bool = False) -> None:
    """Return if JAX has a device to compute on.

    Args:
      callbacks: and one of the CPU, through which a program calls the host.

    Raises:
      ConfigError: names JAX_PLATFORMS and its value.
    """
    asked = _asked()
    try:
        jax.devices()
    except Exception as error:  # an AssertionError without words, where the plugin of a GPU is not installed
        works = f"set {VARIABLE}=cpu, or unset it to compute on whatever is there"
        raise ConfigError([Problem(VARIABLE, asked, f"{_missing(asked, error)}; {works}")]) from None
    try:
        _ = callbacks and jax.devices("cpu")
    except RuntimeError:
        rule = f"leaves out the CPU, through which JAX calls the host for each record: set {asked},cpu"
        raise ConfigError([Problem(VARIABLE, asked, rule)]) from None


def _asked() -> str:
    config: Any = jax.config  # which reads the variable once, and may be told otherwise
    return str(config.jax_platforms or "")


def _missing(asked: str, error: Exception) -> str:
    """What JAX does not find, and why as far as that is known."""
    said = str(error).strip().partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
    found = f"JAX finds no such device here{f' ({said})' if said else ''}"
    if not {"cuda", "gpu"} & {*asked.lower().replace(" ", "").split(",")}:
        return found
    lacks = ["this machine has no NVIDIA driver"] if not _DRIVER.exists() else []
    if not any(map(find_spec, _PLUGINS)):
        lacks += ["JAX's plugin for it is not installed: pip install 'jax[cuda13]'"]
    return "; ".join([found, *lacks])
