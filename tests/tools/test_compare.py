"""`jaxtrain compare`: what is said of runs, and of which."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxtrain import ConfigError
from jaxtrain.tools import cli, stats
from jaxtrain.tools.compare import Value, compare, lines
from tests import made
from tests.runs.test_index import hostile

nan = np.nan


@pytest.fixture
def three(tmp_path):
    """Of 8 seeds each, the second better than the first, the third worse and another algorithm."""
    rng = np.random.default_rng(0)
    for name, mean, given in (
        ("a", 10, {}),
        ("b", 20, {"algorithm": {"learning_rate": 0.01}}),
        ("c", 0, {"algorithm": {"name": "dqn"}, "env": {"num_envs": 8}}),
    ):
        made.run(tmp_path / "runs" / name, rng.normal(mean, 1, (5, 8)), **given)
    return tmp_path / "runs"


def test_each_run_has_its_last_and_best_values_with_intervals_and_what_differs_alone(three):
    a, b, c = compare(three)
    assert (b.seeds, b.state, b.env_steps, b.seconds, b.speed) == (8, "finished", 500, 50, 10)
    assert b.differs == {"env.num_envs": 4, "algorithm.name": "ppo", "algorithm.learning_rate": 0.01}
    assert a.improvement is None and b.improvement.value == 1.0 and c.improvement.value == 0.0
    for row in (a, b, c):
        assert row.last.low < row.last.value < row.last.high and row.best.value >= row.last.value
        assert row.gap is None


def test_the_best_is_at_one_record_for_all_seeds(tmp_path):
    """The best of each seed by itself would be 9."""
    (row,) = compare(made.run(tmp_path / "run", [[9, 0], [5, 5], [0, 9], [1, 1]]))
    assert (row.best.value, row.best_at, row.last.value) == (5, 200, 1)


def test_a_seed_that_stopped_counts_with_its_last_value(tmp_path):
    (row,) = compare(made.run(tmp_path / "run", [[1, 1, 1], [nan, 3, 3], [nan, 3, 3]]))
    assert row.last.value == pytest.approx(7 / 3) and row.best_at == 200


def test_with_a_target_there_is_the_gap_to_it(three):
    a, b, _ = compare(three, target=15)
    assert b.gap.value == 0 and 4 < a.gap.low < a.gap.value < a.gap.high < 6


def test_less_may_be_better(three):
    a, b, c = compare(three, mode="min", target=5, sort="last")
    assert [row.path.name for row in (a, b, c)] == ["c", "a", "b"]
    assert a.improvement.value == 1.0 and a.gap.value == 0 and c.gap.value > 10


def test_rows_are_filtered_and_sorted(three):
    names = [
        [row.path.name for row in compare(three, **given)]
        for given in ({}, {"sort": "last"}, {"sort": "path"})
    ]
    assert names == [["a", "b", "c"], ["b", "a", "c"], ["a", "b", "c"]]
    for where in ("algorithm.learning_rate=1e-2", "algorithm.learning_rate=0.01", "env.num_envs=4"):
        assert compare(three, where=[where])[-1].path.name == "b"
    assert len(compare(three, where=["algorithm.network.hidden_sizes=[64,64]", "total_env_steps=1e3"])) == 3
    made.run(three / "d", [1.0], algorithm={"name": None})
    assert compare(three, where=["algorithm.name=null"])[0].path.name == "d"
    (left,) = compare(three, where=["algorithm.name=dqn"])
    assert left.path.name == "c" and left.differs == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"where": ["algorithm.name"]}, "needs the form field=value"),
        ({"where": ["algorithm.name=sac"]}, "holds of no run; there algorithm.name is dqn, ppo"),
        ({"where": ["algorithm.nam=ppo"]}, "the nearest known is 'algorithm.name'"),
        ({"sort": "worst"}, "needs one of last, best"),
        ({"mode": "most"}, "needs one of max, min"),
        ({"metric": "x"}, "there are evaluation/return_mean"),
        ({"target": float("nan")}, "needs a finite number"),
    ],
)
def test_what_cannot_be_met_is_refused_by_name(three, given, said):
    with pytest.raises(ConfigError, match=said):
        compare(three, **given)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_of_the_table_is_longer_than_the_terminal(three, width):
    made.run(three / ("long" * 40), np.full((3, 12), -123456.7), algorithm={"learning_rate": 3})
    table = lines(compare(three, target=1e6), width)
    assert max(map(len, table)) <= width
    assert {line.split()[1] for line in table if line.startswith("2 ")} == {"…" + str(three / "b")[-27:]}


def test_in_another_environment_no_run_is_an_improvement(three):
    made.run(three / "d", np.ones((5, 8)), env={"id": "Pendulum-v1"})
    assert compare(three)[-1].improvement is None


def test_the_command_prints_a_table_or_json_with_further_runs_behind_options(three, capsys):
    a, b, c = (str(three / name) for name in "abc")
    assert cli.main(["compare", a, "--target", "15", b, c]) == 0
    text = capsys.readouterr().out
    assert "better than 1" in text and "learning_rate=0.01" in text and "hidden_sizes" not in text
    assert cli.main(["compare", a, b, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    last = json.loads((three / "b" / "metrics.jsonl").read_text().splitlines()[-1])["values"]["return_mean"]
    assert second["last"]["value"] == stats.iqm(np.array(last)) and first["improvement"] is None
    assert first["differs"] == {"algorithm.learning_rate": 0.001}
    assert cli.main(["compare", a, "--target", "much"]) == 2 and "needs a number" in capsys.readouterr().err


def test_hostile_runs_are_named_and_the_others_compared(tmp_path, capsys):
    made.run(tmp_path / "sound\x1b[2J", [1.0, 2.0])
    hostile(tmp_path / "hostile")
    assert cli.main(["compare", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "2.000" in said.out and all(line.isprintable() for line in (said.out + said.err).splitlines())


def test_a_number_has_as_many_digits_as_it_needs():
    texts = [
        str(Value(*x)) for x in ((500, 499.9, 500), (7, 7, 7), (0, 0, 0), (0.5, 0.25, 1), (1e9, 1e9, 2e9))
    ]
    assert texts == ["500.0 [499.9, 500.0]", "7.000", "0", "0.500 [0.250, 1.000]", "1e+09 [1e+09, 2e+09]"]
