"""What only an environment can tell of a config, before anything is traced."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxtrain import ConfigError, envs, load_config
from jaxtrain.config.schema import Config, EnvConfig
from jaxtrain.loop.fit import fit, spec_of
from jaxtrain.rl import field
from tests import configs
from tests.helpers import Reinforce, Walk, tiny


@field.config
class Unsure(Reinforce):
    """Checks, and does not say what it found."""

    def check(self, spec):
        return "no"


def test_a_check_that_gives_no_list_of_problems_is_named():
    with pytest.raises(ConfigError, match=r"algorithm: Unsure\.check gave 'no', needs a list of Problem"):
        fit(tiny(algorithm=Unsure()), ())


def test_numbers_of_the_environment_are_rates_as_its_fields_are():
    def fitted(**given):
        return fit(Config(env=EnvConfig(**given)), ()).env

    config = fitted(id=Walk(), params={"scale": 2, "push": np.float32(0.5), "end": "1e-1"})
    assert config.params == {"scale": 2.0, "push": 0.5, "end": 0.1}
    assert len(jax.tree.leaves(config)) == 3
    nested = fitted(id="CartPole-v1", params={"gravity": 10, "max_steps_in_episode": 2e2})
    assert [type(nested.params[name]) for name in nested.params] == [float, int]
    assert jax.tree.leaves(nested) == [10.0]  # a count is static


def test_an_unknown_environment_is_answered_with_the_nearest_and_a_derived_parameter_with_its_sources(
    tmp_path,
):
    with pytest.raises(
        ConfigError, match=r"^env.id = 'CartPole-v0': needs a gymnax id .*; nearest: 'CartPole-v1'"
    ):
        fit(load_config(configs.written(tmp_path), ["env.id=CartPole-v0"]), ())
    with pytest.raises(
        ConfigError, match=r"^env.params.total_mass = 2: follows from masscart and masspole; set those$"
    ):
        fit(Config(env=EnvConfig(params={"total_mass": 2})), ())
    draw = {
        "name": "x",
        "run": "randomize",
        "every": 8192,
        "params": {"polemass_length": {"low": 1, "high": 2}},
    }
    with pytest.raises(ConfigError, match=r"'polemass_length' follows from masspole and length; move those$"):
        fit(Config(events=[draw]), ())


def test_a_config_that_fits_is_itself_and_fits_again():
    config = fit(tiny(params={"push": 0.5}), ())
    assert fit(config, ()) == config


def test_an_algorithm_is_told_the_spaces_the_observations_and_the_updates_that_anneal():
    config = tiny(5, num_envs=3, anneal_env_steps=10 * 12)
    spec = spec_of(config, envs.make(Walk()))
    assert spec.observation_space.shape == (1,) and spec.action_space == Walk().action_space
    assert (spec.num_envs, spec.num_updates) == (3, 10)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), spec.observation) == ((1,), np.float32)


class Wrong(Walk):
    """A walk whose end is a number."""

    def step(self, key, state, action, params):
        step = super().step(key, state, action, params)
        return step._replace(terminated=1.0 * step.terminated)


def test_an_environment_whose_functions_do_not_fit_is_named_where_the_config_names_it():
    rule = r"\.id = Wrong: step: terminated is float32\[\], needs bool\[\]$"
    with pytest.raises(ConfigError, match=f"^env{rule}"):
        fit(tiny(env=Wrong()), ())
    with pytest.raises(ConfigError, match=f"^evaluation.env{rule}"):
        fit(tiny(evaluation={"every": 8, "env": {"id": Wrong()}}), ())
