"""What `reset`, `step` and `render` of an environment of one's own give, looked at before anything compiles.

In: an `Env`, and its parameters as arrays. Out: an `Env` that keeps the contract to the letter: the same one,
or one around it that casts; or an error with a line for each leaf that does not fit.

A cast is made where it loses nothing: of weak types, of a whole-number reward, and of a leaf that is narrower
in what one of both gives. A number is no bool.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.envs.wrappers import Cast, is_masked
from jaxtrain.errors import MISSING, ConfigError, Problem, raised
from jaxtrain.types import Box, Dict, Discrete, Env, MultiDiscrete, PyTree, Space, Step

FORMS = {
    "reset": "reset(key, params)",
    "step": "step(key, state, action, params)",
    "render": "render(state, params)",
}


def kept(env: Env, params: PyTree) -> Env:
    """`env`, or what casts around it. Both functions are traced.

    Args:
      params: of one environment, leaves are arrays.

    Raises:
      ConfigError: by function: `step: terminated is float32[], needs bool[]`.
    """
    key, space = jax.random.key(0), env.action_space
    assert not isinstance(space, Dict)  # see `envs.make`
    action = jnp.zeros(space.shape, jnp.float32 if isinstance(space, Box) else jnp.int32)
    begun = _called(env, "reset", key, params)
    if not isinstance(begun, tuple | list) or len(begun) != 2:
        raise _fault("reset", f"gives {_what(begun)}, needs (obs, state)")
    first = Step(*begun, reward=None, terminated=None, truncated=None, info={})  # type: ignore[arg-type]
    unlike = _unlike(env.observation_space, first.obs)
    if unlike and not _unlike(env.observation_space, first.state):
        unlike.append("its second value is like an observation; the order is (obs, state)")
    _refuse("reset", [*_no_arrays(first), *unlike, *_mask(env, first.obs)])

    def stepped(state: PyTree) -> Step:
        out = _called(env, "step", key, state, action, params)
        if not isinstance(out, tuple | list) or len(out) != len(Step._fields):
            five = "; Gymnasium's five lack the state" if isinstance(out, tuple) and len(out) == 5 else ""
            raise _fault("step", f"gives {_what(out)}, needs Step({', '.join(Step._fields)}){five}")
        step = Step(*out)
        found = [*_no_arrays(step), *_unlike(env.observation_space, step.obs), *_mask(env, step.obs)]
        _refuse("step", found or _ends(step))
        return step

    step = stepped(first.state)
    wanted = _common(first[:2], step[:2])
    if not _is(first[:2], wanted):  # what it gives of a state as it will come may be another
        step = stepped(wanted[1])
        _refuse("step", [*_differences(wanted, step[:2], narrower=False)])
    reward = jax.ShapeDtypeStruct((), jnp.promote_types(step.reward.dtype, jnp.float32))
    wanted = (_masks_as_bool(wanted[0]), wanted[1], reward)
    if _is(first[:2], wanted[:2]) and _is(step[:3], wanted):
        return env
    return Cast(env, jax.tree.map(lambda leaf: leaf.dtype, wanted))


def picture(render: Any, state: PyTree, params: PyTree) -> np.ndarray:
    """What `render` gives: uint8[H, W, 3] in memory of its own.

    Args:
      state, params: of one environment, leaves are arrays.

    Raises:
      ConfigError: it raised, or gave something else: `render: gives float32[3], needs uint8[H, W, 3]`.
    """
    _check_form(render, "render", state, params)
    try:
        given = render(state, params)
    except ConfigError:
        raise
    except Exception as error:  # whatever it does
        raise _fault("render", f"raised {raised(error)}") from error
    sound = _is_array(given) and np.ndim(given) == 3 and np.shape(given)[-1] == 3 and np.size(given)
    if not sound or given.dtype != np.uint8:
        is_array = isinstance(given, np.ndarray | np.generic | jax.Array)
        said = _what(jax.ShapeDtypeStruct(given.shape, given.dtype) if is_array else given)
        raise _fault("render", f"gives {said}, needs uint8[H, W, 3]")
    return np.array(given)


def _fault(function: str, rule: str) -> ConfigError:
    return ConfigError([Problem(function, MISSING, rule)])


def _refuse(function: str, rules: list[str]) -> None:
    if rules:
        raise ConfigError([Problem(function, MISSING, rule) for rule in rules])


def _called(env: Any, name: str, *args: Any) -> PyTree:
    """What a function gives: arrays as their `jax.ShapeDtypeStruct`s, all else as it is."""
    function = getattr(env, name)
    _check_form(function, name, *args)
    made: list[Any] = []

    def traced(args: tuple[Any, ...]) -> list[Any]:
        leaves, structure = jax.tree.flatten(function(*args))
        # Nothing that is traced is kept: `jax_check_tracer_leaks` takes it for a fault of the user's.
        made[:] = [None if _is_array(leaf) else (leaf,) for leaf in leaves], structure
        return [leaf for leaf in leaves if _is_array(leaf)]

    try:
        shapes = iter(jax.eval_shape(traced, args))
    except Exception as error:  # whatever it does while it is traced
        raise _fault(name, f"raised {raised(error)}") from error
    others, structure = made
    return jax.tree.unflatten(structure, [next(shapes) if kept is None else kept[0] for kept in others])


def _check_form(function: Any, name: str, *args: Any) -> None:
    """Raise a ConfigError where a function does not take what it is called with."""
    try:
        inspect.signature(function).bind(*args)
    except TypeError as error:
        raise _fault(name, f"needs to be called {FORMS[name]}: {error}") from None
    except ValueError:  # a function of C, which does not tell
        pass


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSUMm"
    return isinstance(leaf, jax.Array | bool | int | float | complex)


def _no_arrays(step: Any) -> Iterator[str]:
    """What of it is neither an array nor a tree of arrays."""
    if not isinstance(step.info, Mapping):
        yield f"info is {_what(step.info)}, needs a mapping of names to arrays, or {{}}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(step):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            own = not isinstance(leaf, str | bytes) and type(leaf).__module__ != "builtins"
            hint = "; make a class of one's own a pytree, as flax.struct.dataclass does" if own else ""
            yield f"{_name(path)} is {_what(leaf)}, needs an array or a tree of arrays{hint}"


def _name(path: Any) -> str:
    """`state.time`, of a leaf of a `Step`."""
    return jax.tree_util.keystr(path).removeprefix(".")


def _what(given: Any) -> str:
    """What was given, in words: `float32[3]`, `a dict of position, velocity`, `3 values`, `a str`."""
    if isinstance(given, jax.ShapeDtypeStruct):
        return f"{given.dtype}{list(given.shape)}"
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    if isinstance(given, tuple | list):
        return f"{len(given)} values" if type(given) in (tuple, list) else f"a {type(given).__name__}"
    return "None" if given is None else f"a {type(given).__name__}"


def _unlike(space: Space, obs: PyTree, name: str = "obs") -> list[str]:
    """Where an observation is not what its space says; beside a mask, the observation in it."""
    if is_masked(obs) and not isinstance(space, Dict):
        return _unlike(space, obs["observation"], f"{name}['observation']")
    if isinstance(space, Dict):
        if not isinstance(obs, Mapping) or {*obs} != {*space}:
            return [
                f"{name} is {_what(obs)}, needs a dict of {', '.join(space)}, as observation_space has it"
            ]
        return [rule for k, part in space.items() for rule in _unlike(part, obs[k], f"{name}[{k!r}]")]
    whole = isinstance(space, Discrete | MultiDiscrete)
    kind = "int32" if whole else "float32"
    sound = isinstance(obs, jax.ShapeDtypeStruct) and tuple(obs.shape) == space.shape
    if sound and (jnp.issubdtype(obs.dtype, jnp.integer) or obs.dtype == jnp.bool_):
        return []
    if sound and not whole and jnp.issubdtype(obs.dtype, jnp.floating):
        return []
    return [f"{name} is {_what(obs)}, needs {kind}{list(space.shape)}, as observation_space has it"]


def _mask(env: Env, obs: PyTree) -> Iterator[str]:
    """What is wrong with the mask of an observation that comes with one."""
    space = env.action_space
    if not is_masked(obs) or isinstance(env.observation_space, Dict):
        return
    if isinstance(space, Box):
        yield "obs has an action_mask, needs a Discrete or MultiDiscrete action_space"
        return
    sizes = space.nvec if isinstance(space, MultiDiscrete) else (getattr(space, "n", 0),)
    size, mask = sum(sizes), obs["action_mask"]
    sound = isinstance(mask, jax.ShapeDtypeStruct) and mask.shape == (size,)
    if not sound or not (mask.dtype == jnp.bool_ or jnp.issubdtype(mask.dtype, jnp.integer)):
        yield f"obs['action_mask'] is {_what(mask)}, needs bool[{size}]"


def _ends(step: Step) -> list[str]:
    """What is wrong with the reward and the two flags."""
    found: list[str] = []
    for name, kind in (("reward", "float32"), ("terminated", "bool"), ("truncated", "bool")):
        leaf: Any = getattr(step, name)
        sound = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.shape == ()
        if sound and name == "reward":
            real = (jnp.floating, jnp.integer, jnp.bool_)
            sound = any(jnp.issubdtype(leaf.dtype, dtype) for dtype in real)
        elif sound:
            sound = leaf.dtype == jnp.bool_
        found += [] if sound else [f"{name} is {_what(leaf)}, needs {kind}[]"]
    return found


def _common(first: tuple[PyTree, PyTree], then: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """What holds (obs, state) of `reset` and of `step` alike, leaf by leaf, none of it weak.

    Raises:
      ConfigError: another structure, shape or dtype, where no cast keeps everything.
    """
    _refuse("step", [*_differences(first, then)])
    return jax.tree.map(lambda a, b: jax.ShapeDtypeStruct(a.shape, _wider(a, b)), first, then)


def _differences(first: Any, then: Any, *, narrower: bool = True) -> Iterator[str]:
    """Where `step` gives what `reset` does not.

    Args:
      narrower: whether `reset` may give what can be cast to what `step` gives.
    """
    for name, x, y in zip(("obs", "state"), first, then, strict=True):
        a, b = jax.tree_util.tree_leaves_with_path(x), jax.tree_util.tree_leaves_with_path(y)
        if jax.tree.structure(x) != jax.tree.structure(y):
            was, now = ([name + jax.tree_util.keystr(path) for path, _ in tree] for tree in (a, b))
            said = [f"lacks {n}" for n in was if n not in now] + [f"has {n}" for n in now if n not in was]
            yield f"{name} is another tree than reset's: {', '.join(said[:4]) or 'its containers differ'}"
            continue
        for (path, p), (_, q) in zip(a, b, strict=True):
            wider = _wider(p, q)
            if p.shape != q.shape or wider is None or not (narrower or wider == p.dtype):
                leaf = name + jax.tree_util.keystr(path)
                yield f"{leaf} is {_what(q)}, reset's is {_what(p)}; needs to be the same"


def _wider(a: Any, b: Any) -> Any:
    """The dtype of one of two leaves that holds both without a loss; None where there is none."""
    if a.dtype == b.dtype:
        return a.dtype
    if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in (a, b)):
        return None
    wide = jnp.promote_types(a.dtype, b.dtype)
    if wide not in (a.dtype, b.dtype):
        return None
    narrow = b if wide == a.dtype else a
    alike = any(
        jnp.issubdtype(a.dtype, kind) and jnp.issubdtype(b.dtype, kind)
        for kind in (jnp.integer, jnp.floating)
    )
    # A plain number, as in `State(position, time=0)`, has no dtype of its own.
    return wide if alike or (narrow.weak_type and narrow.dtype != jnp.bool_) else None


def _masks_as_bool(obs: PyTree) -> PyTree:
    """An observation whose mask, where it comes with one, is of bools."""
    if not is_masked(obs):
        return obs
    mask = jax.ShapeDtypeStruct(obs["action_mask"].shape, jnp.bool_)
    return {"observation": obs["observation"], "action_mask": mask}


def _is(given: PyTree, wanted: PyTree) -> bool:
    """Whether leaves are of the dtypes wanted, and none is weak."""
    pairs = zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True)
    return all(x.dtype == y.dtype and not x.weak_type for x, y in pairs)
