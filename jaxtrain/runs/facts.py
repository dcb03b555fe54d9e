"""What runs were asked for, flat: the value of each field; and in which of them runs differ.

In: nested dicts, as `config.yaml` and `run.json` have them. Out: values by path, paths that differ, texts.
Knows nothing of what fields mean but for `name` and `id`, which decide what stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]  # path -> value

UNSET = "unset"  # of a field that a run has not
_APART = ("logging.", "checkpoint.")  # begins the path of what moves no number
_OF_RUN = ("seed", "init_from", "jaxtrain", "jax", "device")
_NAMES = ("name", "id")
_LONG = 40  # characters of a value


def of_config(config: Any, path: str = "") -> dict[str, Any]:
    """The fields of a config by their paths, as overrides have them: `env.num_envs`, `events.0.every`.

    A list of plain values is one value, and so is a schedule; what is empty is left out.
    """
    if isinstance(config, Mapping) and "schedule" not in config:
        items = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, list) and any(isinstance(x, Mapping | list) for x in config):
        items = [(str(i), value) for i, value in enumerate(config)]
    else:
        return {} if config in ({}, []) and path else {path: config}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= of_config(value, f"{path}.{key}" if path else key)
    return found


def of_run(about: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says that a config does not: seed, from which run it began, by what it was computed."""
    start = about["starts"][-1] if about["starts"] else {}
    source, versions, device = about.get("init_from"), start.get("versions", {}), start.get("device", {})
    values = (
        about["key"] if about["seed"] is None else about["seed"],
        None if source is None else f"{source['directory']}@{source['env_steps']}",
        versions.get("jaxtrain"),
        versions.get("jax"),
        device.get("kind"),
    )
    return dict(zip(_OF_RUN, values, strict=True))


def differing(runs: Sequence[Facts]) -> list[str]:
    """The paths whose values are not the same in all runs, in their order; what moves no number comes last.

    Where runs have another algorithm or another event, that is said by its name: fields that one of them
    lacks for that are left out.
    """
    paths = list(dict.fromkeys(path for run in runs for path in run))
    found = [path for path in paths if len({text(run.get(path, UNSET)) for run in runs}) > 1]
    other = {path.rpartition(".")[0] for path in found if path.rpartition(".")[2] in _NAMES}
    left = [p for p in found if all(p in run for run in runs) or not _below(p, other)]
    return sorted(left, key=lambda path: path.startswith(_APART))


def _below(path: str, nodes: set[str]) -> bool:
    """Whether a path leads through one of the nodes, and is not what names it."""
    parts = path.split(".")
    above = {".".join(parts[:i]) for i in range(1, len(parts))}
    return bool(above & nodes) and not (parts[-1] in _NAMES and ".".join(parts[:-1]) in nodes)


def labels(runs: Sequence[Facts], most: int = 3) -> list[str]:
    """A few words on what makes each run another than the others; "" where nothing does.

    Seed, versions and device are named where configs are the same.

    Args:
      most: how many fields are named.
    """
    apart = [path for path in differing(runs) if not path.startswith(_APART)]
    paths = [path for path in apart if path not in _OF_RUN] or apart
    named, more = paths[:most], " …" if len(paths) > most else ""
    short = _short(named)
    texts = [[f"{short[p]}={shown(run[p])}" for p in named if p in run] for run in runs]
    return [" ".join(words) + (more if words else "") for words in texts]


def _short(paths: Sequence[str]) -> dict[str, str]:
    """The paths without what is before their last name, where that is enough to tell them apart."""
    last = [path.rpartition(".")[2] for path in paths]
    plain = {name for name in last if last.count(name) == 1} - {*_NAMES}
    return {path: name if name in plain else path for path, name in zip(paths, last, strict=True)}


def shown(value: Any) -> str:
    """A value as a config has it, in a few words."""
    found = text(value)
    return found if len(found) <= _LONG else f"{found[: _LONG - 1]}…"


def text(value: Any) -> str:
    """A value as a config has it: the same text for equal ones, 1 and 1.0 too, and for no others."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
