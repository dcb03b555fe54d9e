"""Configs: what is sound is read as people write it, and comes back as it was."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from jaxtrain import ConfigError, Event, OnReset, Trainer, dump, every, load_config
from jaxtrain.algorithms.ppo import PPO
from jaxtrain.config.describe import describe
from jaxtrain.config.schema import Config, EnvConfig, EvaluationConfig, to_dict
from tests import configs
from tests.helpers import Walk
from tests.probes.envs import OneStep


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return configs.written(tmp_path_factory.mktemp("config"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["algorithm.learning_rate=3e-4"], {"learning_rate": 3e-4}),
        (["algorithm.learning_rate=1_000.0"], {"learning_rate": 1000.0}),
        (["algorithm.network.hidden_sizes=64,64"], {"hidden_sizes": (64, 64)}),
        (["algorithm.network.hidden_sizes=[64, 32]"], {"hidden_sizes": (64, 32)}),
        (["algorithm.network.hidden_sizes.0=32"], {"hidden_sizes": (32,)}),
        (["algorithm.anneal_learning_rate=off"], {"anneal_learning_rate": False}),
        (["algorithm.target_kl=0.01", "algorithm.target_kl=null"], {"target_kl": None}),
        (["algorithm.target_kl=none"], {"target_kl": None}),
        (["total_env_steps=3.2e3"], {"total_env_steps": 3200}),
        (["total_env_steps=3_200", "logging.every=3_2e2"], {"total_env_steps": 3200, "logging_every": 3200}),
        (["evaluation.every="], {"evaluation_every": None}),
        (["logging.sinks=console,jsonlines"], {"sinks": ("console", "jsonlines")}),
        (["logging.sinks=[]"], {"sinks": ()}),
        (["checkpoint.signals=usr1,SIGUSR2"], {"signals": ("USR1", "USR2")}),
        (["checkpoint.signals=[USR2]"], {"signals": ("USR2",)}),
        (["checkpoint.signals=[]"], {"signals": ()}),
        (
            ["logging.wandb.project=p", "logging.wandb.mode=offline"],
            {"wandb": {"project": "p", "mode": "offline"}},
        ),
        (["events.0.every=128", "events.0.params.scale.low=1e-1"], {"events_0": (128, 0.1)}),
        (["env.params={}", "env.params.scale=2"], {"env_params": {"scale": 2.0}}),
    ],
)
def test_what_people_write_on_a_command_line_works(path, overrides, expected):
    config = load_config(path, overrides)
    algorithm, event = config.algorithm, config.events[0]
    found = {
        "learning_rate": algorithm.learning_rate,
        "hidden_sizes": algorithm.network.hidden_sizes,
        "anneal_learning_rate": algorithm.anneal_learning_rate,
        "target_kl": algorithm.target_kl,
        "total_env_steps": config.total_env_steps,
        "logging_every": config.logging.every,
        "evaluation_every": config.evaluation.every,
        "sinks": config.logging.sinks,
        "signals": config.checkpoint.signals,
        "wandb": config.logging.wandb,
        "events_0": (event.every, event.params["scale"]["low"]),
        "env_params": config.env.params,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_statistic_is_of_the_entry_of_its_name_unless_another_is_said():
    given = [{"name": "success"}, {"name": "far", "source": "distance"}]
    made = Config(logging={"statistics": given}).logging.statistics
    assert [(x.name, x.source) for x in made] == [("success", "success"), ("far", "distance")]


def test_parameters_swept_or_traced_pass_through():
    def one(gain):
        config = Config(env=EnvConfig(id=Walk(), params={"scale": gain}), algorithm=PPO(gamma=gain))
        return dataclasses.replace(config, total_env_steps=8192).env.params["scale"]

    assert jax.vmap(one)(jnp.array([0.25, 0.5])).tolist() == [0.25, 0.5]


def test_a_config_can_be_made_anew_inside_a_program(path):
    config = load_config(path)

    @jax.jit
    def remade(config):
        return dataclasses.replace(config, total_env_steps=640)

    assert remade(config).total_env_steps == 640
    assert [e.name for e in remade(config).events] == [e.name for e in config.events]


def test_the_leaves_are_the_rates_and_nothing_else(path):
    config = Trainer(load_config(path)).config
    leaves = {
        jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in jax.tree.leaves_with_path(config)
    }
    rates = [p for p, kind, default, _ in describe() if kind == "FLOAT|SCHEDULE" and default is not None]
    ours = [
        "env.params.push",
        "evaluation.env.params.push",
        "events.0.params.scale.low",
        "events.5.params.offset",
    ]
    moved = ["events.1.params.values.0", "events.1.params.values.1"]
    drawn = ["events.3.params.end.mean", "events.3.params.end.std"]
    assert sorted(leaves) == sorted([*rates, *ours, *moved, *drawn])
    assert all(type(x) is float for x in leaves.values())


def test_configs_that_differ_in_rates_alone_share_one_program(path):
    traces = []

    @jax.jit
    def gamma(config):
        traces.append(1)
        return config.algorithm.gamma

    rates = ["algorithm.gamma=0.9", "env.params.push=1", "events.0.params.scale.low=0.1"]
    a, b, c = (Trainer(load_config(path, given)).config for given in ([], rates, ["algorithm.num_epochs=1"]))
    assert [float(gamma(x)) for x in (a, b, a)] == [pytest.approx(x) for x in (0.99, 0.9, 0.99)]
    assert len(traces) == 1
    assert hash(jax.tree.structure(a)) == hash(jax.tree.structure(b))
    gamma(c)
    assert len(traces) == 2


FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("source", [None, *FILES], ids=["default", *(f.stem for f in FILES)])
def test_a_config_written_and_read_is_the_same(source, tmp_path):
    config = Config() if source is None else load_config(source)
    (tmp_path / "again.yaml").write_text(dump(config))
    again = load_config(tmp_path / "again.yaml")
    assert again == config and jax.tree.structure(again) == jax.tree.structure(config)
    assert dump(again) == dump(config)


def test_a_config_with_events_and_functions_written_and_read_is_the_same(path, tmp_path):
    config = load_config(path, ["events.4.when=tests.configs:solved"])
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load_config(tmp_path / "again.yaml") == config
    assert config.events[4].when is configs.solved and "when: tests.configs:solved" in dump(config)


def test_what_only_python_can_give_is_written_as_it_reads():
    event = Event("look", every(512), configs.report)
    config = Config(
        env=EnvConfig(id=OneStep(continuous=True), num_envs=4),
        evaluation=EvaluationConfig(events=(OnReset("r", configs.push),)),
        events=(event,),
        total_env_steps=512,
        algorithm=PPO(learning_rate=np.float32(0.5)),
    )
    written = yaml.safe_load(dump(config))
    assert written["env"]["id"] == "OneStep(continuous=True)"
    assert written["events"] == [re.sub(" at 0x[0-9a-f]+", "", repr(event))]  # no address: it changes
    assert written["algorithm"]["learning_rate"] == 0.5
    assert Trainer(config).events[-1] is event
    assert jax.jit(lambda config: config)(config).events == (event,)  # objects are static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Idle:
    """An algorithm that learns nothing."""

    gain: Any = 0.5
    rollout_length: int = dataclasses.field(default=4, metadata={"static": True})
    name: str = dataclasses.field(default="idle", metadata={"static": True})

    def make(self, spec): ...


def test_an_algorithm_of_ones_own_is_named_by_its_place(tmp_path):
    config = Config(
        env={"id": "tests.helpers:Walk"}, algorithm={"name": "tests.config.test_schema:Idle", "gain": 0.25}
    )
    assert config.algorithm == Idle(gain=0.25)
    (tmp_path / "own.yaml").write_text(dump(config))
    assert load_config(tmp_path / "own.yaml") == config
    with pytest.raises(ConfigError, match=r"^algorithm.gian: unknown key; the nearest known is 'gain'$"):
        Config(env={"id": Walk}, algorithm={"name": "tests.config.test_schema:Idle", "gian": 0.25})


def test_every_field_that_help_lists_can_be_set_to_its_default_and_none_is_left_out(path):
    plain = to_dict(load_config(path))
    rows = describe()
    default = Config(env={"id": "tests.helpers:Walk"})
    for name, kind, value, _ in rows:
        assert kind
        if name == "env.id":
            continue
        here: Any = default
        for key in name.split("."):
            here = getattr(here, key)
        assert here == value
    overrides = [
        f"{n}={yaml.safe_dump(_listed(v), default_flow_style=True)}" for n, _, v, _ in rows if n != "env.id"
    ]
    assert load_config(path, ["events=[]", "env.params={}", *overrides]) == default
    from_python = {"algorithm.policy_network", "algorithm.value_network", "algorithm.optimizer"}
    assert {n for n, *_ in rows} == _fields(plain) - from_python


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if not _scalar(value) else value


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _fields(plain: Any, prefix: str = "") -> set[str]:
    """The dotted names of a config's fields; what is free-form or a list is one of them."""
    found: set[str] = set()
    for name, value in plain.items():
        parts = ("env", "algorithm", "network", "evaluation", "logging", "checkpoint")
        nested = isinstance(value, dict) and name in parts
        nested &= prefix + name != "evaluation.env"
        found |= _fields(value, f"{prefix}{name}.") if nested else {prefix + name}
    return found


def test_a_tree_of_axes_keeps_the_leaves_of_free_form_parameters():
    config = Config(env={"params": {"gravity": 9.8}})
    axes = jax.tree.map(lambda _: 0, config)
    assert jax.tree.structure(axes) == jax.tree.structure(config)


def test_two_configs_with_arrays_of_rates_are_equal_or_not():
    def made(rate, gain, at=1e-3):
        cosine = {"schedule": "linear", "from": at, "to": 0.0}
        algorithm = PPO(learning_rate=rate, entropy_coef=cosine)
        return Config(env=EnvConfig(id=Walk(), params={"scale": gain}), algorithm=algorithm)

    rates, gains = jnp.array([1e-3, 1e-2]), np.array([0.5, 0.25], np.float32)
    config = made(rates, gains, rates)
    assert config == made(jnp.array([1e-3, 1e-2]), gains.copy(), rates + 0) and config == config
    others = [
        made(rates, gains),
        made(rates, gains[::-1], rates),
        made(rates[:1], gains, rates),
        made(1e-3, 0.5),
    ]
    assert all(config != other and other != config for other in others)
    assert made(1e-3, 0.5) == made(1e-3, 0.5) and hash(made(1e-3, 0.5)) == hash(made(1e-3, 0.5))
    assert config != "a config" and config.algorithm != config.env
