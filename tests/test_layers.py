"""The layer table: who may import whom, read from the import statements."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxtrain"

# A part, a module or a package of them, imports from its own row and from the rows above it.
LAYERS = (
    {
        "types",
        "version",
        "schedule",
        "reading",
        "params",
        "fields",
        "files",
        "event_config",
        "env_config",
        "checkpoint_config",
        "logging_config",
        "config",
        "lane",
        "packing",
    },
    {"disk", "signals"},
    {
        "checkpoint",
        "distributions",
        "envs",
        "host",
        "networks",
        "normalise",
        "returns",
        "seeds",
        "shuffle",
        "sinks",
    },
    {"algorithms", "episodes", "hooks", "rollout"},
    {"evaluate", "state"},
    {"build", "events", "stock"},
    {"all_seeds", "one_seed", "train", "trainer"},
    {"commits", "compiled", "rundir", "snapshot"},
    {"drive", "resume", "runs"},
    {"origin", "plan"},
    {"launch", "saved"},
    {"__init__"},
    {"commands"},
    {"__main__", "cli"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def sources() -> dict[str, str]:
    """Every module of the package, by its dotted name below `jaxtrain`."""
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
    }
    return {name: path.read_text(encoding="utf-8") for name, path in files.items()}


def imports(source: str) -> Iterator[str]:
    """What a module's import statements name, wherever they stand: `a.b` for `from a import b` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def violations(modules: Mapping[str, str]) -> list[str]:
    """Where `modules` break the table, one line each."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    parts = {module.split(".")[0] for module in modules}
    for module, source in modules.items():
        part = module.split(".")[0]
        if part not in RANK:
            found.append(f"{module}: has no row in the table")
            continue
        for name in imports(source):
            top, *rest = name.split(".")
            if top == "":
                found.append(f"{module}: relative import of {name}")
            elif part == "sinks" and top in ("jax", "jaxlib", "flax", "optax"):
                found.append(f"{module}: a sink imports {name}")
            elif top == "jaxtrain":
                # What is no module of the package is a name that its `__init__` hands out.
                target = rest[0] if rest and rest[0] in {*parts, *RANK} else "__init__"
                if RANK.get(target, 0) > RANK[part]:
                    found.append(f"{module}: imports {name}, a layer above")
                elif target != part:
                    graph.setdefault(part, set()).add(target)
                elif part == "algorithms" and module != "algorithms.__init__":
                    found.append(f"{module}: imports {name}, another algorithm")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"cycle: {' <- '.join(error.args[1])}")
    return found


def test_every_import_goes_down_the_table():
    found = violations(sources())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "modules",
    [
        {"returns": "import jaxtrain.train"},
        {"returns": "from jaxtrain import train"},
        {"returns": "from jaxtrain import Config"},
        {"returns": "def f():\n    from jaxtrain.events import Event"},
        {"returns": "from .types import Key"},
        {"algorithms.ppo": "from jaxtrain.train import Result"},
        {"algorithms.ppo": "from jaxtrain.algorithms import dqn"},
        {"sinks.console": "import jax.numpy as jnp"},
        {"returns": "from jaxtrain import shuffle", "shuffle": "from jaxtrain import returns"},
        {"unheard_of": ""},
    ],
)
def test_a_planted_fault_is_found(modules):
    assert len(violations(modules)) == 1


def test_importing_jaxtrain_brings_in_nothing_beyond_jax_flax_and_optax():
    program = """
import json, sys
import jax, flax, optax
before = {name.split(".")[0] for name in sys.modules}
import jaxtrain
after = {name.split(".")[0] for name in sys.modules}
print(json.dumps([sorted(before), sorted(after - before - sys.stdlib_module_names)]))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    before, added = json.loads(result.stdout)
    assert added == ["jaxtrain"]
    # They come with none of these today, so the line above speaks for them.
    assert not {"gymnax", "matplotlib", "orbax", "tensorboardX", "wandb"} & set(before)
