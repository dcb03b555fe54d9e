"""Episodes step by step are those of an evaluation, with the state that each step led to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import envs
from jaxtrain.events.event import OnReset, OnStep
from jaxtrain.loop import episodes
from jaxtrain.loop.evaluate import evaluate
from jaxtrain.loop.rollout import Collector
from jaxtrain.types import ActOutput
from tests.helpers import Walk, WalkParams
from tests.probes.envs import Counter

STEPS = 12


def policy(obs, carry, key):
    return ActOutput(jax.random.randint(key, obs.shape[:1], 0, 2), carry, ())


def walked(env, num, params, **hooks):
    """The moments after each step, and what an evaluation on the same key has of each episode."""
    collector = Collector(env, num, 1, **hooks)
    key = jax.random.key(3)

    @jax.jit
    def both(params):
        seen = episodes.watched(collector)
        there, first = episodes.begin(seen, key, params)
        one, some = episodes.go_on(seen, policy, there, 5)
        _, more = episodes.go_on(seen, policy, one, STEPS - 5)  # cut anywhere, they are the same
        moments = jax.tree.map(lambda a, *b: jnp.concatenate([a[None], *b]), first, some, more)
        _, each = evaluate(collector, policy, params, key, max_episode_steps=STEPS)
        return moments, each

    return jax.tree.map(np.asarray, both(params))


def ends(moments):
    """The step at which each episode ends."""
    return (moments.terminated | moments.truncated).argmax(axis=0)


def test_returns_and_lengths_are_those_of_an_evaluation_on_the_same_key():
    moments, each = walked(Walk(), 4, envs.batch(WalkParams(), 4))
    lengths = ends(moments)
    np.testing.assert_array_equal(lengths, each["lengths"])
    np.testing.assert_array_equal(moments.returns[lengths, range(4)], each["returns"])


def test_the_last_state_is_where_the_last_step_led():
    moments, _ = walked(Counter(), 5, Counter().batched_params(5))
    assert ends(moments).tolist() == [1, 2, 3, 4, 5]
    for k, length in enumerate(ends(moments)):
        assert moments.state.time[: length + 1, k].tolist() == [*range(length + 1)]
        odd = moments.state.episode[0, k] % 2
        assert (moments.truncated[length, k], moments.terminated[length, k]) == (odd, not odd)


def test_hooks_act_as_in_an_evaluation():
    def lengthen(key, params):
        return params._replace(length=params.length + 2)

    def skip(key, state, params):
        return state._replace(time=state.time + 1)

    moments, each = walked(
        Counter(),
        2,
        envs.batch(Counter().default_params, 2),
        on_reset=(OnReset("long", lengthen),),
        on_step=(OnStep("skip", skip, (2, 2)),),
    )
    assert ends(moments).tolist() == each["lengths"].tolist() == [4, 4]
    assert moments.state.time[:5, 0].tolist() == [0, 1, 3, 4, 6]
