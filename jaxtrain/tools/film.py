"""Pictures with a caption, and files of them: GIF, MP4 or one PNG.

In: uint8[H, W, 3] and what is to be said of them. Out: a file, whole or not at all.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.errors import ConfigError, Problem
from jaxtrain.names import extra
from jaxtrain.paths import as_path
from jaxtrain.tools.files import whole

EXTRA = "video"
WIDTHS = {".gif": 400, ".mp4": 600, ".png": 240}  # pixels that a picture has at most, by the kind of file
LEAST = 240  # pixels of a caption
BAND, FRAME, TEXT = 44, 6, 14  # pixels: the caption's height, the frame around a picture, and letters
COLORS = 64  # of a GIF
ACROSS = 6  # pictures of an episode in a PNG


class Ending(NamedTuple):
    """How an episode's end looks: a color, and a frame that is whole or dashed."""

    words: str
    color: tuple[int, int, int]
    dashed: bool


# Told apart by words and lines too, not by color alone.
ENDINGS = {
    "terminated": Ending("terminated", (213, 94, 0), dashed=False),
    "truncated": Ending("time limit", (0, 114, 178), dashed=True),
    "cut": Ending("cut off", (110, 110, 110), dashed=True),
}


class Caption(NamedTuple):
    """What is said above a picture."""

    title: str
    step: int
    returned: float
    ending: str | None = None  # one of `ENDINGS`, on an episode's last picture


def checked(out: Any) -> Path:
    """The path of a film to be written.

    Raises:
      ConfigError: no file of a known kind, or in no directory; or a package that writes it is missing.
    """
    path = as_path("out", out)
    if path.suffix.lower() not in WIDTHS or path.is_dir():
        raise ConfigError([Problem("out", str(out), f"needs a file that ends in {', '.join(WIDTHS)}")])
    if not path.parent.is_dir():
        raise ConfigError([Problem("out", str(out), f"there is no directory {str(path.parent)!r}")])
    extra("PIL.Image", EXTRA, "pictures are written by it")
    if path.suffix.lower() == ".mp4":
        _ffmpeg()
    return path


def _ffmpeg() -> Any:
    return extra("imageio_ffmpeg", EXTRA, "MP4 is written by the ffmpeg in it; GIF and PNG need none")


def captioned(picture: np.ndarray, caption: Caption, width: int) -> np.ndarray:
    """A picture below its caption, uint8[H, W, 3], both even; all of one size for pictures of one size.

    Args:
      width: pixels that the picture has at most; a small one is drawn larger, by a whole number.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    if (times := width // max(image.size)) > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    elif image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    across, down = max(image.width, LEAST) + 2 * FRAME, image.height + BAND + 2 * FRAME
    made = Image.new("RGB", (across + across % 2, down + down % 2), "white")
    left, top = (made.width - image.width) // 2, BAND + FRAME
    made.paste(image, (left, top))
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(TEXT)
    room, low = made.width - 2 * FRAME, FRAME + TEXT + 3
    title = _fitting(caption.title, lambda text: pen.textlength(text, font) <= room)
    pen.text((FRAME, 3), title, "black", font)
    pen.text((FRAME, low), f"step {caption.step:,}   return {caption.returned:,.1f}", "black", font)
    if caption.ending is not None:
        ending = ENDINGS[caption.ending]
        at = made.width - FRAME - pen.textlength(ending.words, font)
        pen.text((at, low), ending.words, ending.color, font)
        box = (left - FRAME, top - FRAME, left + image.width + FRAME, top + image.height + FRAME)
        _surround(pen, box, ending)
    return np.asarray(made)


def _fitting(text: str, fits: Callable[[str], bool]) -> str:
    """A text, without its middle where it does not fit."""
    short = text
    for length in range(len(text) - 1, 1, -1):
        if fits(short):
            break
        short = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
    return short


def _surround(pen: Any, box: tuple[int, int, int, int], ending: Ending) -> None:
    """A frame just inside `box`, `FRAME` pixels wide."""
    left, top, right, bottom = box
    pen.rectangle((left, top, right - 1, bottom - 1), outline=ending.color, width=FRAME)
    if not ending.dashed:
        return
    for x in range(left + 2 * FRAME, right, 4 * FRAME):
        for y in (top, bottom - FRAME):
            pen.rectangle((x, y, x + 2 * FRAME - 1, y + FRAME - 1), fill="white")
    for y in range(top + 2 * FRAME, bottom, 4 * FRAME):
        for x in (left, right - FRAME):
            pen.rectangle((x, y, x + FRAME - 1, y + 2 * FRAME - 1), fill="white")


def save(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write a film; a file that was there stays until the new one is whole.

    Args:
      frames: uint8[H, W, 3], at least one, all of one size; of a PNG one.

    Raises:
      OSError: it cannot be written.
    """
    write = {".gif": _gif, ".mp4": _mp4, ".png": _png}[path.suffix.lower()]
    with whole(path) as part:
        write(part, iter(frames), fps)


def _gif(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    from PIL import Image

    def reduced(frame: np.ndarray) -> Any:
        image = Image.fromarray(frame)
        return image.quantize(COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)

    first, rest = reduced(next(frames)), map(reduced, frames)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _mp4(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    first = next(frames)
    size = f"{first.shape[1]}x{first.shape[0]}"
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    made = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    # Its own `write_frames` forks, which a process with threads, as one with JAX, may not survive.
    program = [_ffmpeg().get_ffmpeg_exe(), "-loglevel", "error", *given, *made]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=said) as ffmpeg:
            assert ffmpeg.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, and says why
                for frame in itertools.chain([first], frames):
                    ffmpeg.stdin.write(frame.tobytes())
                ffmpeg.stdin.close()
        if ffmpeg.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise OSError(f"ffmpeg: {lines[-1]}")


def _png(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    del fps
    from PIL import Image

    Image.fromarray(next(frames)).save(path)


def strip(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures of one size side by side, uint8[H, W, 3]; a row that is shorter is white to its right."""
    longest = max(map(len, rows))
    white = np.full_like(rows[0][0], 255)
    return np.concatenate([np.concatenate([*row, *[white] * (longest - len(row))], axis=1) for row in rows])


def shown_of(length: int) -> list[int]:
    """Which of the steps `0 .. length` a PNG shows: first, last, and some between."""
    return sorted({round(i * length / (ACROSS - 1)) for i in range(ACROSS)})
