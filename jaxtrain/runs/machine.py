"""What a run is computed by: versions, device, flags, settings of JAX. With others its bits may be others.

In: what `run.json` has of a run's starts. Out: the same of this process, and a sentence on what differs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax

from jaxtrain import device
from jaxtrain.runs import directory as rundir
from jaxtrain.version import __version__

SETTINGS = (  # of `jax.config`, those that decide which numbers are drawn or how they are rounded
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_most_optimizations",
    "jax_enable_x64",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_numpy_dtype_promotion",
    "jax_optimization_level",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
)
_VERSIONS = ("jaxtrain", "jax", "jaxlib")  # Python's moves no bit
_DEVICE = ("kind", "platform")
_FLAGS = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")
_NO_BITS = "--xla_dump"  # how flags begin that only write files


def now() -> dict[str, dict[str, Any]]:
    """Of this process: `versions`, `device` and `settings`, as JSON has them."""
    device.check()
    devices = jax.devices()
    return {
        "versions": {
            "jaxtrain": __version__,
            "jax": jax.__version__,
            "jaxlib": version("jaxlib"),
            "python": platform.python_version(),
        },
        "device": {
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "count": len(devices),
        },
        "settings": {
            name: _plain(getattr(jax.config, name)) for name in SETTINGS if hasattr(jax.config, name)
        },
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def notes(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence, if this process differs from a run's last start in what may move bits.

    Args:
      starts: of `run.json`; one that an earlier version wrote says less, of which nothing is said.
    """
    differs = list(_differing(starts[-1], now() | {"flags": rundir.flags()})) if starts else []
    if not differs:
        return []
    return [
        f"this is not what the run was last computed by, and its bits may be others from here on: "
        f"{'; '.join(differs)}"
    ]


def _differing(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    names = [("versions", name) for name in _VERSIONS] + [("device", name) for name in _DEVICE]
    names += [("settings", name) for name in SETTINGS]
    for part, name in names:
        if name in then.get(part, {}) and name in here[part] and then[part][name] != here[part][name]:
            what = f"the device's {name}" if part == "device" else name
            yield f"{what} was {then[part][name]}, is {here[part][name]}"
    if "flags" in then:
        for name in _FLAGS:
            old, new = (_words(flags.get(name)) for flags in (then["flags"], here["flags"]))
            if old != new:
                yield f"{name} was {' '.join(sorted(old)) or 'unset'}, is {' '.join(sorted(new)) or 'unset'}"


def _words(flags: Any) -> set[str]:
    return {word for word in str(flags or "").split() if not word.startswith(_NO_BITS)}
