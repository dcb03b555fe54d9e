"""A run of one seed: its first state, one update, one event, an evaluation.

In: the parts of a run and the `TrainState` of one seed. Out: pure functions of that state. `trainer.py`
calls them for one seed or for many.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from jaxtrain import envs
from jaxtrain.config.field import is_array
from jaxtrain.config.schema import EvaluationConfig
from jaxtrain.errors import ConfigError, ContractError
from jaxtrain.events.event import Event, OnReset, OnStep, own_report
from jaxtrain.known import Known, Readings
from jaxtrain.loop import hooks
from jaxtrain.loop.adopt import adopted
from jaxtrain.loop.build import Parts, bound, part_of
from jaxtrain.loop.evaluate import evaluate, told
from jaxtrain.loop.hyper import Rates
from jaxtrain.loop.rollout import Collector, Episodes, RolloutState
from jaxtrain.loop.state import RUNNING, TrainState
from jaxtrain.random import stream
from jaxtrain.tree import in_place, inexact, not_finite, same_tree, watched
from jaxtrain.types import Algorithm, Experience, Key, Metrics, PyTree, Report

# How the loop calls what `make` gives.
CALLED = {
    "init": ("key",),
    "policy": ("agent", "clock"),
    "sample": ("agent", "clock"),
    "update": ("agent", "runner", "experience", "clock", "key"),
    "value": ("agent", "obs", "carry"),
}


def check_made(parts: Parts, made: Any) -> None:
    """Raise a ContractError unless `make` gave an `Algorithm` of functions that the loop can call."""
    algorithm = parts.config.algorithm
    cls = f"algorithm {algorithm.name!r}: {type(algorithm).__qualname__}"
    if not isinstance(made, Algorithm):
        raise ContractError(f"{cls}.make gave {type(made).__name__}, needs a jaxtrain.types.Algorithm")
    for name, arguments in CALLED.items():
        function, form = getattr(made, name), f"{name}({', '.join(arguments)})"
        if function is None and name == "value":
            continue
        if not callable(function):
            raise ContractError(f"{cls}.make: {name} is {type(function).__name__}, needs a function {form}")
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise ContractError(f"{cls}.make: {name} needs to be called {form}: {error}") from None
        except ValueError:  # a function of C, which does not tell
            continue


def init(parts: Parts, rates: Rates, key: Key, trainer: Any) -> TrainState:
    """A fresh state, before any event. Of its metrics only the names that the rollout gives are there."""
    zero = jnp.zeros((), jnp.int32)
    algorithm = parts.algorithm(rates, zero)
    check_made(parts, algorithm)
    collector = parts.collector(rates, algorithm.carry)
    config = parts.config_at(rates)
    params = envs.batch(envs.params(parts.env, config.env.params), config.env.num_envs)
    runner, env_params = collector.start(stream(key, "environment"), params)
    remembered = {e.name: e.init(trainer) for e in parts.events if e.init is not None}
    once = {fired(e): jnp.zeros((), bool) for e in parts.events if e.schedule.once}
    return TrainState(
        clock=zero,
        key=key,
        hyper=rates,
        agent=algorithm.init(stream(key, "agent")),
        runner=runner,
        env_params=env_params,
        episodes=Episodes.empty(),
        metrics=Readings.of({}),
        events={**remembered, **once},
        status=zero,
        stopped_at=zero - 1,
    )


def adopt(parts: Parts, state: TrainState, taken: Mapping[str, jax.Array]) -> TrainState:
    """A fresh state whose agent begins from another's; see `Trainer.adopt`."""
    algorithm = parts.algorithm(state.hyper, state.clock)
    agent = adopted(algorithm, state.agent, stream(state.key, "agent"), taken)
    who = f"algorithm {parts.config.algorithm.name!r}: init(key, params=…)"
    return state.replace(agent=same_tree(who, state.agent, agent))


def learning(state: TrainState) -> TrainState:
    """What learning and evaluating read of a state: the same tree whatever has been reported."""
    return state.replace(metrics={}, events={})


class Updated(NamedTuple):
    """What an update makes."""

    state: TrainState
    bad: dict[str, jax.Array]  # what of it was not finite: bool[] each
    collects: jax.Array  # i32[], rollouts collected


def update(parts: Parts, state: TrainState) -> Updated:
    """One update, whatever the status says.

    Returns:
      The new state with this update's metrics, and what of it was not finite. Only the agent and what was
      collected make an update one that failed; of a failed one, it says which metrics were not finite either.
    """
    algorithm = parts.algorithm(state.hyper, state.clock)
    collector = parts.collector(state.hyper, algorithm.carry)
    runner = collector.begin(state.runner, state.env_params, state.episodes)
    experience = Experience(collector, collector.restart, state.status == RUNNING)
    key = jax.random.fold_in(stream(state.key, "update"), state.clock)
    who = f"algorithm {parts.config.algorithm.name!r}"
    result = algorithm.update(state.agent, runner, experience, state.clock, key)
    agent, runner, learned = _checked(who, state.agent, result)
    learned = {f"train/{name}": value for name, value in learned.items()}
    scheduled = parts.scheduled(state.hyper, state.clock)
    metrics = Readings.of({**runner.episodes.metrics(), **runner.statistics, **learned, **scheduled})
    if parts.config.on_nan == "ignore":
        return _updated(state, agent, runner, metrics, {})
    bad = {"agent": not_finite(agent), **runner.faults}
    failed = jnp.stack(list(bad.values())).any()
    for name in learned:
        value, known = metrics.entry(name)
        if inexact(value):
            bad[name] = failed & known & ~jnp.isfinite(value)
    return _updated(state, agent, runner, metrics, bad)


def _updated(
    state: TrainState, agent: PyTree, runner: RolloutState, metrics: Readings, bad: dict[str, jax.Array]
) -> Updated:
    state = state.replace(
        agent=agent,
        runner=runner.runner,
        env_params=runner.env_params,
        episodes=runner.episodes,
        metrics=metrics,
    )
    return Updated(state, bad, runner.collects)


def check_collects(parts: Parts, traced: Any) -> None:
    """Env steps are counted by updates, so each has to collect one rollout.

    Args:
      traced: the jaxpr of `update`.

    Raises:
      ContractError: it collects another number of them, or it depends on data how many.
    """
    wanted = [False] * (len(traced.jaxpr.outvars) - 1) + [True]  # `collects` is its last output
    counting, used = dce_jaxpr(traced.jaxpr, wanted)
    who = f"algorithm {parts.config.algorithm.name!r}: update"
    if any(used):
        raise ContractError(f"{who} collects under a condition; needs to collect once, whatever the data")
    with jax.ensure_compile_time_eval():
        (count,) = eval_jaxpr(counting, traced.consts)
    if int(count) != 1:
        raise ContractError(
            f"{who} collects {int(count)} times; needs once: rollout_length says how many steps"
        )


def _checked(who: str, agent: PyTree, result: Any) -> tuple[PyTree, RolloutState, Metrics]:
    """What an algorithm's `update` gave.

    Raises:
      ContractError: while tracing, naming the algorithm: another form, or another tree than it was given.
    """
    if not isinstance(result, tuple) or len(result) != 3:
        gave = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise ContractError(f"{who}: update gave {gave}, needs (agent, runner, metrics)")
    new, runner, metrics = result
    if not isinstance(runner, RolloutState):
        raise ContractError(f"{who}: update gave {type(runner).__name__} as runner, needs that of `collect`")
    if not isinstance(metrics, dict):
        raise ContractError(f"{who}: the metrics are {type(metrics).__name__}, needs a flat dict of scalars")
    for name, value in metrics.items():
        value = value.value if isinstance(value, Known) else value
        if not isinstance(value, float | int) and not is_array(value):
            raise ContractError(f"{who}: metric {name!r} is {type(value).__name__}, needs a scalar")
        if jnp.shape(value) != ():
            raise ContractError(f"{who}: metric {name!r} has shape {jnp.shape(value)}, needs a scalar")
    return same_tree(f"{who}: the agent", agent, new), runner, metrics


class Fired(NamedTuple):
    """What an event makes."""

    state: TrainState
    report: Readings
    bad: dict[str, jax.Array]  # of what it changed, whether it is not finite: bool[] each, or [S]


def run_event(parts: Parts, event: Event, params: Any, state: TrainState, trainer: Any) -> Fired:
    """One event of one seed, or a population event of all.

    Raises:
      ContractError: while tracing, naming the event: another form, or another tree than it was given; or an
        event of a seed that writes to what is `InPlace`, which no choice between old and new undoes for the
        seeds that it is not for.
    """
    root = state.key if state.key.ndim == 0 else state.key[0]
    if event.traits.same_key:
        key = event_key(event, state.key)
    else:
        key = jax.random.fold_in(stream(root, f"event/{event.name}"), state.clock)
    named = () if event.traits.init is None else (event.name,)
    try:
        new, report = own_report(event, event.run(trainer, state, key, *named, **params))
    except ConfigError as error:
        raise ConfigError(error.under(f"event {event.name!r}")) from None
    if not isinstance(new, TrainState):
        raise ContractError(
            f"event {event.name!r}: run gave {type(new).__name__} as state, needs a TrainState"
        )
    # The key is a name and the clock is the loop's: no event moves them.
    new = new.replace(key=state.key, clock=state.clock)
    new = same_tree(f"event {event.name!r}: the state", state, new)
    nominal = hooks.moved(new.runner.nominal, state.env_params, new.env_params)
    new = new.replace(runner=new.runner.replace(nominal=nominal))
    if event.scope == "seed" and changed(in_place(state.agent), in_place(new.agent)):
        rule = "writes to what is tree.InPlace; needs scope='population'"
        raise ContractError(f"event {event.name!r}: {rule}")
    bad: dict[str, jax.Array] = {}
    for name in ("agent", "hyper"):
        touched = changed(watched(getattr(state, name)), watched(getattr(new, name)))
        if touched and parts.config.on_nan != "ignore":
            bad[f"{event.name}/{name}"] = not_finite(touched, state.key.ndim)
    if state.key.ndim:  # a number about all seeds stands with each
        seeds = len(state.key)
        each = lambda x: x if x.shape[:1] == (seeds,) else jnp.broadcast_to(x, (seeds, *x.shape))  # noqa: E731
        report = jax.tree.map(each, report)
    return Fired(new, Readings.of(report, state.key.shape), bad)


def changed(old: list[Any], new: list[Any]) -> list[Any]:
    """Those that are not as they were: what is handed back untouched is the same tracer."""
    return [x for x, y in zip(new, old, strict=True) if x is not y]


def event_key(event: Event, key: Key) -> Key:
    """What an event that draws the same at every firing draws from."""
    return stream(key, f"{event.run.__name__}/{event.name}")


def wants(event: Event, state: TrainState) -> jax.Array:
    """Whether an event with a predicate is to fire: bool[]."""
    assert event.schedule.predicate is not None
    wanted = jnp.asarray(event.schedule.predicate(state))
    if wanted.shape != ():
        raise ContractError(f"event {event.name!r}: its predicate gave shape {wanted.shape}, needs one bool")
    return wanted.astype(bool) & ~state.events[fired(event)] if event.schedule.once else wanted.astype(bool)


def fired(event: Event) -> str:
    """Where a single-shot trigger remembers that it fired."""
    return f"{event.name}/fired"


def evaluation(
    parts: Parts, settings: EvaluationConfig | None, state: TrainState, key: Key
) -> tuple[Report, Report]:
    """Complete episodes with the policy of one seed; `settings` instead of the run's own.

    Returns:
      The report, and what it is of each episode, see `jaxtrain.loop.evaluate.evaluate`.
    """
    config = parts.config_at(state.hyper)
    algorithm = parts.algorithm(state.hyper, state.clock)
    settings = config.evaluation if settings is None else settings
    place = settings.env or config.env
    env, parts_there = envs.make(place.id), [bound(p, p.params) for p in map(part_of, settings.events)]
    params = envs.params(env, place.params)
    collector = Collector(
        env=env,
        num_envs=settings.num_episodes,
        length=1,
        carry=algorithm.carry,
        on_reset=tuple(hook for hook in parts_there if isinstance(hook, OnReset)),
        on_step=tuple(hook for hook in parts_there if isinstance(hook, OnStep)),
        statistics=told(env, params, parts.statistics) if settings.env else parts.statistics,
    )
    policy = (algorithm.policy if settings.greedy else algorithm.sample)(state.agent, state.clock)
    batch = envs.batch(params, settings.num_episodes)
    return evaluate(collector, policy, batch, key, max_episode_steps=settings.max_episode_steps)
