"""Show a run's progress: a live display in a terminal, plain lines elsewhere.

In: `Record`s, of which it reads the events "metrics" and "evaluation". Out: text.
Knows nothing of the other metrics; the JSON lines have them all.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np

from jaxtrain.errors import shown
from jaxtrain.sinks.base import Closing, fitting, non_finite
from jaxtrain.types import Record, RunInfo

_SPEED_NOTE = "training only"  # neither compilation nor evaluation


class Console(Closing):
    """Print how far a run is, how fast, how long it will still take, and what its episodes return.

    The return is of the last 100 training episodes; beside it that of the last evaluation. With several
    seeds both are `mean ± std` over those that have one. The speed counts the env steps of all seeds, over
    the time spent training alone; the time left counts everything.

    Args:
      file: None is standard output.
      seconds_between_lines: how often at most a plain line comes, after the first and before the last.
    """

    def __init__(self, *, file: TextIO | None = None, seconds_between_lines: float = 5.0) -> None:
        self._given = file
        self._seconds = seconds_between_lines
        self._file: TextIO = sys.stdout
        self._state = _State()
        self._terminal = False
        self._live: Any = None
        self._shown: _State | None = None  # as on the last plain line

    def open(self, run: RunInfo) -> None:
        self.close()
        self._file = self._given or sys.stdout
        self._state = _State(run.name, run.total_env_steps, run.num_seeds, begun=time.monotonic())
        self._shown = None
        self._terminal = self._file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        if self._terminal:
            self._begin_live()
        else:
            many = f" × {run.num_seeds} seeds" if run.num_seeds > 1 else ""
            self._print(f"{run.name}: {run.total_env_steps:,} env steps{many} (env steps/s: {_SPEED_NOTE})")

    def write(self, record: Record) -> None:
        if record.name == "non_finite":
            self._say(non_finite(record))
        self._state = self._state.after(record)
        if self._terminal:
            self._begin_live()
            self._live.refresh()
        elif self._state.done < self._state.total and self._is_time():
            self._print_line()  # the last one comes at the flush, once the final evaluation is known

    def flush(self) -> None:
        if self._state.done >= self._state.total:
            self._end()

    def close(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            atexit.unregister(live.stop)
        elif self._state.first is not None and self._state != self._shown and not self._terminal:
            self._print_line()

    def _is_time(self) -> bool:
        return self._shown is None or self._state.elapsed - self._shown.elapsed >= self._seconds

    def _print_line(self) -> None:
        self._shown = self._state
        self._print("  ".join(self._state.parts().values()))

    def _print(self, line: str) -> None:
        print(self._fit(line), file=self._file, flush=True)

    def _fit(self, text: str) -> str:
        return fitting(shown(text), getattr(self._file, "encoding", None))

    def _say(self, line: str) -> None:
        """A line that stays, above the live display where there is one."""
        if self._live is not None:
            self._live.console.print(self._fit(line), style="bold red", markup=False)
        else:
            self._print(line)

    def _begin_live(self) -> None:
        if self._live is None:
            import rich.console
            import rich.live

            screen = rich.console.Console(file=self._file, highlight=False)
            self._live = rich.live.Live(get_renderable=self._render, console=screen, refresh_per_second=4)
            self._live.start()
            atexit.register(self._live.stop)  # else a run that failed leaves the cursor hidden

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._state
        parts = {key: self._fit(text) for key, text in state.parts().items()}
        bar = Table.grid(padding=(0, 1))
        bar.add_column(max_width=20, no_wrap=True)  # of a long name the bar's line still has to fit
        bar.add_row(
            Text(self._fit(state.name), "bold"),
            ProgressBar(state.total, min(state.done, state.total), width=30),
            Text(parts["percent"], "bold cyan"),
            Text(f"{_duration(time.monotonic() - state.begun)} elapsed", "dim"),
            Text(parts.get("left", ""), "cyan"),
        )
        speed = f"{parts['speed']} ({_SPEED_NOTE})" if "speed" in parts else "waiting for the first metrics"
        lines = [Text(f"  {parts['steps'].strip()}   {speed}")]
        found = [parts[key] for key in ("return", "evaluation") if key in parts]
        if found:
            lines.append(Text("  " + "   ".join(found), "green"))
        return Group(bar, *lines)


@dataclass(frozen=True)
class _State:
    """What is shown, after any number of records."""

    name: str = ""
    total: int = 1  # env steps of one seed, as is `done`
    num_seeds: int = 1
    begun: float = 0.0  # monotonic seconds
    done: int = 0
    elapsed: float = 0.0  # seconds, by the records' clock, as is `first`
    first: tuple[int, float] | None = None  # env steps and seconds at the first record
    speed: float | None = None
    training: str | None = None
    evaluation: str | None = None

    def after(self, record: Record) -> _State:
        elapsed = record.time.get("elapsed_seconds", self.elapsed)
        state = replace(
            self,
            done=record.env_steps,
            elapsed=elapsed,
            first=self.first or (record.env_steps, elapsed),
            speed=record.time.get("env_steps_per_second", self.speed),
        )
        if record.name == "metrics":
            state = replace(state, training=_over_seeds(record, "rollout/return_mean") or self.training)
        if record.name == "evaluation":
            state = replace(state, evaluation=_over_seeds(record, "return_mean") or self.evaluation)
        return state

    def parts(self) -> dict[str, str]:
        """The texts of a line, in order; what is not known yet is missing."""
        width = len(f"{self.total:,}")
        each, together = (" a seed", " of all seeds") if self.num_seeds > 1 else ("", "")
        texts = {
            "steps": f"{self.done:>{width},} / {self.total:,} env steps{each}",
            "percent": f"{100 * self.done // self.total:3d} %",
            "speed": None if self.speed is None else f"{self.speed:,.0f} env steps/s{together}",
            "left": self._left(),
            "return": self.training and f"return {self.training}",
            "evaluation": self.evaluation and f"evaluation {self.evaluation}",
        }
        return {key: text for key, text in texts.items() if text}

    def _left(self) -> str | None:
        if self.first is None or self.done >= self.total:
            return None
        steps, seconds = self.done - self.first[0], self.elapsed - self.first[1]
        if steps <= 0 or seconds <= 0:
            if self.speed is None:
                return None
            steps, seconds = self.speed, self.num_seeds
        return f"{_duration((self.total - self.done) * seconds / steps)} left"


def _over_seeds(record: Record, metric: str) -> str | None:
    values = np.asarray(record.values.get(metric, np.nan), np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    digits = 1 if abs(finite.mean()) >= 10 else 3
    return f"{finite.mean():,.{digits}f}" + (f" ± {finite.std():,.{digits}f}" if values.size > 1 else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
