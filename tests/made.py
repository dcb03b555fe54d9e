"""Directories of runs with curves that a test makes up, as a run leaves them: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIG = {
    "env": {"id": "CartPole-v1", "num_envs": 4, "params": {}},
    "algorithm": {"name": "ppo", "learning_rate": 0.001, "network": {"hidden_sizes": [64, 64]}},
    "total_env_steps": 1000,
    "logging": {"every": 10, "sinks": ["jsonlines"]},
    "events": [],
}


def about(seeds: int = 1, seed: int = 0, **more: Any) -> dict[str, Any]:
    """What `run.json` says."""
    start = {
        "started": "2026-11-28T07:00:00+00:00",
        "exit": "finished",
        "versions": {"jaxtrain": "0.1.0", "jax": "0.10.2"},
        "device": {"kind": "cpu"},
    }
    said = {"id": "a", "seed": seed, "key": None, "num_seeds": seeds, "seeds": None, "start_from": None}
    return said | {"starts": [start]} | more


def row(name: str, env_steps: int, **values: Any) -> dict[str, Any]:
    """A record as the log has it; an array has an entry for each seed, NaN as null."""
    plain = {
        key: [None if np.isnan(x) else float(x) for x in np.ravel(value)] for key, value in values.items()
    }
    one = {key: x[0] if len(x) == 1 else x for key, x in plain.items()}
    time = {"elapsed_seconds": env_steps / 10, "env_steps_per_second": 10.0}
    return {"name": name, "update": env_steps // 10, "env_steps": env_steps, "time": time, "values": one}


def run(
    place: Path,
    values: Any,
    every: int = 100,
    events: list[dict[str, Any]] | None = None,
    seed: int = 0,
    metric: str = "return_mean",
    **fields: Any,
) -> Path:
    """A run whose evaluations are `values`, [N] or [N, S], one every so many env steps.

    Args:
      events: more rows.
      fields: of the config, by its first names; a mapping is joined to what `CONFIG` has.
    """
    rows = np.asarray(values, float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    config = {
        key: CONFIG[key] | fields.get(key, {})
        if isinstance(CONFIG.get(key), dict)
        else fields.get(key, CONFIG.get(key))
        for key in CONFIG | fields
    }
    place.mkdir(parents=True)
    (place / "run.json").write_text(json.dumps(about(rows.shape[1], seed)))
    (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    log = [row("evaluation", (i + 1) * every, **{metric: x}) for i, x in enumerate(rows)] + (events or [])
    (place / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))
    return place
