"""A new run that begins from what another has learned: which checkpoint, what of it, and whether it fits.

In: `RUN@WHICH` and what to take, the new run's trainer. Out: arrays by the leaf of an agent, and what
`run.json` and the log say of them. Nothing of the other run is changed. What is compared is what its manifest
says and the arrays' names and shapes: its config need not make a run here, so that it may be one from Python.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config.schema import to_dict
from jaxtrain.config.yaml import name_of
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.loop import adopt
from jaxtrain.loop.state import NON_FINITE
from jaxtrain.loop.trainer import Trainer
from jaxtrain.paths import as_path
from jaxtrain.runs import checkpoint, manager, snapshot
from jaxtrain.runs import directory as rundir
from jaxtrain.runs.checkpoint import Damaged, Gone
from jaxtrain.runs.load import Which, choose
from jaxtrain.runs.seeds import Seeds
from jaxtrain.tree import InPlace, inexact
from jaxtrain.types import Box, Dict, EnvSpec, PyTree, Space

Take = Literal["params", "agent"]
AGENT = "state.agent"  # how names of the agent's arrays begin
# With another value of these the same arrays are another policy.
MEANING = ("network", "squash_actions", "policy_observations", "critic_observations")
MODULES = ("policy_network", "value_network", "q_network")  # and what else is a module; known by their `repr`
NO_MEANING = ("network.log_std_init",)  # what parameters begin with, when they are not taken


@dataclass(frozen=True)
class Request:
    """What the caller asks for."""

    text: str  # RUN or RUN@WHICH
    take: Take

    def readings(self) -> list[tuple[Path, Which | None]]:
        """What the text may mean: a directory of the whole name, or a checkpoint of one."""
        found: list[tuple[Path, Which | None]] = [(as_path("init_from", self.text), None)]
        place, _, word = self.text.rpartition("@")
        which = _which(word)
        return [*found, (as_path("init_from", place), which)] if place and which is not None else found


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run, every byte checked."""

    record: dict[str, Any]  # as `run.json` has it
    agent: dict[str, np.ndarray]  # path of the leaf -> array, with a seed axis of several seeds
    status: np.ndarray  # i32[S]
    manifest: dict[str, Any]
    seeds: tuple[int, ...]


def requested(init_from: str | Path | None, take: str | None, start_from: object) -> Request | None:
    """The request, None if there is none.

    Raises:
      ConfigError: it contradicts itself.
    """
    problems: list[Problem] = []
    if take not in (None, "params", "agent"):
        problems.append(Problem("take", take, "needs one of params, agent"))
    elif take is not None and init_from is None:
        problems.append(Problem("take", take, "needs init_from, the run that it is taken from"))
    if init_from is not None and start_from is not None:
        rule = "start_from goes on with the same run, init_from begins another one: needs one of the two"
        problems.append(Problem("init_from", str(init_from), rule))
    if problems:
        raise ConfigError(problems)
    return None if init_from is None else Request(str(init_from), "agent" if take == "agent" else "params")


def check_same_source(directory: Path, about: Mapping[str, Any], request: Request) -> None:
    """Raise a ConfigError if the run in a directory, of that `run.json`, began from something else."""
    said, rule = about.get("init_from"), "; another run needs another directory"
    if said is None:
        rule = f"the run in {str(directory)!r} began from no other run{rule}"
        raise ConfigError([Problem("init_from", request.text, rule)])
    problems: list[Problem] = []
    if not any(
        str(path.resolve()) == said["directory"] and which in (said["which"], said["env_steps"])
        for path, which in request.readings()
    ):
        where = f"{said['env_steps']} env steps of {said['directory']}"
        problems.append(Problem("init_from", request.text, f"the run began from {where}{rule}"))
    if request.take != said["take"]:
        problems.append(Problem("take", request.take, f"the run began from the {said['take']}{rule}"))
    if problems:
        raise ConfigError(problems)


def open_source(request: Request) -> Source:
    """The checkpoint that is asked for; unset, the best, and the last of a run that has no best.

    Raises:
      ConfigError: no such run or checkpoint, or one that is damaged.
    """
    place, which = _place(request)
    rundir.read_about(place)
    directory = rundir.inside(place, rundir.CHECKPOINTS)
    said = manager.manifests(directory)
    newest = said[max(said)] if said else {}
    metric = (newest.get("best") or {}).get("metric")
    mode = newest.get("config", {}).get("checkpoint", {}).get("best_mode", "max")
    chosen = which
    if chosen is None:
        chosen = "last" if manager.best(said, metric, mode) is None else "best"
    try:
        path = choose(directory, chosen, metric, mode)
    except ConfigError as error:
        raise ConfigError(
            [p._replace(path="init_from", value=request.text) for p in error.problems]
        ) from None
    try:
        return _read(place, path, {"which": which, "take": request.take})
    except Gone:
        return open_source(request)  # the other run goes on: it has a newer one, or a better one, by now
    except Damaged as error:
        rule = f"checkpoint {path.name} is damaged: {error}; `jaxtrain verify {place}` says which are whole"
        raise ConfigError([Problem("init_from", request.text, rule)]) from None


def open_source_again(record: Mapping[str, Any]) -> Source:
    """The checkpoint that a run began from, as its `run.json` has it.

    Raises:
      ConfigError: it is gone, or is another one by now.
    """
    place = Path(record["directory"])
    path = manager.place(place / rundir.CHECKPOINTS, record["env_steps"])
    try:
        source = _read(place, path, {name: record[name] for name in ("which", "take")})
        if source.record["sha256"] == record["sha256"]:
            return source
        found = f"is another one by now, with sha256 {source.record['sha256']}"
    except Damaged as error:
        found = f"is damaged: {error}"
    except ConfigError as error:
        found = f"is gone: {error}"
    rule = (
        f"the run began from its checkpoint {path.name} with sha256 {record['sha256']}, has none of its "
        f"own yet, and that {found}. Put it back, or begin in another directory"
    )
    raise ConfigError([Problem("init_from", str(place), rule)])


def _which(word: str) -> Which | None:
    digits = word.replace(",", "").replace("_", "")  # as numbers are printed, and written in YAML
    if word == "best" or word == "last":
        return word
    return int(digits) if digits.isdecimal() else None


def _place(request: Request) -> tuple[Path, Which | None]:
    readings = request.readings()
    for path, which in readings:
        if path.is_dir():
            return path, which
    place, _, word = request.text.rpartition("@")
    if place and as_path("init_from", place).is_dir():
        rule = f"{word!r} is no checkpoint of {place!r}: needs best, last or env steps"
        raise ConfigError([Problem("init_from", request.text, rule)])
    return readings[-1]


def _read(place: Path, path: Path, record: Mapping[str, Any]) -> Source:
    seeds = Seeds.of(rundir.read_about(place)).all
    if not path.is_dir():
        raise ConfigError([Problem(str(path), MISSING, "there is no such checkpoint")])
    arrays, manifest = checkpoint.load(path)
    came_from = {
        "directory": str(place.resolve()),
        "which": record["which"],
        "env_steps": manifest["env_steps"],
        "take": record["take"],
        "sha256": checkpoint.digest(path),
    }
    agent = {name.removeprefix(AGENT): x for name, x in arrays.items() if name.startswith(AGENT)}
    return Source(came_from, agent, np.atleast_1d(arrays["state.status"]), manifest, seeds)


def described_spaces(spec: EnvSpec) -> dict[str, str]:
    """What parameters are made for: each space by its name, without bounds."""
    return {**_spaces("observation", spec.observation_space), **_spaces("action", spec.action_space)}


def _spaces(name: str, space: Space) -> dict[str, str]:
    if isinstance(space, Dict):
        return {k: v for entry, part in space.items() for k, v in _spaces(f"{name}.{entry}", part).items()}
    return {name: f"Box of shape {list(space.shape)}" if isinstance(space, Box) else str(space)}


def take_from(source: Source, trainer: Trainer, seeds: Seeds) -> tuple[dict[str, np.ndarray], str]:
    """What a new run's agents have of another's.

    Args:
      trainer, seeds: of the new run.

    Returns:
      Arrays by the leaf's path in the agent, [S, ...] for several seeds, see `Trainer.adopt`; and a sentence
      for the log.

    Raises:
      ConfigError: what does not fit, a line for each difference.
    """
    keys = seeds.keys()
    key = keys[0] if keys.ndim else keys

    def init(key: jax.Array) -> PyTree:
        return trainer.new(key).agent

    agent = jax.eval_shape(init, key)
    take, many = source.record["take"], len(source.seeds) > 1
    wanted = adopt.params(agent) if take == "params" else adopt.handed_on(agent)
    problems = _differing(source.manifest, trainer)
    if not any(problem.path == "algorithm.name" for problem in problems):  # else all of it is other
        drawn = adopt.drawn(init, key) if take == "params" and not _takes_params(trainer, key) else []
        problems += _unfit(trainer, take, wanted, drawn)
        problems += [] if problems else _leaves(source, agent, wanted)  # else they follow from those
    problems += _seeds(source, seeds, wanted)
    if problems:
        raise ConfigError(problems)

    def one(x: np.ndarray) -> np.ndarray:
        return x if many or seeds.count == 1 else np.broadcast_to(x, (seeds.count, *x.shape))

    return {path: one(source.agent[path]) for path in wanted}, _said(source, agent, wanted)


def _takes_params(trainer: Trainer, key: jax.Array) -> bool:
    found: list[bool] = []

    def look(key: jax.Array) -> jax.Array:
        found.append(adopt.takes_params(trainer.algorithm(trainer.new(key))))
        return key

    jax.eval_shape(look, key)
    return found[0]


def _differing(manifest: Mapping[str, Any], trainer: Trainer) -> list[Problem]:
    """Of the algorithm and the spaces."""
    algorithm: dict[str, Any] = to_dict(trainer.config)["algorithm"]
    theirs: dict[str, Any] = (manifest.get("config") or {}).get("algorithm", algorithm)
    if theirs["name"] != algorithm["name"]:
        found = [Problem("algorithm.name", algorithm["name"], f"the other run has {theirs['name']!r}")]
    else:
        new, old = _flat(algorithm), _flat(theirs)
        own = (n for n, x in vars(trainer.config.algorithm).items() if _is_module(x))
        meaning = {*MEANING, *MODULES, *own}
        found = [
            Problem(f"algorithm.{name}", new[name], f"the other run has {old[name]!r}")
            for name in sorted(new.keys() & old.keys())  # a checkpoint of before may lack a later field
            if new[name] != old[name] and name.partition(".")[0] in meaning and name not in NO_MEANING
        ]
    here = described_spaces(trainer.spec)
    there: dict[str, str] = manifest.get("spaces") or here  # checkpoints of before do not say
    for name in sorted(here.keys() | there.keys()):
        new, old = (x.get(name, "nothing") for x in (here, there))
        if new != old:
            found.append(Problem(f"env: space of {name}", MISSING, f"is {new}, in the other run {old}"))
    return found


def not_told_apart(algorithm: Any) -> list[str]:
    """A sentence for each module of an algorithm of which two that differ may be described alike.

    A function is described by its name and an object of a class by that of the class: of a lambda, of a
    function made inside another, or of a bare object, nobody can tell whether it is that of the other run.
    """
    found = {name: [*_nameless(x, name)] for name, x in vars(algorithm).items() if _is_module(x)}
    return [
        f"of algorithm.{name} the description does not tell {' and '.join(parts)} from another function or "
        "object: see to it that it is that of the other run. A function of a module's own has a name"
        for name, parts in found.items()
        if parts
    ]


def _is_module(value: Any) -> bool:
    return hasattr(value, "init") and hasattr(value, "apply")


def _nameless(value: Any, path: str) -> Iterator[str]:
    """Where in a module, by dotted names, there is what a description does not tell apart."""
    if isinstance(value, partial):
        value = value.func  # its arguments are described
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            inner = getattr(value, f.name, None)
            if inner is not f.default:  # which the class's own code says
                yield from _nameless(inner, f"{path}.{f.name}")
    elif isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _nameless(inner, f"{path}.{key}")
    elif (callable(value) or type(value).__repr__ is object.__repr__) and name_of(value) is None:
        yield path


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, x in tree.items():
        found |= _flat(x, f"{prefix}{name}.") if isinstance(x, Mapping) else {f"{prefix}{name}": x}
    return found


def _unfit(trainer: Trainer, take: Take, wanted: Mapping[str, Any], drawn: list[str]) -> list[Problem]:
    """Why an algorithm's agents cannot be begun from another's."""
    cls = type(trainer.config.algorithm)
    who = f"the agent of {cls.__module__}:{cls.__qualname__}"
    if not wanted and take == "params":
        rule = f"{who} has no field `params`; take='agent' takes all of it but a replay"
    elif not wanted:
        rule = f"{who} has nothing to take; what belongs to a tree.InPlace needs a node of its own in it"
    elif drawn:
        rule = (
            f"{who} has {', '.join(drawn)}, which may be made of its parameters; its `init` needs a second "
            "argument, `params=None`, or take='agent'"
        )
    else:
        return []
    return [Problem("take", take, rule)]


def _leaves(source: Source, agent: PyTree, wanted: Mapping[str, Any]) -> list[Problem]:
    """A line for each leaf that is of another shape or dtype, is missing, or is too many."""
    many, here = len(source.seeds) > 1, adopt.leaves(agent)
    theirs = {
        path: snapshot.described(x[0] if many else x)
        for path, x in source.agent.items()
        if path in wanted or (path not in here and _belongs(path, source.record["take"]))
    }
    found: list[Problem] = []
    for path in sorted(wanted.keys() | theirs.keys()):
        new = snapshot.described(snapshot.words(wanted[path])) if path in wanted else "nothing"
        old = theirs.get(path, "nothing")
        if new != old:
            found.append(Problem(f"agent{path}", MISSING, f"the other run has {old}, the config makes {new}"))
    return found


def _belongs(path: str, take: Take) -> bool:
    return take == "agent" or _part(path) == adopt.PARAMS


def _part(path: str) -> str:
    """The first name in a path such as `.params['head']` or `['params']`."""
    found = re.match(r"\.(\w+)|\['([^']*)'\]", path)
    return (found[1] or found[2]) if found else path


def _seeds(source: Source, seeds: Seeds, wanted: Mapping[str, Any]) -> list[Problem]:
    """Seeds that do not match those of the new run, or of which nothing sound can be taken."""
    there, found, where = len(source.seeds), list[Problem](), source.record["directory"]
    if there not in (1, seeds.count):
        rule = (
            f"the other run has {there}: needs as many, or a run of one, which all begin from; "
            f"`jaxtrain resume {where} --member I --out DIR` makes one of its member I"
        )
        found.append(Problem("num_seeds", seeds.count, rule))
    bad = source.status == NON_FINITE
    for x in (source.agent[path] for path in wanted if path in source.agent):
        if inexact(x):
            finite = jnp.isfinite(x)
            bad = bad | ~np.asarray(finite.all(axis=tuple(range(1, x.ndim))) if there > 1 else finite.all())
    stopped = [seed for seed, is_bad in zip(source.seeds, np.atleast_1d(bad), strict=True) if is_bad]
    if stopped:
        rule = f"seeds {stopped} of it are not finite at {source.record['env_steps']} env steps"
        found.append(Problem("init_from", where, f"{rule}; needs a checkpoint at which all are"))
    return found


def _said(source: Source, agent: PyTree, wanted: Mapping[str, Any]) -> str:
    """One sentence: from what the run begins, and what is its own."""
    record, parts = source.record, list(dict.fromkeys(map(_part, adopt.leaves(agent))))
    begun = {_part(path) for path in wanted}
    rings = jax.tree_util.tree_leaves_with_path(agent, is_leaf=lambda x: isinstance(x, InPlace))
    replays = {_part(jax.tree_util.keystr(path)) for path, x in rings if isinstance(x, InPlace)}
    anew = [part for part in parts if part not in begun | replays]
    behind = sorted({_part(path) for path in source.agent} - set(parts))
    what = "params" if record["take"] == "params" else "agent"
    sentence = f"beginning from the {what} of {record['directory']} at {record['env_steps']:,} env steps"
    sentence += f"; left there: {', '.join(behind)}" if behind else ""
    sentence += f"; anew: {', '.join(anew)}" if anew else ""
    fills = ", ".join(part for part in parts if part in replays)
    return sentence + (f"; a new run fills its own {fills}" if fills else "")
