"""Paths as people give them.

In: a text or a path. Out: a path, `~` as the home directory, as a shell has it where it is the first letter.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxtrain.errors import ConfigError, Problem


def as_path(name: str, given: Any) -> Path:
    """The path that an argument is.

    Raises:
      ConfigError: it is no path, or begins at a home directory that is not known; names the argument.
    """
    if not isinstance(given, str | os.PathLike):
        raise ConfigError([Problem(name, given, "needs a path")])
    text = str(given)
    full = os.path.expanduser(text)
    if full.startswith("~"):  # neither HOME nor an entry in passwd; or no such user
        rule = f"its home directory is not known here; ./{text} is what is called so in the working directory"
        raise ConfigError([Problem(name, text, rule)])
    path = Path(full)
    return Path.cwd() / path if str(path).startswith("~") else path  # of `./~`: to be read again as the same
