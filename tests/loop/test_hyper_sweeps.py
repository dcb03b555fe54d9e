"""Sweeps map over rates, and nobody reads the config's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import ConfigError, Event, OnReset, OnStep, Trainer, finish, train
from jaxtrain.algorithms.dqn import DQN
from jaxtrain.loop.hyper import ELSEWHERE
from jaxtrain.loop.train import program
from jaxtrain.runs.launch import launch
from tests.helpers import Reinforce, Walk, arrays, differing, equations, tiny, tiny_ppo
from tests.loop.rates import LOOK, PER, add, every_kind, jump, push

KINDS = {
    "learning_rate": (0.0, 0.1, 0.3),
    "push": (0.0, 0.1, 0.5),
    "scale": (0.5, 1.0, 3.0),
    "end": (0.05, 0.5, 1.0),
    "low": (0.05, 0.5, 0.9),
    "last": (1.0, 2.0, 4.0),
    "offset": (0.0, 0.1, 1.0),
    "far": (0.0, 0.1, -0.1),
    "amount": (0.0, 0.1, -0.2),
}


def once(**rates):
    return train(every_kind(**rates), jax.random.key(0), events=LOOK).history


def same(together, i, alone):
    for (path, x), (_, y) in zip(arrays(together), arrays(alone), strict=True):
        np.testing.assert_allclose(x[i], y, atol=1e-5, rtol=1e-5, err_msg=f"{i}{path}")


@pytest.mark.parametrize("kind", ["low", pytest.param("learning_rate", marks=pytest.mark.slow)])
def test_a_sweep_over_one_rate_is_the_single_runs(kind):
    together = jax.vmap(lambda value: once(**{kind: value}))(jnp.array(KINDS[kind]))
    for i, value in enumerate(KINDS[kind]):
        same(together, i, once(**{kind: value}))


@pytest.fixture(scope="module")
def swept():
    """One program over rates of all kinds: in each run one of them has one of its three values."""
    middle = {kind: values[1] for kind, values in KINDS.items()}
    runs = [middle | {kind: value} for kind, values in KINDS.items() for value in values]
    return runs, jax.vmap(lambda rates: once(**rates))(
        {kind: jnp.array([run[kind] for run in runs]) for kind in KINDS}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_the_single_runs_whatever_kind_of_rate_it_is_over(swept, kind):
    runs, together = swept
    first = 3 * list(KINDS).index(kind)
    apart = [once(**runs[first + i]) for i in range(3)]
    for i, alone in enumerate(apart):
        same(together, first + i, alone)
    assert differing(apart[0], apart[2]) != []  # else the rate does nothing, and this shows nothing


def constants(jaxpr, consts=()):
    """Every array and number that stands in a program."""
    yield from consts
    for eqn, _ in equations(jaxpr):
        for x in eqn.invars:
            if hasattr(x, "val"):
                yield x.val
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "consts")):
            yield from getattr(inner, "consts", ())


def marked(config, events):
    """Whether a number that can only come from what stands in a config for its rates is in the program."""
    whole, rates = program(Trainer(config, events), events, observed=True)
    closed = jax.make_jaxpr(whole)(rates, jax.random.key(0), jnp.int32(0))
    found = False
    for x in constants(closed.jaxpr, closed.consts):
        if jnp.issubdtype(jnp.result_type(x), jnp.floating):
            size = np.abs(np.asarray(x, np.float64))
            found |= bool(((size > ELSEWHERE / 100) & (size < ELSEWHERE * 100)).any())
    return found


GIVEN = (
    *LOOK,
    Event("late", finish(), add, {"amount": 0.5}),
    OnReset("start", push, {"amount": 2.0}),
    OnStep("step", jump, params={"far": 0.125}),
)


def test_nothing_in_the_program_reads_a_rate_from_the_config():
    assert not marked(every_kind(), GIVEN)


@pytest.mark.parametrize("algorithm", [tiny_ppo(), DQN(buffer_size=64, batch_size=8, learning_starts=8)])
def test_no_algorithm_reads_a_rate_from_the_config(algorithm):
    assert not marked(tiny(algorithm=algorithm, params={"scale": 0.5}), ())


def test_a_reader_of_the_config_is_found_by_its_mark():
    def read(trainer, state, key):
        return state, {"rate": state.hyper["algorithm.gamma"] * trainer.config.algorithm.learning_rate}

    assert marked(tiny(), (Event("reader", finish(), read),))


# ---- arrays of several


SEVERAL = np.array([0.1, 0.2])
REFUSED = {
    "algorithm.learning_rate": tiny(algorithm=Reinforce(learning_rate=SEVERAL)),
    "env.params.push": tiny(params={"push": SEVERAL}),
    "evaluation.env.params.scale": tiny(evaluation={"env": {"id": Walk(), "params": {"scale": SEVERAL}}}),
    "events.0.params.amount": tiny(
        events=[{"name": "own", "run": "tests.loop.rates:add", "every": PER, "params": {"amount": SEVERAL}}]
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rate_of_several_values_is_refused_by_name_before_anything_compiles(name, tmp_path, monkeypatch):
    config = REFUSED[name]
    monkeypatch.setattr(jax, "jit", None)
    for use in (
        lambda: train(config, jax.random.key(0)),
        lambda: Trainer(config),
        lambda: launch(config, tmp_path / "run", num_seeds=2),
    ):
        with pytest.raises(ConfigError, match=rf"{name} = .*needs one number") as error:
            use()
        assert len(error.value.problems) == 1
    assert list(tmp_path.iterdir()) == []
