"""An evaluation is exactly K complete episodes, one per slot."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import envs
from jaxtrain.events.event import OnReset, OnStep
from jaxtrain.loop.evaluate import evaluate
from jaxtrain.loop.rollout import Collector
from jaxtrain.types import ActOutput
from tests.helpers import Walk, WalkParams
from tests.probes.envs import Counter

K = 5  # slots with episodes of 1, 2, 3, 4 and 5 steps and returns 1, 3, 6, 10, 15


def policy(obs, memory, key):
    return ActOutput(jax.random.randint(key, obs.shape[:1], 0, 2), memory, ())


def compiled(env, num=K, **hooks):
    """`(params, key, max_episode_steps) -> report`."""
    collector = Collector(env, num, 1, **hooks)
    run = jax.jit(lambda params, key, most: evaluate(collector, policy, params, key, max_episode_steps=most))
    return lambda params, key, most: {k: v.item() for k, v in run(params, key, most).items()}


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def lengths(request):
    """Of the counter; also as it runs on a GPU, several steps to one turn of the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: request.param)
        run = partial(compiled(Counter()), Counter().batched_params(K), jax.random.key(0))
        run(1)  # compiles
    return run


def test_every_slot_plays_one_whole_episode_however_long_the_others_are(lengths):
    report = lengths(100)
    assert report == {
        "return_mean": 7.0,
        "return_std": pytest.approx(np.std([1, 3, 6, 10, 15])),
        "return_min": 1.0,
        "return_max": 15.0,
        "length_mean": 3.0,
        "episodes": 5,
        "episodes_cut": 0,
    }


@pytest.mark.parametrize(
    ("most", "cut", "length", "highest"), [(1, 4, 1.0, 1), (3, 2, 2.4, 6), (4, 1, 2.8, 10), (5, 0, 3.0, 15)]
)
def test_an_episode_beyond_the_cap_is_cut_there_and_counted(lengths, most, cut, length, highest):
    report = lengths(most)
    assert report["episodes"] == 5
    assert report["episodes_cut"] == cut
    assert report["length_mean"] == pytest.approx(length)
    assert report["return_max"] == highest


def test_the_key_decides_where_episodes_begin():
    run, params = compiled(Walk()), envs.batch(WalkParams(), K)
    first, again, other = (run(params, jax.random.key(k), 100) for k in (0, 0, 1))
    assert first == again
    assert first["return_mean"] != other["return_mean"]


def test_hooks_act_in_the_environments_that_evaluate():
    def lengthen(key, params):
        return params._replace(length=params.length + 2)

    def skip(key, state, params):
        return state._replace(time=state.time + 1)

    run = compiled(
        Counter(), 2, on_reset=(OnReset("long", lengthen),), on_step=(OnStep("skip", skip, (2, 2)),)
    )
    report = run(envs.batch(Counter().default_params, 2), jax.random.key(0), 100)
    # The second step and the fourth are two at once: times 1, 3, 4, 6, and the end is at 5 or more.
    assert report["length_mean"] == 4
    assert report["return_mean"] == 1 + 3 + 4 + 6


def test_what_happens_after_an_episode_does_not_count():
    class Poisoned(Counter):
        """Every reward after an episode's end is NaN: a slot that waits for the others may make some."""

        def step(self, key, state, action, params):
            step = super().step(key, state, action, params)
            return step._replace(reward=jnp.where(state.time >= params.length, jnp.nan, step.reward))

    assert compiled(Poisoned())(Counter().batched_params(K), jax.random.key(0), 100)["return_mean"] == 7
