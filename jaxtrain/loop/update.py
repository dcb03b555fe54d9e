"""A run of one seed: its parts built from a config, its first state, one update, one event.

In: a config and events. Out: pure functions of the `TrainState` of one seed.
Knows nothing of other seeds, of timetables or of sinks; `all_seeds.py` calls it for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain import envs
from jaxtrain.config.schema import Config, EvaluationConfig
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.event import Event, OnReset, OnStep, Part, own_report
from jaxtrain.loop import build
from jaxtrain.loop.evaluate import evaluate
from jaxtrain.loop.rollout import Collector, Episodes, RolloutState
from jaxtrain.loop.state import TrainState
from jaxtrain.random import stream
from jaxtrain.tree import same_tree, unknown
from jaxtrain.types import ActOutput, EnvSpec, Key, Metrics, PyTree, Report, Rollout


class OneSeed:
    """What `Trainer` is for one seed; its arguments and errors are described there."""

    def __init__(
        self, config: Config, events: Sequence[Part] = (), *, config_axis: int | None = None
    ) -> None:
        if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                [Problem("config", config, "needs a jaxtrain.Config; load_config reads a file")]
            )
        # With a seed axis on its leaves a config is that of many; what is built here is of the first of them.
        self._configs, self._config_axis, self._given = config, config_axis, tuple(events)
        if config_axis is not None:
            config = jax.tree.map(lambda x: x[0], config)
        self.config = config
        self.algorithm = config.algorithm
        self.env = envs.make(config.env.id)
        self.env_steps_per_update = config.env_steps_per_update
        self.num_updates = config.num_updates
        parts = build.parts([*config.events, *events])
        self.events = (*build.built_in(config), *(p for p in parts if isinstance(p, Event)))
        self.spec = self._spec(self.env, config.env.num_envs)
        self.collector = self._collector(self.env, config.env.num_envs, parts, self.algorithm.rollout_length)
        names = [e.name for e in (*self.events, *self.collector.on_reset, *self.collector.on_step)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError([Problem("events", twice, "needs a different name for each event")])

    @cached_property
    def timetable(self) -> dict[str, tuple[int, ...]]:
        """Event -> the updates after which it is due, exact."""
        table: dict[str, tuple[int, ...]] = {}
        for event in self.events:
            try:
                table[event.name] = event.schedule.updates(self.env_steps_per_update, self.num_updates)
            except ValueError as error:
                raise ConfigError([Problem(f"event {event.name!r}", MISSING, str(error))]) from None
        return table

    def _spec(self, env: Any, num_envs: int) -> EnvSpec:
        obs, _ = jax.eval_shape(lambda key: env.reset(key, envs.params(env, {})), jax.random.key(0))
        return EnvSpec(env.observation_space, env.action_space, obs, num_envs, self.config.anneal_updates)

    def _collector(self, env: Any, num_envs: int, parts: Sequence[Part], length: int) -> Collector:
        return Collector(
            env=env,
            num_envs=num_envs,
            length=length,
            fresh_memory=self.algorithm.memory(self._spec(env, num_envs)),
            on_reset=tuple(p for p in parts if isinstance(p, OnReset)),
            on_step=tuple(p for p in parts if isinstance(p, OnStep)),
            statistics=build.statistics(self.config),
        )

    def _init(self, key: Key) -> TrainState:
        params = envs.batch(envs.params(self.env, self.config.env.params), self.config.env.num_envs)
        runner, env_params = self.collector.start(stream(key, "environment"), params)
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(
            clock=zero,
            key=key,
            agent=self.algorithm.init(self.spec, stream(key, "agent")),
            runner=runner,
            env_params=env_params,
            episodes=Episodes.empty(),
            metrics={},
            events={e.name: e.init(self) for e in self.events if e.init is not None},
            status=zero,
            stopped_at=zero - 1,
        )
        once = {fired(e): jnp.zeros((), bool) for e in self.events if e.schedule.once}
        state = state.replace(events={**state.events, **once})
        state = state.replace(metrics=unknown(jax.eval_shape(self._update, state).metrics))
        sticky: Metrics = {}
        for event in self.events:
            if event.sticky:
                _, report = jax.eval_shape(lambda s, e=event: own_report(e, e.run(self, s, s.key)), state)
                sticky |= {f"{event.name}/{name}": x for name, x in report.items() if x.shape == ()}
        return state.replace(metrics={**state.metrics, **unknown(sticky)})

    def _update(self, state: TrainState) -> TrainState:
        def collect(agent: PyTree, world: RolloutState, key: Key) -> tuple[RolloutState, Rollout]:
            def policy(obs: PyTree, memory: PyTree, key: Key) -> ActOutput:
                return self.algorithm.act(self.spec, agent, obs, memory, key, greedy=False)

            return self.collector(policy, world, key)

        key = jax.random.fold_in(stream(state.key, "update"), state.clock)
        none = {f"rollout/{s.name}": jnp.full((), jnp.nan) for s in self.collector.statistics}
        world = RolloutState(state.runner, state.env_params, state.episodes, none)
        agent, world, learned = self.algorithm.update(self.spec, state.agent, collect, world, key)
        metrics = {
            **state.metrics,
            **world.episodes.metrics(),
            **world.statistics,
            **{f"train/{name}": value for name, value in learned.items()},
        }
        return state.replace(
            agent=agent,
            runner=world.runner,
            env_params=world.env_params,
            episodes=world.episodes,
            metrics=metrics,
        )

    def _run_event(self, event: Event, state: TrainState) -> tuple[TrainState, Report]:
        """One event of one seed, or a population event of all."""
        root = state.key if state.key.ndim == 0 else state.key[0]
        key = jax.random.fold_in(stream(root, f"event/{event.name}"), state.clock)
        new, report = own_report(event, event.run(self, state, key))
        if not isinstance(new, TrainState):
            raise TypeError(
                f"event {event.name!r}: run gave {type(new).__name__} as state, needs a TrainState"
            )
        # The key is a name and the clock is the loop's: no event moves them.
        new = new.replace(key=state.key, clock=state.clock)
        return same_tree(f"event {event.name!r}: the state", state, new), report

    def _run_event_of_seed(self, index: int, state: TrainState) -> tuple[TrainState, Report]:
        return self._run_event(self.events[index], state)

    def _wants(self, index: int, state: TrainState) -> jax.Array:
        event = self.events[index]
        assert event.schedule.predicate is not None
        wanted = jnp.asarray(event.schedule.predicate(state))
        if wanted.shape != ():
            raise TypeError(f"event {event.name!r}: its predicate gave shape {wanted.shape}, needs one bool")
        return (
            wanted.astype(bool) & ~state.events[fired(event)] if event.schedule.once else wanted.astype(bool)
        )

    def _evaluate(self, settings: EvaluationConfig, state: TrainState, key: Key) -> Report:
        place = settings.env or self.config.env
        env, num = envs.make(place.id), settings.num_episodes
        collector = dataclasses.replace(
            self._collector(env, num, build.parts(settings.events), 1), statistics=()
        )
        spec = dataclasses.replace(self.spec, num_envs=num)

        def policy(obs: PyTree, memory: PyTree, key: Key) -> ActOutput:
            return self.algorithm.act(spec, state.agent, obs, memory, key, greedy=settings.greedy)

        params = envs.batch(envs.params(env, place.params), num)
        return evaluate(collector, policy, params, key, max_episode_steps=settings.max_episode_steps)


def fired(event: Event) -> str:
    """Where a single-shot trigger remembers that it fired."""
    return f"{event.name}/fired"
