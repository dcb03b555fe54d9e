"""How many bytes a run takes on its device, part by part, and one error where there are not so many.

In: a trainer, which may be traced but is never run. Out: bytes of one seed, an estimate of what fits, words.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.errors import OutOfMemory
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.trainer import Trainer
from jaxtrain.tree import in_place, watched
from jaxtrain.types import PyTree

# What comes and goes within an update; the greatest of them counts. XLA's temporaries hold the others.
PASSING = ("rollout", "evaluation", "XLA's temporaries")
PER_ENV = ("environments", "rollout", "XLA's temporaries")  # what grows with `num_envs`


def by_part(trainer: Trainer, *, saved: bool = False, temporaries: int | None = None) -> dict[str, int]:
    """Bytes of one seed.

    Args:
      saved: whether it has checkpoints, for which all but what is `InPlace` is copied on the device.
      temporaries: bytes, as `memory_analysis` of a compiled program has them; None if none is compiled.
    """
    state = jax.eval_shape(trainer.new, jax.random.key(0))
    settings = trainer.config.evaluation
    environments = size((state.runner, state.env_params))
    parts = {
        "agent": size(watched(state.agent)),
        "replay": size(in_place(state.agent)),
        "environments": environments,
        "history": size((state.metrics, state.episodes, jax.eval_shape(trainer.history, state))),
        "rollout": size(jax.eval_shape(lambda state: _rollout(trainer, state), state)),
    }
    if settings.every != 0:
        parts["evaluation"] = environments * settings.num_episodes // trainer.config.env.num_envs
    if saved:
        parts["a checkpoint's copy"] = parts["agent"] + environments + parts["history"]
    if temporaries is not None:
        parts["XLA's temporaries"] = temporaries
    return {name: count for name, count in parts.items() if count}


def _rollout(trainer: Trainer, state: TrainState) -> PyTree:
    collect = trainer.collector(state)
    begun = collect.begin(state.runner, state.env_params, state.episodes)
    policy = trainer.algorithm(state).sample(state.agent, state.clock)
    return collect(policy, begun, state.key)[1]


def total(parts: Mapping[str, int]) -> int:
    """Bytes of one seed at once."""
    stays = sum(count for name, count in parts.items() if name not in PASSING)
    return stays + max((parts.get(name, 0) for name in PASSING), default=0)


def num_seeds_in(parts: Mapping[str, int], room: int) -> int:
    """An estimate of how many seeds fit into so many bytes."""
    return room // max(total(parts), 1)


def num_envs_in(parts: Mapping[str, int], room: int, num_envs: int) -> int:
    """An estimate of how many environments of one seed fit into so many bytes.

    Args:
      num_envs: with which the seed has these parts.
    """
    twice = parts["environments"] * ("a checkpoint's copy" in parts)
    grows = total({name: count for name, count in parts.items() if name in PER_ENV}) + twice
    return max(room - (total(parts) - grows), 0) * num_envs // max(grows, 1)


@contextmanager
def explained(parts: Callable[[], Mapping[str, int]], num_envs: int, num_seeds: int = 1) -> Generator[None]:
    """Name what a run asks for where a device has not the memory for it.

    Args:
      parts: bytes of one seed.
      num_seeds: that run at once, as far as is known.

    Raises:
      OutOfMemory: for what XLA raises.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" not in said or "shared memory" in said.lower():  # which is that of a kernel
            raise
        device = jax.local_devices()[0]
        raise OutOfMemory(sentence(parts(), num_envs, num_seeds, room(device), device.device_kind)) from error


def sentence(parts: Mapping[str, int], num_envs: int, num_seeds: int, room: int, device: str) -> str:
    """What does not fit, and what would.

    Args:
      room: bytes of the device; 0 if that is not known.
    """
    said = f"the memory of the device ({device}) does not hold this run: "
    said += f"a seed of {num_envs:,} environments takes {in_words(total(parts))} ({listed(parts)})"
    said += f", and there are {num_seeds:,}" if num_seeds > 1 else ""
    if not room:
        return said
    seeds, envs = num_seeds_in(parts, room), num_envs_in(parts, room // num_seeds, num_envs)
    fits = [f"num_seeds = {seeds:,} of {num_envs:,} environments"] if seeds else []
    fits += [f"num_seeds = {num_seeds:,} of env.num_envs = {envs:,}"] if envs else []
    none = f"not one seed; the greatest part is {max(parts, key=parts.__getitem__)}"
    return f"{said}. {in_words(room)} hold, by an estimate, {' or '.join(fits) or none}"


def listed(parts: Mapping[str, int]) -> str:
    """`agent 2.0 KiB, replay 1.0 GiB, …`."""
    return ", ".join(f"{name} {in_words(count)}" for name, count in parts.items())


def size(tree: PyTree) -> int:
    """Bytes of all leaves."""

    def one(x: Any) -> int:
        width = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
        return int(np.prod(x.shape, dtype=object)) * width

    return sum(map(one, jax.tree.leaves(tree)))


def room(device: Any) -> int:
    """Bytes of a device that XLA may use; 0 where that is not known, as of a CPU."""
    return int((device.memory_stats() or {}).get("bytes_limit", 0))


def in_words(count: int) -> str:
    """`1.5 GiB`."""
    amount, units = float(count), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while amount >= 1024 and unit != "TiB":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
