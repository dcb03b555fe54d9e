"""Commands that are printed outside README.md run, in short, and the benchmarks in it."""

from __future__ import annotations

import jax
import pytest

from tests.docs import commands, printed
from tests.docs.printed import ROOT

README = {
    item[1:3]
    for item in printed.in_order(ROOT / "README.md")
    if isinstance(item, printed.Command) and commands.kind(item) != "benchmark"
}
OF_RUNS = printed.in_runs()
# One that stands in several places, in one of them without a mark, is not one for a GPU alone.
FOUND = {command[1:3]: command for command in sorted(printed.everywhere(), key=lambda c: not c.gpu)}
RUN = [
    command
    for key, command in FOUND.items()
    if key not in README and command not in OF_RUNS
    if commands.kind(command) not in commands.SETS_UP and not commands.is_name(command)
]


@pytest.fixture(scope="module")
def trained(clone):
    """A run in `runs/cartpole`, which some commands look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXTRAIN_SHORT", "1")
        patch.chdir(clone)
        code, said = commands.in_process(["train", "cartpole_ppo", "--out", "runs/cartpole"])
    assert code == 0 and "JAXTRAIN_SHORT=1: 2 updates of 8,192 env steps" in said, said
    return clone / "runs" / "cartpole"


@pytest.mark.docs
@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_runs(in_short, trained, command):
    if "benchmarks/peers.py" in command.words:
        pytest.skip("needs a clone of another library")
    if command.gpu and jax.default_backend() == "cpu":
        pytest.skip("marked GPU: on a CPU it is only read")
    commands.run(command)


@pytest.mark.docs
def test_what_a_runs_own_readme_prints_runs_there(in_short, trained, monkeypatch):
    monkeypatch.chdir(trained)
    for command in OF_RUNS:
        commands.run(command)
