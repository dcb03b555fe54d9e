"""What of a run is kept on disk, and when: the `checkpoint` part of a config.

In: plain values. Out: a frozen `CheckpointConfig`. Knows nothing of files; `launch.py` follows it.
"""

from __future__ import annotations

from typing import Any

from jaxtrain import fields

AUTO, NONE = "auto", "none"  # of `best`: `BEST` if there are evaluations; no metric
BEST = "evaluation/return_mean"


def _metric(value: Any) -> str:
    if value is None:
        return AUTO
    if not isinstance(value, str) or not value.strip():
        raise fields.Fault(f"needs the name of a metric, {AUTO} or {NONE}")
    return value


@fields.config
class CheckpointConfig:
    """When a run in a directory is saved, and which checkpoints stay. `train` saves nothing."""

    every: int | None = fields.integer(
        None, low=0, help="env steps between two; unset: a tenth of the run, 0: only at its ends"
    )
    every_minutes: int = fields.integer(
        15, low=0, help="another one when the last is older than this, 0: never"
    )
    keep_last: int = fields.integer(2, low=1, help="how many of the newest stay")
    keep_every: int = fields.integer(
        0, low=0, help="env steps: the first at or behind each multiple stays for ever"
    )
    keep_every_minutes: int = fields.integer(
        0, low=0, help="likewise of minutes of training, over all of a run's starts"
    )
    best: str = fields.custom(
        AUTO,
        _metric,
        "TEXT",
        help=f"metric whose best checkpoint stays; {AUTO}: {BEST}, if evaluated; {NONE}: of none",
    )
    best_mode: str = fields.choice("max", ("max", "min"), help="whether more of it is better, or less")
    reaction_seconds: int = fields.integer(
        10, low=1, help="within this a signal is answered, or after the update and evaluation under way"
    )
