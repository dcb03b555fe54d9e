"""`jaxtrain export`: a saved policy as programs and parameters that need no jaxtrain.

In: the directory of a run. Out: a directory with StableHLO for CPU and CUDA, safetensors, and a script.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as programs

from jaxtrain.config.schema import Config
from jaxtrain.errors import MISSING, ConfigError, Problem
from jaxtrain.events.event import Part
from jaxtrain.loop.policy import Policy
from jaxtrain.names import extra
from jaxtrain.paths import as_path
from jaxtrain.runs.load import Which
from jaxtrain.tools import output
from jaxtrain.tools.commands import which
from jaxtrain.tools.files import whole
from jaxtrain.tools.render import announce, open_member
from jaxtrain.types import Key, PyTree

EXTRA = "export"
PLATFORMS = ("cpu", "cuda")
USAGE = "RUN --out DIR [--which best|last|ENV_STEPS] [--member I]"
HELP = """\
DIR then has greedy.jax and sample.jax (jax.export, CPU and CUDA, any batch),
parameters.safetensors, carry.safetensors, policy.json, and run.py, which shows
how they are used without jaxtrain. Exporting imports and calls what the run
names: do so only with a run that you trust. pip install 'jaxtrain[export]'
"""
SCRIPT = '''\
"""A policy that jaxtrain exported: pip install jax flatbuffers safetensors; python run.py"""

import json
from pathlib import Path

import jax
from jax import export, numpy as jnp
from safetensors.numpy import load_file

HERE = Path(__file__).parent
programs = [export.deserialize((HERE / name).read_bytes()) for name in ("greedy.jax", "sample.jax")]
greedy, sample = (jax.jit(program.call) for program in programs)
first = load_file(HERE / "carry.safetensors")  # of one environment at an episode's start; {} without one

if __name__ == "__main__":
    specs = json.loads((HERE / "policy.json").read_text())["observation"]
    obs = jax.tree.map(lambda x: jnp.zeros((2, *x[1]), x[0]), specs, is_leaf=lambda x: isinstance(x, list))
    carry = {name: jnp.stack([x, x]) for name, x in first.items()}
    print("greedy:", *greedy(obs, carry))  # two actions, and the carry for the next step
    print("sample:", *sample(obs, carry, jax.random.key(0)))
'''


class Exported(NamedTuple):
    """What `export` gives."""

    path: Path
    env_steps: int  # done at the checkpoint
    member: int
    parameters: int  # numbers in `parameters.safetensors`


def export(
    directory: str | Path,
    out: str | Path,
    *,
    which: Which = "best",
    member: int | None = None,
    config: Config | None = None,
    events: Sequence[Part] = (),
) -> Exported:
    """Write a saved policy as what runs without jaxtrain; on one device with the bits of `load_policy`.

    `greedy(obs, carry) -> (action, carry)` and `sample(obs, carry, key)` take and give a leading axis of any
    length; parameters and normalizer are inside. `carry` is a dict of arrays, empty without one.

    Args:
      out: a directory that is empty or not there.
      which: "best", "last" or env steps.
      member: of several; unset, the best.
      config, events: see `load_policy`.

    Raises:
      ConfigError: see `load_policy`; a place that is taken, a missing package, an agent that no file holds.
      OSError: the files cannot be written; there are none then.
    """
    path = _checked(out)
    saved = open_member(directory, which, member, config=config, events=events)
    policy: Policy = saved.trainer.policy(saved.state)
    about = {"env_steps": saved.manifest["env_steps"], "member": saved.seeds.all[0]}
    env_id = saved.trainer.config.env.id
    about["env"] = env_id if isinstance(env_id, str) else type(env_id).__name__
    count = write(path, policy, about | {"action_space": str(saved.trainer.spec.action_space)})
    return Exported(path, about["env_steps"], about["member"], count)


def write(path: Path, policy: Policy, about: Mapping[str, Any]) -> int:
    """A policy as files; how many numbers it has.

    Args:
      path: of the directory, empty or not there.
      about: more of what `policy.json` says, plain values.

    Raises:
      ConfigError: a leaf that no file holds.
      OSError: the files cannot be written; there are none then.
    """
    carry = _named(policy.algorithm.carry, "carry")
    made = {name: _Program(policy, carry, sampled=name == "sample") for name in ("greedy", "sample")}
    used = {name for program in made.values() for name in program.used()}
    parameters = {name: leaf for name, leaf in _named(policy.agent).items() if name in used}
    texts = {
        "run.py": SCRIPT.encode(),
        "policy.json": (json.dumps(_about(policy) | dict(about)) + "\n").encode(),
        **{f"{name}.jax": program.serialized(parameters) for name, program in made.items()},
    }
    arrays = {"parameters": _as_numpy(parameters), "carry": _as_numpy(carry)}
    _write(path, texts, arrays)
    return sum(x.size for x in arrays["parameters"].values())


def _checked(out: Any) -> Path:
    """The path of a directory to be made.

    Raises:
      ConfigError: something is there, or nothing can be; or a package is missing.
    """
    path = as_path("out", out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError([Problem("out", str(out), "is there already; needs a new or an empty directory")])
    if not path.parent.is_dir():
        raise ConfigError([Problem("out", str(out), f"there is no directory {str(path.parent)!r}")])
    extra("flatbuffers", EXTRA, "programs are written by it")
    _safetensors()
    return path


def _safetensors() -> Any:
    return extra("safetensors.numpy", EXTRA, "parameters are written by it")


def _named(tree: PyTree, root: str = "") -> dict[str, Any]:
    """Leaves by their path: `params.policy.head.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    names = [".".join(filter(None, (root, name))) for name in names]
    if len({*names}) < len(names):  # of keys with dots in them
        names = [f"{i}.{name}" for i, name in enumerate(names)]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


class _Program:
    """A policy as a function of arrays alone."""

    def __init__(self, policy: Policy, carry: Mapping[str, Any], *, sampled: bool) -> None:
        self._policy, self._sampled, self._names = policy, sampled, [*_named(policy.agent)]
        self._carry, self._key = carry, jax.random.key(0)

    def used(self) -> list[str]:
        """The leaves of the agent that actions depend on."""
        leaves = _shapes(_named(self._policy.agent))
        made = programs.export(jax.jit(self._act))(leaves, *self._arguments(1))
        order = sorted(leaves)  # as a dict is flattened
        return [order[i] for i in made.module_kept_var_idx if i < len(order)]

    def serialized(self, parameters: Mapping[str, Any]) -> bytes:
        """For any batch, with these parameters inside."""
        # As arguments they would move bits: `load_policy` has them as constants, too.
        (batch,) = programs.symbolic_shape("batch")
        made = programs.export(jax.jit(partial(self._act, parameters)), platforms=PLATFORMS)
        return bytes(made(*self._arguments(batch)).serialize())

    def _arguments(self, batch: Any) -> list[PyTree]:
        obs, carry = _shapes(self._policy.observation, batch), _shapes(dict(self._carry), batch)
        key = jax.ShapeDtypeStruct((), self._key.dtype)
        return [obs, carry, key] if self._sampled else [obs, carry]

    def _act(
        self, parameters: Mapping[str, Any], obs: PyTree, carry: Mapping[str, Any], key: Key | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        algorithm, agent = self._policy.algorithm, self._policy.agent
        known = zip(self._names, jax.tree.leaves(agent), strict=True)
        # No action depends on the others, which may be large.
        leaves = [parameters[name] if name in parameters else jnp.zeros_like(x) for name, x in known]
        agent = jax.tree.unflatten(jax.tree.structure(agent), leaves)
        before = jax.tree.unflatten(jax.tree.structure(algorithm.carry), [carry[n] for n in self._carry])
        make = algorithm.sample if self._sampled else algorithm.policy
        out = make(agent, self._policy.clock)(obs, before, self._key if key is None else key)
        return out.action, dict(zip(self._carry, jax.tree.leaves(out.carry), strict=True))


def _shapes(tree: PyTree, *batch: Any) -> PyTree:
    """Shapes and dtypes of leaves, behind more axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*batch, *np.shape(x)), x.dtype), tree)


def _as_numpy(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    keys = [name for name, x in arrays.items() if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    if keys:
        rule = "is a key of JAX, which safetensors cannot hold"
        raise ConfigError([Problem(f"agent.{name}", MISSING, rule) for name in keys])
    return {name: np.asarray(x, order="C") for name, x in arrays.items()}


def _about(policy: Policy) -> dict[str, Any]:
    return {
        "observation": jax.tree.map(lambda x: [str(x.dtype), list(x.shape)], policy.observation),
        "recurrent": policy.recurrent,
        "platforms": PLATFORMS,
        "jax": jax.__version__,
    }


def _write(path: Path, texts: Mapping[str, bytes], arrays: Mapping[str, dict[str, np.ndarray]]) -> None:
    """All files, or none."""
    save = _safetensors().save
    with whole(path) as part:
        part.mkdir()
        for name, data in texts.items():
            (part / name).write_bytes(data)
        for name, named in arrays.items():
            (part / f"{name}.safetensors").write_bytes(save(named))


def arguments(parser: argparse.ArgumentParser, number: Callable[[str], Any]) -> None:
    """What `jaxtrain export` takes."""
    parser.epilog = HELP
    parser.add_argument("directory", metavar="RUN", help="directory of the run")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or an empty directory")
    parser.add_argument("--which", type=which, default="best", help="best (default), last, or env steps")
    parser.add_argument("--member", type=number, metavar="I", help="of several, from 0; default the best")


def main(options: argparse.Namespace) -> int:
    """Run `jaxtrain export`."""
    _checked(options.out)  # before anything of the run is imported
    announce("export", options.directory)
    try:
        made = export(options.directory, options.out, which=options.which, member=options.member)
    except OSError as error:
        output.warn(f"jaxtrain: {options.out} cannot be written: {error}")
        return 1
    output.show(
        f"{made.path}/: member {made.member} at {made.env_steps:,} env steps, {made.parameters:,} parameters",
        f"try it: python {made.path / 'run.py'}",
    )
    return 0
