"""What a config is made of: fields that check themselves, dataclasses that are pytrees.

In: declarations such as `gamma: float = rate(0.99, low=0, high=1)`. Out: frozen dataclasses that turn
what people write (`"3e-4"`, `[64, 64]`, `1e6`) into the declared type, and say every fault at once.

Rates (floats, or schedules of them, see `rate.py`) are pytree leaves, so a sweep over one is a `vmap` and
changing one never recompiles. All else is static: it decides shapes and names, and belongs to the compiled
program.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxtrain.config import fragment
from jaxtrain.config import rate as rates
from jaxtrain.config.number import as_float, as_number, is_array, same
from jaxtrain.config.rate import RateSchedule
from jaxtrain.errors import MISSING, ConfigError, Fault, Problem, nearest

T = TypeVar("T")


_MANY = 20  # unknown keys, and faults in a list, are named one by one


def is_number(value: Any) -> bool:
    """A finite number, or text that reads as one."""
    return as_number(value) is not None


def from_mapping(cls: type[T], value: Any) -> T:
    """Build `cls` from a mapping; an instance of it passes as it is. Every fault is in one error."""
    if isinstance(value, cls):
        return value
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        is_id = isinstance(value, str) and names[0] in ("id", "name")
        example = f", as in {{{names[0]}: {value}}}" if is_id else ""
        raise ConfigError([Problem("", value, f"needs a mapping of {', '.join(names)}{example}")])
    unknown = [str(key) for key in value if key not in names]
    problems = [Problem(key, MISSING, "unknown key" + nearest(key, names)) for key in unknown[:_MANY]]
    if len(unknown) > _MANY:
        problems.append(Problem("", MISSING, f"{len(unknown) - _MANY:,} more unknown keys"))
    try:
        made = cls(**{key: v for key, v in value.items() if key in names})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return made


def from_list(cls: type[Any], value: Any) -> list[Any]:
    """Build a `cls` of every mapping in a list; other members pass as they are."""
    if not isinstance(value, list | tuple):
        raise Fault("needs a list")
    made: list[Any] = []
    problems: list[Problem] = []
    for i, item in enumerate(value):
        try:
            made.append(from_mapping(cls, item) if isinstance(item, Mapping) else item)
        except ConfigError as error:
            problems += error.under(str(i))
        if len(problems) > _MANY:
            problems.append(Problem("", MISSING, "and more may be wrong behind it"))
            break
    if problems:
        raise ConfigError(problems)
    return made


INT32 = 2**31 - 1  # what the device can count to


@dataclass(frozen=True)
class Field:
    """How one field is read; kept in the dataclass field's metadata."""

    read: Callable[[Any], Any]
    kind: str  # what to write, for `--help`; "" for what only Python can give
    help: str = ""
    leaf: bool = False  # has pytree leaves in it
    config: type[Any] | None = None  # of a nested one
    anneal: str | None = None  # of a rate: the flag by which the algorithm moves a number
    accepts: Any = fragment.ANYTHING  # of what a file has there, as JSON Schema


def _bounds(low: float | None, high: float | None, above: float | None = None) -> str:
    parts = [f">= {low}"] if low is not None else []
    parts += [f"> {above}"] if above is not None else []
    parts += [f"<= {high}"] if high is not None else []
    return " and ".join(parts)


def _clip(number: Any, low: float | None, high: float | None) -> Any:
    number = number if low is None else max(number, low)
    return number if high is None else min(number, high)


def _make(default: Any, field: Field, optional: bool) -> Any:
    """A dataclass field; a default that can be called makes the default."""
    if optional:
        read = field.read

        def read_optional(value: Any) -> Any:
            unset = value is None or (isinstance(value, str) and value.lower() in ("none", "null"))
            return None if unset else read(value)

        field = dataclasses.replace(field, read=read_optional, accepts=fragment.optional(field.accepts))
    metadata = {"field": field}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def rate(
    default: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    anneal: str | None = None,
    help: str = "",
) -> Any:
    """A float that is data: a pytree leaf, which may be an array (a sweep), a tracer, or a schedule of such.

    Args:
      low, high, above: what it may be; a schedule's numbers too.
      anneal: the flag of the same config by which the algorithm moves a number; for a schedule it is off.
    """
    rule = " ".join(["needs a number", _bounds(low, high, above)]).strip()

    def inside(x: Any) -> Any:
        sound = np.isfinite(x)
        sound &= True if low is None else x >= low
        sound &= True if above is None else x > above
        return sound & (True if high is None else x <= high)

    def number(value: Any) -> Any:
        if isinstance(value, Tracer):
            return value
        if is_array(value) and np.ndim(value) > 0:
            real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
            if not real or not np.all(inside(np.asarray(value, float))):
                raise Fault(rule)
            return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
        plain = as_float(value)
        if plain is None:
            raise Fault(rule)
        if not inside(plain):
            near = _clip(plain, low, high)
            raise Fault(rule + (f"; the nearest is {near}" if near != plain else ""))
        return plain

    def read(value: Any) -> Any:
        return rates.read(value, number) if rates.is_schedule(value) else number(value)

    accepted = fragment.rate(fragment.number(low, high, above))
    field = Field(read, "FLOAT|SCHEDULE", help, leaf=True, anneal=anneal, accepts=accepted)
    return _make(default, field, default is None)


def scheduled(value: Any) -> bool:
    """Whether a rate is a schedule."""
    return isinstance(value, RateSchedule)


def integer(
    default: int | None,
    *,
    low: int | None = None,
    high: int | None = None,
    optional: bool = False,
    help: str = "",
) -> Any:
    """A static int."""
    rule = " ".join(["needs an int", _bounds(low, high)]).strip()

    def read(value: Any) -> int:
        number = as_number(value)
        if number is None:
            raise Fault(rule)
        near = _clip(round(number), low, high)
        if near != number:
            raise Fault(f"{rule}; the nearest is {near}")
        return near

    field = Field(read, "INT", help, accepts=fragment.number(low, high, whole=True))
    return _make(default, field, optional or default is None)


def static_float(default: float, *, help: str = "") -> Any:
    """A float that belongs to the program, such as an initial value."""

    def read(value: Any) -> float:
        number = as_float(value)
        if number is None:
            raise Fault("needs a number")
        return number

    return _make(default, Field(read, "FLOAT", help, accepts=fragment.number()), False)


def integers(default: tuple[int, ...], *, low: int = 0, high: int | None = None, help: str = "") -> Any:
    """A static tuple of ints; lists, a single one and comma-separated text work as well."""

    def read(value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            value = [x for x in value.strip("[]() ").split(",") if x.strip()]
        found = [as_number(x) for x in (value if isinstance(value, list | tuple) else [value])]
        whole = tuple(int(x) for x in found if x is not None and x % 1 == 0 and x == _clip(x, low, high))
        if len(whole) < len(found):
            raise Fault(f"needs a list of ints {_bounds(low, high)}")
        return whole

    return _make(tuple(default), Field(read, "INT,INT,…", help, accepts=fragment.integers(low, high)), False)


def flag(default: bool, *, help: str = "") -> Any:
    """A static bool; `true`, `yes`, `on` and their opposites work as text."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def read(value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise Fault("needs true or false")

    return _make(default, Field(read, "BOOL", help, accepts=fragment.flag(*words)), False)


def choice(default: str, options: tuple[str, ...], *, help: str = "") -> Any:
    """One of several words."""

    def read(value: Any) -> str:
        if value is False and "off" in options:  # YAML 1.1 reads a bare `off` as false
            return "off"
        if not isinstance(value, str) or value not in options:
            hint = difflib.get_close_matches(str(value), options, n=1)
            near = f"; the nearest is {hint[0]!r}" if hint else ""
            raise Fault(f"needs one of {', '.join(options)}{near}")
        return value

    return _make(default, Field(read, "|".join(options), help, accepts=fragment.choice(options)), False)


def text(default: str | None, *, optional: bool = False, help: str = "") -> Any:
    """A word or a name."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
            raise Fault("needs a text of 1 to 200 printable characters")
        return value

    return _make(default, Field(read, "TEXT", help, accepts=fragment.NAME), optional or default is None)


def custom(
    default: Any,
    read: Callable[[Any], Any],
    kind: str,
    *,
    leaf: bool = False,
    optional: bool = False,
    help: str = "",
    accepts: Any = fragment.ANYTHING,
) -> Any:
    """A field with a reader of its own; it raises `Fault` or `ConfigError`.

    Args:
      accepts: what of a file `read` takes, see `fragment.py`; it may take less.
    """
    return _make(default, Field(read, kind, help, leaf, accepts=accepts), optional)


def given(what: str, *methods: str, help: str = "") -> Any:
    """An object that only Python can give, unset by default; static, and known by its methods."""

    def read(value: Any) -> Any:
        if isinstance(value, type):
            raise Fault(f"needs {what}, an instance; this is a class: {value.__name__}(…)")
        missing = [m for m in methods if not callable(getattr(value, m, None))]
        if missing:
            hint = "; what it makes when it is called may be one" if callable(value) else ""
            raise Fault(f"needs {what}, given from Python; it has no {', '.join(missing)}{hint}")
        return value

    return _make(None, Field(read, "", help, accepts=False), optional=True)


def nested(cls: type[Any], *, optional: bool = False, help: str = "") -> Any:
    """Another config; a mapping is read as one."""
    field = Field(lambda value: from_mapping(cls, value), "", help, leaf=True, config=cls, accepts=cls)
    return _make(None if optional else cls, field, optional)


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    field_specifiers=(
        rate,
        static_float,
        integer,
        integers,
        flag,
        choice,
        text,
        custom,
        given,
        nested,
        dataclasses.field,
    ),
)
def config(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass whose fields check themselves, and register it as a pytree.

    After the fields are sound, a method `rules(self) -> list[Problem]` may check across them.
    """

    def check(self: Any) -> None:
        problems: list[Problem] = []
        for f in dataclasses.fields(self):
            spec: Field | None = f.metadata.get("field")
            value = getattr(self, f.name)
            if spec is None:
                continue
            try:
                object.__setattr__(self, f.name, spec.read(value))
            except Fault as fault:
                problems.append(Problem(f.name, value, str(fault)))
            except ConfigError as error:
                problems += error.under(f.name)
        if not problems and hasattr(self, "rules"):
            problems = list(self.rules())
        if problems:
            raise ConfigError(problems)

    def equal(self: Any, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    cls.__post_init__ = check  # type: ignore[attr-defined]
    if "__eq__" not in vars(cls):
        cls.__eq__ = equal  # that of a dataclass asks an array whether it is true
    made = dataclass(frozen=True, kw_only=True)(cls)
    init = made.__init__

    @functools.wraps(init)
    def known(self: Any, **given: Any) -> None:
        names = [f.name for f in dataclasses.fields(self) if f.init]
        unknown = [name for name in given if name not in names]
        if unknown:
            rule = "unknown key"
            raise ConfigError([Problem(n, MISSING, rule + nearest(n, names)) for n in unknown])
        init(self, **given)

    made.__init__ = known  # type: ignore[method-assign]
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    data = [f.name for f in fields if "field" in f.metadata and f.metadata["field"].leaf]
    meta = [f.name for f in fields if f.name not in data]

    def flatten(self: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in data]
        return keyed, tuple(getattr(self, n) for n in meta)

    def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> Any:
        self = object.__new__(made)  # unchecked: JAX puts tracers and placeholders in
        for name, value in [*zip(data, children, strict=True), *zip(meta, aux, strict=True)]:
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


def is_config(value: Any) -> bool:
    """Whether a value is what `config` has made."""
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return False
    return any("field" in f.metadata for f in dataclasses.fields(value))


_LEAF = object()


@jax.tree_util.register_pytree_with_keys_class
class Params(Mapping[str, Any]):
    """Free-form named values: floats and arrays are leaves, nested mappings too, all else is static.

    A list with a float in it is a list of floats; text such as `3e-4`, which YAML 1.1 takes for no
    number, is a float, unless text is to stay `texts`.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, *, texts: bool = False) -> None:
        self._values = {str(k): _freeze(v, texts) for k, v in (values or {}).items()}
        # Named here for good: what JAX puts in place of a leaf (an axis, a flag) is one as well.
        self._leaves = frozenset(k for k, v in self._values.items() if not _static(v))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(same(x, other[name]) for name, x in self.items())

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.DictKey(k), v) for k, v in self._values.items() if k in self._leaves]
        return keyed, tuple((k, _LEAF if k in self._leaves else v) for k, v in self._values.items())

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: Iterable[Any]) -> Params:
        self, children = object.__new__(cls), iter(children)
        self._values = {k: next(children) if v is _LEAF else v for k, v in aux}
        self._leaves = frozenset(k for k, v in aux if v is _LEAF)
        return self


@jax.tree_util.register_pytree_with_keys_class
class Items(tuple[Any, ...]):
    """A tuple whose pytrees are subtrees and whose other members, objects from Python, are static."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        static = [jax.tree_util.all_leaves([item]) for item in self]
        keyed = [(jax.tree_util.SequenceKey(i), item) for i, item in enumerate(self) if not static[i]]
        return keyed, tuple(item if static[i] else _LEAF for i, item in enumerate(self))

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: Iterable[Any]) -> Items:
        children = iter(children)
        return cls(next(children) if item is _LEAF else item for item in aux)


def _static(value: Any) -> bool:
    if isinstance(value, tuple):
        return not value or not all(isinstance(v, float | Params) or is_array(v) for v in value)
    return not (isinstance(value, float | Params) or is_array(value))


def _freeze(value: Any, texts: bool) -> Any:
    """What YAML gives, made immutable."""
    if isinstance(value, Mapping):
        return Params(value, texts=texts)
    if isinstance(value, list | tuple):
        floats = [None if texts else as_float(v) for v in value]
        if None not in floats and any(_is_float(v) for v in value):
            return tuple(floats)
        return tuple(_freeze(v, texts) for v in value)
    return float(value) if not texts and _is_float(value) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, float | str) and isinstance(as_number(value), float)
