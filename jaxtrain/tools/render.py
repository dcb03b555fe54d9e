"""`jaxtrain render`: a saved policy acting, as a GIF, an MP4 or a PNG.

In: the directory of a run, what to show. Out: a file, drawn without a screen. Nothing in the run changes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import envs
from jaxtrain.config import modules
from jaxtrain.config import yaml as files
from jaxtrain.config.number import whole
from jaxtrain.config.schema import Config, EvaluationConfig
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.event import OnReset, OnStep, Part
from jaxtrain.loop import episodes as walking
from jaxtrain.loop.build import bound, part_of
from jaxtrain.loop.rollout import Collector
from jaxtrain.paths import as_path
from jaxtrain.runs import directory as rundir
from jaxtrain.runs.load import LoadedRun, Which, open_run
from jaxtrain.tools import film, output
from jaxtrain.tools.commands import which
from jaxtrain.tools.film import Caption
from jaxtrain.types import Env, PyTree

STEPS = 128  # that one call of the compiled program takes
FPS, FPS_OF_GRIDS, FPS_MOST = 30, 10, 100  # pictures a second, of which one is a step
USAGE = (
    "RUN --out FILE [--episodes N] [--which best|last|ENV_STEPS] [--member I] [--sampled] [--seed N] "
    "[--fps N]"
)
HELP = """\
It imports and calls what the run names: render only a run that you trust. With
pip install 'jaxtrain[video]'; one's own environment has a method
render(state, params) -> uint8[H, W, 3].
"""


class Episode(NamedTuple):
    """One that was drawn."""

    returned: float  # undiscounted
    length: int  # steps
    ending: str  # "terminated", "truncated", or "cut" at `evaluation.max_episode_steps`


class Rendered(NamedTuple):
    """What `render` gives."""

    path: Path
    env: str  # what it is called
    env_steps: int  # done at the checkpoint
    member: int
    episodes: tuple[Episode, ...]


def render(
    directory: str | Path,
    out: str | Path,
    *,
    episodes: int = 1,
    which: Which = "best",
    member: int | None = None,
    sampled: bool = False,
    seed: int | None = None,
    fps: int | None = None,
    config: Config | None = None,
    events: Sequence[Part] = (),
) -> Rendered:
    """Draw complete episodes of a saved policy, those that the run's evaluation has on its key.

    They are in the environment of the evaluation, with its hooks and nominal parameters. What the run names
    is imported and called, as by `load_policy`.

    Args:
      out: ends in .gif or .mp4; or in .png, which has some steps of each episode, a row for each.
      which: "best", "last" or env steps.
      member: of several; unset, the best.
      sampled: actions are drawn, where the run's own evaluation may take the most probable ones.
      seed: of new draws; unset, those of the run's evaluation.
      fps: steps a second; unset 30, of grids 10.
      config, events: see `load_policy`.

    Raises:
      ConfigError: see `load_policy`; an environment that cannot be drawn, a missing package, a place where no
        file can be. Nothing has compiled but the start of an episode.
      OSError: the file cannot be written.
    """
    path = film.checked(out)
    episodes = whole("episodes", episodes, low=1)
    seed = None if seed is None else whole("seed", seed)
    fps = None if fps is None else whole("fps", fps, low=1, high=FPS_MOST)
    saved = open_member(directory, which, member, config=config, events=events)
    settings: EvaluationConfig = saved.trainer.config.evaluation
    settings = dataclasses.replace(settings, num_episodes=episodes, greedy=settings.greedy and not sampled)
    place = settings.env or saved.trainer.config.env
    env, where = envs.make(place.id), "env" if settings.env is None else "evaluation.env"
    draw = envs.renderer(env, place.id, path=where)
    key = saved.trainer.evaluation_key(saved.state)
    if seed is not None:
        key = jax.random.fold_in(jax.random.key(seed), saved.seeds.all[0])
    params = envs.batch(envs.params(env, place.params), episodes)
    collector = _collector(env, saved, settings)
    started = jax.jit(partial(walking.begin, collector))(key, params)
    first = draw(*_one((started[1].state, started[0].env_params), (0,)))
    walked = _walked(collector, saved, settings, started)
    name = place.id if isinstance(place.id, str) else type(place.id).__name__
    reel = _Reel(name, walked, partial(_same_size, draw, first.shape, where))
    if fps is None:
        fps = FPS_OF_GRIDS if max(first.shape) < film.LEAST // 2 else FPS
    kind = path.suffix.lower()
    width = film.WIDTHS[kind]
    film.save(path, reel.strip(width) if kind == ".png" else reel.frames(width, hold=fps), fps)
    return Rendered(path, name, saved.manifest["env_steps"], saved.seeds.all[0], walked.episodes)


def _collector(env: Env, saved: LoadedRun, settings: EvaluationConfig) -> Collector:
    """What steps the environments as in the run's evaluation, and does not end episodes."""
    hooks = [bound(part, part.params) for part in map(part_of, settings.events)]
    return walking.watched(
        Collector(
            env=env,
            num_envs=settings.num_episodes,
            length=1,
            carry=saved.trainer.algorithm(saved.state).carry,
            on_reset=tuple(hook for hook in hooks if isinstance(hook, OnReset)),
            on_step=tuple(hook for hook in hooks if isinstance(hook, OnStep)),
        )
    )


class _Walked(NamedTuple):
    """K complete episodes."""

    states: PyTree  # of the environments, leaves [T + 1, K, ...]
    returns: np.ndarray  # f32[T + 1, K], so far
    env_params: PyTree  # leaves [K, ...]
    episodes: tuple[Episode, ...]


def _walked(
    collector: Collector, saved: LoadedRun, settings: EvaluationConfig, started: tuple[Any, Any]
) -> _Walked:
    """Step all episodes, at once, until the last has ended."""

    @jax.jit
    def go_on(state: Any, walked: walking.Walked) -> tuple[walking.Walked, walking.Moment]:
        algorithm = saved.trainer.algorithm(state)
        policy = (algorithm.policy if settings.greedy else algorithm.sample)(state.agent, state.clock)
        return walking.go_on(collector, policy, walked, STEPS)

    walked, first = started
    found, steps = [jax.tree.map(lambda x: x[None], first)], 0
    ended = np.zeros(collector.num_envs, bool)
    while not ended.all() and steps < settings.max_episode_steps:
        walked, moments = go_on(saved.state, walked)
        found.append(moments)
        ended |= np.asarray(moments.terminated | moments.truncated).any(axis=0)
        steps += STEPS
    moments = jax.tree.map(lambda *x: jnp.concatenate(x), *found)
    returns, terminated, truncated = (np.asarray(x)[: settings.max_episode_steps + 1] for x in moments[1:])
    made = tuple(map(_episode, returns.T, terminated.T, truncated.T))
    return _Walked(moments.state, returns, walked.env_params, made)


def _episode(returns: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> Episode:
    """Of what is known of an episode at its steps, each of which has an entry."""
    done = np.flatnonzero(terminated | truncated)
    length = int(done[0]) if done.size else len(returns) - 1
    ending = "terminated" if terminated[length] else "truncated" if truncated[length] else "cut"
    return Episode(float(returns[length]), length, ending)


@jax.jit
def _one(tree: PyTree, index: tuple[Any, ...]) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def _same_size(
    draw: Callable[[PyTree, PyTree], np.ndarray],
    shape: tuple[int, ...],
    where: str,
    state: PyTree,
    params: PyTree,
) -> np.ndarray:
    """A picture, of the size that the first one had."""
    picture = draw(state, params)
    if picture.shape != shape:
        rule = f"gives uint8{list(picture.shape)}, at the start it was uint8{list(shape)}"
        raise ConfigError([Problem(f"{where}: render", MISSING, rule)])
    return picture


@dataclasses.dataclass(frozen=True)
class _Reel:
    """Pictures of episodes, drawn when they are asked for."""

    name: str
    walked: _Walked
    draw: Callable[[PyTree, PyTree], np.ndarray]

    def frames(self, width: int, hold: int) -> Iterator[np.ndarray]:
        """Every step of every episode; the last one of each `hold` times more."""
        for k, episode in enumerate(self.walked.episodes):
            for step in range(episode.length):
                yield self._frame(k, step, width)
            yield from [self._frame(k, episode.length, width)] * (1 + hold)

    def strip(self, width: int) -> Iterator[np.ndarray]:
        """One picture of all episodes, a row for each."""
        steps = [film.shown_of(episode.length) for episode in self.walked.episodes]
        yield film.strip([[self._frame(k, step, width) for step in row] for k, row in enumerate(steps)])

    def _frame(self, k: int, step: int, width: int) -> np.ndarray:
        episode, count = self.walked.episodes[k], len(self.walked.episodes)
        state = _one(self.walked.states, (step, k))
        picture = self.draw(state, _one(self.walked.env_params, (k,)))
        title = self.name if count == 1 else f"{self.name}  {k + 1}/{count}"
        ending = episode.ending if step == episode.length else None
        returned = float(self.walked.returns[step, k])
        return film.captioned(picture, Caption(title, step, returned, ending), width)


def arguments(parser: argparse.ArgumentParser, number: Callable[[str], Any]) -> None:
    """What `jaxtrain render` takes."""
    parser.epilog = HELP
    parser.add_argument("directory", metavar="RUN", help="directory of the run")
    parser.add_argument("--out", metavar="FILE", required=True, help="ends in .gif, .mp4 or .png")
    parser.add_argument("--episodes", type=number, default=1, metavar="N", help="default 1")
    parser.add_argument("--which", type=which, default="best", help="best (default), last, or env steps")
    parser.add_argument("--member", type=number, metavar="I", help="of several, from 0; default the best")
    parser.add_argument("--sampled", action="store_true", help="draw actions; default: as in the run")
    parser.add_argument("--seed", type=number, metavar="N", help="new draws; default: those of the run")
    parser.add_argument("--fps", type=number, metavar="N", help="steps a second; default 30, of grids 10")


def main(options: argparse.Namespace) -> int:
    """Run `jaxtrain render`."""
    film.checked(options.out)  # before anything of the run is imported
    announce("render", options.directory)
    names = ("episodes", "which", "member", "sampled", "seed", "fps")
    try:
        made = render(options.directory, options.out, **{name: getattr(options, name) for name in names})
    except OSError as error:
        output.warn(f"jaxtrain: {options.out} cannot be written: {error}")
        return 1
    output.show(
        f"{made.path}: {made.env}, member {made.member} at {made.env_steps:,} env steps",
        *(
            f"episode {k}: return {episode.returned:,.1f}, {episode.length:,} steps, "
            f"{film.ENDINGS[episode.ending].words}"
            for k, episode in enumerate(made.episodes, 1)
        ),
    )
    return 0


def open_member(directory: str | Path, which: Which, member: int | None, **given: Any) -> LoadedRun:
    """A checkpoint of one member of a run, as `jaxtrain.runs.load.open_run` has it of one seed."""
    try:
        return open_run(directory, which, one=True, seed=member, **given)
    except ConfigError as error:
        named = [p._replace(path="member") if p.path == "seed" else p for p in error.problems]
        raise ConfigError(named) from error.__cause__


def announce(command: str, directory: str | Path) -> None:
    """Say which code of a run's a command is about to import and call, if any is its own."""
    place = as_path("directory", directory)
    rundir.read_about(place)  # says so if it holds no run
    names = sorted({str(value) for _, value, _ in modules.named(files.read(rundir.config_of(place)))})
    if names:
        output.warn(f"jaxtrain: {command} imports and calls what the run names: {', '.join(names)}")
