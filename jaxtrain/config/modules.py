"""The modules that a config names: where they are looked for, and from which files they came.

In: places, a config as plain values. Out: another `sys.path`, files with their sha256. A module is looked for
among the installed packages first, then in the places; nothing in a run's directory is ever executed, and the
working directory is searched only where it is one of the places.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.names import rule_against

RUN = "run.json"  # what every run's directory has
_TEXTS = ("logging.wandb", "logging.tensorboard")  # whose values name nothing, whatever they look like
_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d][\w.]*")  # package.module:name


def in_run(path: str | Path) -> Path | None:
    """The directory of the run that a path is in, or is; None for what is in none, or is installed."""
    full = Path(path).resolve()
    if _installed(full):
        return None
    return next((place for place in (full, *full.parents) if os.path.isfile(place / RUN)), None)


def _installed(path: Path) -> bool:
    own = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    more = (place for place in sys.path if Path(place).name in ("site-packages", "dist-packages"))
    return any(path.is_relative_to(Path(root).resolve()) for root in (*own, *more))


@contextmanager
def looking_in(places: Iterable[Path]) -> Generator[None]:
    """Look for modules in these directories too, after all others; in none that is of a run.

    The working directory, which Python may have put first, is one of them or is not searched at all.
    """
    before, here = list(sys.path), Path.cwd().resolve()
    sys.path[:] = [
        p for p in sys.path if not in_run(p or ".") and (_installed(here) or Path(p or ".").resolve() != here)
    ]
    sys.path += [str(place) for place in map(Path.resolve, places) if not in_run(place)]
    try:
        yield
    finally:
        sys.path[:] = before


def named(tree: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Of everything in plain values that reads as `package.module:name`: its path, itself, and the module."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from named(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from named(value, f"{path}.{index}" if path else str(index))
    elif isinstance(tree, str) and not path.startswith(_TEXTS) and (found := _NAME.fullmatch(tree)):
        yield path, tree, found[1]


def check(tree: Any) -> list[Problem]:
    """What of plain values names a module in a run's directory; nothing of that is imported."""
    found: list[Problem] = []
    for path, value, module in named(tree):
        parts = [] if rule_against(module) else module.split(".")  # said where it is needed
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if name in sys.modules:
                continue
            try:
                spec = importlib.util.find_spec(name)
            except Exception:  # whatever a package does while it is imported: said where it is needed
                break
            if spec is None:
                break
            run = next((r for r in map(in_run, _files(spec)) if r), None)
            if run is not None:
                rule = f"is in the directory of a run, {str(run)!r}, from which nothing is executed"
                found.append(Problem(path, value, f"{name!r} {rule}"))
                break
    return found


def not_asked_for(path: str | Path, tree: Any) -> list[Problem]:
    """What a config file in a run's directory names of modules, for a command that does not run it.

    Args:
      tree: what the file holds, as plain values.
    """
    rule = "is code that a run's directory names, which is imported only to run it: see `jaxtrain resume`"
    return [Problem(at, value, rule) for at, value, _ in named(tree)] if in_run(path) else []


def _files(spec: Any) -> list[str]:
    own = [spec.origin] if spec.has_location and spec.origin else []
    return [*own, *(spec.submodule_search_locations or ())]


def origins(tree: Any) -> dict[str, dict[str, str]]:
    """Of each module that plain values name, if it came from no installed package: path and sha256."""
    found: dict[str, dict[str, str]] = {}
    for _, _, name in named(tree):
        file = getattr(sys.modules.get(name), "__file__", None)
        own = name.partition(".")[0] not in ("jaxtrain", "__main__")
        if own and file and Path(file).is_file() and not _installed(Path(file).resolve()):
            found[name] = {"path": str(Path(file).resolve()), "sha256": _sha256(Path(file))}
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differing(recorded: Any, now: Mapping[str, Mapping[str, str]]) -> list[Problem]:
    """A line for each recorded module that is imported now with another content."""
    return [
        _changed(name, said["path"], said["sha256"], now[name]["sha256"])
        for name, said in _sound(recorded).items()
        if name in now and now[name]["sha256"] != said["sha256"]
    ]


def _changed(name: str, path: str, then: str, now: str) -> Problem:
    rule = (
        f"{path} has sha256 {now[:12]}…, the run has {then[:12]}…; put it back as it was, or begin another "
        f"run in another directory"
    )
    return Problem(f"module {name!r}", MISSING, rule)


def restore(recorded: Any) -> None:
    """Import each recorded module from its file, if it is as it was.

    Args:
      recorded: what `origins` gave, as a run's directory has it: not to be trusted.

    Raises:
      ConfigError: a line for each file that is not there, has another content or is in a run's directory, and
        for each module that has been imported from elsewhere with another content.
    """
    problems: list[Problem] = []
    for name, said in _sound(recorded).items():
        path, where = Path(said["path"]), f"module {name!r}"
        loaded = getattr(sys.modules.get(name), "__file__", None)
        path = Path(loaded) if loaded else path if path.is_file() else _found(name) or path
        if in_run(path):
            rule = f"{path} is in the directory of a run, from which nothing is executed"
            problems.append(Problem(where, MISSING, rule))
        elif not path.is_file():
            rule = f"{path}, which it came from, is not there; put it back, there or in the working directory"
            problems.append(Problem(where, MISSING, rule))
        elif (now := _sha256(path)) != said["sha256"]:
            problems.append(_changed(name, str(path), said["sha256"], now))
        elif not loaded:
            try:
                _import_from(name, path)
            except Exception as error:  # whatever the module does while it is imported
                rule = f"cannot import {path} ({type(error).__name__}: {error})"
                problems.append(Problem(where, MISSING, rule))
    if problems:
        raise ConfigError(problems)


def _found(name: str) -> Path | None:
    """Where a module that is not where it was would be imported from: a run may have been moved."""
    if check(f"{name}:it"):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # of a package around it
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _sound(recorded: Any) -> dict[str, dict[str, str]]:
    """What a run's directory says of its modules, if it is of the form that `origins` gives."""
    sound = isinstance(recorded, dict) and all(
        isinstance(said, dict)
        and _NAME.fullmatch(f"{name}:x")
        and all(isinstance(said.get(key), str) and "\0" not in said[key] for key in ("path", "sha256"))
        and Path(said["path"]).is_absolute()
        and Path(said["path"]).suffix == ".py"
        for name, said in recorded.items()
    )
    if not sound:
        raise ConfigError([Problem(f"modules in {RUN}", MISSING, "are not those of a run")])
    return recorded


def _import_from(name: str, path: Path) -> None:
    """Import a module from this very file; of a package, with its parents, which have to be around it."""
    parent, _, last = name.rpartition(".")
    package = path.name == "__init__.py"
    root = path.parents[name.count(".") + package]
    if str(root) not in sys.path:
        sys.path.append(str(root))  # what else it imports from there
    if parent and str((path.parent.parent if package else path.parent).resolve()) not in [
        str(Path(place).resolve()) for place in importlib.import_module(parent).__path__
    ]:
        raise ImportError(f"the package {parent!r} is found elsewhere")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # as it is a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if parent:
        setattr(sys.modules[parent], last, module)
