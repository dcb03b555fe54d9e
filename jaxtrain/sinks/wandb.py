"""Send records to Weights & Biases.

In: `Record`s. Out: rows of one run, or of one run per seed.
Knows nothing of credentials: wandb finds them itself, and none is written to a file.
"""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from jaxtrain.sinks import Closing, Seeds, check_choice, curves
from jaxtrain.types import Record, RunInfo

_log = logging.getLogger("jaxtrain")


class Wandb(Closing):
    """Log curves over `env_steps`, with the tags of `jaxtrain.sinks.curves`.

    With no network, no server or no credentials the run goes offline, with one warning; `wandb sync`
    sends its rows later. `open` is where wandb starts; opened again, a new run begins.

    Args:
      project: of Weights & Biases.
      mode: None is what `WANDB_MODE` says, and "online" without it.
      seeds: "aggregate", one run with mean, std, min and max, or "separate", one run per seed in a group.
      group: None is, for separate seeds, the run's name and a random ending.
      name: None is the run's name.
      directory: where wandb puts its files; None is what wandb chooses.
      timeout_seconds: how long a server may take to answer before the run goes offline. Stay below the
        door's deadline, or a short run is over before wandb has started.
      options: anything else that `wandb.init` takes.
    """

    def __init__(
        self,
        project: str = "jaxtrain",
        *,
        mode: Literal["online", "offline", "disabled"] | None = None,
        seeds: Seeds = "aggregate",
        group: str | None = None,
        name: str | None = None,
        directory: str | Path | None = None,
        timeout_seconds: float = 6.0,
        **options: Any,
    ) -> None:
        check_choice("Wandb: seeds", seeds, ("aggregate", "separate"))
        if mode is not None:
            check_choice("Wandb: mode", mode, ("online", "offline", "disabled"))
        self.project, self.group, self.name = project, group, name
        self.mode, self.seeds = mode, seeds
        self.directory = None if directory is None else Path(directory)
        self.timeout_seconds = timeout_seconds
        self.options = options
        self._runs: list[Any] = []

    def open(self, run: RunInfo) -> None:
        self.close()
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)  # else wandb moves to a temporary one, silently
        name, mode = self.name or run.name, self.mode or os.environ.get("WANDB_MODE", "online")
        if self.seeds == "aggregate" or run.num_seeds == 1:
            wanted = [{"name": name, "group": self.group, "config": dict(run.config)}]
        else:
            group = self.group or f"{name}-{uuid.uuid4().hex[:8]}"
            wanted = [
                {"name": f"{name}-seed_{i:04d}", "group": group, "config": {**run.config, "seed_index": i}}
                for i in range(run.num_seeds)
            ]
        for one in wanted:
            mode = self._init(mode, one)

    def _init(self, mode: str, wanted: dict[str, Any]) -> str:
        """Begin one run; the mode that worked."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=self.timeout_seconds)
        given: dict[str, Any] = {
            "mode": mode,
            "project": self.project,
            "dir": self.directory,
            **wanted,
            **self.options,
        }
        try:
            if mode == "online" and not (wandb.api.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")):
                raise wandb.Error("no API key")  # init would ask for one at the terminal, for ever
            run = wandb.init(reinit="create_new", settings=settings, **given)
        except wandb.Error as error:
            if mode != "online":
                raise
            reason = str(error).partition("\n")[0]
            _log.warning("Weights & Biases: %s; going offline, `wandb sync` sends the rows later", reason)
            return self._init("offline", wanted)
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        self._runs.append(run)
        return mode

    def write(self, record: Record) -> None:
        for seed, run in enumerate(self._runs):
            row = curves(record, seed if len(self._runs) > 1 else None)
            run.log({"env_steps": record.env_steps, "update": record.update, **row})

    def flush(self) -> None:
        pass  # wandb's own process has the rows

    def close(self) -> None:
        runs, self._runs = self._runs, []
        with ExitStack() as stack:  # each of them, whatever another raises
            for run in runs:
                stack.callback(run.finish)
