"""Real processes for the fault tests: start one cheaply, see how far it is, kill it, compare what it left.

In: configs, directories, instants. Out: exit codes, where a kill landed, and what of a run must not depend on
how often it was killed: the sha256 of every array of its last checkpoint, its log, its curves.
Knows nothing of the claims that are tested with them.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain import Config
from jaxtrain.config import field
from jaxtrain.runs import checkpoint, disk, manager
from jaxtrain.tree import InPlace
from jaxtrain.types import Algorithm, Clock, EnvSpec, Experience, Metrics, PyTree
from tests.helpers import Reinforce
from tests.xla import FAST

PRELOAD = (
    "jaxtrain.runs.launch",
    "jaxtrain.tools.cli",
    "jax.experimental.compilation_cache.compilation_cache",
    "orbax.checkpoint",
    "tensorboardX.event_file_writer",
    "pytest",
    "tests.helpers",
    "tests.faults.processes",
)
DEADLINE = 120.0  # seconds; nothing here takes a tenth of it, so what does is a hang


@field.config
class Drift(Reinforce):
    """Noise added to a policy that is never used: compiles in half a second, and every update shows."""

    name: str = field.text("tests.faults.processes:Drift")

    def make(self, spec: EnvSpec) -> Algorithm[PyTree]:
        made = super().make(spec)

        def update(
            agent: PyTree, runner: PyTree, experience: Experience, clock: Clock, key: Any
        ) -> tuple[PyTree, PyTree, Metrics]:
            runner, _ = experience.collect(made.sample(agent, clock), runner, key)
            noise = self.learning_rate * jax.random.normal(key, agent["policy"].shape)
            agent = agent | {"policy": 0.9 * agent["policy"] + noise}
            return agent, runner, {"loss": agent["policy"].sum()}

        return made._replace(update=update)


@field.config
class Hoard(Drift):
    """Asks for more memory than a processor can address, and so gets XLA's own error at once."""

    name: str = field.text("tests.faults.processes:Hoard")

    def make(self, spec: EnvSpec) -> Algorithm[PyTree]:
        made = super().make(spec)

        def init(key: Any) -> PyTree:
            return {"small": made.init(key), "hoard": InPlace(jnp.zeros((100_000, 2**31 - 1)))}

        def update(agent: PyTree, *rest: Any) -> tuple[PyTree, PyTree, Metrics]:
            small, runner, metrics = made.update(agent["small"], *rest)
            hoard = agent["hoard"].value.at[0, 0].add(1.0)
            return {"small": small, "hoard": InPlace(hoard)}, runner, metrics

        return Algorithm(
            init=init,
            policy=lambda agent, clock: made.policy(agent["small"], clock),
            sample=lambda agent, clock: made.sample(agent["small"], clock),
            update=update,
        )


@cache
def _context() -> Any:
    """A server that has imported everything and started nothing; its children begin there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def _child(output: str | None, answer: Any, function: Callable[..., Any], args: Any, given: Any) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}"  # no backend has read them yet
    gc.freeze()  # what is imported stays, and need not be looked through again and again
    if output is not None:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
    if answer is None:
        function(*args, **given)
        return
    try:
        answer.send((True, function(*args, **given)))
    except BaseException:
        answer.send((False, traceback.format_exc()))


# Beginning a process asks after all others, and of two threads that ask after one, one is told 255.
_turn = threading.Lock()


def start(output: Path | None, function: Callable[..., Any], *args: Any, **given: Any) -> BaseProcess:
    """Begin `function` in a process of its own, which prints into `output`; it fails with exit code 1."""
    target = (None if output is None else str(output), None, function, args, given)
    process = _context().Process(target=_child, args=target)
    with _turn:
        process.start()
    return process


def call(function: Callable[..., Any], *args: Any, **given: Any) -> Any:
    """What `function` returns in a process of its own; what it raises there fails the test here."""
    receiving, sending = _context().Pipe(duplex=False)
    process = _context().Process(target=_child, args=(None, sending, function, args, given))
    with _turn:
        process.start()
    sending.close()
    try:
        done, result = receiving.recv()
    except EOFError:
        done, result = False, "it ended without an answer"
    process.join()
    receiving.close()
    assert done, result
    return result


def run(config: Config, directory: Path, **given: Any) -> None:
    """`launch`, as the target of a process."""
    from jaxtrain.runs.launch import launch

    launch(config, directory, cache=False, **given)


def main(*arguments: str) -> None:
    """`jaxtrain`'s command line, as the target of a process."""
    from jaxtrain.tools import cli

    sys.exit(cli.main(arguments))


def command(*arguments: str, output: Path, **environment: str) -> subprocess.Popen[bytes]:
    """`python -m jaxtrain.tools.cli`, with some more environment variables."""
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FAST}"} | environment
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxtrain.tools.cli", *arguments],
            env=os.environ | flags,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def ended(process: BaseProcess | subprocess.Popen[bytes]) -> int:
    """Its exit code, minus the signal that killed it."""
    if isinstance(process, subprocess.Popen):
        return process.wait(DEADLINE)
    until(lambda: False, process)
    with _turn:
        code = process.exitcode
        assert code is not None
        process.close()
    return code


def alive(process: BaseProcess | subprocess.Popen[bytes]) -> bool:
    if isinstance(process, subprocess.Popen):
        return process.poll() is None
    with _turn:
        return process.is_alive()


def until(condition: Callable[[], bool], process: BaseProcess | subprocess.Popen[bytes]) -> None:
    """Return once the condition holds or the process has ended."""
    deadline = time.monotonic() + DEADLINE
    while alive(process) and not condition():
        assert time.monotonic() < deadline, f"process {process.pid} hangs"
        time.sleep(0.004)


@dataclass
class Watch:
    """One start of a run in a directory: what was there before it, and how far it is."""

    directory: Path
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._saved, self._parts = self.saved(), self._unfinished()

    def saved(self) -> int:
        """Env steps of the newest checkpoint; -1 for none."""
        return max(manager.found(self.directory / "checkpoints"), default=-1)

    def _unfinished(self) -> set[str]:
        return {path.name for path in (self.directory / "checkpoints").glob(f"{disk.PART}*")}

    def place(self) -> str:
        """What a process of this start is at, by what it has left in the directory."""
        if not (self.directory / "checkpoints").exists():
            return "compile"
        saving = bool(self._unfinished() - self._parts)
        if self.saved() == self._saved:
            return "first save" if saving else "compile"
        return "save" if saving else "between saves"

    def unsaved_rows(self) -> bool:
        """Whether the log goes on behind the newest checkpoint that can be read."""
        said = manager.manifests(self.directory / "checkpoints")
        length = said[max(said)]["logs"].get("metrics.jsonl", 0) if said else 0
        log = self.directory / "metrics.jsonl"
        return log.exists() and log.stat().st_size > length


def kill(process: BaseProcess) -> bool:
    """SIGKILL; whether it came before the process ended by itself."""
    process.kill()
    code = ended(process)
    assert code in (0, -signal.SIGKILL), f"it failed with {code}"
    return code != 0


def arrays(directory: Path) -> dict[str, Any]:
    """dtype, shape and sha256 of every array of the last checkpoint, which is verified first."""
    found = manager.found(directory / "checkpoints")
    return checkpoint.verify(found[max(found)])["arrays"]


def rows(directory: Path) -> list[dict[str, Any]]:
    """The log without the clocks."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{name: x for name, x in json.loads(line).items() if name != "time"} for line in lines]


def points(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve as TensorBoard's own reader has it: env steps and values, those of clocks left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(x.step, 0.0 if tag.startswith("time/") else x.value) for x in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def left_over(directory: Path) -> list[str]:
    """Names of what a finished run must not leave: unfinished files and directories."""
    return sorted(path.name for path in directory.rglob(f"{disk.PART}*"))
