"""The experiments that come with the library, by name.

In: a name or a path. Out: the config file. In a wheel they are inside the package, in a clone beside it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from jaxtrain.errors import MISSING, ConfigError, Problem, nearest
from jaxtrain.paths import as_path


def known() -> dict[str, Path]:
    """Every experiment: its name, and its file."""
    package = Path(__file__).resolve().parents[1]
    clone = package.parent if (package.parent / "pyproject.toml").is_file() else package
    place = next((p for p in (package / "experiments", clone / "experiments") if p.is_dir()), package)
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def find(name: str | Path) -> Path | None:
    """The file or directory at that path, or else the experiment of that name; None if there is neither."""
    path = as_path("config", name)
    try:
        return path if path.exists() else known().get(str(name))
    except (OSError, ValueError):  # no path at all: too long, or with NUL
        return None


def _env_of(name: str) -> str | None:
    """The id of a suite's environment that is called so, in whatever case."""
    if Path(name).suffix in (".yaml", ".yml") or len(Path(name).parts) != 1:
        return None  # to know is to import the suites, which takes seconds
    ids = importlib.import_module("jaxtrain.envs").ids()
    return next((env for env in ids if env.lower() == name.lower()), None)


def file_of(name: str | Path) -> Path:
    """The config file at that path, or else of the experiment of that name.

    Raises:
      ConfigError: there is neither, or it is a directory.
    """
    path = find(name)
    if path is None:
        near, names = nearest(str(name), known()), ", ".join(known())
        rule = f"there is no such file; needs one of YAML, or the name of an experiment{near}"
        rule += "" if names in near else f"; known: {names}"
        if env := _env_of(str(name)):
            rule = f"there is no such file; an environment needs none: jaxtrain train --env.id {env}"
        raise ConfigError([Problem(str(name), MISSING, rule)])
    if path.is_dir():
        rule = f"is a directory; to go on with the run in it: jaxtrain resume {name}"
        raise ConfigError([Problem(str(name), MISSING, rule)])
    return path
