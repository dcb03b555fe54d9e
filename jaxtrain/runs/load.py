"""What a run has saved, for use: its state, its policy, the check that all of it is sound.

In: the directory of a run, running or not; nothing in it is changed. Out: states, policies,
metrics, verdicts. Knows nothing of how a run is driven.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxtrain.config.number import as_int, whole
from jaxtrain.config.schema import Config, to_dict
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.event import Part
from jaxtrain.known import filled
from jaxtrain.loop.state import TrainState
from jaxtrain.loop.train import Marks, Rows, seeds_first
from jaxtrain.loop.trainer import History, Trainer
from jaxtrain.paths import as_path
from jaxtrain.runs import checkpoint, log, manager, snapshot
from jaxtrain.runs import directory as rundir
from jaxtrain.runs.checkpoint import Damaged, Gone
from jaxtrain.runs.manager import best_metric
from jaxtrain.runs.program import Programs, compilation_cache
from jaxtrain.runs.resume import Found, differences, not_read_back, restored, stored_config
from jaxtrain.runs.seeds import Seeds
from jaxtrain.types import PyTree

Which = Literal["best", "last"] | int


@dataclass(frozen=True)
class LoadedRun:
    """A checkpoint, opened."""

    trainer: Trainer
    state: TrainState
    history: History
    manifest: dict[str, Any]
    seeds: Seeds  # of `state`


class LoadedPolicy:
    """A `jaxtrain.loop.policy.Policy` of a run, with the normalizer that belongs to it inside, compiled.

    `policy(obs, key=None) -> action`; of a recurrent one `policy(obs, carry, key=None) -> (action, carry)`,
    which begins an episode with `policy.initial_carry(batch_shape)`. Without a key the greedy action, with
    one a sampled action. `obs` may have any leading axes.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.env_steps: int = loaded.manifest["env_steps"]  # done when it was saved
        self.seed = loaded.seeds.all[0]
        self._policy = loaded.trainer.policy(loaded.state)
        self._act = jax.jit(self._policy.act)

    @property
    def recurrent(self) -> bool:
        """Whether it has a carry."""
        return self._policy.recurrent

    def initial_carry(self, batch_shape: int | tuple[int, ...] = ()) -> PyTree:
        """The recurrent state at an episode's start, leaves [*batch_shape, ...]; () without one."""
        return self._policy.initial_carry(batch_shape)

    def __call__(self, obs: PyTree, *args: Any, **named: Any) -> Any:
        """Act.

        Raises:
          TypeError: a recurrent policy without its carry, or one that is none with it; names the form.
        """
        return self._act(obs, *self._policy.arguments(*args, **named))

    def __repr__(self) -> str:
        return f"LoadedPolicy(env_steps={self.env_steps}, seed={self.seed})"


class Series(NamedTuple):
    """A metric over a run: one entry for each record that has it."""

    env_steps: np.ndarray  # i64[N], done when it was measured, of one seed
    values: np.ndarray  # f64[N], or [N, S] of several seeds, more axes for a metric that has some


class Run:
    """A run as it was at one of its checkpoints; see `load`.

    Attributes:
      state: the `TrainState`: `state.agent`, `state.hyper`, `state.clock`, … Leaves have a leading axis of
        seeds where there are several.
      config: of the run, complete.
      history: event -> metric -> one row for each mark up to the checkpoint, [marks] or [S, marks], as in the
        result of `train`.
      marks: event -> the env steps of those rows.
      env_steps: done at the checkpoint, of one seed.
      seeds: the numbers of those in `state`, in their order.
      directory: where it is.
    """

    def __init__(self, directory: Path, loaded: LoadedRun, all_seeds: tuple[int, ...]) -> None:
        trainer, self.directory, self._loaded = loaded.trainer, directory, loaded
        self.state, self.config, self.seeds = loaded.state, trainer.config, loaded.seeds.all
        self.env_steps: int = loaded.manifest["env_steps"]
        self._index = None if self.seeds == all_seeds else all_seeds.index(self.seeds[0])
        per = trainer.env_steps_per_update
        due = {name: tuple(u * per for u in updates) for name, updates in trainer.timetable.items()}
        self.marks = Marks({n: tuple(at for at in marks if at <= self.env_steps) for n, marks in due.items()})
        done = {
            n: {k: x[: len(self.marks[n])] for k, x in rows.items()}
            for n, rows in filled(loaded.history).items()
        }
        self.history: Rows = seeds_first(self.state, done)

    def policy(self, seed: int | None = None) -> LoadedPolicy:
        """The policy of the checkpoint; of several seeds that of `seed`, unset of the best.

        Raises:
          ConfigError: there is no such seed.
        """
        return LoadedPolicy(one_seed(self._loaded, seed))

    def metrics(self) -> dict[str, Series]:
        """All that the run has logged so far, behind the checkpoint too: tag -> its values and env steps.

        A tag is the metric's name, after that of its event unless that is "metrics": `rollout/return_mean`,
        `evaluation/return_mean`. A record without it, such as the return before an episode has finished, is
        left out of that metric's arrays. What is not known for one of several seeds is NaN.

        Raises:
          ConfigError: the run has no log, as it was launched without the sink jsonlines, or one that is
            damaged; names the line.
        """
        found: dict[str, list[tuple[int, np.ndarray]]] = {}
        for row in _log_of(self.directory):
            for name, value in row["values"].items():
                tag = name if row["name"] == "metrics" else f"{row['name']}/{name}"
                of_all = np.array(value, float)  # null is NaN, and "Infinity" infinite
                found.setdefault(tag, []).append((row["env_steps"], of_all))
        some = ... if self._index is None else self._index
        return {
            tag: Series(np.array([at for at, _ in rows], np.int64), np.stack([x[some] for _, x in rows]))
            for tag, rows in found.items()
        }

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, env_steps={self.env_steps}, seeds={list(self.seeds)})"


def load(
    directory: str | Path,
    which: Which = "best",
    seed: int | None = None,
    *,
    config: Config | None = None,
    events: Sequence[Part] = (),
) -> Run:
    """A run from its directory, whether it goes on or has ended; nothing there is changed.

    Args:
      which: "best" by the run's `checkpoint.best`, "last", or env steps of one of its checkpoints.
      seed: only this one of several; unset, all of them, with a leading axis.
      config, events: only for a run whose config has objects from Python, or that was launched with events.

    Raises:
      ConfigError: no such run, checkpoint or seed, or one that is damaged; names it.
    """
    place, one = as_path("directory", directory), seed is not None
    loaded = open_run(place, which, config=config, events=events, one=one, seed=seed)
    return Run(place, loaded, Seeds.of(rundir.read_about(place)).all)


def _log_of(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a last line that is still being written is left out."""
    found: list[dict[str, Any]] = []
    try:
        for number, row in log.rows(rundir.inside(directory, rundir.LOG), most=sys.maxsize):
            if row is None:
                rule = f"line {number} is no JSON of a record"
                raise ConfigError([Problem(str(directory / rundir.LOG), MISSING, rule)])
            found.append(row)
    except OSError:
        rule = f"has no {rundir.LOG} that can be read: needs `jsonlines` among logging.sinks"
        raise ConfigError([Problem(f"directory {str(directory)!r}", MISSING, rule)]) from None
    return found


def load_policy(
    directory: str | Path,
    which: Which = "best",
    seed: int | None = None,
    *,
    config: Config | None = None,
    events: Sequence[Part] = (),
) -> LoadedPolicy:
    """The policy of a run, whether the run goes on or has ended.

    Args:
      which: "best" by the run's `checkpoint.best`, "last", or env steps of one of its checkpoints.
      seed: of several; unset, the one whose metric of that name was best then.
      config, events: only for a run whose config has objects from Python, or that was launched with events.

    Raises:
      ConfigError: no such run, checkpoint or seed, or one that is damaged; names it.
    """
    return LoadedPolicy(open_run(directory, which, config=config, events=events, one=True, seed=seed))


def open_run(
    directory: str | Path,
    which: Which = "last",
    *,
    config: Config | None = None,
    events: Sequence[Part] = (),
    one: bool = False,
    seed: int | None = None,
) -> LoadedRun:
    """A checkpoint of a run, every byte checked; arguments and errors as in `load_policy`.

    Args:
      one: whether only one seed is brought to the device, as `one_seed` has it: `seed`, or unset the best.
    """
    place = as_path("directory", directory)
    about, stored = rundir.read_about(place), config is None
    config = stored_config(place) if config is None else config
    try:
        trainer = Trainer(config, events)
    except ConfigError as error:
        raise not_read_back(place, error) if stored else error from None
    metric, mode = best_metric(trainer), trainer.config.checkpoint.best_mode
    arrays, manifest = _opened(place, which, metric, mode)
    changed = differences(manifest.get("config") or to_dict(config), config) if stored else []
    if changed:
        rule = f"{rundir.CONFIG} in {str(directory)!r} is not that of the checkpoint; put it back as it was"
        raise ConfigError([*changed, Problem("config", MISSING, rule)])
    seeds = Seeds.of(about)
    if one:
        chosen = _chosen(trainer, seeds, lambda metric: arrays[f"state.metrics[{metric!r}]"], seed)
        if seeds.count > 1:
            arrays = snapshot.of_seeds(arrays, [seeds.all.index(chosen)])
            seeds = dataclasses.replace(seeds, chosen=(chosen,))
    state, history = restored(Found(arrays, manifest, {}), config, seeds, trainer, events)
    return LoadedRun(trainer, state, history, manifest, seeds)


def _opened(
    place: Path, which: Which, metric: str | None, mode: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    while True:
        path = choose(rundir.inside(place, rundir.CHECKPOINTS), which, metric, mode)
        try:
            return checkpoint.load(path)
        except Gone:
            continue  # the run goes on: it has a newer one, or a better one, by now
        except Damaged as error:
            rule = f"is damaged: {error}; `jaxtrain verify {place}` says which are whole"
            raise ConfigError([Problem(f"checkpoint {path.name}", MISSING, rule)]) from None


def choose(directory: Path, which: Which, metric: str | None, mode: str) -> Path:
    """One of the checkpoints in a directory; the best is by a metric.

    Raises:
      ConfigError: there is none such; says what there is.
    """
    there, said = manager.found(directory), manager.manifests(directory)
    if which == "last":
        chosen = max(said, default=None)
        rule = "there is no checkpoint yet"
    elif which == "best":
        chosen = manager.best(said, metric, mode)
        why = f"no checkpoint has a value of {metric}" if metric else "the run keeps none by a metric"
        rule = f"{why}; 'last' is the newest"
    else:
        env_steps = as_int(which)
        chosen = env_steps if env_steps in there else None
        rule = f"needs 'best', 'last' or one of {', '.join(map(str, there)) or 'no checkpoint'}"
    if chosen is None:
        raise ConfigError([Problem("which", which, rule)])
    return manager.place(directory, chosen)


def one_seed(saved: LoadedRun, seed: int | None) -> LoadedRun:
    """One of several seeds, as a single run has it; unset, the best."""
    everyone = saved.seeds.all
    chosen = _chosen(saved.trainer, saved.seeds, saved.state.metrics.__getitem__, seed)
    if len(everyone) == 1:
        return saved
    index = everyone.index(chosen)
    state = jax.tree.map(lambda x: x[index] if x.ndim else x, saved.state)
    history = jax.tree.map(lambda x: x[:, index], saved.history)
    seeds = dataclasses.replace(saved.seeds, chosen=(chosen,))
    return LoadedRun(saved.trainer, state, history, saved.manifest, seeds)


def _chosen(trainer: Trainer, seeds: Seeds, metrics: Callable[[str], Any], seed: int | None) -> int:
    """The number of the seed that is asked for; unset, of the only one, or of the best.

    Args:
      metrics: gives the values of a metric, [S].
    """
    everyone = seeds.all
    if seed is not None:
        found = whole("seed", seed)
        if found not in everyone:
            raise ConfigError([Problem("seed", found, f"the run has {list(everyone)}")])
        return found
    if len(everyone) == 1:
        return everyone[0]
    metric = best_metric(trainer)
    if metric is None:
        raise ConfigError([Problem("seed", MISSING, f"needs one of {list(everyone)}")])
    sign = 1 if trainer.config.checkpoint.best_mode == "max" else -1
    values = sign * np.asarray(metrics(metric), float)
    return everyone[int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))]


def verdicts(directory: str | Path) -> dict[Path, str | None]:
    """Every checkpoint of a run, oldest first, and what is wrong with it; None for one that is whole.

    Those that the run deletes meanwhile are left out.

    Raises:
      ConfigError: no such run.
    """
    place = as_path("directory", directory)
    rundir.read_about(place)
    found: dict[Path, str | None] = {}
    for path in manager.found(rundir.inside(place, rundir.CHECKPOINTS)).values():
        try:
            checkpoint.load(path)
            found[path] = None
        except Gone:
            continue
        except Damaged as error:
            found[path] = str(error)
    return found


def replay(
    directory: str | Path, *, config: Config | None = None, events: Sequence[Part] = ()
) -> tuple[int, int, str | None]:
    """Run the last interval again, from the checkpoint before the last, and compare the bits.

    Returns:
      Env steps of both checkpoints, and the first array that differs; None if none does.

    Raises:
      ConfigError: no such run, or fewer than two whole checkpoints.
    """
    whole = [path for path, problem in verdicts(directory).items() if problem is None]
    if len(whole) < 2:
        raise ConfigError([Problem("replay", MISSING, "needs two whole checkpoints")])
    try:
        before, after = (checkpoint.read_manifest(path) for path in whole[-2:])
    except Damaged as error:
        rule = f"a checkpoint has changed meanwhile ({error}); wait for the end of the run"
        raise ConfigError([Problem("replay", MISSING, rule)]) from None
    saved = open_run(directory, before["env_steps"], config=config, events=events)
    place = as_path("directory", directory)
    with compilation_cache(True, place):  # on a GPU, with the very kernels of the run
        compiled = Programs(saved.trainer.config, events, saved.seeds.keys(), run=0)
    state, history = compiled.advance(saved.state, saved.history, after["update"] - before["update"])
    again = compiled.copy(state, history)()
    comparable = [
        name
        for name in after["arrays"]
        if name.startswith("state") or list(again[name].shape) == after["arrays"][name]["shape"]
    ]
    differing = (n for n in comparable if checkpoint.described(again[n]) != after["arrays"][n])
    return before["env_steps"], after["env_steps"], next(differing, None)
