"""What differs between runs, and nothing else."""

from __future__ import annotations

import pytest

from jaxtrain.runs import facts
from tests.made import about


def test_fields_have_the_paths_that_overrides_have_and_lists_and_schedules_are_one_value():
    schedule = {"schedule": "linear", "from": 1e-3, "to": 0}
    config = {
        "env": {"id": "A", "params": {}},
        "algorithm": {"learning_rate": schedule, "network": {"hidden_sizes": [64, 64]}},
        "events": [{"name": "a", "every": 3}],
    }
    assert facts.of_config(config) == {
        "env.id": "A",
        "algorithm.learning_rate": schedule,
        "algorithm.network.hidden_sizes": [64, 64],
        "events.0.name": "a",
        "events.0.every": 3,
    }


def test_of_another_algorithm_its_name_is_said_and_not_the_fields_that_only_one_has():
    ppo = {"algorithm.name": "ppo", "algorithm.gamma": 0.9, "algorithm.clip_range": 0.2}
    dqn = {"algorithm.name": "dqn", "algorithm.gamma": 0.8, "algorithm.buffer_size": 9}
    assert facts.differing([ppo, dqn]) == ["algorithm.name", "algorithm.gamma"]


def test_a_field_that_only_one_has_differs_and_is_left_out_of_the_others_label():
    one, other = {"env.id": "A", "env.params.gravity": 3}, {"env.id": "A"}
    assert facts.differing([one, other]) == ["env.params.gravity"]
    assert facts.labels([one, other]) == ["gravity=3", ""]


def test_what_moves_no_number_comes_last_and_is_in_no_label():
    runs = [{"logging.every": 1, "seed": 0, "x": 1}, {"logging.every": 2, "seed": 1, "x": 2}]
    assert facts.differing(runs) == ["seed", "x", "logging.every"]
    assert facts.labels(runs) == ["x=1", "x=2"]


def test_where_configs_are_the_same_a_label_has_the_seed_and_where_all_is_nothing():
    runs = [{"x": 1, **facts.of_run(about(seed=seed))} for seed in (3, 4)]
    assert facts.labels(runs) == ["seed=3", "seed=4"]
    assert facts.labels(runs[:1] * 2) == ["", ""] and facts.differing([]) == facts.labels([]) == []


def test_values_that_are_equal_do_not_differ_and_those_that_are_not_do_however_alike():
    same = [(1, 1.0), (1e6, 1_000_000), ([64, 1], [64.0, 1]), ({"from": 1}, {"from": 1.0})]
    other = [
        (0.1234567, 0.1234568),
        ("x" * 99 + "a", "x" * 99 + "b"),
        (True, 1),
        (None, "unset"),
        (2**53, 2**53 + 1),
    ]
    assert [facts.differing([{"a": x}, {"a": y}]) for x, y in same] == [[]] * len(same)
    assert [facts.differing([{"a": x}, {"a": y}]) for x, y in other] == [["a"]] * len(other)


def test_names_that_are_the_same_at_their_end_stay_whole():
    runs = [{"a.rate": 1, "b.rate": 2, "env.id": "A"}, {"a.rate": 2, "b.rate": 3, "env.id": "B"}]
    assert facts.labels(runs)[0] == "a.rate=1 b.rate=2 env.id=A"
    assert facts.labels(runs, most=1)[0] == "rate=1 …"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3e-4, "0.0003"),
        ([64, None], "[64, null]"),
        ("x" * 99, "x" * 39 + "…"),
    ],
)
def test_a_value_is_shown_as_a_config_has_it(value, text):
    assert facts.shown(value) == text
