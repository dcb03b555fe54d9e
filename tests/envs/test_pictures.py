"""gymnax's environments as pictures: which there are, and that they show the state."""

from __future__ import annotations

import os
import sys

import jax
import numpy as np
import pytest

from jaxtrain import ConfigError, envs
from jaxtrain.envs import pictures

CLASSIC = ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
GRIDS = [f"{name}-MinAtar" for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")]
GRIDS += ["Catch-bsuite", "DeepSea-bsuite", "FourRooms-misc", "FrozenLake-misc", "MetaMaze-misc"]
GRIDS += ["Pong-misc", "PointRobot-misc"]
NOT_DRAWN = ["BernoulliBandit-misc", "DiscountingChain-bsuite", "GaussianBandit-misc", "MemoryChain-bsuite"]
NOT_DRAWN += ["Reacher-misc", "SimpleBandit-bsuite", "Swimmer-misc", "UmbrellaChain-bsuite"]


def begun(env_id, seed=0, **params):
    """An environment, a state at an episode's start, and its parameters."""
    env = envs.make(env_id)
    values = envs.params(env, params)
    return env, jax.jit(env.reset)(jax.random.key(seed), values)[1], values


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [*CLASSIC, *GRIDS])
def test_each_id_that_is_said_to_be_drawn_has_a_picture(env_id):
    env, state, params = begun(env_id)
    picture = envs.renderer(env)(state, params)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and len(np.unique(picture)) > 1


@pytest.mark.slow
def test_every_id_is_drawn_or_said_not_to_be():
    assert {*CLASSIC, *GRIDS, *NOT_DRAWN, *envs.unavailable()} == {*envs.ids()}
    for env_id in NOT_DRAWN:
        with pytest.raises(ConfigError, match=rf"^env.id = '{env_id}': cannot be drawn; needs a method ren"):
            envs.renderer(envs.make(env_id), env_id)


def test_a_grid_has_a_pixel_for_each_field():
    env, state, params = begun("Catch-bsuite")
    draw = envs.renderer(env)
    for row in range(3):
        picture = draw(state.replace(ball_y=row), params)
        found = np.argwhere((picture == pictures.ORANGE).all(-1))
        assert found.tolist() == [[row, int(state.ball_x)]]


def test_a_channel_that_comes_later_lies_on_top():
    env, state, params = begun("Breakout-MinAtar")
    draw = envs.renderer(env)
    # Bricks are the last: one lies on the ball at the start, and the ball's trail on the ball.
    for bricks, channels in ((1.0, (0, 1, 4)), (0.0, (0, 1, 3))):
        picture = draw(state.replace(brick_map=state.brick_map * bricks), params)
        colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
        assert colors == {tuple(pictures.CHANNELS[i].tolist()) for i in channels}


def test_classic_control_is_drawn_with_the_parameters_of_the_episode_and_no_screen(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("DISPLAY", raising=False)
    env, state, params = begun("CartPole-v1")
    draw = envs.renderer(env)
    short, long = (draw(state, params.replace(length=length)) for length in (0.25, 0.5))
    pole = [int((picture == (202, 152, 101)).all(-1).sum()) for picture in (short, long)]
    assert pole[1] > 1.5 * pole[0] > 0
    assert os.environ["SDL_VIDEODRIVER"] == "x11" and "SDL_AUDIODRIVER" not in os.environ


def test_what_pygame_draws_is_refused_without_it_by_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)  # Python's way to say that there is none
    with pytest.raises(ConfigError, match=r"^pygame: is not installed; CartPole.*: pip install 'jaxtrain\[v"):
        envs.renderer(envs.make("CartPole-v1"))


def test_nothing_is_drawn_of_what_is_not_gymnax():
    assert pictures.drawing(object()) is None
