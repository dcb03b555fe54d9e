"""Rates that a schedule or an event moves: what learns with them, what is logged, what is resumed."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import ConfigError, Event, Trainer, at, every, launch, per_env_steps, scale_rate, train
from jaxtrain.events.event import Report
from tests.helpers import Reinforce, arrays, differing, equations, keys, tiny, tiny_ppo

KEY = jax.random.key(0)
PER = tiny().env_steps_per_update
LINEAR = {"schedule": "linear", "from": 0.2, "to": 0.05, "over": 6 * PER}
COSINE = {"schedule": "cosine", "from": 0.2, "to": 0.0, "warmup": 2 * PER}
RATE = "rates/learning_rate"


def moving(learning_rate=LINEAR, updates=12, **given):
    return tiny(updates, algorithm=Reinforce(learning_rate=learning_rate), **given)


def look(trainer, state, key) -> tuple[object, Report]:
    del trainer, key
    return state, {"rate": state.metrics[RATE]}


LOOK = Event("look", every(PER), look)


def learned(state):
    return state.replace(hyper=(), metrics={})


@pytest.mark.parametrize(
    "flag", ["anneal_clip_range", pytest.param("anneal_learning_rate", marks=pytest.mark.slow)]
)
def test_linear_to_0_learns_what_the_flag_that_anneals_does_in_bits(flag):
    name = flag.removeprefix("anneal_")
    much = {"learning_rate": 0.01, "clip_range": 1e-3}  # so that either is felt
    plain = tiny_ppo(**{**much, "anneal_learning_rate": False, flag: True})
    written = {"schedule": "linear", "from": getattr(plain, name), "to": 1e-30}
    scheduled = dataclasses.replace(plain, **{name: written, flag: False})
    a, b = (train(tiny(algorithm=algorithm), KEY).state for algorithm in (plain, scheduled))
    assert differing(learned(a), learned(b)) == []
    none = train(tiny(algorithm=dataclasses.replace(plain, **{flag: False})), KEY).state
    assert differing(learned(a), learned(none)) != []


def test_the_flag_of_the_learning_rate_leaves_a_schedule_as_it_is():
    written = {"schedule": "piecewise", "values": [1e-2, 1e-3], "at": [4 * PER]}
    config = tiny(algorithm=tiny_ppo(learning_rate=written))
    assert config.algorithm.anneal_learning_rate
    trainer = Trainer(config)
    state = trainer.run(trainer.init(KEY), 6)
    assert state.metrics["train/learning_rate"] == state.metrics[RATE] == np.float32(1e-3)


@pytest.mark.parametrize(
    "written", [LINEAR, pytest.param(COSINE, marks=pytest.mark.slow), per_env_steps(lambda n: 1.0 / (1 + n))]
)
def test_each_update_uses_and_logs_the_rate_of_its_own_clock(written):
    config = moving(written)
    schedule, trainer = config.algorithm.learning_rate, Trainer(config)
    expected = [schedule.value(jnp.int32(u), PER, 12) for u in range(12)]
    result = train(config, KEY, events=[LOOK])
    np.testing.assert_allclose(result.history["look"]["rate"], expected, rtol=1e-6)
    # The same, with the number written into a run of plain rates by hand.
    fixed = Trainer(moving(0.0))
    state, fixed_state = trainer.init(KEY), fixed.init(KEY)
    for value in expected[:5]:
        hyper = fixed_state.hyper.replace({"algorithm.learning_rate": value})
        state, fixed_state = trainer.update(state), fixed.update(fixed_state.replace(hyper=hyper))
    for (path, a), (_, b) in zip(arrays(learned(state)), arrays(learned(fixed_state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7, err_msg=path)


def test_the_metrics_of_a_run_have_it_and_those_of_plain_rates_do_not():
    logging = {"every": 4 * PER}
    history = train(moving(logging=logging), KEY).history["metrics"]
    np.testing.assert_allclose(history[RATE], [0.125, 0.05, 0.05], rtol=1e-6)
    assert RATE not in train(moving(0.1, logging=logging), KEY).history["metrics"]


@pytest.mark.parametrize("leaf", ["from", "to", "scale"])
def test_a_sweep_of_a_number_of_a_schedule_equals_single_runs(leaf):
    numbers = jnp.array([0.04, 0.1, 0.3])

    def run(x, key):
        return train(moving({**LINEAR, leaf: x}), key, events=[LOOK])

    many = jax.vmap(run, in_axes=(0, None))(numbers, KEY)
    for i, x in enumerate(numbers):
        one = run(x, KEY)
        np.testing.assert_allclose(many.history["look"]["rate"][i], one.history["look"]["rate"], rtol=1e-6)
        for (path, a), (_, b) in zip(arrays(many.state.agent), arrays(one.state.agent), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6, err_msg=path)


def test_its_numbers_stand_beside_its_scale_in_the_state():
    hyper = Trainer(moving()).init(KEY).hyper
    assert list(hyper)[:4] == [f"algorithm.{n}" for n in ("learning_rate", *NUMBERS, "gamma")]
    assert hyper["algorithm.learning_rate"] == 1 and hyper["algorithm.learning_rate.to"] == np.float32(0.05)


NUMBERS = ("learning_rate.from", "learning_rate.to")


@pytest.mark.parametrize(("written", "before", "seeds"), [(0.2, 0.2, None), (LINEAR, 0.125, 3)])
def test_scale_rate_serves_numbers_and_schedules(written, before, seeds):
    def halve(trainer, state, key) -> tuple[object, Report]:
        del trainer, key
        return scale_rate(state, "algorithm.learning_rate", 0.5), {}

    trainer = Trainer(moving(written), [Event("halve", at(3 * PER), halve)])
    state = trainer.run(trainer.init(KEY if seeds is None else keys(seeds)), 3)
    after = trainer.update(state)
    used = after.metrics.get(RATE, after.hyper["algorithm.learning_rate"])
    np.testing.assert_allclose(used, 0.5 * before, rtol=1e-6)
    with pytest.raises(KeyError, match=r"nearest known is 'algorithm\.learning_rate'"):
        scale_rate(state, "algorithm.lerning_rate", 0.5)


@pytest.mark.slow
def test_a_longer_run_keeps_the_length_of_its_schedule_and_another_one_is_refused(tmp_path):
    written = {"schedule": "linear", "from": 0.2, "to": 0.0}
    launch(moving(written, 4), tmp_path / "run", cache=False)
    ending = launch(moving(written, 8), tmp_path / "run", cache=False)
    expected = [0.2, 0.15, 0.1, 0.05, 0, 0, 0, 0]
    once = train(moving(written, 8, anneal_env_steps=4 * PER), KEY, events=[LOOK])
    np.testing.assert_allclose(once.history["look"]["rate"], expected, rtol=1e-6)
    assert differing(ending.result.state, once.state.replace(metrics=ending.result.state.metrics)) == []
    for other in ({**written, "to": 0.1}, {**written, "over": 4 * PER}, 0.2, COSINE):
        with pytest.raises(ConfigError, match=r"algorithm\.learning_rate"):
            launch(moving(other, 8), tmp_path / "run", cache=False)


def test_a_run_that_is_cut_and_resumed_has_the_bits_of_an_unbroken_one():
    trainer = Trainer(moving(COSINE))
    whole = trainer.run(trainer.init(KEY), 12)
    cut = trainer.run(jax.tree.map(jnp.copy, trainer.run(trainer.init(KEY), 5)), 7)
    assert differing(whole, cut) == []


def test_a_schedule_that_is_not_finite_is_named_with_the_agent_that_it_spoils():
    def broken(updates):
        return jnp.where(updates < 2, 0.1, jnp.nan)

    config = moving(broken, on_nan="raise")
    with pytest.raises(FloatingPointError, match="update 3"):
        train(config, KEY)


def test_rates_outside_the_algorithm_stay_numbers():
    with pytest.raises(ConfigError, match=r"env\.params\.push"):
        Trainer(tiny(params={"push": LINEAR}))


def test_a_condition_on_the_clock_stays_one_however_many_seeds_run():
    def late(updates):
        x = jnp.sinh(updates * 1e-3)
        return jax.lax.cond(updates > 3, jnp.arctan, lambda x: x, x)

    jaxpr = jax.make_jaxpr(jax.vmap(partial(train, moving(late))))(keys(3))
    conds = {e.primitive.name: around.count("cond") for e, around in equations(jaxpr.jaxpr)}
    assert conds["atan"] == conds["sinh"] + 1
