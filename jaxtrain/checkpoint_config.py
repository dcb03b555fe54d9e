"""What of a run is kept on disk, and when: the `checkpoint` part of a config.

In: plain values. Out: a frozen `CheckpointConfig`. Knows nothing of files; `launch.py` follows it.
"""

from __future__ import annotations

from jaxtrain import fields

AUTO = "auto"  # of `best`: that of `BEST` if there are evaluations
BEST = "evaluation/return_mean"


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
    best: str | None = fields.text(
        AUTO, optional=True, help=f"metric whose best checkpoint stays; {AUTO}: {BEST}, if evaluated; or none"
    )
    best_mode: str = fields.choice("max", ("max", "min"), help="whether more of it is better, or less")
    reaction_seconds: int = fields.integer(
        10, low=1, help="within this a signal is answered, or after the update and evaluation under way"
    )
