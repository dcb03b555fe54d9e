"""An exported policy acts without jaxtrain as it does with it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxtrain import ConfigError, Trainer
from jaxtrain.runs.launch import launch
from jaxtrain.runs.load import load_policy
from jaxtrain.tools import export
from jaxtrain.tools.cli import main
from tests.helpers import tiny, tiny_ppo
from tests.probes.envs import ContinuousTarget

COUNT = 1000
# In a process that cannot import jaxtrain: actions of what lies in a directory, on the arrays there.
PROGRAM = """
import runpy, sys
sys.modules["jaxtrain"] = None
import jax, numpy as np
for place in sys.argv[1:]:
    made = runpy.run_path(place + "/policy/run.py")
    obs = np.load(place + "/obs.npy")
    carry = {name: np.stack([x] * len(obs)) for name, x in made["first"].items()}
    greedy, carry = made["greedy"](obs, carry)
    sample, carry = made["sample"](obs, carry, jax.random.key(7))
    np.savez(place + "/made.npz", greedy=greedy, sample=sample, **carry)
"""


def observations(policy):
    rng = np.random.default_rng(0)
    return rng.normal(size=(COUNT, *policy.observation.shape)).astype(policy.observation.dtype)


def trained(**given):
    """A policy as it begins, its normalizer moved off its start."""
    trainer = Trainer(tiny(2, **given))
    state = trainer.init(jax.random.key(3))
    moved = jax.tree.map(
        lambda x: x + 0.3 if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x, state.agent
    )
    return trainer.policy(state.replace(agent=moved))


ALL = "continuous, normalized, recurrent"
POLICIES = {
    "discrete": {},
    ALL: {
        "env": ContinuousTarget(),
        "algorithm": tiny_ppo(
            num_minibatches=1,
            normalize_observations=True,
            network={"hidden_sizes": [4], "recurrent": "lstm", "recurrent_size": 4},
        ),
    },
}


class Made(NamedTuple):
    """A policy, and what it did in another process."""

    policy: Any
    obs: np.ndarray
    found: dict[str, np.ndarray]
    place: Path  # of its files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Those of `POLICIES`, by name."""
    root = tmp_path_factory.mktemp("policies")
    policies, places = {}, {}
    for i, (name, given) in enumerate(POLICIES.items()):
        policies[name], places[name] = trained(**given), root / str(i)
        places[name].mkdir()
        export.write(places[name] / "policy", policies[name], {"more": i})
        np.save(places[name] / "obs.npy", observations(policies[name]))
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, places.values())], check=True, cwd="/")
    read = {name: (np.load(at / "obs.npy"), dict(np.load(at / "made.npz"))) for name, at in places.items()}
    return {name: Made(policies[name], *read[name], places[name] / "policy") for name in POLICIES}


def same(a, b):
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("name", POLICIES)
def test_a_process_without_jaxtrain_has_the_same_bits(made, name):
    policy, obs, found, _ = made[name]
    act, key = jax.jit(policy.act), jax.random.key(7)
    if not policy.recurrent:
        assert same(act(obs, (), None), found["greedy"]) and same(act(obs, (), key), found["sample"])
        return
    greedy, carry = act(obs, policy.initial_carry(COUNT), None)
    sample, carry = act(obs, carry, key)
    assert same(greedy, found["greedy"]) and same(sample, found["sample"])
    after = [x for n, x in found.items() if n.startswith("carry")]
    assert after and all(same(*pair) for pair in zip(jax.tree.leaves(carry), after, strict=True))


def test_only_what_acts_is_in_it_and_the_normalizer_is(made):
    names = load_file(made[ALL].place / "parameters.safetensors")
    parts = {name.split(".")[0] for name in names}
    assert parts == {"params", "obs_stats"}
    assert not any("value" in name and "head" in name for name in names)  # the rest moves the carry


def test_programs_are_for_cpu_and_cuda_and_any_batch(made):
    place = made["discrete"].place
    for name in ("greedy", "sample"):
        program = jax.export.deserialize(bytearray((place / f"{name}.jax").read_bytes()))
        assert program.platforms == ("cpu", "cuda")
    ran = runpy.run_path(str(place / "run.py"))
    for batch in (1, 5):
        assert ran["greedy"](np.zeros((batch, 1), np.float32), {})[0].shape == (batch,)
    said = json.loads((place / "policy.json").read_text())
    assert said["observation"] == ["float32", [1]] and said["more"] == 0 and said["recurrent"] is False


def test_a_key_in_what_acts_is_refused():
    with pytest.raises(ConfigError, match=r"^agent.noise: is a key of JAX, which safetensors cannot hold"):
        export._as_numpy({"noise": jax.random.key(0)})


def test_the_command_exports_the_policy_that_load_policy_gives(tmp_path, capsys):
    config = tiny(2, env="tests.helpers:Walk", evaluation={"every": 8, "num_episodes": 2})
    launch(config, tmp_path / "run", num_seeds=2)
    out = tmp_path / "policy"
    words = ["export", str(tmp_path / "run"), "--out", str(out)]
    assert main([*words, "--member", "2"]) == 2
    assert "member = 2: the run has [0, 1]" in capsys.readouterr().err and not out.exists()
    assert main([*words, "--which", "last", "--member", "1"]) == 0
    said = capsys.readouterr()
    assert "export imports and calls what the run names: tests.helpers:Reinforce, tests." in said.err
    assert f"{out}/: member 1 at {config.total_env_steps} env steps" in said.out
    obs = np.linspace(-1, 1, COUNT, dtype=np.float32)[:, None]
    ran = runpy.run_path(str(out / "run.py"))
    action, _ = ran["greedy"](obs, {})
    assert same(load_policy(tmp_path / "run", "last", 1, config=config)(obs), action)
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main(words) == 2 and "is there already; needs a new or an empty" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("missing", ["flatbuffers", "safetensors"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(missing, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "policy")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jaxtrain: {missing}: is not installed; ") and "'jaxtrain[export]'" in said
