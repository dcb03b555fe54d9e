"""The stock evaluation plays episodes in an environment of its own."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxtrain import ConfigError, Event, Trainer, every, train
from jaxtrain.events.evaluation import evaluation
from tests.helpers import Walk, keys, tiny

PER = tiny().env_steps_per_update


def test_an_evaluation_in_other_environments_sweeps_with_many_seeds():
    params = {"num_episodes": 2, "env": {"id": Walk(), "params": {"scale": 3.0}}}
    hard = Event("hard", every(PER * 6), evaluation, params)
    config = tiny(events=[hard], evaluation={"every": PER * 6, "num_episodes": 2})
    history = jax.vmap(train, in_axes=(None, 0))(config, keys(2)).history
    assert history["hard"]["return_mean"].shape == (2, 2)
    assert not np.array_equal(history["hard"]["return_mean"], history["evaluation"]["return_mean"])


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_episodes": 0}, "event 'hard'.params.num_episodes = 0: needs"),
        (
            {"num_episode": 3},
            "event 'hard'.params.num_episode: unknown key; the nearest known is 'num_episodes'",
        ),
    ],
)
def test_what_is_no_setting_of_an_evaluation_is_refused_by_its_field(params, words):
    with pytest.raises(ConfigError, match=words):
        Trainer(tiny(), [Event("hard", every(PER), evaluation, params)])
