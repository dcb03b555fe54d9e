"""What is wrong with a config is named, all of it, before anything compiles."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from jaxtrain import ConfigError, Trainer, load_config
from tests import configs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return configs.written(tmp_path_factory.mktemp("config"))


EVENT = "events.0={name: x, run: "
BAD = [
    # keys
    ("algoritm.gamma=0.9", "algoritm: unknown key; the nearest known is 'algorithm'"),
    ("env.num_env=3", "env.num_env: unknown key; the nearest known is 'num_envs'"),
    ("algorithm.gama=0.9", "algorithm.gama: unknown key; the nearest known is 'gamma'"),
    (
        "algorithm.network.hidden_size=3",
        "algorithm.network.hidden_size: unknown key; the nearest known is 'hidden_sizes'",
    ),
    ("events.0.evry=3", "events.0.evry: unknown key; the nearest known is 'every'"),
    ("events.0.params.scale.lo=3", "events.0.params.scale.lo = 3: unknown key; the nearest known is 'low'"),
    (
        "events.2.params.metrc=a",
        "events.2.params.metrc = 'a': unknown key; the nearest known is 'metric'",
    ),
    ("events.5.params.ofset=1", "events.5.params.ofset = 1: unknown key; the nearest known is 'offset'"),
    ("logging.statistics.0.nme=a", "logging.statistics.0.nme: unknown key; the nearest known is 'name'"),
    # names
    (
        "algorithm.name=pppo",
        "algorithm.name = 'pppo': no such algorithm; the nearest known is 'ppo'; "
        "one of your own is module:Class",
    ),
    (
        "algorithm.name=dqn",
        "algorithm.name = 'dqn': has no num_minibatches, which the file sets for 'ppo'; needs a file without",
    ),
    (
        "algorithm.name=tests.helpers:Walk",
        "algorithm.name = 'tests.helpers:Walk': needs a dataclass of hyperparameters with name, "
        "rollout_length, make",
    ),
    (
        "env.id=tests.nowhere:Walk",
        "env.id = 'tests.nowhere:Walk': cannot import 'tests.nowhere' "
        "(ModuleNotFoundError: No module named 'tests.nowhere')",
    ),
    (
        "env.id=tests.helpers:Wolk",
        "env.id = 'tests.helpers:Wolk': 'tests.helpers' has no 'Wolk'; the nearest known is 'Walk'",
    ),
    (
        "env.id=3",
        "env.id = 3: needs an id such as 'CartPole-v1', 'package.module:name', or an environment object",
    ),
    (
        "events.0.run=randomise",
        "events.0.run = 'randomise': needs a stock event or package.module:function; "
        "the nearest known is 'randomize'",
    ),
    (
        "events.4.run=tests.nowhere:f",
        "events.4.run = 'tests.nowhere:f': cannot import 'tests.nowhere' "
        "(ModuleNotFoundError: No module named 'tests.nowhere')",
    ),
    (
        "events.4.run=tests.configs:reprt",
        "events.4.run = 'tests.configs:reprt': 'tests.configs' has no 'reprt'; the nearest known is 'report'",
    ),
    ("events.4.run=tests.configs:jnp", "events.4.run = 'tests.configs:jnp': needs a function"),
    (
        "events.4.run=tests.configs:solved",
        "events.4.run = 'solved': needs a function of (trainer, state, key): too many positional arguments",
    ),
    (
        "logging.sinks=jsonline",
        "logging.sinks = 'jsonline': 'jsonline' is no sink; the nearest known is 'jsonlines'",
    ),
    (
        "checkpoint.signals=KILL",
        "checkpoint.signals = 'KILL': needs a list of USR1, USR2; INT, TERM and HUP save and leave anyway",
    ),
    ("logging.sinks=[console, console]", "logging.sinks = ['console', 'console']: needs each sink once"),
    (
        "logging.tensorboard.seeds=each",
        "logging.tensorboard = {'seeds': 'each'}: TensorBoard: seeds = 'each': "
        "needs one of aggregate, separate",
    ),
    (
        "logging.statistics.0.source=tests.nowhere:f",
        "logging.statistics.0.source = 'tests.nowhere:f': cannot import 'tests.nowhere' "
        "(ModuleNotFoundError: No module named 'tests.nowhere')",
    ),
    (
        "logging.statistics.0.reduction=men",
        "logging.statistics.0.reduction = 'men': needs one of mean, sum, max, last, episode; "
        "the nearest is 'mean'",
    ),
    (
        "algorithm.network.activation=tan",
        "algorithm.network.activation = 'tan': needs one of tanh, relu, swish, gelu, elu; "
        "the nearest is 'tanh'",
    ),
    ("on_nan=stop", "on_nan = 'stop': needs one of raise, freeze, skip, ignore"),
    # types
    ("algorithm.learning_rate=fast", "algorithm.learning_rate = 'fast': needs a number >= 0"),
    ("algorithm.learning_rate=[1, 2]", "algorithm.learning_rate = [1, 2]: needs a number >= 0"),
    ("algorithm.learning_rate=.nan", "algorithm.learning_rate = nan: needs a number >= 0"),
    ("algorithm.learning_rate=.inf", "algorithm.learning_rate = inf: needs a number >= 0"),
    ("env.num_envs=[1, 2]", "env.num_envs = [1, 2]: needs an int >= 1 and <= 2147483647"),
    ("env.num_envs=true", "env.num_envs = True: needs an int >= 1 and <= 2147483647"),
    ("events.0.name=3", "events.0.name = 3: needs a text of 1 to 200 printable characters"),
    (
        "env=CartPole-v1",
        "env = 'CartPole-v1': needs a mapping of id, num_envs, params, as in {id: CartPole-v1}",
    ),
    (
        "algorithm=ppo",
        "algorithm = 'ppo': needs a mapping such as {name: ppo}, or an object that has name, "
        "rollout_length, make",
    ),
    ("algorithm.anneal_clip_range=1", "algorithm.anneal_clip_range = 1: needs true or false"),
    ("events=evaluation", "events = 'evaluation': needs a list"),
    (
        "events.0=evaluation",
        "events.0 = 'evaluation': needs a mapping such as {name: …, every: …}, "
        "or an Event, OnReset or OnStep object",
    ),
    ("events.0.params=3", "events.0.params = 3: needs a mapping of names to values"),
    # ranges
    ("algorithm.gamma=1.1", "algorithm.gamma = 1.1: needs a number >= 0 and <= 1; the nearest is 1"),
    ("algorithm.clip_range=0", "algorithm.clip_range = 0: needs a number > 0"),
    ("algorithm.learning_rate=-1", "algorithm.learning_rate = -1: needs a number >= 0; the nearest is 0"),
    ("env.num_envs=0", "env.num_envs = 0: needs an int >= 1 and <= 2147483647; the nearest is 1"),
    ("env.num_envs=3.5", "env.num_envs = 3.5: needs an int >= 1 and <= 2147483647; the nearest is 4"),
    # sizes that do not go together
    (
        "algorithm.num_minibatches=5",
        "algorithm.num_minibatches = 5: needs to divide the 32 samples of a rollout "
        "(4 environments x 8 steps); the nearest: 4 and 8",
    ),
    (
        "total_env_steps=333",
        "total_env_steps = 333: needs a whole number of updates of 32 env steps "
        "(4 environments x 8 steps); the nearest: 320 and 352",
    ),
    (
        "total_env_steps=1e14",
        "total_env_steps = 100000000000000: needs at most 2^31 - 1 updates of 32 env steps "
        "(4 environments x 8 steps); raise num_envs or rollout_length",
    ),
    (
        "algorithm.rollout_length=2147483647",
        "algorithm.rollout_length = 2147483647: needs at most 536870911 with 4 environments, or fewer of "
        "these: an update has at most 2^31 - 1 env steps",
    ),
    (
        "env.num_envs=268435456",
        "algorithm.rollout_length = 8: needs at most 7 with 268435456 environments, or fewer of these: an "
        "update has at most 2^31 - 1 env steps",
    ),
    (
        "logging.every=640",
        "logging.every = 640: needs at most 320, as long as the run; or none, a 100th of it; or 0, never",
    ),
    # names of statistics
    (
        "logging.statistics.0={name: return_min, source: moved}",
        "logging.statistics = [{'name': 'return_min', 'source': 'moved'}]: 'return_min' is the library's own"
        "; needs another name",
    ),
    # schedules
    (
        "events.0.every=640",
        "events.0.every = 640: never fires in a run of 320 env steps; needs at most that",
    ),
    ("events.5.at=[10, 640]", "events.5.at = (10, 640): lies behind the end of the run, 320 env steps"),
    ("events.0.every=null", "events.0.every = None: needs one of every, at, startup, finish"),
    (
        EVENT + "evaluation, at: 64, when: a > 3}",
        "events.0.every = None: `when` is checked at marks: needs every",
    ),
    (
        "events.4.finish=true",
        "events.4.when = rollout/return_mean > 10.0: is checked at the marks of every alone; use two events",
    ),
    ("events.0.once=true", "events.0.once = True: needs a `when`; a single firing is `at: [N]`"),
    (
        "events.4.when=a >= 3",
        "events.4.when = 'a >= 3': needs 'metric > number', 'metric < number' or package.module:function",
    ),
    (
        "events.4.when=3",
        "events.4.when = 3: needs 'metric > number', 'metric < number' or package.module:function",
    ),
    (
        "events.3.every=32",
        "events.3.on = 'reset': an event inside the rollout has no every, at, startup, finish or when",
    ),
    (EVENT + "evaluation, on: reset}", "events.0.on = 'reset': evaluation runs on: update"),
    ("events.0.every_steps=3", "events.0.every_steps = (3,): needs on: step"),
    (
        "evaluation.events.0.every_steps=5,2",
        "evaluation.events.0.every_steps = (5, 2): needs one interval, or low,high",
    ),
    (
        "events.4.scope=population",
        "events.4.scope = 'population': needs a function of one's own, on: update, without `when`",
    ),
    # names of events
    ("events.1.name=noise", "events.1.name = 'noise': is the name of event 0"),
    (
        "events.0.name=evaluation",
        "events.0.name = 'evaluation': is the run's own; needs another name, or evaluation.every = 0",
    ),
    ("events.0.name=non_finite", "events.0.name = 'non_finite': is the loop's own; needs another"),
    # parameters of events
    (
        "events.0.params.scale.low=5",
        "events.0.params.scale = {'low': 5, 'high': 2}: uniform needs low <= high",
    ),
    (
        "events.0.params.scale.low=abc",
        "events.0.params.scale.low = 'abc': uniform needs numbers for low and high",
    ),
    (
        "events.0.params.scale.distribution=unifrm",
        "events.0.params.scale.distribution = 'unifrm': no such distribution; the nearest known is 'uniform'",
    ),
    (
        "events.0.params.scale={distribution: gaussian, mean: 1}",
        "events.0.params.scale.std = None: gaussian needs numbers for mean and std",
    ),
    (
        "events.0.params={scael: {low: 1, high: 2}}",
        "events.0.params.scael: 'scael' is no float field of the environment's parameters; "
        "the nearest known is 'scale'",
    ),
    (
        "events.1.params.field=psh",
        "events.1.params.field: 'psh' is no float field of the environment's parameters; "
        "the nearest known is 'push'",
    ),
    (
        "events.1.params.marks=[0]",
        "events.1.params.marks = (0,): needs ascending env steps, one for each of 2 values",
    ),
    (
        "events.1.params.marks=[3, 1]",
        "events.1.params.marks = (3, 1): needs ascending env steps, one for each of 2 values",
    ),
    ("events.2.params={metric: a}", "events.2.params.threshold: is missing"),
    (
        EVENT + "evaluation, every: 64, params: {num_episode: 3}}",
        "events.0.params.num_episode: unknown key; the nearest known is 'num_episodes'",
    ),
    # the environment
    ("env.params.psh=3", "env.params.psh = 3: unknown; nearest: 'push'; fields: scale, end, push"),
    ("env.params.push=abc", "env.params.push = 'abc': needs a number"),
    (
        "env.params.push=[1, 2]",
        "env.params.push = (1, 2): needs one number, has shape (2,); for a run with each of several, "
        "jax.vmap over a function that makes the config of each and trains",
    ),
    ("env.params.push=.nan", "env.params.push = nan: is no number"),
    ("env.params.push=1e39", "env.params.push = 1e+39: needs to be finite in float32"),
    ("events.0.params.scale.low=.nan", "events.0.params.scale.low = nan: is no number"),
    # evaluation
    (
        "evaluation.env={params: {push: 1}}",
        "evaluation.env.id: needs an id; that of `env` to change its parameters alone",
    ),
    (
        "evaluation.env={id: tests.probes.envs:EntropyOnly}",
        "evaluation.env.id = 'tests.probes.envs:EntropyOnly': its actions are "
        "Discrete(n=4), those of `env` Discrete(n=2)",
    ),
    (
        "evaluation.events=[{name: x, run: evaluation, every: 64}]",
        "evaluation.events.0 = 'x': only events on: reset and on: step act in evaluation",
    ),
    # overrides
    ("algorithm.gamma", "algorithm.gamma: an override needs the form field.name=value"),
    ("=3", "=3: an override needs the form field.name=value"),
    ("algorithm.learning_rate.x=3", "algorithm.learning_rate = '3e-4': has no fields to override"),
    ("events.9.every=3", "events.9: needs an index below 6"),
    ("events.first.every=3", "events.first: needs an index below 6"),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override for override, _ in BAD])
def test_a_fault_is_named_before_anything_compiles(path, override, message):
    with pytest.raises(ConfigError) as error:
        with jax.no_tracing():
            config = load_config(path, [override])
        Trainer(config)  # what only the environment can tell
    assert str(error.value) == message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"none\.yaml: there is no such file; needs one of YAML, or the name"
    ):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r": is a directory; to go on with the run in it: jaxtrain resume"):
        load_config(tmp_path)
    (tmp_path / "locked.yaml").symlink_to("/proc/self/mem")  # there, and not to be read
    with pytest.raises(ConfigError, match=r"locked\.yaml: cannot be read \("):
        load_config(tmp_path / "locked.yaml")


def test_an_experiment_goes_by_its_name_and_one_that_there_is_not_by_the_nearest_and_all(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_config("cartpole_ppo") == load_config(ROOT / "experiments" / "cartpole_ppo.yaml")
    with pytest.raises(ConfigError) as error:
        load_config("cartpol_ppo")
    assert "the nearest known is 'cartpole_ppo'" in str(error.value)
    assert all(path.stem in str(error.value) for path in (ROOT / "experiments").glob("*.yaml"))


def test_all_faults_are_said_at_once(path):
    overrides = [
        "nonsense",
        "env.params.psh=3",
        "algorithm.gamma=2",
        "algorithm.network.activation=tan",
        "totl_env_steps=3",
        "evaluation.num_episodes=0",
        "events.0.evry=3",
        "events.1.params.marks=[0]",
        "events.1.name=",
    ]
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert [p.path for p in error.value.problems] == [
        "nonsense",
        "totl_env_steps",
        "algorithm.gamma",
        "algorithm.network.activation",
        "evaluation.num_episodes",
        "events.0.evry",
        "events.1.name",
    ]
    assert len(str(error.value).splitlines()) == 7
    with pytest.raises(ConfigError) as error:  # rules that need more than one field, once each field is sound
        load_config(path, ["total_env_steps=31"])
    assert {p.path for p in error.value.problems} > {"total_env_steps", "evaluation.every", "events.0.every"}
    # What only the environment can tell, once all of that is sound.
    unfit = ["env.params.psh=3", "algorithm.num_minibatches=5", "events.1.params.field=psh"]
    unfit += ["evaluation.env={id: tests.probes.envs:EntropyOnly}"]
    with pytest.raises(ConfigError) as error:
        Trainer(load_config(path, unfit))
    assert [p.path for p in error.value.problems] == [
        "env.params.psh",
        "algorithm.num_minibatches",
        "evaluation.env.id",
        "events.1.params.field",
    ]
