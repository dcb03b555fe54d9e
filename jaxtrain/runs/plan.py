"""What a run will do, before it does: its length, when each event fires, what is saved, how much memory.

In: a config. Out: text. Compiles the program for its memory, and runs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config.schema import CheckpointConfig, Config
from jaxtrain.events.event import OnStep
from jaxtrain.loop import memory
from jaxtrain.loop.train import program
from jaxtrain.loop.trainer import Trainer
from jaxtrain.rl import networks
from jaxtrain.runs import manager


def plan(config: Config) -> str:
    """The plan of a run, for people to read.

    Raises:
      ConfigError: as `train`, and a run in a directory, would.
    """
    trainer = Trainer(config)
    state = jax.eval_shape(trainer.new, jax.random.key(0))
    manager.check_metric(manager.best_metric(trainer), state.metrics)
    per, updates = trainer.env_steps_per_update, trainer.num_updates
    lines = [
        f"environment   {config.env.id}, {config.env.num_envs:,} in lockstep",
        f"algorithm     {config.algorithm.name}",
        f"updates       {updates:,} of {per:,} env steps ({config.env.num_envs:,} environments x "
        f"{config.algorithm.rollout_length} steps)",
        f"env steps     {updates * per:,}",
        *_images(trainer),
        "",
        f"{'event':<24} {'times':>9}  env steps",
    ]
    for event in trainer.events:
        due = trainer.timetable[event.name]
        lines.append(f"{event.name:<24} {len(due):>9,}  {_env_steps(due, per)}   ({event.schedule})")
    for hook in trainer.hooks:
        when = "at each episode's start"
        if isinstance(hook, OnStep):
            when = f"every {hook.every[0]} to {hook.every[1]} steps of an episode"
        lines.append(f"{hook.name:<24} {'':>9}  {when}")
    return "\n".join([*lines, "", *_checkpoints(trainer, config.checkpoint), *_memory(trainer, state)])


def _images(trainer: Trainer) -> list[str]:
    """Observations of bytes, and whether the algorithm's networks scale them; none without such."""
    algorithm, spec = trainer.config.algorithm, trainer.spec
    seen = getattr(algorithm, "network_space", None)
    if seen is None:
        return []
    scaled = networks.byte_images(seen(spec))
    images = networks.byte_images(networks.scaled(spec.observation_space, spec.observation))
    return [
        f"images        {name}: uint8{list(image.shape)} of {np.min(image.low):g} to {np.max(image.high):g}, "
        + ("scaled to 0 to 1 (algorithm.network.scale_images)" if name in scaled else "not scaled")
        for name, image in images.items()
    ]


def _env_steps(updates: Sequence[int], per: int) -> str:
    """The first and the last of them; there may be millions."""
    few = len(updates) <= 6
    first, last = (updates, ()) if few else (updates[:3], updates[-2:])
    return " ".join(
        [*(f"{u * per:,}" for u in first), *([] if few else ["…"]), *(f"{u * per:,}" for u in last)]
    )


def _checkpoints(trainer: Trainer, settings: CheckpointConfig) -> list[str]:
    """When a run in a directory is saved, and what of that stays."""
    marks, metric = sorted({0, *manager.due(trainer)}), manager.best_metric(trainer)
    when = list[str]()
    stay = [f"the last {settings.keep_last}"]
    minutes = manager.minutes(settings)
    if minutes is not None:
        when.append(f"when the last is {minutes} minutes old")
    if metric is not None:
        when.append(f"at each best {metric}")
        stay.append("the best")
    if settings.keep_every:
        stay.append(f"the first of every {settings.keep_every:,} env steps")
    if settings.keep_every_minutes:
        stay.append(f"the first of every {settings.keep_every_minutes} minutes")
    lines = [f"in a directory, at {_env_steps(marks, trainer.env_steps_per_update)} env steps"]
    lines += [f"also {' and '.join(when)}"] if when else []
    lines += [f"of them stay: {', '.join(stay)}"]
    return [f"{'' if i else 'checkpoints':<14}{line}" for i, line in enumerate(lines)]


def _memory(trainer: Trainer, state: Any) -> list[str]:
    whole, rates = program(trainer, (), observed=False)
    lowered: Any = whole
    num_envs = trainer.config.env.num_envs
    with memory.explained(lambda: memory.by_part(trainer), num_envs):
        compiled = lowered.lower(rates, jax.random.key(0), jnp.int32(0)).compile()
    analysis = compiled.memory_analysis()
    in_words, temporaries = memory.in_words, None if analysis is None else analysis.temp_size_in_bytes
    parts = memory.by_part(trainer, temporaries=temporaries)
    lines = [f"state         {in_words(memory.size(state))} a seed", f"memory        {memory.listed(parts)}"]
    if analysis is None:
        return [*lines, "the program's memory cannot be told on this backend"]
    whole = analysis.temp_size_in_bytes + analysis.output_size_in_bytes + analysis.argument_size_in_bytes
    device = jax.devices()[0]
    room = _room(device)
    lines.append(f"program       {in_words(whole)} a seed while it runs, history included")
    if room:
        lines.append(
            f"device        {device.device_kind}, {in_words(room)}: "
            f"room for about {room // whole:,} seeds at once"
        )
    return lines


def _room(device: Any) -> int:
    """Bytes: the device's limit, or this machine's memory for a CPU."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory.room(device)
