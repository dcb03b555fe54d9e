"""Objects by name: `package.module:name`, as a config has it; and packages that come as an extra.

In: a name. Out: the object, its module imported when it is asked for. Of Python's standard library there is
nothing: a run is made of nobody's `os:abort`, and an environment is called before anything is known of it.
"""

from __future__ import annotations

import importlib
import sys
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from jaxtrain.errors import MISSING, ConfigError, Fault, Problem, nearest, raised

_SPEAK_FOR_THEMSELVES = (type, FunctionType, BuiltinFunctionType, MethodType)  # of no `partial`


def rule_against(module: str) -> str | None:
    """Why a module is not imported whoever names it; None for one that may be."""
    first, *rest = module.split(".")
    if first in sys.stdlib_module_names:
        return f"{module!r} is of Python's standard library, and no part of a run is"
    return f"{module!r} is a program, and no part of a run" if "__main__" in rest else None


def load_object(name: str) -> Any:
    """The object at `package.module:name`.

    Raises:
      Fault: there is no such module or no such name in it, or it is of Python's standard library; says which.
    """
    module, _, attribute = name.partition(":")
    if (rule := rule_against(module)) is not None:
        raise Fault(rule)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the module does while it is imported
        raise Fault(f"cannot import {module!r} ({raised(error)})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Fault(f"{module!r} has no {attribute!r}" + nearest(part, dir(found)))
        found = getattr(found, part)
    if isinstance(found, _SPEAK_FOR_THEMSELVES) and (rule := rule_against(str(found.__module__))) is not None:
        raise Fault(f"{attribute!r} of {rule}")
    return found


def extra(module: str, name: str, use: str) -> Any:
    """A module of a package that only some of what jaxtrain does needs.

    Args:
      name: the extra of jaxtrain that brings it.
      use: what it is needed for, as in "GIF files are written by it".

    Raises:
      ConfigError: it is not installed, or does not import; says how to install it.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        said = "is not installed" if getattr(error, "name", None) == package else f"does not import ({error})"
        rule = f"{said}; {use}: pip install 'jaxtrain[{name}]'"
        raise ConfigError([Problem(package, MISSING, rule)]) from None
