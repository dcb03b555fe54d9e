"""A curriculum moves a parameter of the environment along its marks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxtrain import ConfigError, Event, Trainer, every, train
from jaxtrain.events.curriculum import curriculum
from tests.helpers import tiny

PER = tiny().env_steps_per_update


def test_a_curriculum_follows_its_marks_with_straight_lines_between():
    marks, values = [3.0 * PER, 5.5 * PER, 9.0 * PER], [1.0, 2.0, -1.0]  # floats: leaves of the config
    course = {"name": "course", "run": "curriculum", "every": PER}
    course |= {"params": {"field": "scale", "marks": marks, "values": values}}
    result = train(tiny(events=[course]), jax.random.key(0))
    np.testing.assert_allclose(
        result.history["course"]["scale"], np.interp(result.marks["course"], marks, values), rtol=1e-6
    )
    np.testing.assert_array_equal(result.state.env_params.scale, [-1, -1])


@pytest.mark.parametrize("marks", [[], [0], [2, 1], [0, 1, 2]])
def test_a_curriculum_needs_ascending_marks_and_a_value_for_each(marks):
    with pytest.raises(ConfigError, match="needs ascending env steps, one for each of 2 values"):
        params = {"field": "scale", "marks": marks, "values": [1, 2]}
        Trainer(tiny(), [Event("course", every(PER), curriculum, params)])
