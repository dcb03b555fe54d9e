"""The table of rooms: who may import whom, read from the import statements; lengths; where tests belong."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxtrain"

GROUND = {"types", "errors", "device", "names", "paths", "tree", "known", "random", "schedule", "signals"}
GROUND |= {"version"}
# Room -> the rooms, or files of one, that it may import besides itself and the ground.
ROOMS: dict[str, set[str]] = {
    "rl": {"config.field"},
    "envs": set(),
    "sinks": set(),
    "config": set(),
    "algorithms": {"config.field", "rl"},
    "events": {"config", "rl"},
    "loop": {"config", "rl", "envs", "sinks", "events"},
    "runs": {"config", "rl", "envs", "sinks", "events", "loop"},
    "__init__": {"config", "rl", "envs", "sinks", "events", "algorithms", "loop", "runs"},
    "tools": {"__init__", "config", "rl", "envs", "sinks", "events", "loop", "runs"},
    "__main__": {"tools"},
}
# Rooms that people add a file to: its files do not know each other, but for the base of the room.
OPEN = {"algorithms": set[str](), "events": {"event"}, "sinks": {"base"}, "envs": {"wrappers"}}
BASES = {"sinks": {"base", "worker"}, "events": {"event"}}
NO_JAX = ("jax", "jaxlib", "flax", "optax")


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


def target_of(name: str, modules: Mapping[str, str]) -> str:
    """The module that `jaxtrain.…` names, by its name below `jaxtrain`."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        found = ".".join(parts[:length])
        if found in modules or found in GROUND:
            return found
        if f"{found}.__init__" in modules or found in ROOMS:
            return f"{found}.__init__" if found != "__init__" else found
    return "__init__"  # what is no module of the package is a name that its `__init__` hands out


def violations(modules: Mapping[str, str]) -> list[str]:
    """Where `modules` break the table, one line each."""
    found: list[str] = []
    rooms: dict[str, set[str]] = {}
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        room = module.split(".")[0]
        if room not in ROOMS and room not in GROUND:
            found.append(f"{module}: is in no room of the table")
            continue
        for name in imports(source):
            top = name.split(".")[0]
            if top == "":
                found.append(f"{module}: relative import of {name}")
            elif room == "sinks" and top in NO_JAX:
                found.append(f"{module}: a sink imports {name}")
            elif top == "jaxtrain":
                target = target_of(name, modules)
                if not _may(module, target):
                    found.append(f"{module}: may not import {name}")
                elif target != module:
                    there = target.split(".")[0]
                    if there != room and target != "config.field":
                        rooms.setdefault(room, set()).add(there)
                    if not module.endswith("__init__") and not target.endswith("__init__"):
                        graph.setdefault(module, set()).add(target)
    for which in (rooms, graph):
        try:
            TopologicalSorter(which).prepare()
        except CycleError as error:
            found.append(f"cycle: {' <- '.join(error.args[1])}")
    return found


def _may(module: str, target: str) -> bool:
    """Whether one module may import another."""
    room, there, file = module.split(".")[0], target.split(".")[0], target.rpartition(".")[2]
    if there in GROUND:
        return True
    if room in GROUND:
        return False
    if there == room:
        own = module.rpartition(".")[2]
        bases = BASES.get(room, set()) | OPEN.get(room, set())
        if own in bases:
            return file in bases | {"__init__"}
        return room not in OPEN or own in ("__init__", "dispatch") or file in {*bases, "__init__"}
    return there in ROOMS[room] or target in ROOMS[room]


def test_every_import_is_in_the_table():
    found = violations(sources())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "modules",
    [
        {"rl.returns": "import jaxtrain.loop.train"},
        {"rl.returns": "from jaxtrain import train"},
        {"rl.returns": "from jaxtrain import Config"},
        {"rl.returns": "from jaxtrain.config.schema import Config"},
        {"rl.returns": "def f():\n    from jaxtrain.events.event import Event"},
        {"rl.returns": "from .types import Key"},
        {"types": "from jaxtrain.rl import returns"},
        {"algorithms.ppo": "from jaxtrain.loop.train import Result"},
        {"algorithms.ppo": "from jaxtrain.envs import make"},
        {"algorithms.ppo": "from jaxtrain.algorithms import dqn", "algorithms.dqn": ""},
        {"events.early_stop": "from jaxtrain.events import curriculum", "events.curriculum": ""},
        {"events.event": "from jaxtrain.events import curriculum", "events.curriculum": ""},
        {"loop.update": "from jaxtrain.algorithms.ppo import PPO"},
        {"loop.update": "from jaxtrain.runs import launch"},
        {"runs.launch": "from jaxtrain.tools import cli"},
        {"sinks.console": "import jax.numpy as jnp"},
        {"sinks.console": "from jaxtrain.sinks.wandb import Wandb", "sinks.wandb": ""},
        {"sinks.base": "from jaxtrain.sinks import console", "sinks.console": ""},
        {"rl.a": "from jaxtrain.rl import b", "rl.b": "from jaxtrain.rl import a"},
        {"unheard_of": ""},
        {"attic.thing": ""},
    ],
)
def test_a_planted_fault_is_found(modules):
    assert len(violations(modules)) == 1


# ---- lengths


MOST_LINES = 480  # of a file


def lengths(files: Mapping[str, str]) -> list[str]:
    """The files that are too long."""
    found = {name: len(source.splitlines()) for name, source in files.items()}
    return [f"{name}: {n} lines, needs at most {MOST_LINES}" for name, n in found.items() if n > MOST_LINES]


MOST_LINES_OF_A_FUNCTION = 60  # without its docstring and decorators


def long_functions(files: Mapping[str, str]) -> list[str]:
    """The functions that are too long, those within others included."""
    found: list[str] = []
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                found.append(
                    f"{name}: {node.name} has {lines} lines, needs at most {MOST_LINES_OF_A_FUNCTION}"
                )
    return found


def read(*folders: str) -> dict[str, str]:
    """Every Python file below folders of the repository, by its path."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_no_file_is_too_long():
    found = lengths(read("jaxtrain", "tests"))
    assert not found, "\n".join(found)


def test_a_line_too_many_is_found():
    assert lengths({"a.py": "x\n" * MOST_LINES}) == []
    assert len(lengths({"a.py": "x\n" * (MOST_LINES + 1)})) == 1


def test_no_function_of_the_package_is_too_long():
    found = long_functions(read("jaxtrain"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("head", "lines", "count"),
    [
        ("def f():\n", MOST_LINES_OF_A_FUNCTION - 1, 0),
        ("def f():\n", MOST_LINES_OF_A_FUNCTION, 1),
        ('def f():\n    """One.\n\n    Two.\n    """\n', MOST_LINES_OF_A_FUNCTION - 1, 0),
        ('def f():\n    """One."""\n', MOST_LINES_OF_A_FUNCTION, 1),
        ("@cache\n@jit\nasync def f(\n    x,\n):\n", MOST_LINES_OF_A_FUNCTION - 2, 1),
    ],
)
def test_a_function_of_a_line_too_many_is_found(head, lines, count):
    assert len(long_functions({"a.py": head + "    pass\n" * lines})) == count


# ---- where tests belong


def untested(package: Mapping[str, str], tests: Mapping[str, str]) -> list[str]:
    """The modules with a public function that no test file of their own room and name imports."""
    found: list[str] = []
    for path, source in package.items():
        public = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
        if not any(name[0] != "_" for name in public):
            continue
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        *room, name = path.removeprefix("jaxtrain/").removesuffix(".py").split("/")
        if name == "__init__":  # of a room: its file has the room's name
            name = room[-1]
        start = "/".join(("tests", *room, f"test_{name}"))
        own = (text for file, text in tests.items() if re.match(rf"{start}(_\w+)?\.py$", file))
        if not any("def test_" in text and _imports(text, module) for text in own):
            found.append(f"{path}: no {start}*.py imports {module}")
    return found


def _imports(source: str, module: str) -> bool:
    """Whether a source imports a module or something from it."""
    return any(name == module or name.startswith(f"{module}.") for name in imports(source))


def test_each_module_with_a_public_function_has_a_test_file_of_its_name_that_imports_it():
    found = untested(read("jaxtrain"), read("tests"))
    assert not found, "\n".join(found)


PUBLIC = {"jaxtrain/rl/a.py": "def f(): ..."}


@pytest.mark.parametrize(
    ("package", "tests", "count"),
    [
        (PUBLIC, {}, 1),
        (PUBLIC, {"tests/rl/test_a.py": ""}, 1),
        (PUBLIC, {"tests/rl/test_ab.py": "import jaxtrain.rl.a"}, 1),
        (PUBLIC, {"tests/loop/test_a.py": "import jaxtrain.rl.a"}, 1),
        (PUBLIC, {"tests/rl/test_a.py": "from jaxtrain.rl import b"}, 1),
        (PUBLIC, {"tests/rl/test_a.py": "from jaxtrain.rl.ab import f"}, 1),
        (PUBLIC, {"tests/rl/test_a.py": "from jaxtrain.rl import a"}, 0),
        (PUBLIC, {"tests/rl/test_a_more.py": "from jaxtrain.rl.a import f"}, 0),
        ({"jaxtrain/rl/a.py": "def _f(): ..."}, {}, 0),
        ({"jaxtrain/tree.py": "def f(): ..."}, {"tests/test_tree_more.py": "import jaxtrain.tree"}, 0),
        ({"jaxtrain/rl/__init__.py": "def f(): ..."}, {"tests/rl/test_rl.py": "from jaxtrain import rl"}, 0),
    ],
)
def test_a_module_without_a_test_of_its_own_is_found(package, tests, count):
    body = "\n\n\ndef test_something(): ..."
    assert len(untested(package, {path: text + body for path, text in tests.items()})) == count
    assert len(untested(package, tests)) == len([text for text in package.values() if "def f" in text])


# ---- what an import costs


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
