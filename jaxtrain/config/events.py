"""Events as a config names them.

In: mappings such as `{name: gravity, run: randomize, every: 10_000, params: …}`. Out: `EventConfig`s, with
what is wrong in them said before anything compiles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from jaxtrain.config import field, fragment
from jaxtrain.config.field import Items, Params, from_list, is_number
from jaxtrain.config.registry import EVENTS, HOOKS, load_object
from jaxtrain.errors import MISSING, ConfigError, Fault, Named, Problem, nearest
from jaxtrain.schedule import Schedule, at, every, finish, startup, when

TAKES = {
    "update": ("trainer", "state", "key"),
    "reset": ("key", "params"),
    "step": ("key", "state", "params"),
}
OWN = "non_finite"  # the loop's own records
RUN = fragment.named(EVENTS)


def params(help: str, *, leaf: bool = True) -> Any:
    """A field of free-form named values; with `leaf`, its floats are rates, else text stays text."""

    def read(value: Any) -> Params:
        if not isinstance(value, Mapping):
            raise Fault("needs a mapping of names to values")
        made = value if isinstance(value, Params) else Params(value, texts=not leaf)
        floats = [(path, x) for path, x in jax.tree.leaves_with_path(made) if isinstance(x, float)]
        keystr = partial(jax.tree_util.keystr, simple=True, separator=".")
        problems = [Problem(keystr(path), x, "is no number") for path, x in floats if x != x]
        if problems:
            raise ConfigError(problems)
        return made

    return field.custom(Params, read, "MAPPING", leaf=leaf, accepts=fragment.MAPPING, help=help)


@dataclass(frozen=True)
class MetricIs:
    """`metric > threshold` as a predicate of a state."""

    metric: str
    sign: str
    threshold: float

    @classmethod
    def parse(cls, words: str) -> MetricIs:
        parts = words.split()
        if len(parts) != 3 or parts[1] not in ("<", ">") or not is_number(parts[2]):
            raise Fault("needs 'metric > number', 'metric < number' or package.module:function")
        return cls(parts[0], parts[1], float(parts[2]))

    def __repr__(self) -> str:
        return f"{self.metric} {self.sign} {self.threshold}"

    def __call__(self, state: Any) -> Any:
        if self.metric not in state.metrics:
            rule = "no such metric" + nearest(self.metric, state.metrics)
            raise ConfigError([Problem("when", self.metric, rule)])
        value = state.metrics[self.metric]
        return value > self.threshold if self.sign == ">" else value < self.threshold


def function_of(run: Any, on: str = "update") -> Callable[..., Any]:
    """What a name stands for: the function of a stock event, or one's own.

    Raises:
      Fault: no such function, or a stock event that does not act there.
    """
    if isinstance(run, str):
        if run not in EVENTS and ":" not in run:
            raise Fault("needs a stock event or package.module:function" + nearest(run, EVENTS))
        if run in EVENTS and on != "update" and (run, on) not in HOOKS:
            raise Fault(f"does not run on: {on}")
        run = load_object(HOOKS.get((run, on), EVENTS.get(run, run)))
    if not callable(run):
        raise Fault("needs a function")
    return run


def _read_run(value: Any) -> Any:
    if not isinstance(value, str) or value:  # else the event's name says it
        function_of(value)
    return value


def _read_predicate(value: Any) -> Callable[[Any], Any]:
    """`metric > number` as text, a function by name, or a function."""
    if isinstance(value, str):
        value = load_object(value) if ":" in value else MetricIs.parse(value)
    if not callable(value):
        raise Fault("needs 'metric > number', 'metric < number' or package.module:function")
    return value


@field.config
class EventConfig:
    """One event by name: when, what, and with which parameters."""

    name: str = field.text("", help="what its records are called")
    run: Any = field.custom(
        "",
        _read_run,
        "NAME",
        accepts={"anyOf": [RUN, {"const": ""}]},
        help="a stock event or package.module:function; unset: name",
    )
    on: str = field.choice("update", tuple(TAKES), help="the loop, or inside each environment")
    every: int | None = field.integer(None, low=1, help="env steps between two firings")
    at: tuple[int, ...] = field.integers((), help="env steps at which it fires")
    startup: bool = field.flag(False, help="fire before the first update")
    finish: bool = field.flag(False, help="fire after the last update")
    when: Any = field.custom(
        None,
        _read_predicate,
        "TEXT",
        optional=True,
        accepts={"type": "string", "pattern": r":|^\s*\S+\s+[<>]\s+\S+\s*$"},
        help="'metric > number' or package.module:function",
    )
    once: bool = field.flag(False, help="with `when`: fire a single time for each seed")
    every_steps: tuple[int, ...] = field.integers(
        (1,), low=1, help="with `on: step`: interval, or its low,high"
    )
    scope: str = field.choice("seed", ("seed", "population"), help="what `run` sees")
    params: Params = params("keyword arguments of `run`")

    @property
    def stock(self) -> str | None:
        """The stock event that it runs."""
        run = self.run or self.name
        return run if isinstance(run, str) and run in EVENTS else None

    def rules(self) -> list[Problem]:
        found = [*self._rules_of_when()]
        if self.name == OWN:
            found.append(Problem("name", self.name, "is the loop's own; needs another"))
        low, high = self.every_steps[:1], self.every_steps[-1:]
        if not 1 <= len(self.every_steps) <= 2 or low > high:
            found.append(Problem("every_steps", self.every_steps, "needs one interval, or low,high"))
        elif self.on != "step" and self.every_steps != (1,):
            found.append(Problem("every_steps", self.every_steps, "needs on: step"))
        places = [on for on in TAKES if on == "update" or (self.stock, on) in HOOKS]
        if self.stock and self.on not in places:
            found.append(Problem("on", self.on, f"{self.stock} runs on: {' or '.join(places)}"))
        alone = self.stock or self.on != "update" or self.when is not None
        if self.scope == "population" and alone:
            found.append(
                Problem("scope", self.scope, "needs a function of one's own, on: update, without `when`")
            )
        try:
            found += [] if found else self._rules_of_params(self.function)
        except Fault as fault:
            found.append(Problem("run", self.run or self.name, str(fault)))
        return found

    def _rules_of_when(self) -> list[Problem]:
        found: list[Problem] = []
        has_schedule = bool(self.every or self.at or self.startup or self.finish)
        if self.on == "update" and not has_schedule:
            found.append(Problem("every", self.every, "needs one of every, at, startup, finish"))
        if self.on != "update" and (has_schedule or self.when is not None):
            rule = "an event inside the rollout has no every, at, startup, finish or when"
            found.append(Problem("on", self.on, rule))
        elif self.when is not None and not self.every:
            found.append(Problem("every", self.every, "`when` is checked at marks: needs every"))
        elif self.when is not None and (self.at or self.startup or self.finish):
            found.append(Problem("when", self.when, "is checked at the marks of every alone; use two events"))
        if self.once and self.when is None:
            found.append(Problem("once", self.once, "needs a `when`; a single firing is `at: [N]`"))
        return found

    def _rules_of_params(self, function: Callable[..., Any]) -> list[Problem]:
        """What `function` says of its parameters: by its signature, and by its `traits`."""
        found = misfits(function, takes(function, self.on), self.params)
        traits = getattr(function, "traits", None)
        if not found and traits is not None:
            found += ConfigError(traits.check(**self.params)).under("params")
        return found

    @property
    def function(self) -> Callable[..., Any]:
        """What it runs."""
        return function_of(self.run or self.name, self.on)

    @property
    def schedule(self) -> Schedule:
        """When it is due, in env steps."""
        if self.when is not None:
            assert self.every is not None  # by rules
            return when(self.when, every=self.every, once=self.once)
        parts = [every(self.every)] if self.every else []
        parts += [at(*self.at)] if self.at else []
        parts += [startup()] if self.startup else []
        parts += [finish()] if self.finish else []
        return Schedule.union(parts)


def takes(function: Callable[..., Any], on: str) -> tuple[str, ...]:
    """What the loop calls a function of an event with, besides its parameters."""
    while isinstance(function, partial):
        function = function.func
    traits = getattr(function, "traits", None)
    if on == "reset" and getattr(traits, "last", False):
        return (*TAKES[on], "last")
    remembers = getattr(traits, "init", None) is not None
    return (*TAKES[on], "name") if remembers else TAKES[on]


def misfits(function: Callable[..., Any], takes: tuple[str, ...], given: Mapping[str, Any]) -> list[Problem]:
    """Where a function's signature is not `(*takes, **given)`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return []
    later = list(signature.parameters.values())[len(takes) :]
    named = {p.name for p in later if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    free = any(p.kind == p.VAR_KEYWORD for p in later)
    found = [
        Problem(f"params.{name}", given[name], "unknown key" + nearest(name, named))
        for name in given
        if not free and name not in named
    ]
    found += [
        Problem(f"params.{p.name}", MISSING, "is missing")
        for p in later
        if p.name in named and p.default is p.empty and p.name not in given
    ]
    if not found:
        try:
            signature.bind(*takes, **given)
        except TypeError as error:
            name = getattr(function, "__qualname__", function)
            rule = f"needs a function of ({', '.join((*takes, *given))}): {error}"
            found.append(Problem("run", name, rule))
    return found


def _read_events(value: Any) -> Items:
    made = Items(from_list(EventConfig, value))
    names: dict[str, int] = {}
    problems: list[Problem] = []
    for i, item in enumerate(made):
        if not isinstance(getattr(item, "name", None), str) or not hasattr(item, "run"):
            rule = "needs a mapping such as {name: …, every: …}, or an Event, OnReset or OnStep object"
            if callable(item):
                item, rule = (
                    Named.of(item),
                    f"{rule}; a function goes into one: Event(name, every(N), function)",
                )
            problems.append(Problem(f"{i}", item, rule))
        elif names.setdefault(item.name, i) != i:
            problems.append(Problem(f"{i}.name", item.name, f"is the name of event {names[item.name]}"))
    if problems:
        raise ConfigError(problems)
    return made


def events() -> Any:
    """A field with a list of events."""
    # Without `run` the name says what runs.
    either = {"anyOf": [{"required": ["run"]}, {"properties": {"name": RUN}}]}
    accepted = fragment.listed({"allOf": [EventConfig, either]})
    return field.custom(
        (), _read_events, "LIST", leaf=True, accepts=accepted, help="see `jaxtrain list events`"
    )
