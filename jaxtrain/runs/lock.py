"""Which process may write to a run's directory: one, for as long as it lives.

In: a directory. Out: a lock, its file `lock` in the directory, which says who holds it. Where the file system
has no locks, `JAXTRAIN_LOCK=file` takes a weaker way: `lock.exclusive`, a file, there while the run is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

NAME = "lock"
EXCLUSIVE = "lock.exclusive"
VARIABLE, WAYS = "JAXTRAIN_LOCK", ("flock", "file")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_OWNER = b"process "  # how a lock begins
_WAIT_SECONDS = 5.0  # for a process that has just taken it to say who it is


def now() -> str:
    """The time, UTC, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class InUse(Exception):
    """Another process holds the directory; the text is which."""


class NoLocks(Exception):
    """The file system of the directory has no locks; the text is what it says."""


def way() -> str:
    """Which of `WAYS` the environment asks for; what is none of them is refused by whoever reads it."""
    return os.environ.get(VARIABLE) or WAYS[0]


class Lock:
    """A directory that is held by this process alone, until `release` or until the process is gone.

    The kernel lets go when the last process that has the file open is gone. A program that this one starts
    closes it, and so does a child that Python forks: none of them keeps it. A lock that is a file alone stays
    behind a process that was killed.

    Args:
      directory: made if it is not there.
      exclusive: take the weaker way, a file that is made by one process and deleted by it.

    Raises:
      InUse, NoLocks: see there.
      OSError: it cannot be written.
    """

    def __init__(self, directory: Path, *, exclusive: bool = False) -> None:
        self._directory, self._exclusive = directory, exclusive
        self.path = directory / (EXCLUSIVE if exclusive else NAME)
        self._file: int | None = self._made() if exclusive else self._taken()
        self._place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        _held.add(self)
        line = f"{_OWNER.decode()}{os.getpid()} on {socket.gethostname()} since {now()}\n".encode()
        try:
            os.ftruncate(self._file, 0)
            os.write(self._file, line)
        except OSError:
            self.release()
            raise

    def _made(self) -> int:
        owner = owner_of(self._directory)
        try:
            if owner is not None:
                raise FileExistsError
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise InUse(owner or "another process") from None

    def _taken(self) -> int:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            except FileNotFoundError:  # with the directory: whoever was refused takes away what it has made
                self._directory.mkdir(parents=True, exist_ok=True)
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (self._directory / EXCLUSIVE).exists():
                    raise InUse(owner_of(self._directory) or "another process")
                if _is_at(file, self.path):
                    return file
                os.close(file)  # one that was refused has taken it away in between
            except BlockingIOError:
                # Who holds it since an instant has not said so yet; and to look who does is to share it.
                time.sleep(0.05)
                owner = owner_of(self._directory)
                os.close(file)
                if owner is not None or time.monotonic() > deadline:
                    raise InUse(owner or "another process") from None
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    if not os.fstat(file).st_size:
                        self.path.unlink(missing_ok=True)
                    error = NoLocks(error.strerror)
                os.close(file)
                raise error from None
            except InUse:
                os.close(file)
                raise

    @property
    def is_held(self) -> bool:
        """Whether the lock is still the one that its path leads to, for whoever comes to look there."""
        return self._file is not None and _is_at(self._file, self.path)

    @property
    def directory(self) -> Path | None:
        """Where the directory is by now, if it was moved; None where that is not known, or it is gone."""
        if self._file is None:
            return None
        try:
            found = Path(os.readlink(f"/proc/self/fd/{self._place}"))
            return found if _is_at(self._place, found) else None
        except OSError:
            return None

    def release(self) -> None:
        """Let others have it. The lock's file stays, for those who wait for it; an exclusive one goes."""
        if self._exclusive and self.is_held:
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Have no part in it: the process that this one was forked from holds it on."""
        if self._file is not None:
            os.close(self._file)
            os.close(self._place)
            self._file = None
        _held.discard(self)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _release_all() -> None:
    for lock in list(_held):
        lock.close()


# What is open when a process forks is open in the child too, and would be held for as long as that lives.
os.register_at_fork(after_in_child=_release_all)


def is_lock(path: Path) -> bool:
    """Whether a file says who holds or held a directory, is about to say it, or is not there."""
    try:
        with path.open("rb") as lock:
            return _OWNER.startswith(lock.read(len(_OWNER)))
    except FileNotFoundError:
        return True


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def owner_of(directory: Path) -> str | None:
    """Which process holds a directory; None if none does."""
    with suppress(OSError):
        alone = directory / EXCLUSIVE
        said = alone.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        return f"{said} (if that process is no more, delete {alone})"
    try:
        with (directory / NAME).open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "another process"
    except OSError:
        pass
    return None
