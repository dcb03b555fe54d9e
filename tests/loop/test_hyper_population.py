"""Rates beside events that see all seeds at once."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Event, Trainer, at, train
from jaxtrain.events.event import mean_return
from jaxtrain.loop.state import AXES
from tests.helpers import Reinforce, differing, keys, seed, tiny
from tests.loop.rates import PER, Logged


def mixed(trainer, state, key, *, share):
    """Every seed takes a share of the mean of all."""
    agent = jax.tree.map(lambda x: (1 - share) * x + share * x.mean(0), state.agent)
    return state.replace(agent=agent), {"share": jnp.asarray(share)}


def population(share, rate=0.1, more=0.5):
    params = {"share": share}
    event = {
        "name": "mix",
        "run": f"{__name__}:mixed",
        "at": [2 * PER],
        "scope": "population",
        "params": params,
    }
    other = {"name": "own", "run": "tests.loop.rates:add", "every": PER, "params": {"amount": more}}
    return tiny(4, algorithm=Reinforce(learning_rate=rate), events=[event, other])


@pytest.mark.parametrize("nested", [False, True])
def test_a_swept_parameter_of_a_population_event_is_refused_by_name(nested):
    run = jax.vmap(lambda share: train(population(share), jax.random.key(0)))
    if nested:
        run = jax.vmap(lambda key: jax.vmap(lambda s: train(population(s), key))(jnp.array([0.1, 0.2])))
    with pytest.raises(ValueError, match=r"events\.mix\.share: the event sees all seeds at once"):
        run(keys(2) if nested else jnp.array([0.1, 0.2]))


def test_other_rates_may_be_swept_beside_a_population_event():
    rates, more = jnp.array([0.0, 0.1]), jnp.array([0.5, 0.25])
    result = jax.vmap(lambda r, m: train(population(0.5, r, m), jax.random.key(0)))(rates, more)
    assert result.history["mix"]["share"].tolist() == [[0.5], [0.5]]
    assert result.history["own"]["amount"][:, 0].tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(result.state.hyper["algorithm.learning_rate"], rates)


def exploit(trainer, state, key):
    """The worst seed takes the agent of the best, and a rate near that of the best."""
    score = jnp.nan_to_num(jax.vmap(mean_return, (AXES,))(state), nan=-jnp.inf)
    best, worst = jnp.argmax(score), jnp.argmin(score)
    copy = partial(jax.tree.map, lambda x: x.at[worst].set(x[best]))
    rate = state.hyper["algorithm.learning_rate"]
    factor = jnp.where(jax.random.bernoulli(key), 0.8, 1.25)
    hyper = state.hyper.replace({"algorithm.learning_rate": rate.at[worst].set(rate[best] * factor)})
    return state.replace(agent=copy(state.agent), hyper=hyper), {"best": best, "worst": worst, "rate": rate}


def test_the_worst_of_eight_seeds_takes_the_agent_of_the_best_and_a_rate_near_its():
    config = tiny(6, algorithm=Logged())
    trainer = Trainer(config, [Event("exploit", at(3 * PER), exploit, scope="population")])
    plain = Trainer(config)
    go, go_plain = (jax.jit(partial(t.run, num_updates=3)) for t in (trainer, plain))
    before, after = go_plain(plain.init(keys(8))), go(trainer.init(keys(8)))
    score = np.asarray(before.episodes.returns.sum(1) / np.maximum(before.episodes.finished, 1))
    changed = [i for i in range(8) if differing(seed(i, before.agent), seed(i, after.agent))]
    (worst,) = changed
    best = next(
        i for i in range(8) if i != worst and not differing(seed(i, after.agent), seed(worst, after.agent))
    )
    assert score[best] == score.max() and score[worst] == score.min()
    rate = np.asarray(after.hyper["algorithm.learning_rate"])
    assert rate[worst] in (np.float32(0.1) * np.float32(0.8), np.float32(0.1) * np.float32(1.25))
    assert (np.delete(rate, worst) == np.float32(0.1)).all()
    on, off = go(after), go_plain(before)
    for i in range(8):
        same = differing(seed(i, on.replace(events={})), seed(i, off.replace(events={}))) == []
        assert same == (i != worst)
    assert on.metrics["train/learning_rate"][worst] == rate[worst]
    # As one program with `train`, to the bit.
    result = jax.vmap(partial(train, config, events=trainer.events[:]))(keys(8))
    assert differing(result.state.agent, on.agent) == []
    assert result.history["exploit"]["worst"].tolist() == [[worst]] * 8
