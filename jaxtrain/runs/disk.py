"""Files that are whole or not there, whatever kills the process or the machine.

In: paths, texts and bytes. Out: files. Knows nothing of what they hold.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part-"  # how names of what is not finished begin
_PLAIN = re.compile(r"[\w./ ,=+@~-]*", re.ASCII)


def unfinished(path: Path) -> Path:
    """Where `write` writes a file before it has its name: what a killed process leaves there is its own."""
    return path.with_name(f"{PART}{path.name}")


@contextmanager
def plain(directory: Path) -> Generator[Path]:
    """A path to a directory in which no library can read more than names.

    Orbax globs on the path that it is given, reads a backslash as a slash and `gs:` as a cloud, and takes
    UTF-8 alone. So a path with any such character is replaced by a link to it among the temporary files.

    Raises:
      OSError: the link cannot be made, or would have such characters itself.
    """
    if _PLAIN.fullmatch(str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="jaxtrain-", ignore_cleanup_errors=True) as place:
        if not _PLAIN.fullmatch(place):
            rule = (
                f"neither its path nor that of temporary files, {place}, is of plain characters; set TMPDIR"
            )
            raise OSError(errno.EINVAL, rule)
        link = Path(place) / "link"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def fsync(path: Path) -> None:
    """Return once a file, or the names in a directory, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems have no such call for directories, and keep names themselves.
        if error.errno != errno.EINVAL or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def fsync_name(path: Path, below: Path | None = None) -> None:
    """Return once the name of a file or a directory is on disk.

    Args:
      below: and the names of the directories that it is in, up to this one, whose own name is left out;
        unset, its own name alone.
    """
    for parent in path.parents:
        with suppress(
            PermissionError
        ):  # a directory that may be written to and not read: nothing can be done
            fsync(parent)
        if parent == (below or path.parent):
            return


def fsync_tree(place: Path) -> None:
    """Return once a directory is on disk with all that is below it."""
    for path in (*place.rglob("*"), place):
        fsync(path)


def write(path: Path, content: str | bytes) -> None:
    """Replace a file: a reader sees the old content or the new one, and so does whoever comes after a crash.

    One process at a time may do so; what a killed one has left is written over.

    Raises:
      OSError: naming the path; nothing is left behind.
    """
    part = unfinished(path)
    try:
        part.unlink(missing_ok=True)  # a link that somebody has put there leads elsewhere
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        fsync(part)
        os.replace(part, path)
        fsync(path.parent)
    except OSError as error:  # that of a write names no file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def cut(path: Path, length: int) -> None:
    """Drop what a file holds beyond `length` bytes."""
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) > length:
            file.truncate(length)
            os.fsync(file.fileno())


def sweep(directory: Path) -> dict[Path, str]:
    """Remove what was left unfinished, or half deleted, in a directory.

    Returns:
      What could not be removed, and why: on NFS a file that somebody has open, say.
    """
    left: dict[Path, str] = {}
    for path in directory.glob(f"{PART}*"):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            left[path] = str(error)
    return left
