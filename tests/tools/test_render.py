"""A saved policy acting is what its evaluation was, drawn."""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtrain import ConfigError
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import open_run
from jaxtrain.tools import film
from jaxtrain.tools.cli import main
from jaxtrain.tools.render import render
from tests.helpers import Walk, tiny

MOST = 5  # steps of an episode; its time limit would be one more
EPISODES = 4


class Seen(Walk):
    """A walk with a bar as long as its time."""

    def render(self, state, params):
        del params
        bar = np.full((2, 8, 3), 255, np.uint8)
        bar[:, : int(state.time)] = 0
        return bar


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two members, of an environment that the command line can name, some of whose episodes are cut."""
    place = tmp_path_factory.mktemp("two") / "run"
    settings = {"every": 8, "num_episodes": 2, "max_episode_steps": MOST}
    config = tiny(2, env=f"{__name__}:Seen", evaluation=settings)
    launch(config, place, num_seeds=2)
    return place, config


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """Several episodes of a member, as a GIF."""
    place, config = run
    out = tmp_path_factory.mktemp("films") / "a.gif"
    return render(place, out, episodes=EPISODES, which="last", member=1, config=config)


def test_episodes_are_those_of_the_runs_evaluation(run, made):
    place, config = run
    saved = open_run(place, "last", config=config, one=True, seed=1)
    settings = dataclasses.replace(config.evaluation, num_episodes=EPISODES)
    report = jax.jit(lambda state: saved.trainer.evaluate(state, settings=settings))(saved.state)
    returns = np.array([episode.returned for episode in made.episodes], np.float32)
    assert (returns.min(), returns.max()) == (report["return_min"], report["return_max"])
    assert np.mean([episode.length for episode in made.episodes]) == report["length_mean"]
    assert [e.ending for e in made.episodes].count("cut") == report["episodes_cut"]
    assert made.member == 1 and made.env_steps == config.total_env_steps


def test_every_step_is_a_picture_and_the_last_is_held(made):
    with Image.open(made.path) as found:
        total = 0
        for index in range(found.n_frames):
            found.seek(index)
            total += found.info["duration"]
    held = 10  # one second of a grid's ten pictures
    assert total == 100 * sum(episode.length + 1 + held for episode in made.episodes)


def test_a_png_has_a_row_for_each_episode(run, made, tmp_path):
    place, config = run
    out = tmp_path / "a.png"
    again = render(place, out, episodes=2, which="last", member=1, config=config)
    assert again.episodes == made.episodes[:2]
    with Image.open(out) as found:
        rows = np.split(np.asarray(found), 2)
    colors = [np.array(film.ENDINGS[episode.ending].color) for episode in again.episodes]
    for row, color in zip(rows, colors, strict=True):
        assert (row == color).all(-1).any()


def test_the_command_says_whose_code_it_runs_and_what_it_drew(run, tmp_path, capsys):
    place, config = run
    words = ["--which", "last", "--member", "0", "--sampled", "--seed", "3", "--fps", "5"]
    texts = []
    for name in ("a.gif", "b.gif"):
        assert main(["render", str(place), "--out", str(tmp_path / name), *words]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("jaxtrain: render imports and calls what the run names: ")
        assert f"{__name__}:Seen" in said.err
        head, *episodes = said.out.splitlines()
        assert head == f"{tmp_path / name}: {__name__}:Seen, member 0 at {config.total_env_steps} env steps"
        texts.append(episodes)
    assert texts[0] == texts[1] and len(texts[0]) == 1 and texts[0][0].startswith("episode 1: return ")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--out", "a.avi"], "out = 'a.avi': needs a file that ends in .gif, .mp4, .png"),
        (["--out", "a.gif", "--episodes", "0"], "episodes = 0: needs an int >= 1"),
        (["--out", "a.gif", "--member", "7"], "member = 7: the run has [0, 1]"),
        (["--out", "a.gif", "--which", "3"], "which = 3: needs 'best', 'last' or one of"),
        (["--out", "a.gif", "--fps", "0"], "fps = 0: needs an int >= 1 and <= 100"),
        (["--out", "a.gif", "--fps", "nan"], "fps = 'nan': needs an int >= 1"),
        (["--out", "a.gif", "--env.id", "x"], "`render` has no such option"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(run, words, rule, tmp_path, monkeypatch, capsys):
    place, _ = run
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(place), *words]) == 2
    assert rule in capsys.readouterr().err and not [*tmp_path.iterdir()]


class Growing(Walk):
    """Its picture grows."""

    def render(self, state, params):
        del params
        return np.zeros((1 + int(state.time), 1, 3), np.uint8)


@pytest.mark.parametrize(
    ("env", "rule"),
    [
        (
            "tests.helpers:Walk",
            "env.id = 'tests.helpers:Walk': cannot be drawn; needs a method render(state,",
        ),
        (Growing(), "env: render: gives uint8[2, 1, 3], at the start it was uint8[1, 1, 3]"),
    ],
)
def test_an_environment_without_a_picture_or_with_pictures_of_several_sizes_is_refused(
    run, env, rule, tmp_path
):
    place, config = run
    there = dataclasses.replace(config, env=dataclasses.replace(config.env, id=env))
    with pytest.raises(ConfigError, match=f"^{re.escape(rule)}"):
        render(place, tmp_path / "a.gif", which="last", config=there)
    assert not [*tmp_path.iterdir()]
