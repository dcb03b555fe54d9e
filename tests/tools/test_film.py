"""Films are whole files with every picture in them, and an episode's end can be read off its last one."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from jaxtrain import ConfigError
from jaxtrain.tools import film
from jaxtrain.tools.film import Caption

SMALL = np.zeros((5, 3, 3), np.uint8)
COUNT = 4


def frames(count=COUNT, width=film.LEAST):
    """Pictures that all differ."""
    for step in range(count):
        picture = np.full((10, 10, 3), 255, np.uint8)
        picture[step] = 0
        yield film.captioned(picture, Caption("a film", step, -1.5 * step), width)


def test_endings_differ_from_each_other_and_from_none_without_their_colors_too():
    pictures = [
        film.captioned(SMALL, Caption("x", 3, 1.0, ending), 240).astype(int).mean(-1) < 200
        for ending in (None, *film.ENDINGS)
    ]
    for i, one in enumerate(pictures):
        assert all((one != other).sum() > 100 for other in pictures[:i])
    words = [ending.words for ending in film.ENDINGS.values()]
    assert len({*words}) == len(film.ENDINGS)
    assert film.ENDINGS["terminated"].dashed != film.ENDINGS["truncated"].dashed


def test_step_and_return_are_in_the_picture():
    some = [Caption("x", 3, 1.0), Caption("x", 4, 1.0), Caption("x", 3, 2.0), Caption("y", 3, 1.0)]
    pictures = [film.captioned(SMALL, caption, 240) for caption in some]
    assert len({picture.tobytes() for picture in pictures}) == len(some)
    assert len({picture[film.BAND :].tobytes() for picture in pictures}) == 1  # and nowhere below


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (10, 10), (7, 301), (400, 600), (999, 2), (1200, 900)])
def test_a_picture_of_any_size_has_a_caption_that_fits_and_even_sides(shape):
    long = "package.module:" + "Environment" * 40
    made = film.captioned(np.zeros((*shape, 3), np.uint8), Caption(long, 10**6, -(10.0**6), "cut"), 240)
    height, width, _ = made.shape
    assert width % 2 == height % 2 == 0 and film.LEAST <= width <= film.LEAST + 2 * film.FRAME + 1
    assert (made[:2] == 255).all() and (made[: film.BAND, -3:] == 255).all()


def test_a_small_picture_is_drawn_larger_by_whole_pixels():
    picture = np.array([[[0, 0, 0], [200, 0, 0]]], np.uint8)
    made = film.captioned(picture, Caption("x", 0, 0.0), 240)
    red = np.argwhere((made == [200, 0, 0]).all(-1))
    assert np.ptp(red, axis=0).tolist() == [119, 119] and len(red) == 120**2


def test_a_gif_has_every_picture(tmp_path):
    path = tmp_path / "a.gif"
    film.save(path, frames(), fps=10)
    with Image.open(path) as found:
        assert [f.info["duration"] for f in ImageSequence.Iterator(found)] == [100] * COUNT
        for made, read in zip(frames(), ImageSequence.Iterator(found), strict=True):
            assert np.abs(made - np.asarray(read.convert("RGB"), int)).mean() < 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_an_mp4_has_every_picture(tmp_path):
    import imageio_ffmpeg

    path = tmp_path / "a.mp4"
    film.save(path, frames(), fps=10)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, *raw]
    read = np.frombuffer(subprocess.run(program, capture_output=True, check=True).stdout, np.uint8)
    made = np.stack([*frames()])
    assert np.abs(made - read.reshape(made.shape).astype(int)).mean() < 4


def test_a_strip_has_first_and_last_step_and_rows_of_one_length():
    assert film.shown_of(0) == [0] and film.shown_of(3) == [0, 1, 2, 3]
    assert film.shown_of(500) == [0, 100, 200, 300, 400, 500]
    made = [*frames()]
    height, width, _ = made[0].shape
    strip = film.strip([made, made[:1]])
    assert strip.shape == (2 * height, COUNT * width, 3)
    assert (strip[:height, -width:] == made[-1]).all() and (strip[height:, width:] == 255).all()


@pytest.mark.parametrize("kind", [*film.WIDTHS])
def test_a_film_that_cannot_be_written_leaves_the_one_that_was_there(kind, tmp_path):
    path = tmp_path / f"a{kind}"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file may grow beyond
    try:
        with pytest.raises(OSError, match=r"File too large|^ffmpeg: "):
            film.save(path, frames(), fps=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("film", "needs a file that ends in .gif, .mp4, .png"),
        ("film.avi", "needs a file that ends in .gif, .mp4, .png"),
        ("nowhere/film.gif", "there is no directory"),
        (".", "needs a file that ends in"),
    ],
)
def test_a_place_where_no_film_can_be_is_refused(out, rule, tmp_path):
    with pytest.raises(ConfigError, match=f"^out = .*: {rule}"):
        film.checked(tmp_path / out)


def test_what_a_kind_needs_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    film.checked(tmp_path / "a.GIF")
    with pytest.raises(
        ConfigError, match=r"^imageio_ffmpeg: is not installed; .*pip install 'jaxtrain\[video"
    ):
        film.checked(tmp_path / "a.mp4")
