"""What stands around an environment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.envs.wrappers import Masked, cast, is_masked
from jaxtrain.types import Env
from tests.helpers import Walk


class Choosy:
    """What says which actions are valid."""

    def action_mask(self, state, params):
        return jnp.stack([state.position > 0, True])


def test_a_mask_is_of_the_state_that_the_observation_shows():
    env = Masked(Walk(), Choosy())
    assert isinstance(env, Env) and env.action_space == Walk().action_space
    obs, state = env.reset(jax.random.key(0), env.default_params)
    step = env.step(jax.random.key(1), state, jnp.int32(1), env.default_params)
    for seen, at in ((obs, state), (step.obs, step.state)):
        assert is_masked(seen) and not is_masked(seen["observation"])
        assert seen["action_mask"].tolist() == [bool(at.position > 0), True]


def test_a_cast_leaf_is_strong_and_a_key_stays_one():
    tree = {"n": 1, "x": np.float16(0.5), "key": jax.random.key(3)}
    made = cast(tree, {"n": jnp.int32, "x": jnp.float32, "key": tree["key"].dtype})
    assert made["key"] is tree["key"] and not made["n"].weak_type
    assert (made["n"].dtype, made["x"].dtype, float(made["x"])) == (np.int32, np.float32, 0.5)
