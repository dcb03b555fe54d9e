"""The directory of a run: who holds it, what it says of itself, where its parts are.

In: a path. Out: `config.yaml`, `run.json`, `README.md`, a lock. Knows nothing of the loop, nor of what is
in a checkpoint. What is read from a directory is data: nothing in it is executed.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from jaxtrain.config.modules import RUN
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.runs import disk

CONFIG, LOG, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
README = """\
A run of jaxtrain.

- `config.yaml`: what was asked for, complete
- `run.json`: seed; from which checkpoint of another run it began, if from one; path and sha256 of each module
  of one's own that the config names; for each start of the run: versions, device, command, how it ended
- `metrics.jsonl`: the log, a JSON object a line: name, update, env_steps, time, values (lists over seeds)
- `tensorboard/`, `wandb/`: mirrors of it
- `checkpoints/ENV_STEPS/`: all of the state; `sha256sum -c manifest.sha256` in one checks its manifest,
  `jaxtrain verify .` checks all there is
- `autotune/`: on a GPU, which kernels were chosen: with others the bits would differ
- `checkpoints/*.set-aside*`: one that was found damaged; nothing reads it again
- `lock`: held by the process that runs it

    jaxtrain resume .                            # go on, exactly as if nothing had happened
    jaxtrain resume . --total-env-steps N        # go on for longer
    jaxtrain evaluate .                          # complete episodes with the best policy
    python -c "import jaxtrain; run = jaxtrain.load('.'); policy = jaxtrain.load_policy('.')"
"""
HELD = (RUN, CONFIG, LOG, CHECKPOINTS)  # what tells a run's directory from another
# What a run may leave that was killed before it was one; the next start writes over both.
BEGUN = ("lock", disk.unfinished(Path(RUN)).name)
_LATER = ("tensorboard", "wandb", "autotune")  # what a run has only with those, and writes and deletes in
_OWNER = b"process "  # how a lock begins
_FLAGS = ("JAX_", "XLA_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_CPP_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.I)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunDirectory:
    """A run's directory, held by this process alone until `release`, or until the process is gone.

    Raises:
      ConfigError: it cannot be made, written or read, or another process holds it.
    """

    def __init__(self, path: str | Path) -> None:
        if "\0" in str(path):
            raise self._refuse(path, "needs a path without NUL")
        self.path = Path(path)
        self._lock: IO[str] | None = None
        try:
            if self.path.exists() and not self.path.is_dir():
                raise self._refuse(path, "cannot be written (is a file); needs a directory")
            with disk.plain(self.path.absolute()):
                pass  # else it would be known at the first checkpoint
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]  # the innermost first
            self.path.mkdir(parents=True, exist_ok=True)
            self.path = self.path.resolve()
            self.name = self.path.name
            self.holds_run = any((self.path / name).exists() for name in HELD)
            for name in (*HELD, "lock", "tensorboard", "wandb"):
                part = inside(self.path, name)
                if name in (*HELD, "lock") and part.exists() and part.is_dir() != (name == CHECKPOINTS):
                    kind = "a directory" if name == CHECKPOINTS else "a file"
                    raise self._refuse(path, f"has {name}, which should be {kind}")
            for part in (self.path / "tensorboard").glob("*"):  # with single seeds it has directories
                inside(self.path, part.relative_to(self.path).as_posix())
            foreign = [name for name in _LATER if not self.holds_run and (self.path / name).exists()]
            if foreign:
                rule = f"holds {foreign[0]}/, which is no run's, and which a run would write to; give another"
                raise self._refuse(path, rule)
            if not _is_lock(self.path / "lock"):
                rule = "holds a lock that is no run's, which a run would replace; give another"
                raise self._refuse(path, rule)
            self._acquire()
        except UnicodeEncodeError:
            raise self._refuse(path, "needs a path that the file system can encode") from None
        except OSError as error:
            raise self._refuse(path, f"cannot be written ({error.strerror})") from None

    def _acquire(self) -> None:
        # The kernel lets go of it when the process ends, however that comes about: no lock is ever stale.
        deadline = time.monotonic() + 5
        while True:
            try:
                lock = (self.path / "lock").open("a+", encoding="utf-8")
            except FileNotFoundError:  # with the directory: see `_leave_nothing`
                self.path.mkdir(parents=True, exist_ok=True)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock, self.path / "lock"):
                    break
                lock.close()  # one that was refused has taken it away in between
            except BlockingIOError:
                # Who holds it since an instant has not said so yet; and to look who does is to share it.
                time.sleep(0.05)
                owner = owner_of(self.path)
                lock.close()
                if owner is not None or time.monotonic() > deadline:
                    rule = f"is in use by {owner or 'another process'}; wait for its end or stop it"
                    raise self._refuse(self.path, rule) from None
        self._lock = lock
        line = f"{_OWNER.decode()}{os.getpid()} on {socket.gethostname()} since {now()}\n".encode()
        try:
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), line)  # not buffered: a full disk is met here, not when it is closed
        except OSError:
            self.release()
            raise

    @staticmethod
    def _refuse(path: object, rule: str) -> ConfigError:
        return ConfigError([Problem(f"directory {str(path)!r}", MISSING, rule)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is not None:
                self._leave_nothing()
        finally:
            self.release()

    def _leave_nothing(self) -> None:
        """Take away what a request that came to nothing has made, if nobody has put anything there since."""
        with suppress(OSError):  # another process is about to begin there
            if [path.name for path in self.path.iterdir()] == ["lock"]:
                (self.path / "lock").unlink()
                for made in self._made:
                    made.rmdir()

    def release(self) -> None:
        """Let others have it. The lock's file stays, for those who wait for it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def refuse(self, rule: str) -> ConfigError:
        """An error about this directory."""
        return self._refuse(self.path, rule)

    def write_about(self, about: Mapping[str, Any]) -> None:
        disk.write(self.path / RUN, json.dumps(about, indent=2) + "\n")

    def describe(self, config: str) -> None:
        """Write the config and a note on what is where."""
        disk.write(self.path / CONFIG, config)
        if not (self.path / "README.md").exists():
            disk.write(self.path / "README.md", README)


def _is_lock(path: Path) -> bool:
    """Whether a lock says who holds or held it, is about to say it, or is not there."""
    try:
        with path.open("rb") as lock:
            return _OWNER.startswith(lock.read(len(_OWNER)))
    except FileNotFoundError:
        return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def read_about(path: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    try:
        about = json.loads((path / RUN).read_text(encoding="utf-8"))
        if not isinstance(about, dict) or not isinstance(about.get("starts"), list):
            raise ValueError("it has no starts")
        return about
    except FileNotFoundError:
        missing = f"{RUN} in it" if path.is_dir() else "such directory"
        rule = f"holds no run: there is no {missing}"
    except OSError as error:
        rule = f"holds no run that can be read: {RUN}: {error.strerror}"
    except ValueError as error:
        rule = f"holds no run that can be read: {RUN} is not that of a run ({error})"
    raise ConfigError([Problem(f"directory {str(path)!r}", MISSING, rule)])


def owner_of(path: Path) -> str | None:
    """Which process holds a run's directory; None if none does."""
    try:
        with (path / "lock").open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "another process"
    except OSError:
        pass
    return None


def inside(directory: Path, name: str) -> Path:
    """The path of something in a run's directory.

    Raises:
      ConfigError: a name that leads out of it, by `..` or by a link.
    """
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        rule = f"{name} leads out of it, to {path.resolve()}; a run's files are all in its directory"
        raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])
    return path


def this_start(
    resumed_at: int | None, versions: Mapping[str, str], device: Mapping[str, Any]
) -> dict[str, Any]:
    """What is worth knowing of this process; nothing of the environment whose name hints at a secret."""
    flags = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_FLAGS)}
    return {
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": now(),
        "resumed_at": resumed_at,
        "ended": None,
        "exit": None,
        "device": dict(device),
        "versions": dict(versions),
        "flags": {k: v for k, v in flags.items() if not _SECRET.search(k)},
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Of the working directory: the commit, and whether anything differs from it; None outside of git."""

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=5, check=True, stdin=subprocess.DEVNULL
        )
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
