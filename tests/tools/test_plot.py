"""`jaxtrain plot`: what is in a picture, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.tools import cli
from jaxtrain.tools.plot import COLORS, plot
from tests import made
from tests.runs.test_index import hostile

nan = np.nan
ROOT = Path(cli.__file__).parents[2]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(figure):
    """The means: what is named in the legend as a line."""
    return [
        line for line in figure.axes[0].lines if line.get_label()[0] != "_" and line.get_linestyle() != "None"
    ]


def test_a_picture_has_a_mean_and_a_band_for_each_run_a_thin_line_for_each_seed_and_marks_of_events(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        events = [made.row("gravity", 250, x=np.ones(5)), made.row("gravity", 500, x=np.ones(5))]
        made.run(tmp_path / str(i), rng.normal(size=(8, 5)), events=events, algorithm={"learning_rate": i})
    figure = plot(tmp_path)
    assert legend(figure) == [*(f"{i}: learning_rate={i}  (5 seeds)" for i in range(3)), "event gravity"]
    (axes,) = figure.axes
    seeds, bands = axes.collections[::2], axes.collections[1::2]
    assert [len(x.get_paths()) for x in seeds] == [5] * 3 and len(bands) == 3
    assert [line.get_color() for line in lines(figure)] == list(COLORS[:3])
    marks = [line for line in axes.lines if line.get_marker() == "v" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in marks] == [[250, 500]]  # the same of all
    assert axes.get_ylabel() == "evaluation/return_mean" and axes.get_title("left") == "CartPole-v1, ppo"


def test_one_seed_is_a_line_and_nothing_else(tmp_path):
    figure = plot(made.run(tmp_path / "one", [1.0, 2.0]))
    assert legend(figure) == ["one  (1 seed)"] and len(figure.axes[0].collections) == 0
    assert lines(figure)[0].get_xydata().tolist() == [[100, 1], [200, 2]]


def test_a_seed_that_stops_ends_at_a_cross_and_the_legend_counts_it(tmp_path):
    values = np.tile(np.arange(4.0), (6, 1))
    values[3:, 0] = nan
    figure = plot(made.run(tmp_path / "run", values))
    assert legend(figure) == ["run  (4 seeds, 1 stopped (×))"]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xydata().tolist() for line in crosses] == [[[300, 0]]]


def test_a_thousand_seeds_are_drawn_and_a_vector_picture_of_them_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    plot(made.run(tmp_path / "run", rng.normal(size=(20, 1000)).cumsum(0)), out=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size < 1_000_000


def test_no_two_of_as_many_runs_as_there_are_looks_look_alike(tmp_path):
    for i in range(28):
        made.run(tmp_path / f"{i:02}", [1.0, 2.0])
    figure = plot(tmp_path)
    assert len({(line.get_color(), line.get_linestyle()) for line in lines(figure)}) == 28
    assert len(legend(figure)) == 20 and legend(figure)[-1] == "and 9 more"


def test_names_are_shown_as_they_are_and_give_no_orders(tmp_path):
    """Neither to a browser, a terminal or a typesetter."""
    names = ["<script>alert(1)</script>", "$\\frac{", "\x1b[2J", "n" * 250, "日本 🙂", "%s{0}_&amp;"]
    places = []
    for name in names:
        places.append(tmp_path / name.replace("/", "|"))
        made.run(places[-1], [[1.0, 2.0]] * 2, events=[made.row(name, 150, x=np.ones(2))])
    figure = plot(places, out=tmp_path / "a.svg")
    plot(places, out=tmp_path / "a.png")
    assert not any("\x1b" in text for text in legend(figure))
    assert legend(figure)[1].startswith("$\\frac{")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert not [node for node in root.iter() if str(node.tag).endswith("script")]


def test_what_cannot_be_drawn_is_named_and_the_others_are_drawn(tmp_path, capsys):
    made.run(tmp_path / "sound", [1.0, 2.0])
    hostile(tmp_path / "hostile")
    assert cli.main(["plot", str(tmp_path), "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'a.png'}\n"
    named = {line for line in said.err.splitlines() if line.startswith(f"jaxtrain: {tmp_path / 'hostile'}/")}
    for place in (tmp_path / "hostile").iterdir():
        assert any(str(place) + ": " in line for line in named)
    assert all(line.isprintable() and len(line) < 1200 for line in said.err.splitlines())


def test_bad_requests_are_refused_by_name_and_leave_what_was_there(tmp_path, capsys):
    run, there = made.run(tmp_path / "run", [1.0, 2.0]), tmp_path / "there.png"
    there.write_text("mine")
    for words, said in (
        (["--metric", "evaluation/return_men"], "no run has it; there are evaluation/return_mean"),
        (["--by", "algorithm.learning_rat"], "the nearest known is 'algorithm.learning_rate'"),
        (["--out", str(tmp_path / "a.pdf")], "needs a name that ends in .png or .svg"),
        (["--out", str(tmp_path / "none" / "a.png")], "there is no directory"),
        (["--out", str(tmp_path / "run" / "deeper.png" / "a.png")], "there is no directory"),
        (["--outt", "x"], "no such option"),
    ):
        assert cli.main(["plot", str(run), "--out", str(there), *words]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["plot", str(tmp_path / "none"), "--out", str(there)]) == 2
    assert there.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["run", "there.png"]
    with pytest.raises(ConfigError, match="x = 'time': needs env_steps or seconds"):
        plot(run, x="time")


def test_runs_of_other_lengths_are_drawn_to_their_ends_and_said_to_be_so(tmp_path, caplog):
    for name, n in (("a", 4), ("b", 9)):
        made.run(tmp_path / name, np.ones((n, 2)))
    figure = plot(tmp_path, by="algorithm.name")
    assert "not equally long; their mean ends at 400" in caplog.text
    assert lines(figure)[0].get_xdata()[-1] == 400
    assert max(path.vertices[:, 0].max() for c in figure.axes[0].collections for path in c.get_paths()) == 900


def test_over_seconds_is_over_the_wall_time_of_each_record_and_event(tmp_path):
    figure = plot(made.run(tmp_path / "run", [1.0, 2.0], events=[made.row("e", 150, x=1)]), x="seconds")
    assert lines(figure)[0].get_xdata().tolist() == [10, 20]
    assert [list(x.get_xdata()) for x in figure.axes[0].lines if x.get_marker() == "v"] == [[], [15]]


def test_a_curve_that_is_known_nowhere_is_drawn_as_nothing_and_said(tmp_path, caplog):
    place = made.run(tmp_path / "run", [[1.0, nan], [2.0, nan]])
    assert legend(plot(place)) == ["run  (2 seeds)"]
    assert "1 of its seeds have no evaluation/return_mean" in caplog.text


def test_without_matplotlib_the_command_says_what_to_install(tmp_path):
    run = made.run(tmp_path / "run", [1.0])
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from jaxtrain.tools import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "plot", str(run)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (
        2,
        "jaxtrain: plot: needs matplotlib: pip install 'jaxtrain[plot]'\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
