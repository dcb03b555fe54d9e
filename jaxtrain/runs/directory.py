"""The directory of a run: who holds it, what it says of itself, where its parts are.

In: a path. Out: `config.yaml`, `run.json`, `README.md`, a lock. Knows nothing of the loop, nor of what is
in a checkpoint. What is read from a directory is data: nothing in it is executed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from jaxtrain.config.modules import RUN
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.runs import about as texts
from jaxtrain.runs import disk
from jaxtrain.runs import lock as locks
from jaxtrain.runs.lock import now

CONFIG, LOG, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
README = """\
A run of jaxtrain.

- `config.yaml`: what was asked for, complete
- the sha256 in line 1 of `config.yaml` and in line 2 of `run.json` is of all other lines: who changes such a
  file takes that line away
- `run.json`: seed; from which checkpoint of another run it began, if from one; path and sha256 of each module
  of one's own that the config names; for each start of the run: versions, device, settings, command, how it
  ended
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
BEGUN = (locks.NAME, locks.EXCLUSIVE, disk.unfinished(Path(RUN)).name)
_LATER = ("tensorboard", "wandb", "autotune")  # what a run has only with those, and writes and deletes in
_DEEP = ("tensorboard", "autotune")  # of them those in which a run writes by names that are known beforehand
_NO_LOCKS = (
    "is on a file system without locks ({}), where nothing keeps a second process out. Give another, or set "
    f"{locks.VARIABLE}=file: then a file says that it is taken, to be deleted by hand after a kill"
)
_MOST = 1 << 26  # bytes of `run.json`, or of `config.yaml`
_FLAGS = ("JAX_", "XLA_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_CPP_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.I)


class DirectoryLost(RuntimeError):
    """The directory of a run was moved, deleted or taken while it went on; says where what it had is safe."""


class RunDirectory:
    """A run's directory, held by this process alone until `release`, or until the process is gone.

    Whoever writes to it calls `check` before.

    Raises:
      ConfigError: it cannot be made, written or read, or another process holds it.
    """

    def __init__(self, path: str | Path) -> None:
        if locks.way() not in locks.WAYS:
            raise ConfigError([Problem(locks.VARIABLE, locks.way(), f"needs one of {', '.join(locks.WAYS)}")])
        if "\0" in str(path):
            raise self._refuse(path, "needs a path without NUL")
        self.path = Path(path)
        self._lock: locks.Lock | None = None
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
            for name in (*HELD, locks.NAME, *_LATER):
                part = inside(self.path, name)
                if name in (*HELD, locks.NAME) and part.exists() and part.is_dir() != (name == CHECKPOINTS):
                    kind = "a directory" if name == CHECKPOINTS else "a file"
                    raise self._refuse(path, f"has {name}, which should be {kind}")
            for part in (found for name in _DEEP for found in (self.path / name).rglob("*")):
                inside(self.path, part.relative_to(self.path).as_posix())
            foreign = [name for name in _LATER if not self.holds_run and (self.path / name).exists()]
            if foreign:
                rule = f"holds {foreign[0]}/, which is no run's, and which a run would write to; give another"
                raise self._refuse(path, rule)
            if not locks.is_lock(self.path / locks.NAME):
                rule = "holds a lock that is no run's, which a run would replace; give another"
                raise self._refuse(path, rule)
            self._lock = locks.Lock(self.path, exclusive=locks.way() == "file")
            for path in (self.path, *self._made):
                disk.fsync_name(path)  # else all that is fsynced in it may be nowhere after a power cut
        except locks.InUse as owner:
            raise self._refuse(self.path, f"is in use by {owner}; wait for its end or stop it") from None
        except locks.NoLocks as error:
            with suppress(OSError):
                for made in self._made:
                    made.rmdir()
            raise self._refuse(path, _NO_LOCKS.format(error)) from None
        except UnicodeEncodeError:
            raise self._refuse(path, "needs a path that the file system can encode") from None
        except OSError as error:
            raise self._refuse(path, f"cannot be written ({error.strerror})") from None

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
            lock = self._lock
            if lock is not None and lock.is_held and [*self.path.iterdir()] == [lock.path]:
                lock.path.unlink()
                for made in self._made:
                    made.rmdir()

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self) -> None:
        """Return if what is written to the directory now goes to this run.

        Raises:
          DirectoryLost: the lock that this process holds is no longer the one that a second process would
            find: the directory was moved or deleted, or its lock was.
        """
        assert self._lock is not None  # nothing is written after the release
        if self._lock.is_held:
            return
        now_at, begun = self._lock.directory, locks.owner_of(self.path)
        if now_at is None:
            where = "it was deleted, and what the run had saved with it"
        elif now_at == self.path:
            where = "its lock was deleted or replaced; what the run had saved is in it"
        else:
            where = (
                f"it was moved; what the run had saved is in {str(now_at)!r}, from where it can be resumed"
            )
        other = f"; {begun} holds it" if begun else ""
        raise DirectoryLost(f"directory {str(self.path)!r} is no longer this run's: {where}{other}")

    def refuse(self, rule: str) -> ConfigError:
        """An error about this directory."""
        return self._refuse(self.path, rule)

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        self.check()
        disk.write(self.path / RUN, texts.written(about))

    def describe(self, config: str) -> None:
        """Write the config and a note on what is where."""
        self.check()
        disk.write(self.path / CONFIG, texts.sealed(config))
        if not (self.path / "README.md").exists():
            disk.write(self.path / "README.md", README)


def read_about(path: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
      ConfigError: there is none, or it cannot be read, or it has changed since it was written.
    """
    try:
        return texts.read(_bytes(inside(path, RUN)))
    except (FileNotFoundError, NotADirectoryError):
        missing = f"{RUN} in it" if path.is_dir() else "such directory"
        rule = f"holds no run: there is no {missing}{_around(path)}"
    except OSError as error:
        rule = f"holds no run that can be read: {RUN}: {error.strerror}"
    except ValueError as error:
        rule = f"holds no run that can be read: {RUN} {error}"
    raise ConfigError([Problem(f"directory {str(path)!r}", MISSING, rule)])


def _around(path: Path) -> str:
    """Of a path inside a run, such as one of its checkpoints: what to give in its place."""
    run = next((p for p in path.parents if os.path.lexists(p / RUN)), None)
    if run is None:
        return ""
    is_checkpoint = path.parent == run / CHECKPOINTS and path.name.isdecimal()
    which = f"; --which {int(path.name)} is that checkpoint" if is_checkpoint else ""
    return f"; it is in a run, whose directory is {str(run)!r}{which}"


def config_of(path: Path) -> Path:
    """The config of a run, to read.

    Raises:
      ConfigError: it has changed since it was written.
    """
    found = inside(path, CONFIG)
    try:
        texts.check_config(_bytes(found))
    except OSError:
        pass  # whoever reads it says so
    except ValueError as error:
        raise ConfigError([Problem(str(found), MISSING, str(error))]) from None
    return found


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"has more than {_MOST:,} bytes")
    return data


def inside(directory: Path, name: str) -> Path:
    """The path of something in a run's directory.

    Raises:
      ConfigError: a name that leads out of it, by `..` or by a link, or to what is no file: a pipe blocks.
    """
    path, rule = directory / name, ""
    if not path.resolve().is_relative_to(directory.resolve()):
        rule = f"{name} leads out of it, to {path.resolve()}; a run's files are all in its directory"
    elif path.exists() and not (path.is_file() or path.is_dir()):
        rule = f"has {name}, which is neither a file nor a directory"
    if rule:
        raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)])
    return path


def flags() -> dict[str, str]:
    """What the environment tells JAX and XLA; nothing whose name hints at a secret."""
    found = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_FLAGS)}
    return {k: v for k, v in found.items() if not _SECRET.search(k)}


def this_start(resumed_at: int | None, machine: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is worth knowing of this process.

    Args:
      machine: what it computes by, see `machine.now`.
    """
    return {
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": now(),
        "resumed_at": resumed_at,
        "ended": None,
        "exit": None,
        **machine,
        "flags": flags(),
        "git": _git(),
    }


# What a repository may have run while it is asked for its state; its filters have names of their own.
_RUNS_NOTHING = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}


def _git() -> dict[str, Any] | None:
    """Of the working directory: the commit, and whether anything differs from it; None outside of git.

    Nothing that the repository configures is run: no hook, monitor, filter, nor what would fetch an object.
    """
    settings = dict(_RUNS_NOTHING)

    def ask(*words: str) -> str:
        quiet = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0"}
        quiet["GIT_CONFIG_COUNT"] = str(len(settings))  # not `-c`: names of filters may hold "="
        for i, (name, value) in enumerate(settings.items()):
            quiet |= {f"GIT_CONFIG_KEY_{i}": name, f"GIT_CONFIG_VALUE_{i}": value}
        done = subprocess.run(
            ["git", *words],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | quiet,
        )
        return done.stdout.strip()

    try:
        names = ask("config", "--list", "--name-only", "-z").split("\0")
        settings |= {name: "" for name in names if name.startswith("filter.")}
        changed = ask("status", "--porcelain", "--ignore-submodules=all")
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
