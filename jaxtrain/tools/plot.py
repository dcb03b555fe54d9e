"""`jaxtrain plot`: the curves of runs, their seeds, what events did when.

In: directories of runs, running or not, of which nothing is executed. Out: a picture. Needs matplotlib, which
`jaxtrain[plot]` brings. Knows nothing of how runs are read (`runs/curves.py`) or summarized (`stats.py`).
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.errors import MISSING, ConfigError, Problem, shown
from jaxtrain.paths import as_path
from jaxtrain.runs import curves, disk
from jaxtrain.runs.curves import Curve, Logged
from jaxtrain.tools import output
from jaxtrain.tools.groups import Axis, Group, along, band, grouped

# Okabe & Ito 2008, "Color Universal Design", without the yellow, which is too light for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")  # the next one when all colors are taken
KINDS = (".png", ".svg")
_GRAY = "#444444"
_MARKERS = "v^sDoPX*"  # of events, one each
_MOST_EVENTS = len(_MARKERS)
_ROW = 0.04  # height of a row of events, of that of the axes
_MOST_LABELS = 20  # in a legend
_LONG = 90  # characters of a label
_EACH = 30  # records up to which each is a dot
_log = logging.getLogger("jaxtrain")


def plot(
    runs: str | Path | Iterable[str | Path],
    *,
    metric: str | None = None,
    x: Axis = "env_steps",
    by: str | None = None,
    out: str | Path | None = None,
) -> Any:
    """Draw a metric of runs: each seed thin, the interquartile mean with its 95 % interval, events as marks.

    Args:
      runs: directories of runs, or directories with runs below them.
      metric: as in the log, `train/entropy` say, after its event's name unless that is "metrics"; unset, the
        return of evaluations, or of training where there are none.
      x: env steps of one seed, or seconds of wall time since the first update.
      by: a field by whose values runs are taken together, `algorithm.learning_rate` say; unset, none are.
      out: a file to write, `.png` or `.svg`; what is there is replaced.

    Returns:
      The `matplotlib.figure.Figure`. What cannot be drawn is named by the logger `jaxtrain`.

    Raises:
      ConfigError: matplotlib is missing, there is no such run, metric or field, or `out` cannot be written.
    """
    _matplotlib()
    place = None if out is None else _place(out)
    if x not in ("env_steps", "seconds"):
        raise ConfigError([Problem("x", x, "needs env_steps or seconds")])
    name, having, notes = curves.with_metric(curves.read(runs), metric)
    groups = grouped(having, by)
    figure, said = _figure(groups, name, x)
    for note in (*notes, *said):
        _log.warning("%s", note)
    if place is not None:
        _save(figure, place)
    return figure


def _matplotlib() -> Any:
    """The library.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        rule = "needs matplotlib: pip install 'jaxtrain[plot]'"
        raise ConfigError([Problem("plot", MISSING, rule)]) from None
    return importlib.import_module("matplotlib")


def _place(out: str | Path) -> Path:
    """Where a picture is to go, known to be a place for one."""
    place = as_path("out", out)
    rule = ""
    if place.suffix.lower() not in KINDS:
        rule = f"needs a name that ends in {' or '.join(KINDS)}"
    elif not place.parent.is_dir():
        rule = f"there is no directory {str(place.parent)!r}"
    elif place.is_dir():
        rule = "is a directory"
    if rule:
        raise ConfigError([Problem("out", str(out), rule)])
    return place


def _save(figure: Any, place: Path) -> None:
    kind, file = place.suffix.lower().removeprefix("."), io.BytesIO()
    with _plain():
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight")
    try:
        disk.write(place, file.getvalue())
    except OSError as error:
        rule = f"cannot be written ({error.strerror})"
        raise ConfigError([Problem("out", str(place), rule)]) from None


@contextmanager
def _plain() -> Generator[None]:
    """matplotlib as it is by itself: no file of the working directory or of a home decides what a picture is.

    Signs that its font lacks are boxes, without a warning for each.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.size": 9.0}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        yield


def _figure(groups: Sequence[Group], metric: str, x: Axis) -> tuple[Any, list[str]]:
    """The picture, and sentences on what is not in it."""
    with _plain():
        figure = _matplotlib().figure.Figure(layout="constrained")
        axes = figure.add_subplot()
        notes = [note for i, group in enumerate(groups) for note in _draw(axes, group, metric, x, _look(i))]
        rows, said = _draw_events(axes, groups, metric, x)
        _dress(figure, axes, groups, metric, x, rows)
    return figure, notes + said


def _look(i: int) -> tuple[str, str]:
    return COLORS[i % len(COLORS)], STYLES[i // len(COLORS) % len(STYLES)]


def _draw(axes: Any, group: Group, metric: str, x: Axis, look: tuple[str, str]) -> list[str]:
    """One group: its seeds, its band, its mean; sentences on what is not as it seems."""
    from matplotlib.patheffects import Normal, Stroke

    color, style = look
    marks, found = band(group, metric, x)
    of_runs = [along(run.curves[metric], x) for run in group.runs]
    alpha = float(np.clip(1.1 / np.sqrt(group.seeds), 0.03, 0.35))
    stopped = sum(_draw_seeds(axes, curve, x, color, alpha, group.seeds > 1) for curve in of_runs)
    if group.seeds > 1:
        axes.fill_between(marks, found.low, found.high, color=color, alpha=0.3, linewidth=0, zorder=2.1)
    dot = "o" if len(marks) <= _EACH else ""
    many = "1 seed" if group.seeds == 1 else f"{group.seeds:,} seeds"
    many += f", {stopped:,} stopped (×)" if stopped else ""
    (line,) = axes.plot(marks, found.iqm, style, color=color, linewidth=1.8, marker=dot, markersize=3)
    line.set(label=f"{_label(group.label)}  ({many})", zorder=2.2)
    line.set_path_effects([Stroke(linewidth=3.4, foreground="white"), Normal()])
    return _remarks(group, metric, [getattr(curve, x) for curve in of_runs], marks)


def _draw_seeds(axes: Any, curve: Curve, x: Axis, color: str, alpha: float, several: bool) -> int:
    """A thin line for each seed of several, and a cross where one stopped; how many did."""
    from matplotlib.collections import LineCollection

    places = getattr(curve, x)
    lines = [np.stack([places, seed], 1)[~np.isnan(seed)] for seed in curve.values.T]
    lines = [line for line in lines if len(line)]
    if several:
        # Many lines are an image inside an SVG, which would have a path for each.
        image = len(lines) > 50
        thin = LineCollection(lines, colors=color, linewidths=0.6, alpha=alpha, rasterized=image)
        axes.add_collection(thin)
    ends = np.array([line[-1] for line in lines if line[-1, 0] < places[-1]]).reshape(-1, 2)
    axes.plot(*ends.T, "x", color=color, markersize=4, alpha=max(alpha, 0.5))
    return len(ends)


def _remarks(group: Group, metric: str, places: Sequence[np.ndarray], marks: np.ndarray) -> list[str]:
    """Sentences on seeds that are nowhere, and on a mean that ends before the longest run."""
    unknown = sum(int(np.isnan(run.curves[metric].values).all(0).sum()) for run in group.runs)
    found = [f"{unknown:,} of its seeds have no {metric}"] if unknown else []
    if len(marks) == 0:
        found.append("its runs have no part of the axis in common: no mean is drawn")
    elif marks[-1] < max(x[-1] for x in places):
        found.append(f"its runs are not equally long; their mean ends at {marks[-1]:,.0f}")
    return [f"{group.label}: {sentence}" for sentence in found]


def _draw_events(axes: Any, groups: Sequence[Group], metric: str, x: Axis) -> tuple[int, list[str]]:
    """Marks below the curves, a row and a sign for each event; in the color of a group where groups differ.

    Returns:
      How many rows there are, and sentences on what is not in them.
    """
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for i, group in enumerate(groups):
        for run in group.runs:
            for name, steps in run.events.items():
                curve = run.curves[metric]
                at = steps if x == "env_steps" else np.interp(steps, curve.env_steps, curve.seconds)
                found.setdefault(name, []).append((i, at))
    shift = axes.get_xaxis_transform()
    for row, (name, marks) in enumerate(list(found.items())[:_MOST_EVENTS]):
        alike = len({at.tobytes() for _, at in marks}) == 1
        label = f"event {_label(name)}"
        axes.plot([], [], _MARKERS[row], color=_GRAY, markersize=4, label=label)
        for i, at in marks[:1] if alike else marks:
            color = _GRAY if alike else _look(i)[0]
            axes.plot(
                at,
                np.full(len(at), _ROW * (row + 0.5)),
                _MARKERS[row],
                color=color,
                markersize=4,
                alpha=0.8,
                transform=shift,
                clip_on=False,
            )
    left = list(found)[_MOST_EVENTS:]
    said = [f"events without marks, as there are too many: {', '.join(left)}"] if left else []
    return min(len(found), _MOST_EVENTS), said


def _dress(figure: Any, axes: Any, groups: Sequence[Group], metric: str, x: Axis, rows: int) -> None:
    """Axes with room below for rows of marks, title, legend."""
    from matplotlib.ticker import FuncFormatter

    seconds = x == "seconds"
    axes.set_xlabel("wall time since the first update (min:s)" if seconds else "env steps of one seed")
    axes.xaxis.set_major_formatter(FuncFormatter(_clock if seconds else _steps))
    axes.set_ylabel(_label(metric))
    axes.margins(x=0.02)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    axes.set_ylim(low - _ROW * rows * (high - low), high)
    runs = [run for group in groups for run in group.runs]
    axes.set_title(_title(runs), fontsize=10, loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > _MOST_LABELS:
        labels = [*labels[: _MOST_LABELS - 1], f"and {len(labels) - _MOST_LABELS + 1:,} more"]
        handles = handles[:_MOST_LABELS]
    figure.set_size_inches(8, 3.9 + 0.17 * len(handles))
    many = any(group.seeds > 1 for group in groups)
    how = "line: interquartile mean · band: its 95 % bootstrap interval · thin: each seed" if many else None
    legend = figure.legend(
        handles, labels, loc="outside lower left", frameon=False, fontsize=8, title=how, alignment="left"
    )
    legend.get_title().set(fontsize=7.5, color="#555555")
    for text in (*legend.get_texts(), axes.title, axes.yaxis.label):
        text.set_parse_math(False)  # a name may have dollar signs


def _title(runs: Sequence[Logged]) -> str:
    """What all runs have in common."""
    words = [{str(run.facts.get(path, "")) for run in runs} for path in ("env.id", "algorithm.name")]
    return _label(", ".join(word for found in words for word in found if len(found) == 1 and word))


def _label(text: str) -> str:
    """A text that may be a stranger's, as long as there is room for."""
    found = shown(text[:_LONG])
    return found if max(len(text), len(found)) <= _LONG else f"{found[: _LONG - 1]}…"


def _steps(value: float, _: Any) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _clock(value: float, _: Any) -> str:
    minutes, seconds = divmod(value, 60)
    return f"{int(minutes)}:{seconds:02.0f}" if seconds == int(seconds) else f"{int(minutes)}:{seconds:04.1f}"


HELP = "draw the curves of runs, with their seeds and events"
USAGE = """\
RUN… [--metric NAME] [--x env_steps|seconds] [--by FIELD]
         [--out FILE.png|.svg]"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directory of a run, or of several")
    parser.add_argument("--metric", metavar="NAME", help=curves.DEFAULT)
    parser.add_argument(
        "--x", choices=("env_steps", "seconds"), default="env_steps", help="default env_steps"
    )
    parser.add_argument("--by", metavar="FIELD", help="take runs together that have the same value of it")
    parser.add_argument("--out", metavar="FILE", default="plot.png", help="default plot.png; is replaced")


def main(options: argparse.Namespace) -> int:
    """Draw, and say where the picture is."""
    plot(options.runs, metric=options.metric, x=options.x, by=options.by, out=options.out)
    output.show(str(as_path("out", options.out)))
    return 0
