"""One checkpoint: arrays in a directory that can prove what it holds.

In: arrays by name, and facts about them. Out: a directory with orbax's files, `manifest.json` with the
sha256 of every file and every array, and `manifest.sha256` with that of the manifest; all three checked
before an array leaves again. Knows nothing of runs, of train states, or of when to save.

The directory is written under another name and renamed when every byte of it is on disk and has been read
back: what has the name of a checkpoint is whole, or was damaged later. Orbax alone restores a flipped bit in
silence, and may save nothing without an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.errors import shortened
from jaxtrain.runs import arrays as files
from jaxtrain.runs import manifest as manifests
from jaxtrain.runs.disk import PART, fsync, fsync_tree

FORMAT = 2
AT_ONCE = 64_000_000  # bytes of arrays that are read back together: of a replay the host has no room for two
_MANIFEST, _DIGEST, _ARRAYS = "manifest.json", "manifest.sha256", "arrays"


class Damaged(Exception):
    """A checkpoint that is not what was saved; says which file, and how."""


class Gone(Damaged):
    """A checkpoint that is not there, or not any more: a run that goes on deletes its older ones."""


@contextmanager
def _reading(place: Path) -> Generator[None]:
    """Tell what is damaged from what has been deleted while it was read."""
    try:
        yield
    except (Damaged, OSError) as error:
        if not os.path.lexists(place):
            raise Gone("it is not there any more") from None
        if isinstance(error, OSError):
            raise Damaged(f"{error.filename or 'it'} cannot be read ({error.strerror})") from None
        raise


def save(
    place: Path,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    *,
    read_back: bool = False,
    check: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Write a checkpoint that exists once this returns, whole, and not at all before.

    Args:
      place: its directory; must not exist.
      arrays: name -> any shape and dtype.
      facts: what the manifest says besides, as JSON.
      read_back: also restore every array before it exists; otherwise its files alone are read again.
      check: called as it is about to exist; with what it raises it does not.

    Returns:
      The manifest.

    Raises:
      OSError: naming the path and the errno; nothing is left behind.
    """
    part = place.with_name(f"{PART}{uuid.uuid4().hex[:8]}")
    try:
        part.mkdir(parents=True)
        size = sum(x.nbytes for x in arrays.values())
        if size > (free := shutil.disk_usage(part).free):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: needs {size:,} bytes, has {free:,}")
        _write(part / _ARRAYS, arrays)
        manifest = {
            "format": FORMAT,
            **facts,
            "arrays": {name: described(x) for name, x in arrays.items()},
            "files": {name: _file(part / name) for name in sorted(_names(part))},
        }
        text = (json.dumps(manifest, indent=1) + "\n").encode()
        (part / _MANIFEST).write_bytes(text)
        (part / _DIGEST).write_text(f"{hashlib.sha256(text).hexdigest()}  {_MANIFEST}\n", encoding="ascii")
        fsync_tree(part)
        verify(part, restore=read_back)
        check()
        os.rename(part, place)
        fsync(place.parent)
        return manifest
    except Damaged as error:
        raise OSError(errno.EIO, f"not what was written: {error}", str(place)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(place)) from None
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    """Remove what could not be finished; orbax's threads go on writing for a moment after one has failed."""
    deadline = time.monotonic() + 2
    while part.exists() and time.monotonic() < deadline:
        shutil.rmtree(part, ignore_errors=True)
        time.sleep(0.01)


def described(x: np.ndarray) -> dict[str, Any]:
    """What the manifest says of an array; two that are described alike have the same bits."""
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
    return {"dtype": str(x.dtype), "shape": list(x.shape), "sha256": hashlib.sha256(data).hexdigest()}


def verify(place: Path, *, restore: bool = False) -> dict[str, Any]:
    """The manifest, once every file is found to be the one that was saved.

    Args:
      restore: and every array too, of which few are in memory at once.

    Raises:
      Damaged: a file that is missing, of another length, changed, or not of this checkpoint.
      Gone: it is not there.
    """
    with _reading(place):
        manifest, found = read_manifest(place), _names(place) - {_MANIFEST, _DIGEST}
        for name in sorted(found ^ manifest["files"].keys()):
            raise Damaged(f"{name} {'does not belong there' if name in found else 'is missing'}")
        for name, wanted in manifest["files"].items():
            try:
                size = (place / name).stat().st_size
                if size != wanted["bytes"]:
                    raise Damaged(f"{name} has {size} bytes, not {wanted['bytes']}")
                if _file(place / name) != wanted:
                    raise Damaged(f"{name} has changed since it was saved")
            except OSError as error:
                raise Damaged(f"{name} cannot be read ({error.strerror})") from None
        for some in _batches(manifest["arrays"]) if restore else ():
            _restored(place, some)
        return manifest


def read_manifest(place: Path) -> dict[str, Any]:
    """The manifest, if it is the one that was saved; the other files are not looked at.

    Raises:
      Damaged: it is missing, has changed, or is of a later format.
      Gone: there is no such checkpoint.
    """
    if place.is_symlink():
        raise Damaged("is a link, whose target is not this run's")
    with _reading(place):
        text, digest = (_bytes(place / name) for name in (_MANIFEST, _DIGEST))
    if digest != f"{hashlib.sha256(text).hexdigest()}  {_MANIFEST}\n".encode("ascii"):
        raise Damaged(f"{_MANIFEST} has changed since it was saved")
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise Damaged(f"{_MANIFEST} is of format {manifest['format']}; this version reads {FORMAT}")
        if not all(isinstance(manifest[name], dict) for name in ("arrays", "files")):
            raise TypeError
    except (ValueError, TypeError, LookupError, RecursionError):
        raise Damaged(f"{_MANIFEST} is none of a checkpoint") from None
    if rule := manifests.fault(manifest):
        raise Damaged(f"{_MANIFEST} is none of a checkpoint: {rule}")
    return manifest


def load(place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the manifest, every byte checked.

    Raises:
      Damaged: see `verify`; or arrays that read back as others than were saved.
      Gone: it is not there, or was deleted meanwhile.
    """
    manifest = verify(place)
    with _reading(place):
        return _restored(place, dict(enumerate(manifest["arrays"].items()))), manifest


def _batches(wanted: Mapping[str, Any]) -> Iterator[dict[int, tuple[str, Any]]]:
    """Arrays by their number, as many at a time as have `AT_ONCE` bytes, or one that has more."""
    batch, size = dict[int, tuple[str, Any]](), 0
    for index, (name, about) in enumerate(wanted.items()):
        size += math.prod(about["shape"]) * 16  # no dtype has more; that its name is one is not known yet
        if batch and size > AT_ONCE:
            yield batch
            batch, size = {}, 0
        batch[index] = name, about
    yield batch


def _restored(place: Path, wanted: Mapping[int, tuple[str, Any]]) -> dict[str, np.ndarray]:
    """Some arrays of a checkpoint by name, found to be those that were saved.

    Args:
      wanted: number in the manifest -> name, and what the manifest says of it.
    """
    try:
        arrays = _read(place / _ARRAYS, wanted)
        said = {name: described(x) for name, x in arrays.items()}
    except Exception as error:  # whatever orbax makes of files that are as they were, or NumPy of a dtype
        said = str(error).strip().partition("\n")[0]
        raise Damaged(f"{_ARRAYS} cannot be read ({type(error).__name__}: {shortened(said)})") from None
    for name, about in wanted.values():
        if said[name] != about:
            raise Damaged(f"array {name} reads back as another one than was saved")
    return arrays


def digest(place: Path) -> str:
    """The sha256 of the manifest, which has that of every file and array: it names the checkpoint's content.

    Raises:
      Damaged: it cannot be read.
      Gone: it is not there.
    """
    with _reading(place):
        return hashlib.sha256(_bytes(place / _MANIFEST)).hexdigest()


def _write(place: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Orbax refuses arrays without entries; the manifest alone says what those are.
    files.write(place, {_key(i): x for i, x in enumerate(arrays.values()) if x.size})


def _read(place: Path, wanted: Mapping[int, tuple[str, Any]]) -> dict[str, np.ndarray]:
    empty = {name: np.zeros(d["shape"], d["dtype"]) for name, d in wanted.values() if 0 in d["shape"]}
    names = {_key(i): name for i, (name, _) in wanted.items() if name not in empty}
    # Which orbax would refuse, were there none.
    held = {names[key]: x for key, x in files.read(place, list(names)).items()} if names else {}
    return {name: empty[name] if name in empty else held[name] for name, _ in wanted.values()}


def _key(index: int) -> str:
    """What orbax calls an array: names of metrics and layers are the user's and may hold anything."""
    return f"{index:05d}"


def _names(place: Path) -> set[str]:
    """Every file below, and what is neither a file nor a directory."""
    return {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_symlink() or not p.is_dir()}


def _bytes(path: Path) -> bytes:
    try:
        _check(path)
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from None


def _check(path: Path) -> None:
    """Raise an OSError for what is no file of this directory: a link may change its target, a pipe blocks."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def _file(path: Path) -> dict[str, Any]:
    _check(path)
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
