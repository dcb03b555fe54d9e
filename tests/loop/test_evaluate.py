"""An evaluation is exactly K complete episodes, one per slot."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import envs
from jaxtrain.config.schema import REDUCTIONS, RESERVED
from jaxtrain.events.event import OnReset, OnStep, Statistic
from jaxtrain.loop.evaluate import evaluate, told
from jaxtrain.loop.rollout import Collector, Episodes
from jaxtrain.types import ActOutput
from tests.helpers import Walk, WalkParams
from tests.probes.envs import Counter

K = 5  # slots with episodes of 1, 2, 3, 4 and 5 steps and returns 1, 3, 6, 10, 15


def policy(obs, memory, key):
    return ActOutput(jax.random.randint(key, obs.shape[:1], 0, 2), memory, ())


def compiled(env, num=K, **more):
    """`(params, key, max_episode_steps) -> report`, and what it is of each episode as lists."""
    collector = Collector(env, num, 1, **more)
    run = jax.jit(lambda params, key, most: evaluate(collector, policy, params, key, max_episode_steps=most))

    def report(params, key, most):
        summary, each = run(params, key, most)
        return {k: v.item() for k, v in summary.items()} | {k: v.tolist() for k, v in each.items()}

    return report


# Of the reward, and of its negative: a maximum may be below 0.
STATISTICS = tuple(
    Statistic(f"{r}{sign:+}", lambda t, sign=sign: sign * t.reward, r) for r in REDUCTIONS for sign in (1, -1)
)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def lengths(request):
    """Of the counter; also as it runs on a GPU, several steps to one turn of the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: request.param)
        run = partial(
            compiled(Counter(), statistics=STATISTICS), Counter().batched_params(K), jax.random.key(0)
        )
        run(1)  # compiles
    return run


def test_every_slot_plays_one_whole_episode_however_long_the_others_are(lengths):
    report = lengths(100)
    assert {name: value for name, value in report.items() if name in RESERVED} == {
        "return_mean": 7.0,
        "return_std": pytest.approx(np.std([1, 3, 6, 10, 15])),
        "return_min": 1.0,
        "return_max": 15.0,
        "length_mean": 3.0,
        "episodes": 5,
        "episodes_cut": 0,
        "returns": [1.0, 3.0, 6.0, 10.0, 15.0],
        "lengths": [1, 2, 3, 4, 5],
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


@pytest.mark.parametrize("most", [2, 100])
def test_a_statistic_is_over_the_steps_of_the_episodes_what_it_is_over_those_of_an_update(lengths, most):
    report = lengths(most)
    episodes = [np.arange(1.0, min(k, most) + 1) for k in range(1, K + 1)]  # rewards
    steps = np.concatenate(episodes)
    for sign in (1, -1):
        assert {r: report[f"{r}{sign:+}"] for r in REDUCTIONS} == pytest.approx(
            {
                "mean": np.mean(sign * steps),
                "sum": np.sum(sign * steps),
                "max": np.max(sign * steps),
                "last": np.mean([sign * rewards[-1] for rewards in episodes]),
                "episode": np.mean([np.sum(sign * rewards) for rewards in episodes]),
            }
        )


def test_no_statistic_can_have_the_name_of_what_is_said_anyway(lengths):
    said = {name.removeprefix("rollout/") for name in Episodes.empty().metrics()}
    assert said | ({*lengths(1)} - {s.name for s in STATISTICS}) == {*RESERVED}


def test_another_environment_tells_what_it_has_the_entries_for():
    by_name, by_function = Statistic("moved", "moved"), Statistic("far", lambda t: abs(t.info["moved"]))
    given = by_name, Statistic("reward", lambda t: t.reward), by_function
    assert told(Walk(), WalkParams(), given) == given
    assert told(Counter(), Counter().default_params, given) == given[1:2]


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
