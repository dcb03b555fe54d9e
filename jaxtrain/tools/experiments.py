"""The experiments that come with the library, by name.

In: a name or a path. Out: the config file. In a wheel they are inside the package, in a clone beside it.
"""

from __future__ import annotations

from pathlib import Path

import jaxtrain


def known() -> dict[str, Path]:
    """Every experiment: its name, and its file."""
    package = Path(jaxtrain.__file__).resolve().parent
    clone = package.parent if (package.parent / "pyproject.toml").is_file() else package
    place = next((p for p in (package / "experiments", clone / "experiments") if p.is_dir()), package)
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def find(name: str) -> Path | None:
    """The file or directory at that path, or else the experiment of that name; None if there is neither."""
    try:
        return Path(name) if Path(name).exists() else known().get(name)
    except (OSError, ValueError):  # no path at all: too long, or with NUL
        return None
