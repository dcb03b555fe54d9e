"""Send records to Weights & Biases.

In: `Record`s. Out: rows of one run, or of one run per seed, each row once however often the run is resumed.
Knows nothing of credentials: wandb finds them itself, and none is written to a file.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxtrain.errors import MISSING, ConfigError, Problem, nearest
from jaxtrain.paths import as_path
from jaxtrain.sinks.base import Closing, Seeds, check_choice, curves
from jaxtrain.types import Record, RunInfo

_APART = "-offline"  # ending of the id of a run that was to be online
_log = logging.getLogger("jaxtrain")


class Wandb(Closing):
    """Log curves over `env_steps`, with the tags of `jaxtrain.sinks.curves`.

    With no network, no server or no credentials the run goes offline, with one warning; `wandb sync`
    sends its rows later. `open` is where wandb starts; opened again, a new run begins.

    A run with an id goes on under it when it is resumed. The step of a row is `Record.index`. Rows that
    the server has already are not sent again. Those that it lacks are read from `metrics.jsonl` in
    `directory`: wandb sends every 15 s, and what waits in its process is lost when a run is killed.
    Without that file they stay missing.

    Offline nothing is known of a server, so each process leaves a directory `offline-run-*` of its own with
    all rows so far. The newest is whole; when a run is resumed, older ones are marked as synced, which
    `wandb sync` leaves out. It sends the newest to the run's id if the mode was "offline". There it would
    append to rows that the server has already. So the id of a run that had to go offline ends in `-offline`.

    Args:
      project: of Weights & Biases.
      mode: None is what `WANDB_MODE` says, and "online" without it.
      seeds: "aggregate", one run with mean, std, min and max, or "separate", one run per seed in a group.
      group: None is, for separate seeds, the run's id, or its name and a random ending if it has none.
      name: None is the run's name.
      directory: where wandb puts its files; None is what wandb chooses.
      timeout_seconds: how long a server may take to answer before the run goes offline. Stay below the
        door's deadline, or a short run is over before wandb has started.
      finish_seconds: how long `close` waits until the server has every row. After that one warning says
        where they are kept.
      options: anything else that `wandb.init` takes.

    Raises:
      ConfigError: an option that wandb would refuse once the run has begun: one that `wandb.init` does not
        have, or no text where one is needed.
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
        finish_seconds: float = 30.0,
        **options: Any,
    ) -> None:
        check_choice("Wandb: seeds", seeds, ("aggregate", "separate"))
        if mode is not None:
            check_choice("Wandb: mode", mode, ("online", "offline", "disabled"))
        texts = {"project": project, "group": group, "name": name}
        seconds = {"timeout_seconds": timeout_seconds, "finish_seconds": finish_seconds}
        if found := [*_faults_of_texts(texts | options), *_faults_of_seconds(seconds), *_unknown(options)]:
            raise ConfigError(found)
        self.project, self.group, self.name = project, group, name
        self.mode, self.seeds = mode, seeds
        self.directory = None if directory is None else as_path("directory", directory)
        self.timeout_seconds, self.finish_seconds = float(timeout_seconds), float(finish_seconds)
        self.options = options
        self._runs: list[Any] = []
        self._counted = False  # whether a row's step is the index of its record
        self._next: list[int] = []  # for each run, the index of the first record that it still lacks

    def open(self, run: RunInfo) -> None:
        self.close()
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)  # else wandb moves to a temporary one, silently
        name, mode = self.name or run.name, self.mode or os.environ.get("WANDB_MODE", "online")
        if self.seeds == "aggregate" or run.num_seeds == 1:
            wanted = [{"name": name, "group": self.group, "config": dict(run.config)}]
        else:
            group = self.group or run.id or f"{name}-{uuid.uuid4().hex[:8]}"
            wanted = [
                {"name": f"{name}-seed_{i:04d}", "group": group, "config": {**run.config, "seed_index": i}}
                for i in range(run.num_seeds)
            ]
        self._counted = bool(run.id)
        for i, one in enumerate(wanted):
            if run.id:
                one |= {"id": run.id if len(wanted) == 1 else f"{run.id}-{i:04d}", "resume": "allow"}
            mode = self._init(mode, one)
        if run.id and run.resumed_at is not None:
            self._catch_up(run.num_seeds)

    def _init(self, mode: str, wanted: dict[str, Any], **instead: Any) -> str:
        """Begin one run, or go on with it; the mode that worked."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.timeout_seconds,
            finish_timeout=self.finish_seconds,
            finish_timeout_raises=True,
        )
        given: dict[str, Any] = {
            "mode": mode,
            "project": self.project,
            "dir": self.directory,
            **wanted,
            **self.options,
            **instead,
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
            # wandb's process keeps the id of a run that failed to begin for as long as the server is away.
            return self._init("offline", wanted, **({"id": given["id"] + _APART} if "id" in given else {}))
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        self._runs.append(run)
        self._next.append(run.starting_step)
        return mode

    def _catch_up(self, num_seeds: int) -> None:
        """Log what earlier processes logged and these runs lack."""
        path = self.directory and self.directory / "metrics.jsonl"
        if path and path.exists():
            for record in _records(path, min(self._next), num_seeds):
                self.write(record)
            for run in self._runs:
                _supersede(Path(run.settings.sync_file))

    def write(self, record: Record) -> None:
        for seed, run in enumerate(self._runs):
            row = curves(record, seed if len(self._runs) > 1 else None)
            row = {"env_steps": record.env_steps, "update": record.update, **row}
            if not self._counted:
                run.log(row)
            elif record.index >= self._next[seed]:
                run.log(row, step=record.index, commit=True)  # without it the row waits for the next one
                self._next[seed] = record.index + 1

    def flush(self) -> None:
        pass  # wandb's own process has the rows

    def close(self) -> None:
        runs, self._runs, self._next = self._runs, [], []
        if runs:
            with ThreadPoolExecutor(len(runs)) as pool:  # all of them in the time of one
                problems = [problem for problem in pool.map(_finish, runs) if problem]
            if problems:
                _log.warning("Weights & Biases: %s", "; ".join(problems))


TEXTS = ("project", "group", "name", "entity", "job_type", "notes", "id")
# Characters that wandb refuses, and how many it takes at most.
REFUSED = {"project": ("/\\#?%:", 128), "id": (":;,#?/'", 128), "tags": ("", 64)}
OWN = ("settings", "reinit")  # of `wandb.init`, what the sink itself gives


def _faults_of_texts(options: Mapping[str, Any]) -> Iterator[Problem]:
    """Texts that are refused, and what is none, as YAML reads `2026-11-25`, `001` and `on` without quotes."""
    for name in TEXTS:
        value = options.get(name)
        if value is not None and (rule := _rule_of_text(name, value, f'{name}: "{_written(value)}"')):
            yield Problem(name, value, rule)
    tags: Any = options.get("tags")
    if tags is None or isinstance(tags, str):
        tags = [] if tags is None else [tags]
    if not isinstance(tags, list | tuple):
        yield Problem("tags", tags, f'needs a list of texts, such as tags: ["{_written(tags)}"]')
        return
    for i, tag in enumerate(tags):
        if rule := _rule_of_text("tags", tag, f'tags: ["{_written(tag)}"]'):
            yield Problem(f"tags.{i}", tag, rule)


def _rule_of_text(name: str, value: Any, quoted: str) -> str:
    """What is wrong with a text; "" if nothing is."""
    if not isinstance(value, str):
        scalar = isinstance(value, int | float | date)
        return "needs a text" + (
            f": in YAML in quotes, as it was written, such as {quoted}" if scalar else ""
        )
    refused, most = REFUSED.get(name, ("", len(value)))
    if name in REFUSED and (not value.strip() or len(value) > most):
        return f"needs a text of 1 to {most} characters"
    return f"needs a text without any of {' '.join(refused)}" if {*value} & {*refused} else ""


def _written(value: Any) -> str:
    """What may stand in YAML for a value that is no text."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _faults_of_seconds(seconds: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in seconds.items():
        try:
            sound = not isinstance(value, bool) and float(value) > 0
        except (TypeError, ValueError):
            sound = False
        if not sound:
            yield Problem(name, value, "needs a number of seconds > 0")


def _unknown(options: Mapping[str, Any]) -> Iterator[Problem]:
    """Options that `wandb.init` does not have; it is asked only about those that are no texts of ours."""
    asked = [name for name in options if name not in (*TEXTS, *OWN, "tags", "config")]
    if asked:
        import wandb

        known = inspect.signature(wandb.init).parameters
        for name in asked:
            if name not in known:
                yield Problem(name, MISSING, "wandb.init has no such option" + nearest(name, known))
    yield from (Problem(name, MISSING, "is what the sink itself gives") for name in OWN if name in options)


def _finish(run: Any) -> str | None:
    """End one run; what went wrong."""
    try:
        run.finish()
    except Exception as error:  # the run is over, training too: nothing is gained by raising
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"{reason}, the rows are kept in {run.settings.sync_dir}"
    return None


def _records(path: Path, begin: int, num_seeds: int) -> Iterator[Record]:
    """The records of a file of JSON lines, from one index on."""
    with path.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            if index >= begin and line.endswith("\n"):  # else it is still being written
                row = json.loads(line)
                values = {key: _array(v if num_seeds > 1 else [v]) for key, v in row["values"].items()}
                yield Record(row["name"], row["update"], row["env_steps"], values, row["time"], index)


def _array(value: list[Any]) -> np.ndarray:
    """A value as `JsonLines` writes it, as an array again."""
    array = np.array(value)
    return array if np.issubdtype(array.dtype, np.integer) else np.array(value, np.float32)


def _supersede(newest: Path) -> None:
    """Mark older offline files of the same run as synced, in the way that `wandb sync` does."""
    name = newest.stem.removesuffix(_APART)
    for other in (f"{name}.wandb", f"{name}{_APART}.wandb"):
        for file in newest.parent.parent.glob(f"offline-run-*/{other}"):
            if file != newest:
                file.with_suffix(".wandb.synced").touch()
