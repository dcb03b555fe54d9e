"""Complete episodes with what a run has saved: as the run itself had them, or under other conditions.

In: the directory of a run, which members of it, what is to differ. Out: statistics. Nothing on disk changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.config.field import from_mapping
from jaxtrain.config.number import whole, wholes
from jaxtrain.config.schema import Config, EnvConfig, EvaluationConfig
from jaxtrain.errors import ConfigError, Problem
from jaxtrain.events.event import Part
from jaxtrain.loop import memory
from jaxtrain.loop.trainer import Trainer
from jaxtrain.runs.load import LoadedRun, Which, one_seed, open_run


class Evaluated(NamedTuple):
    """What `evaluate_run` gives."""

    saved: LoadedRun  # the checkpoint; of one member as a single run has it
    members: tuple[int, ...]
    settings: EvaluationConfig  # `env` is where the episodes were
    # As of `Trainer.evaluate`, [M] of several members; `returns` and `lengths` of each episode, [(M), K].
    report: dict[str, np.ndarray]


def evaluate_run(
    directory: str | Path,
    which: Which = "best",
    members: Sequence[int] | None = None,
    *,
    num_episodes: int | None = None,
    sampled: bool = False,
    seed: int | None = None,
    env: Mapping[str, Any] | None = None,
    config: Config | None = None,
    events: Sequence[Part] = (),
) -> Evaluated:
    """Complete episodes with a saved policy; left as it is, the evaluation of the run itself, on its key.

    Args:
      which: "best", "last" or env steps.
      members: which of several, by their numbers; unset, all.
      sampled: actions are drawn, where the run's own evaluation may take the most probable ones.
      seed: of new draws, a stream for each member; unset, those of the run's evaluation.
      env: `id` and `params` in place of those of the run's evaluation; `params` are merged into them, unless
        there is another id.
      config, events: see `load_policy`.

    Raises:
      ConfigError: see `load_policy`; a policy that does not fit such an environment. Nothing has compiled.
      OutOfMemory: of the device.
    """
    given = {} if num_episodes is None else {"num_episodes": whole("num_episodes", num_episodes, low=1)}
    seed = None if seed is None else whole("seed", seed)
    asked = None if members is None else wholes("members", members)
    saved = open_run(directory, which, config=config, events=events)
    everyone = saved.seeds.all
    asked = everyone if asked is None else asked
    if absent := [member for member in asked if member not in everyone]:
        raise ConfigError([Problem("members", absent, f"the run has {list(everyone)}")])
    settings = _settings(saved.trainer, given | ({"greedy": False} if sampled else {}), env, events)
    key = None
    if seed is not None:
        keys = [jax.random.fold_in(jax.random.key(seed), member) for member in everyone]
        key = jax.numpy.stack(keys) if len(keys) > 1 else keys[0]
    # All of them even for one: alone its roundings would be others, and so in the end its episodes.
    evaluate = jax.jit(lambda state, key: saved.trainer.evaluate(state, key, settings, by_episode=True))
    num_envs = saved.trainer.config.env.num_envs
    with memory.explained(lambda: memory.by_part(saved.trainer), num_envs, len(everyone)):
        of_all = {name: np.asarray(value) for name, value in evaluate(saved.state, key).items()}
    place = settings.env or saved.trainer.config.env
    settings = dataclasses.replace(settings, env=place)
    if len(everyone) == 1 or asked == everyone:
        return Evaluated(saved, everyone, settings, of_all)
    index = [everyone.index(member) for member in asked]
    some = one_seed(saved, asked[0]) if len(asked) == 1 else saved
    one_or_more = index[0] if len(index) == 1 else index
    return Evaluated(some, asked, settings, {name: x[one_or_more] for name, x in of_all.items()})


def _settings(
    trainer: Trainer, given: Mapping[str, Any], env: Mapping[str, Any] | None, events: Sequence[Part]
) -> EvaluationConfig:
    """The run's evaluation with what is asked for instead.

    Raises:
      ConfigError: it does not fit the run's policy; names the fields as they were given.
    """
    own: EvaluationConfig = trainer.config.evaluation
    settings = dataclasses.replace(own, **given)
    if not env:
        return settings
    place = own.env or trainer.config.env
    params = env.get("params", {})
    if "id" not in env or env["id"] == place.id:
        params = {**place.params, **params} if isinstance(params, Mapping) else params
    try:
        there = from_mapping(EnvConfig, {"id": place.id, **env, "params": params})
    except ConfigError as error:
        raise ConfigError(error.under("env")) from None
    settings = dataclasses.replace(settings, env=there)
    try:
        return Trainer(dataclasses.replace(trainer.config, evaluation=settings), events).config.evaluation
    except ConfigError as error:
        named = [p._replace(path=p.path.removeprefix("evaluation.")) for p in error.problems]
        raise ConfigError(named) from error.__cause__
