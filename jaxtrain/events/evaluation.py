"""The stock event `evaluation`: complete episodes with the current policy."""

from __future__ import annotations

from typing import Any

from jaxtrain.config.field import from_mapping
from jaxtrain.config.schema import EvaluationConfig
from jaxtrain.errors import ConfigError, Problem
from jaxtrain.events.event import traits
from jaxtrain.types import Key, Report


def _check(**params: Any) -> list[Problem]:
    try:
        from_mapping(EvaluationConfig, params)
    except ConfigError as error:
        return list(error.problems)
    return []


@traits(check=_check, keep_latest=True, same_key=True)
def evaluation(trainer: Any, state: Any, key: Key, **params: Any) -> tuple[Any, Report]:
    """Evaluate on complete episodes; the report is that of `Trainer.evaluate`.

    Args:
      key: the same at every firing: two evaluations differ by the policy alone.
      params: the fields of an `EvaluationConfig`; without any, those of the run. The environments are the
        training ones with their nominal parameters, unless `env` says otherwise.
    """
    settings = from_mapping(EvaluationConfig, params) if params else None
    return state, trainer.evaluate(state, key, settings)
