"""gymnax's environments as pictures, drawn without a screen.

In: an object of gymnax, its state and parameters. Out: uint8[H, W, 3]; of a grid one pixel for each field.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.names import extra
from jaxtrain.types import PyTree

Picture: TypeAlias = np.ndarray  # uint8[H, W, 3]
Draw: TypeAlias = Callable[[PyTree, PyTree], Picture]  # (state, params), of one environment

PACKAGE = "gymnax."
# Colors that color-blind readers tell apart (Okabe and Ito 2008), and two more.
BLACK, WHITE, GRAY = (0, 0, 0), (255, 255, 255), (150, 150, 150)
ORANGE, SKY, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, VERMILION, PURPLE, BROWN = (0, 114, 178), (213, 94, 0), (204, 121, 167), (130, 90, 50)
CHANNELS = np.array(
    [BLACK, SKY, ORANGE, GRAY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, WHITE, BROWN], np.uint8
)


def drawing(env: Any) -> Draw | None:
    """How an object in gymnax's manner is drawn; None of one that nothing here can draw.

    Args:
      env: of a class of gymnax, or of one derived from it that keeps its state.

    Raises:
      ConfigError: it is drawn by pygame, which is not installed.
    """
    for cls in type(env).__mro__:
        make = _DRAWN.get(cls.__module__.removeprefix(f"{PACKAGE}environments."))
        if make is not None:
            return make(env)
    return None


def _grid(height: int, width: int, color: tuple[int, int, int] = WHITE) -> Picture:
    return np.full((height, width, 3), color, np.uint8)


def _channels(env: Any) -> Draw:
    """MinAtar and Pong: an observation whose channels are kinds of things; the last one lies on top."""

    @jax.jit
    def top(state: PyTree, params: PyTree) -> jax.Array:
        obs = env.observe(jax.random.key(0), state, None, params)  # draws nothing
        return jnp.max((obs > 0) * (1 + jnp.arange(obs.shape[-1])), axis=-1)

    return lambda state, params: CHANNELS[np.asarray(top(state, params))]


def _catch(env: Any) -> Draw:
    def draw(state: Any, params: PyTree) -> Picture:
        del params
        picture = _grid(int(env.rows), int(env.columns), BLACK)
        picture[int(state.paddle_y), int(state.paddle_x)] = SKY
        picture[int(state.ball_y), int(state.ball_x)] = ORANGE
        return picture

    return draw


def _maze(env: Any) -> Draw:
    occupied = np.asarray(env.occupied_map, bool)

    def draw(state: Any, params: PyTree) -> Picture:
        del params
        picture = np.where(occupied[..., None], np.uint8(70), np.uint8(255)).repeat(3, axis=-1)
        picture[tuple(np.asarray(state.goal))] = ORANGE
        picture[tuple(np.asarray(state.pos))] = BLUE
        return picture

    return draw


def _deep_sea(env: Any) -> Draw:
    def draw(state: Any, params: PyTree) -> Picture:
        del params
        size = int(env.size)
        picture = _grid(size, size, BLACK)
        picture[-1, -1] = ORANGE  # the treasure
        picture[min(int(state.row), size - 1), min(int(state.column), size - 1)] = SKY
        return picture

    return draw


def _lake(env: Any) -> Draw:
    tiles = np.array([WHITE, (210, 230, 245), BLACK, ORANGE], np.uint8)  # start, frozen, hole, goal

    def draw(state: Any, params: PyTree) -> Picture:
        del params
        picture = tiles[np.asarray(env.desc)]
        picture[divmod(int(state.position), env.ncol)] = BLUE
        return picture

    return draw


def _point(env: Any) -> Draw:
    """PointRobot: goals lie on the upper half of the unit circle, and count within a radius."""
    del env
    y, x = np.meshgrid(np.linspace(1.3, -0.5, 216), np.linspace(-1.3, 1.3, 312), indexing="ij")

    def draw(state: Any, params: Any) -> Picture:
        picture = _grid(*x.shape)
        goal_x, goal_y = np.asarray(state.goal)
        at_x, at_y = np.clip(np.asarray(state.pos), (-1.25, -0.45), 1.25)  # one outside is at the edge
        picture[(np.abs(np.hypot(x, y) - 1) < 0.008) & (y >= 0)] = GRAY
        picture[np.hypot(x - goal_x, y - goal_y) < float(params.goal_radius)] = ORANGE
        picture[np.hypot(x - at_x, y - at_y) < 0.05] = BLUE
        return picture

    return draw


def _classic(name: str, env: Any) -> Draw:
    """Classic control, by Gymnasium's drawing of the same name."""
    del env
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame's, of what it imports itself
        with _no_screen():
            extra("pygame", "video", f"{name} is drawn by Gymnasium")
    import gymnasium
    from gymnax.visualize import vis_gym

    made: Any = gymnasium.make(name, render_mode="rgb_array").unwrapped
    made.reset(seed=0)

    def draw(state: Any, params: PyTree) -> Picture:
        vis_gym.set_gym_params(made, name, params)
        made.state = vis_gym.get_gym_state(state, name)
        made.last_u = float(state.last_u) if hasattr(state, "last_u") else None  # Pendulum's torque
        with _no_screen():  # the first call looks for one
            return made.render()

    return draw


@contextmanager
def _no_screen() -> Generator[None]:
    """SDL, below pygame, finds neither a screen nor sound, and pygame greets nobody."""
    names = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# By the module of the class, below `gymnax.environments`.
_DRAWN: dict[str, Callable[[Any], Draw]] = {
    "classic_control.acrobot": partial(_classic, "Acrobot-v1"),
    "classic_control.cartpole": partial(_classic, "CartPole-v1"),
    "classic_control.continuous_mountain_car": partial(_classic, "MountainCarContinuous-v0"),
    "classic_control.mountain_car": partial(_classic, "MountainCar-v0"),
    "classic_control.pendulum": partial(_classic, "Pendulum-v1"),
    **{f"minatar.{name}": _channels for name in ("asterix", "breakout", "freeway", "seaquest")},
    "minatar.space_invaders": _channels,
    "misc.pong": _channels,
    "bsuite.catch": _catch,
    "bsuite.deep_sea": _deep_sea,
    "misc.frozen_lake": _lake,
    "misc.meta_maze": _maze,
    "misc.point_robot": _point,
    "misc.rooms": _maze,
}
