"""The stock event `evaluation`: complete episodes with the current policy."""

from __future__ import annotations

from typing import Any

from jaxtrain.config.field import from_mapping
from jaxtrain.config.schema import EvaluationConfig
from jaxtrain.events.event import Event
from jaxtrain.schedule import Schedule
from jaxtrain.types import Key, Report


def evaluation(
    name: str, schedule: Schedule, settings: EvaluationConfig | None = None, **params: Any
) -> Event:
    """Evaluate on complete episodes; the report is that of `Trainer.evaluate`.

    Args:
      settings, params: an `EvaluationConfig`, or its fields by name. The environments are the
        training ones with their nominal parameters, unless `env` says otherwise.

    The key is the same at every firing: two evaluations differ by the policy alone.
    """
    settings = from_mapping(EvaluationConfig, params) if settings is None else settings

    def run(trainer: Any, state: Any, key: Key) -> tuple[Any, Report]:
        del key
        return state, trainer.evaluate(state, trainer.evaluation_key(state, name), settings)

    return Event(name, schedule, run, sticky=True)
