"""A run that begins from another: it begins with what the other has learned, and with nothing else of it.

In: sources of a few updates, and runs that begin from them. Out: checkpoints of clock 0, logs, refusals.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain
from jaxtrain import DQN, ConfigError, Trainer
from jaxtrain.config import field
from jaxtrain.config.schema import to_dict
from jaxtrain.loop import adopt
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.init_from import Request, Source, not_told_apart, open_source, take_from
from jaxtrain.runs.launch import launch
from jaxtrain.runs.seeds import Seeds
from jaxtrain.types import MultiDiscrete
from tests.faults.processes import rows
from tests.helpers import Reinforce, Walk, differing, tiny, tiny_ppo

QUIET = {"every": 0, "sinks": []}
KEPT = {"every": 16, "keep_last": 1000}
NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


@field.config
class Named(Reinforce):
    """`Reinforce` whose agent has `params`, and something that is not drawn."""

    name: str = field.text("named")

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            params, runner, metrics = made.update(agent["params"], runner, experience, clock, key)
            return agent | {"params": params, "updates": agent["updates"] + 1}, runner, metrics

        return made._replace(
            init=lambda key: {"params": made.init(key), "updates": jnp.int32(0)},
            policy=lambda agent, clock: made.policy(agent["params"], clock),
            sample=lambda agent, clock: made.sample(agent["params"], clock),
            value=lambda agent, obs, carry: made.value(agent["params"], obs, carry),
            update=update,
        )


@field.config
class Targeted(Named):
    """With a copy of its parameters, which only its own `init` can make."""

    name: str = field.text("targeted")

    def make(self, spec):
        made = super().make(spec)

        def init(key):
            agent = made.init(key)
            return agent | {"target": jax.tree.map(jnp.copy, agent["params"])}

        return made._replace(init=init)


class Own(nn.Module):
    """A module of one's own, whose arrays do not tell its activation."""

    activation: Any
    num_outputs: int = 2

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_outputs)(self.activation(nn.Dense(4)(x)))


class Counted(Walk):
    """Its observations have the same shape and are whole numbers."""

    @property
    def observation_space(self):
        return MultiDiscrete((5,))

    def reset(self, key, params):
        obs, state = super().reset(key, params)
        return obs.astype(jnp.int32), state

    def step(self, key, state, action, params):
        step = super().step(key, state, action, params)
        return step._replace(obs=step.obs.astype(jnp.int32))


def config_of(updates=4, **given):
    given = {"env": "tests.helpers:Walk", "logging": QUIET, "checkpoint": KEPT} | given
    return tiny(updates, **({"algorithm": Named()} | given))


def begun(directory: Path):
    """The agent that a run began with."""
    return jaxtrain.load(directory, 0).state.agent


def adopted(config, source: Source, num_seeds=1):
    """The agent that a run would begin with, and what is said of it."""
    trainer, seeds = Trainer(config), Seeds(0, None, num_seeds)
    taken, sentence = take_from(source, trainer, seeds)
    return jax.jit(lambda keys: trainer.adopt(trainer.new(keys), taken).agent)(seeds.keys()), sentence


def fresh(config):
    trainer = Trainer(config)
    return jax.jit(lambda key: trainer.new(key).agent)(jax.random.key(0))


def source_of(source: Source, algorithm, take) -> Source:
    """A run of another algorithm, at its beginning."""
    config = config_of(algorithm=algorithm)
    agent = {path: np.asarray(x) for path, x in adopt.leaves(fresh(config)).items()}
    said = {**source.manifest, "config": to_dict(Trainer(config).config)}
    record = {**source.record, "take": take}
    return dataclasses.replace(source, record=record, agent=agent, manifest=said)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    """Two seeds of PPO, whose learning rate has come to nearly 0."""
    place = tmp_path_factory.mktemp("source") / "ppo"
    launch(config_of(algorithm=tiny_ppo(**NORMALIZED)), place, seed=5, num_seeds=2, cache=False)
    return place


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """One seed of an algorithm of one's own, evaluated half-way and at the end."""
    place = tmp_path_factory.mktemp("source") / "named"
    launch(config_of(evaluation={"every": 16, "num_episodes": 4}), place, seed=5, cache=False)
    return place


def test_an_agent_comes_with_normalizers_and_optimizer_and_neither_with_rates_nor_episodes(
    ppo, tmp_path, caplog
):
    """Into more environments, of other parameters; with the rates of the other run it would not learn."""
    config = config_of(
        num_envs=4,
        params={"scale": 2.0},
        algorithm=tiny_ppo(learning_rate=1e-2, **NORMALIZED),
        logging={"every": 16, "sinks": ["jsonlines"]},
        evaluation={"every": 0, "num_episodes": 4},
        events=[{"name": "first", "run": "evaluation", "at": [0]}],
    )
    place = tmp_path / "new"
    caplog.set_level("INFO", "jaxtrain")
    ending = launch(config, place, num_seeds=2, init_from=f"{ppo}@last", take="agent", cache=False)
    theirs, ours = jaxtrain.load(ppo, "last").state.agent, begun(place)
    assert float(jnp.abs(theirs.reward_scale.running).max()) > 0
    assert differing(ours.reward_scale.running, jnp.zeros((2, 4))) == []
    scale = theirs.reward_scale._replace(running=ours.reward_scale.running)
    assert differing(ours, theirs.replace(reward_scale=scale)) == []
    assert differing(ending.result.state.agent.params, theirs.params) != []

    logged = [row["values"]["train/learning_rate"] for row in rows(place) if row["name"] == "metrics"]
    np.testing.assert_allclose(logged, [[x, x] for x in (1e-2, 7.5e-3, 5e-3, 2.5e-3)], rtol=1e-6)

    record = json.loads((place / "run.json").read_text())["init_from"]
    saved = manager.place(ppo / "checkpoints", 32) / "manifest.sha256"
    assert (record["directory"], record["env_steps"], record["take"]) == (str(ppo), 32, "agent")
    assert record["sha256"] == saved.read_text().split()[0]
    said = [(r.levelname, r.message) for r in caplog.records if "beginning from" in r.message]
    assert said == [("INFO", f"beginning from the agent of {ppo} at 32 env steps")]

    # What is due at clock 0 sees what was taken.
    trainer = Trainer(config)
    state = ending.result.state.replace(agent=ours, clock=jnp.int32(0))
    wanted = trainer.evaluate(state, trainer.evaluation_key(state, "first"))["return_mean"]
    first = ending.result.history["first"]["return_mean"][:, 0]
    np.testing.assert_allclose(first, wanted, rtol=1e-5)


def test_of_parameters_alone_all_else_is_fresh(ppo):
    config = config_of(algorithm=tiny_ppo(**NORMALIZED))
    ours, sentence = adopted(config, open_source(Request(str(ppo), "params")), num_seeds=2)
    theirs = jaxtrain.load(ppo, "last").state.agent
    assert differing(ours.params, theirs.params) == []
    rest = jax.tree.map(lambda x: x[0], ours.replace(params=None))
    assert differing(rest, fresh(config).replace(params=None)) == []
    assert sentence.endswith("at 32 env steps; anew: opt_state, obs_stats, reward_scale")
    # Where the new run has no normalizer, that is said.
    plain = config_of(algorithm=tiny_ppo())
    assert (
        "; left there: obs_stats, reward_scale;"
        in adopted(plain, open_source(Request(str(ppo), "params")), 2)[1]
    )


def test_a_replay_is_never_taken_and_targets_are_those_of_what_is_taken(tmp_path):
    def dqn(size):
        sizes = {"batch_size": 4, "learning_starts": 16, "target_update_interval": 24, "buffer_size": size}
        return config_of(5, algorithm=DQN(network=NetworkConfig(hidden_sizes=(4,)), **sizes))

    launch(dqn(32), tmp_path, cache=False)
    theirs = jaxtrain.load(tmp_path, "last").state.agent
    assert differing(theirs.params, theirs.target_params) != []

    ours, sentence = adopted(dqn(24), open_source(Request(str(tmp_path), "agent")), num_seeds=3)
    for seed in range(3):  # all from the only one
        mine = jax.tree.map(lambda x, seed=seed: x[seed], ours)
        assert differing(mine.replace(replay=None), theirs.replace(replay=None)) == []
        assert differing(mine.replay, fresh(dqn(24)).replay) == []
    assert sentence.endswith("at 40 env steps; a new run fills its own replay")

    ours, sentence = adopted(dqn(24), open_source(Request(str(tmp_path), "params")))
    assert differing(ours.params, theirs.params) == differing(ours.target_params, theirs.params) == []
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(ours.opt_state))
    assert sentence.endswith("anew: target_params, opt_state; a new run fills its own replay")


def test_a_run_is_launched_again_by_the_same_request_and_begins_again_from_the_same(named, tmp_path):
    source, place = tmp_path / "a@16", tmp_path / "new"
    shutil.copytree(named, source)
    first = launch(config_of(), place, init_from=f"{source}@16", cache=False)
    record = json.loads((place / "run.json").read_text())["init_from"]
    assert differing(begun(place)["params"], jaxtrain.load(source, 16).state.agent["params"]) == []
    assert begun(place)["updates"] == 0
    # Killed before its first checkpoint; gone on with as `jaxtrain resume` does.
    shutil.rmtree(place / "checkpoints")
    again = launch(config_of(), place, cache=False)
    assert again.resumed_at is None and differing(again.result, first.result) == []
    assert json.loads((place / "run.json").read_text())["init_from"] == record

    # Another request is another run's.
    said = f"the run began from 16 env steps of {source}; another run needs another directory"
    with pytest.raises(ConfigError, match=f"init_from = '{named}': {said}"):
        launch(config_of(), place, init_from=named, cache=False)
    with pytest.raises(ConfigError, match="take = 'agent': the run began from the params"):
        launch(config_of(), place, init_from=f"{source}@16", take="agent", cache=False)
    with pytest.raises(ConfigError, match=r"init_from = .*: the run in .* began from no other run"):
        launch(config_of(evaluation={"every": 16, "num_episodes": 4}), named, init_from=place, cache=False)

    # The other run is needed until there is a checkpoint, and as it was.
    at, kept = source / "checkpoints" / f"{16:013d}", tmp_path / "checkpoints"
    (place / "checkpoints").rename(kept)
    shutil.rmtree(at)
    with pytest.raises(ConfigError, match=rf"{record['sha256']}.*is gone: .*no such checkpoint"):
        launch(config_of(), place, cache=False)
    checkpoint.save(at, {"state.status": np.zeros((), np.int32)}, {"env_steps": 16})
    with pytest.raises(ConfigError, match=r"init_from.*another one by now"):
        launch(config_of(), place, init_from=f"{source}@16", cache=False)
    assert not (place / "checkpoints").exists()
    kept.rename(place / "checkpoints")
    shutil.rmtree(source)
    shutil.rmtree(manager.place(place / "checkpoints", 32))
    assert launch(config_of(), place, init_from=f"{source}@16", cache=False).resumed_at == 16


def test_the_checkpoint_is_the_one_named_and_without_a_name_the_best_or_the_last(named, ppo, tmp_path):
    def env_steps(text):
        return open_source(Request(text, "params")).record["env_steps"]

    assert [env_steps(f"{named}@{which}") for which in ("0", "1_6", "last")] == [0, 16, 32]
    best = jaxtrain.load(named, "best").env_steps
    assert env_steps(str(named)) == env_steps(f"{named}@best") == best
    assert env_steps(str(ppo)) == 32  # it is not evaluated
    shutil.copytree(named, tmp_path / "a@16")  # a directory's whole name comes first
    assert env_steps(str(tmp_path / "a@16")) == best


def refused(config, source: Source, num_seeds=1) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(ConfigError) as error:
        take_from(source, Trainer(config), Seeds(0, None, num_seeds))
    return str(error.value).splitlines()


def test_what_does_not_fit_has_a_line_for_each_difference(ppo, named):
    def ppo_of(take, **given):
        source = open_source(Request(str(ppo), take))
        return refused(config_of(algorithm=tiny_ppo(**given)), source, num_seeds=2)

    (line,) = ppo_of("params", network=NetworkConfig(hidden_sizes=(6,)))  # that of arrays follows from it
    assert line == "algorithm.network.hidden_sizes = [6]: the other run has [4]"
    # The same arrays, and another policy.
    (line,) = ppo_of("params", network=NetworkConfig(hidden_sizes=(4,), activation="relu"))
    assert line == "algorithm.network.activation = 'relu': the other run has 'tanh'"
    # Likewise a module of one's own, and none is another than one.
    tanh, relu = ({"policy_network": Own(x), "value_network": Own(x, 1)} for x in (nn.tanh, nn.relu))
    other = source_of(open_source(Request(str(named), "params")), tiny_ppo(**tanh), "params")
    for changed in (relu, {}):
        lines = refused(config_of(algorithm=tiny_ppo(**changed)), other)
        names = [line.partition(" ")[0] for line in lines]
        assert names == ["algorithm.policy_network", "algorithm.value_network"]
        assert "the other run has 'Own(" in lines[0]
    adopted(config_of(algorithm=tiny_ppo(**tanh)), other)
    # Normalizers belong to all of the agent.
    lines = ppo_of("agent")
    assert "agent.obs_stats.updates: the other run has int32[], the config makes nothing" in lines
    assert all(line.startswith(("agent.obs_stats", "agent.reward_scale")) for line in lines)

    source = open_source(Request(str(named), "params"))
    (line,) = refused(config_of(env=Counted()), source)
    assert line == "env: space of observation: is MultiDiscrete(nvec=(5,)), in the other run Box of shape [1]"
    other = refused(config_of(algorithm=Targeted(), env=Counted()), source)
    assert [line.partition(" ")[0] for line in other] == ["algorithm.name", "env:"]


class Bare:
    def __call__(self, x):
        return x


def make(slope):
    return lambda x: slope * x


def test_a_module_whose_description_may_be_that_of_another_is_named_with_the_part():
    for activation in (lambda x: x, make(2.0), Bare(), partial(make(2.0))):
        (said,) = not_told_apart(tiny_ppo(policy_network=Own(activation), value_network=Own(nn.tanh, 1)))
        assert "of algorithm.policy_network the description does not tell policy_network.activation" in said
    inner = Own(Own(nn.Dense(4), make(1)))
    (said,) = not_told_apart(tiny_ppo(policy_network=inner))
    assert "tell policy_network.activation.num_outputs from" in said
    for activation in (nn.relu, jnp.tanh, nn.Dense(4), partial(nn.leaky_relu, negative_slope=0.1)):
        assert not_told_apart(tiny_ppo(policy_network=Own(activation))) == []
    assert not_told_apart(tiny_ppo()) == [] == not_told_apart(Named())


def test_seeds_that_do_not_match_or_have_stopped_are_refused_by_number(ppo):
    source, config = open_source(Request(str(ppo), "params")), config_of(algorithm=tiny_ppo(**NORMALIZED))
    for num_seeds in (1, 3):
        (line,) = refused(config, source, num_seeds)
        assert f"num_seeds = {num_seeds}: the other run has 2: needs as many, or a run of one" in line
    stopped = dataclasses.replace(source, status=np.array([0, 2], np.int32), seeds=(3, 7))
    (line,) = refused(config, stopped, 2)
    assert "seeds [7] of it are not finite at 32 env steps" in line
    # One that the loop did not stop, with `on_nan: ignore`.
    path, agent = next(path for path in source.agent if path.startswith(".params")), dict(source.agent)
    agent[path] = np.stack([agent[path][0], np.full_like(agent[path][1], np.inf)])
    (line,) = refused(config, dataclasses.replace(source, agent=agent, seeds=(3, 7)), 2)
    assert "seeds [7] of it are not finite" in line


def test_an_algorithm_whose_parameters_cannot_be_told_or_are_copied_says_what_works(named):
    source = open_source(Request(str(named), "params"))
    plain = config_of(algorithm=Reinforce())
    (line,) = refused(plain, source_of(source, Reinforce(), "params"))
    assert "tests.helpers:Reinforce has no field `params`; take='agent'" in line
    of_agent = source_of(source, Reinforce(), "agent")
    assert differing(adopted(plain, of_agent)[0], fresh(plain)) == []

    (line,) = refused(config_of(algorithm=Targeted()), source_of(source, Targeted(), "params"))
    assert "has ['target']['policy'], which may be made of its parameters" in line
    assert "`init` needs a second argument, `params=None`, or take='agent'" in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"take": "params"}, "take = 'params': needs init_from"),
        ({"init_from": "SOURCE", "take": "all"}, "take = 'all': needs one of params, agent"),
        ({"init_from": "SOURCE", "start_from": "SOURCE"}, "init_from = .*needs one of the two"),
        ({"init_from": "SOURCE@bset"}, "init_from = .*: 'bset' is no checkpoint of .*: needs best, last or"),
        ({"init_from": "SOURCE@17"}, "init_from = .*@17': needs 'best', 'last' or one of 0, 16, 32"),
        ({"init_from": "nowhere@best"}, "'nowhere'.*holds no run: there is no such directory"),
        ({"init_from": "SOURCE", "num_seeds": 2, "seeds": [5]}, "seeds = .5.: needs ints below num_seeds"),
    ],
)
def test_a_request_that_makes_no_sense_is_named_and_leaves_nothing_behind(named, tmp_path, given, message):
    given = {k: v.replace("SOURCE", str(named)) if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(ConfigError, match=message):
        launch(config_of(), tmp_path / "new", cache=False, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_refused_by_name(named, tmp_path):
    shutil.copytree(named, tmp_path / "source")
    saved = tmp_path / "source" / "checkpoints" / f"{32:013d}"
    path = next(p for p in sorted((saved / "arrays").rglob("*")) if p.is_file())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match=r"init_from = .*@last': .* is damaged: .*jaxtrain verify"):
        open_source(Request(f"{tmp_path / 'source'}@last", "params"))
