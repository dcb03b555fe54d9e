"""A rate may be a schedule: what it is at each clock, how it is written, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtrain import DQN, PPO, Config, ConfigError, Trainer, dump, load_config, per_env_steps
from jaxtrain.config import field, rate
from jaxtrain.tools import fields
from jaxtrain.tools.cli import main

LINEAR = {"schedule": "linear", "from": 1e-3, "to": 1e-5, "over": 1000}
COSINE = {"schedule": "cosine", "from": 1e-3, "to": 1e-4, "over": 1000, "warmup": 96}
PIECEWISE = {"schedule": "piecewise", "values": [1e-3, 2e-3, 5e-4], "at": [64, 300]}


def made(written):
    return PPO(learning_rate=written, anneal_learning_rate=False).learning_rate


def values(written, clocks, per=32, num_updates=40):
    """The rate at each of those clocks, f32[n]."""
    schedule = made(written)
    return np.asarray(jax.vmap(lambda c: schedule.value(c, per, num_updates))(jnp.asarray(clocks, jnp.int32)))


# ---- what it is


@given(per=st.integers(1, 5000), over=st.integers(1, 100_000), first=st.floats(0, 1), last=st.floats(0, 1))
def test_linear_is_optax_s_at_the_env_steps_done(per, over, first, last):
    clocks = np.unique(np.linspace(0, 1.3 * over / per + 1, 7).astype(int))
    expected = optax.linear_schedule(first, last, over)(clocks * per)
    found = values({"schedule": "linear", "from": first, "to": last, "over": over}, clocks, per)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(per=st.integers(1, 5000), over=st.integers(2, 100_000), share=st.floats(0, 0.99))
def test_cosine_is_optax_s_at_the_env_steps_done(per, over, share):
    warmup = int(share * over)
    clocks = np.unique(np.linspace(0, 1.3 * over / per + 1, 7).astype(int))
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.8, warmup, over, 0.1)
    written = {"schedule": "cosine", "from": 0.8, "to": 0.1, "over": over, "warmup": warmup}
    np.testing.assert_allclose(values(written, clocks, per), theirs(clocks * per), rtol=1e-4, atol=1e-5)


@given(per=st.integers(1, 50), at=st.sets(st.integers(1, 1000), min_size=1, max_size=5))
def test_piecewise_takes_the_next_value_at_each_mark(per, at):
    marks, points = sorted(at), np.arange(1, len(at) + 2, dtype=np.float32)
    clocks = np.arange(0, 1100 // per, max(1, 100 // per))
    found = values({"schedule": "piecewise", "values": points, "at": marks}, clocks, per)
    np.testing.assert_array_equal(found, points[np.searchsorted(marks, clocks * per, side="right")])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(("over", "last"), [(1000, 32), (1024, 32), (None, 40)])
def test_ends_are_exact_and_nothing_moves_behind_them(kind, over, last):
    """1000 env steps are over in the update that begins after 1024 of them."""
    written = {"schedule": kind, "from": 0.7, "to": 0.3, "over": over}
    found = values(written, [0, last - 1, last, last + 1, field.INT32])
    assert found[0] == np.float32(0.7)
    assert (found[2:] == np.float32(0.3)).all() and found[1] > np.float32(0.3)


def test_a_warm_up_begins_at_0_and_ends_at_from():
    found = values(COSINE, [0, 1, 2, 3])
    np.testing.assert_allclose(found, [0, 1e-3 / 3, 2e-3 / 3, 1e-3], rtol=1e-6)


def test_env_steps_beyond_what_the_device_counts_to_are_exact():
    per, mark = 2**20, 2**20 * (2**31 - 3)  # 2^51 env steps
    schedule = made({"schedule": "piecewise", "values": [0.0, 1.0], "at": [mark]})
    at = [schedule.value(jnp.int32(c), per, 1) for c in (2**31 - 4, 2**31 - 3)]
    assert at == [0.0, 1.0]
    linear = made({"schedule": "linear", "from": 1.0, "to": 0.0, "over": 2 * mark})
    assert float(linear.value(jnp.int32(2**31 - 3), 2 * per, 1)) == 0.0
    assert linear.check(per, 1)[0].path == "over"


def test_a_function_is_told_updates_or_env_steps():
    np.testing.assert_array_equal(values(lambda n: 0.5 * n, [0, 3]), [0, 1.5])
    np.testing.assert_array_equal(values(optax.linear_schedule(1.0, 0.0, 10), [0, 5, 20]), [1, 0.5, 0])
    found = values(per_env_steps(lambda n: 2.0 * n), [0, 3, 2**18 - 1], per=64)
    np.testing.assert_array_equal(found, [0, 2 * 64 * 3, 2 * 64 * (2**18 - 1)])


def test_the_scale_multiplies_the_whole():
    plain, scaled = (values(w, range(40)) for w in (COSINE, {**COSINE, "scale": 0.5}))
    np.testing.assert_array_equal(scaled, np.float32(0.5) * plain)


# ---- what it is made of


def test_its_numbers_are_leaves_and_all_else_is_static():
    leaves = jax.tree.leaves_with_path(made(PIECEWISE))
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in leaves]
    assert names == ["", "values.0", "values.1", "values.2"]
    a, b = made(LINEAR), made({**LINEAR, "from": 5e-4})
    assert jax.tree.structure(a) == jax.tree.structure(b) != jax.tree.structure(made({**LINEAR, "over": 999}))
    assert hash(a) != hash(b) and a == made(LINEAR) and a != b


@pytest.mark.parametrize("leaf", ["from", "to", "scale"])
def test_a_vmap_over_a_number_of_it_is_each_alone(leaf):
    numbers = jnp.array([0.1, 0.5])

    def one(x):
        return made({**LINEAR, leaf: x}).value(jnp.int32(7), 32, 40)

    np.testing.assert_array_equal(jax.vmap(one)(numbers), [one(x) for x in numbers])


def test_a_flag_that_anneals_is_off_for_a_schedule_and_for_no_other():
    for given_rate, flag in ((LINEAR, False), (1e-3, True)):
        algorithm, moved = rate.at_clock(PPO(learning_rate=given_rate), jnp.int32(3), 32, 40)
        assert algorithm.anneal_learning_rate is flag and [*moved] == ["learning_rate"] * (not flag)
        assert PPO(learning_rate=given_rate).anneal_learning_rate


# ---- how it is written


def constant(updates):
    del updates
    return 1e-3


@per_env_steps
def falling(env_steps):
    return 1e-3 / (1 + env_steps)


@pytest.mark.parametrize(
    "written",
    [
        LINEAR,
        COSINE,
        PIECEWISE,
        {**LINEAR, "over": None, "scale": 2},
        {"schedule": "tests.config.test_rate:constant"},
        constant,
        falling,
    ],
)
def test_what_is_dumped_reads_back_as_an_equal_config(written, tmp_path):
    config = Config(algorithm=PPO(learning_rate=written))
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_config(tmp_path / "config.yaml").algorithm == config.algorithm


def test_a_command_line_says_it_as_a_file_does(tmp_path):
    (tmp_path / "config.yaml").write_text("algorithm: {learning_rate: 3e-4}\n")
    text = "{schedule: cosine, from: 1e-3, to: 1e-4, over: 1e3, warmup: 96}"
    (override,) = fields.overrides(["--algorithm.learning-rate", text], ())
    assert load_config(tmp_path / "config.yaml", [override]).algorithm.learning_rate == made(COSINE)


def test_help_says_what_a_rate_may_be(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help", "algorithm"])
    said = capsys.readouterr().out
    assert "--algorithm.learning-rate FLOAT|SCHEDULE" in said
    assert "{schedule: linear, from: 1e-3, to: 0, over: 1e6}" in said


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "written", "lines"),
    [
        (
            "learning_rate",
            {"schedule": "liner", "from": 1, "to": 0},
            [".schedule = 'liner': needs one of linear, cosine, piecewise, or package.module:function; "],
        ),
        ("learning_rate", {"from": 1, "to": 0}, [".schedule: needs one of linear"]),
        (
            "learning_rate",
            {"schedule": "tests.configs:nothing"},
            [".schedule = 'tests.configs:nothing': 'te"],
        ),
        ("learning_rate", "linear", [".from: is missing", ".to: is missing"]),
        (
            "learning_rate",
            {**LINEAR, "form": 1, "over": -3, "to": -1},
            [
                ".form: unknown key; the nearest known is 'from'",
                ".to = -1: needs a number >= 0; the nearest is 0",
                ".over = -3: needs a whole number of env steps >= 1; the nearest is 1",
            ],
        ),
        ("learning_rate", {**LINEAR, "warmup": 10}, [".warmup: unknown key"]),
        ("learning_rate", {**LINEAR, "scale": "much"}, [".scale = 'much': needs a number"]),
        ("gamma", {**LINEAR, "from": 1.5}, [".from = 1.5: needs a number >= 0 and <= 1; the nearest is 1"]),
        ("gamma", {**PIECEWISE, "values": [1, 2, "x"]}, [".values.1 = 2: needs", ".values.2 = 'x': needs"]),
        (
            "gamma",
            {**PIECEWISE, "at": [300, 64]},
            [".at = [300, 64]: needs ascending env steps; the nearest"],
        ),
        ("gamma", {**PIECEWISE, "at": [300]}, [".at = [300]: needs one fewer than the 3 values"]),
        ("learning_rate", {**COSINE, "warmup": 1000}, [".warmup = 1000: needs fewer env steps than over"]),
        ("clip_range", COSINE, [".warmup = 96: begins at 0, where this rate needs a number > 0; leave it"]),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_with_every_fault(name, written, lines):
    with pytest.raises(ConfigError) as error:
        PPO(**{name: written})
    found = str(error.value).splitlines()
    assert len(found) == len(lines)
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(name + start), line


def test_a_schedule_and_a_flag_that_anneals_are_refused_together():
    with pytest.raises(
        ConfigError, match="anneal_clip_range = True: needs false where clip_range is a sched"
    ):
        PPO(clip_range=LINEAR, anneal_clip_range=True)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            {**LINEAR, "from": np.array([1e-3, 2e-3])},
            r"learning_rate\.from = .*has shape \[2\]: needs one num",
        ),
        ({**LINEAR, "over": 2**60}, r"learning_rate\.over = \d+: needs at most 2\^31 - 1 updates"),
        (
            {**COSINE, "over": None, "warmup": 2**21},
            r"learning_rate\.warmup = 2097152: needs fewer env steps",
        ),
        (lambda n: jnp.zeros(3), r"learning_rate = .*gave shape \[3\], needs one number"),
        (lambda: 1.0, "learning_rate = .*needs a function of the updates done"),
    ],
)
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_what_only_the_run_can_tell_is_refused_before_anything_compiles(algorithm, written, words):
    config = Config(algorithm=algorithm(learning_rate=written), env={"id": "tests.helpers:Walk"})
    with pytest.raises(ConfigError, match=words):
        Trainer(config)
