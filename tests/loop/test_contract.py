"""What the loop and an algorithm promise each other: who breaks it is named before anything compiles."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtrain import Event, Trainer, at, every, train
from jaxtrain.algorithms.dqn import DQN, LEARNED
from jaxtrain.config import field
from jaxtrain.loop.state import NON_FINITE, RUNNING, STOPPED
from jaxtrain.rl import replay
from jaxtrain.runs.program import Programs
from jaxtrain.sinks import Memory
from jaxtrain.tree import InPlace, Known, in_place
from jaxtrain.types import Algorithm
from tests.helpers import Reinforce, arrays, differing, equations, keys, seed, tiny

PER = tiny().env_steps_per_update


# ---- algorithms that break it


def with_update(change):
    """`update` with something done to what it gives: `change(agent, runner, metrics) -> result`."""
    return lambda made, *args: change(*made.update(*args))


def collect(made, agent, runner, experience, clock, key):
    return experience.collect(made.sample(agent, clock), runner, key)


def twice(made, agent, runner, experience, clock, key):
    runner, _ = collect(made, agent, runner, experience, clock, key)
    return made.update(agent, runner, experience, clock, key)


def never(made, agent, runner, experience, clock, key):
    return agent, runner, {}


def if_data_says_so(made, agent, runner, experience, clock, key):
    return lax.cond(
        agent["value"].sum() > -1,
        lambda: made.update(agent, runner, experience, clock, key),
        lambda: (agent, runner, {"loss": jnp.zeros(())}),
    )


def if_the_clock_says_so(made, agent, runner, experience, clock, key):
    return lax.cond(
        clock % 2 == 0,
        lambda: made.update(agent, runner, experience, clock, key),
        lambda: (agent, runner, {"loss": jnp.zeros(())}),
    )


def three_times(made, agent, runner, experience, clock, key):
    def body(runner, key):
        return collect(made, agent, runner, experience, clock, key)[0], None

    return agent, lax.scan(body, runner, jax.random.split(key, 3))[0], {}


def rollout_for_runner(made, agent, runner, experience, clock, key):
    return agent, collect(made, agent, runner, experience, clock, key)[1], {}


UPDATES = {
    "two of three": (
        with_update(lambda a, r, m: (a, r)),
        "update gave tuple, needs (agent, runner, metrics)",
    ),
    "a dict": (with_update(lambda a, r, m: {"agent": a}), "update gave dict, needs (agent, runner, metrics)"),
    "another tree": (
        with_update(lambda a, r, m: (a | {"more": a["value"]}, r, m)),
        "the agent returned another tree than it was given: ['more']",
    ),
    "another dtype": (
        with_update(lambda a, r, m: (a | {"value": a["value"].astype(jnp.float16)}, r, m)),
        "the agent: ['value'] was float32[1], is float16[1]",
    ),
    "another shape": (
        with_update(lambda a, r, m: (a | {"value": jnp.zeros(3)}, r, m)),
        "the agent: ['value'] was float32[1], is float32[3]",
    ),
    "a list": (
        with_update(lambda a, r, m: (a, r, [*m.values()])),
        "the metrics are list, needs a flat dict of scalars",
    ),
    "a vector": (
        with_update(lambda a, r, m: (a, r, {"weights": a["policy"][0]})),
        "metric 'weights' has shape (2,), needs a scalar",
    ),
    "a nested one": (
        with_update(lambda a, r, m: (a, r, {"losses": m})),
        "metric 'losses' is dict, needs a scalar",
    ),
    "a text": (with_update(lambda a, r, m: (a, r, {"note": "fine"})), "metric 'note' is str, needs a scalar"),
    "a known vector": (
        with_update(lambda a, r, m: (a, r, {"w": Known(a["policy"][0], True)})),
        "metric 'w' has shape (2,), needs a scalar",
    ),
    "the rollout": (rollout_for_runner, "update gave Rollout as runner, needs that of `collect`"),
    "nothing": (
        with_update(lambda a, r, m: (a, None, m)),
        "update gave NoneType as runner, needs that of `collect`",
    ),
    "twice": (twice, "update collects 2 times; needs once"),
    "never": (never, "update collects 0 times; needs once"),
    "three times": (three_times, "update collects 3 times; needs once"),
    "on data": (
        if_data_says_so,
        "update collects under a condition; needs to collect once, whatever the data",
    ),
    "on the clock": (if_the_clock_says_so, "update collects under a condition"),
}


@field.config
class Broken(Reinforce):
    """Its `update` is one of `UPDATES`."""

    name: str = field.text("broken")
    flaw: str = field.text("")

    def make(self, spec):
        made = super().make(spec)
        return made._replace(update=partial(UPDATES[self.flaw][0], made))


@pytest.mark.parametrize("seeds", [0, 2])
@pytest.mark.parametrize("flaw", UPDATES)
def test_an_update_that_breaks_the_contract_is_named_while_tracing(flaw, seeds):
    trainer = Trainer(tiny(algorithm=Broken(flaw=flaw)))
    with pytest.raises(TypeError) as error:
        jax.eval_shape(trainer.new, keys(seeds) if seeds else jax.random.key(0))
    assert str(error.value).startswith(f"algorithm 'broken': {UPDATES[flaw][1]}")


def test_train_says_the_same_as_a_trainer():
    with pytest.raises(TypeError, match="algorithm 'broken': update collects 2 times"):
        jax.vmap(partial(train, tiny(algorithm=Broken(flaw="twice"))))(keys(2))


@field.config
class Numbers(Reinforce):
    """An agent with Python numbers in it, and metrics that are Python numbers."""

    name: str = field.text("numbers")

    def make(self, spec):
        made = super().make(spec)

        def update(agent, *args):
            inner, runner, _ = made.update(agent["inner"], *args)
            return {"inner": inner, "count": 7, "x": 0.5, "flag": True}, runner, {"half": 0.5, "two": 2}

        return Algorithm(
            init=lambda key: {"inner": made.init(key), "count": 0, "x": 1.0, "flag": False},
            policy=lambda agent, clock: made.policy(agent["inner"], clock),
            sample=lambda agent, clock: made.sample(agent["inner"], clock),
            update=lambda agent, runner, *args: update(agent, runner, *args),
        )


@pytest.mark.parametrize("seeds", [0, 2])
def test_python_numbers_in_agents_and_metrics_are_arrays(seeds):
    run = partial(train, tiny(2, algorithm=Numbers(), logging={"every": PER}))
    result = jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0))
    agent = result.state.agent
    assert (agent["count"] == 7).all() and agent["count"].dtype == jnp.int32
    assert (agent["x"] == 0.5).all() and agent["flag"].all() and agent["x"].shape == (2,)[: bool(seeds)]
    assert (result.history["metrics"]["train/half"] == 0.5).all()
    assert (result.history["metrics"]["train/two"] == 2).all()


@field.config
class Unmade:
    """No algorithm: it has no `make`."""

    name: str = field.text("unmade")
    rollout_length: int = field.integer(4, low=1)


@field.config
class Made(Reinforce):
    """Makes something else than an algorithm."""

    name: str = field.text("made")

    def make(self, spec):
        return super().make(spec)._asdict()


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (Unmade(), ["unmade", "Unmade", "make"]),
        (Made(), ["made", "make", "dict", "Algorithm"]),
    ],
)
def test_what_is_no_algorithm_is_named_with_what_is_missing(algorithm, words):
    with pytest.raises((TypeError, ValueError)) as error:
        jax.eval_shape(Trainer(tiny(algorithm=algorithm)).new, jax.random.key(0))
    assert [word for word in words if word not in str(error.value)] == []


@field.config
class Acting(Reinforce):
    """Collects with a policy that gives what it should not."""

    name: str = field.text("acting")
    gives: str = field.text("")

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            def policy(*args):
                return ANSWERS[self.gives][0](made.sample(agent, clock)(*args))

            runner, _ = experience.collect(policy, runner, key)
            return agent, runner, {}

        return made._replace(update=update)


ANSWERS = {
    "an action": (lambda out: out.action, r"the policy gave \w+, needs ActOutput\(action, carry, extras\)"),
    "a tuple": (lambda out: (out.action, ()), "the policy gave tuple, needs ActOutput"),
    "a carry": (lambda out: out._replace(carry=out.action), "the policy's carry returned another tree"),
}


@pytest.mark.parametrize("gives", ANSWERS)
def test_a_policy_that_gives_something_else_is_named_with_what_it_needs(gives):
    trainer = Trainer(tiny(algorithm=Acting(gives=gives)))
    with pytest.raises(TypeError, match=ANSWERS[gives][1]):
        jax.eval_shape(trainer.new, keys(2))


# ---- the clock


@field.config
class Delayed(Reinforce):
    """Every third update it does something that is marked by a primitive that nothing else uses."""

    name: str = field.text("delayed")

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            agent, runner, metrics = made.update(agent, runner, experience, clock, key)
            marked = lax.cond(clock % 3 == 0, jax.scipy.special.i1e, lambda x: x, agent["value"])
            return agent | {"value": marked}, runner, metrics | {"clock": clock}

        return made._replace(update=update)


def around(run, *args):
    """The conditions of a program: index, how many arrays come out, primitives in their branches."""
    for eqn, _ in equations(jax.make_jaxpr(run)(*args).jaxpr):
        if eqn.primitive.name == "cond":
            inside = [e.primitive.name for b in eqn.params["branches"] for e, _ in equations(b.jaxpr)]
            direct = [e.primitive.name for b in eqn.params["branches"] for e in b.jaxpr.eqns]
            yield eqn.invars[0].aval, len(eqn.outvars), inside, direct


def nested(config):
    """`train` over two axes of keys."""
    return jax.vmap(jax.vmap(partial(train, config)))


def sweep(config):
    """`train` over keys of which each has a scale of its own."""

    def one(key):
        return train(tiny(algorithm=config.algorithm, params={"scale": jax.random.uniform(key)}), key)

    return jax.vmap(one)


@pytest.mark.parametrize("run", [lambda c: jax.vmap(partial(train, c)), nested, sweep])
def test_a_condition_on_the_clock_stays_one_for_all_seeds(run):
    args = keys(6).reshape(2, 3) if run is nested else keys(3)
    found = list(around(run(tiny(algorithm=Delayed())), args))
    index = [aval for aval, _, _, direct in found if "bessel_i1e" in direct]
    assert index and all(aval.shape == () and aval.dtype == jnp.int32 for aval in index)
    result = jax.eval_shape(run(tiny(algorithm=Delayed())), args)
    assert result.state.metrics["train/clock"].shape == args.shape


def small_dqn(**changes):
    given = {"rollout_length": 4, "buffer_size": 64, "batch_size": 8, "learning_starts": 2 * PER}
    given |= {"target_update_interval": 3 * PER, "gradient_steps": 1, "network": {"hidden_sizes": (4,)}}
    return DQN(**{**given, **changes})


def test_warm_up_and_target_copy_are_conditions_in_a_run_of_many_seeds():
    config = tiny(4, algorithm=small_dqn())
    agent = jax.eval_shape(Trainer(config).new, jax.random.key(0)).agent
    params, opt = (len(jax.tree.leaves(x)) for x in (agent.params, agent.opt_state))
    found = list(around(jax.vmap(partial(train, config)), keys(3)))
    learn = [aval for aval, n, inside, _ in found if n == params + opt + len(LEARNED) and "scan" in inside]
    copy = [aval for aval, n, inside, _ in found if n == params and "scan" not in inside]
    assert len(learn) >= 1 and len(copy) >= 1
    assert all(aval.shape == () for aval, *_ in found)  # and no other is batched either


# ---- seeds that have stopped


@field.config
class Notes(Reinforce):
    """Notes in place, at each clock, whether it was said to run: 2 for yes, 1 for no."""

    name: str = field.text("notes")
    room: int = field.integer(12, low=1)

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            inner, runner, metrics = made.update(agent["inner"], runner, experience, clock, key)
            seen = agent["seen"].value.at[clock].set(1 + experience.running, mode="drop")
            return {"inner": inner, "seen": InPlace(seen)}, runner, metrics

        return Algorithm(
            init=lambda key: {"inner": made.init(key), "seen": InPlace(jnp.zeros(self.room, jnp.int32))},
            policy=lambda agent, clock: made.policy(agent["inner"], clock),
            sample=lambda agent, clock: made.sample(agent["inner"], clock),
            update=update,
        )


def poison(trainer, state, key):
    """The rewards of the seed whose episodes end more often are NaN from here on."""
    scale = jnp.where(state.hyper["env.params.end"] > 0.3, jnp.nan, state.env_params.scale)
    return state.replace(env_params=state.env_params._replace(scale=scale)), {}


def heal(trainer, state, key):
    return state.replace(env_params=state.env_params._replace(scale=jnp.ones(2))), {}


def stop(trainer, state, key):
    """Stop the seed whose episodes end more often, as a stock event does."""
    over = (state.hyper["env.params.end"] > 0.3) & (state.status == RUNNING)
    status = jnp.where(over, STOPPED, state.status)
    return state.replace(status=status, stopped_at=jnp.where(over, state.clock, state.stopped_at)), {}


def seeds_of(config, ends, events, updates):
    """States of seeds with these `end`s after each of `updates`, as `Trainer.run` makes them."""
    trainer = Trainer(config, events)
    key = keys(len(ends))
    rates = jax.tree.map(lambda x: jnp.broadcast_to(x, key.shape), trainer.rates())
    state = trainer.new(key, rates.replace({"env.params.end": jnp.array(ends)}))
    run, states, done = jax.jit(trainer.run, static_argnums=1), [], 0
    for n in updates:
        state, done = run(state, n - done), n
        states.append(state)
    return states


ENDS = [0.2, 0.4, 0.2]


@pytest.mark.parametrize("how", ["stop", "nan"])
def test_a_seed_that_has_stopped_is_told_so_in_every_update_from_then_on(how):
    config = tiny(params={"end": 0.2}, algorithm=Notes(), on_nan="freeze")
    event = Event("it", at(5 * PER), stop if how == "stop" else poison)
    (state,) = seeds_of(config, ENDS, [event], [12])
    seen = np.asarray(state.agent["seen"].value)
    last = 5 + (how == "nan")  # the update that fails was one of a seed that ran
    assert seen[1].tolist() == [2] * last + [1] * (12 - last)
    assert (seen[[0, 2]] == 2).all()
    assert state.status.tolist() == [RUNNING, STOPPED if how == "stop" else NON_FINITE, RUNNING]


# ---- metrics


@field.config
class Late(Reinforce):
    """A metric that means nothing before the fourth update, infinite then, and NaN where it is unknown."""

    name: str = field.text("late")

    def make(self, spec):
        made = super().make(spec)

        def update(agent, runner, experience, clock, key):
            agent, runner, metrics = made.update(agent, runner, experience, clock, key)
            value = jnp.where(clock == 5, jnp.inf, jnp.where(clock >= 3, clock, jnp.nan))
            late = {"late": Known(value, clock >= 3), "count": Known(clock, clock >= 3)}
            return agent, runner, metrics | late | {"known": Known(1, True)}

        return made._replace(update=update)


@pytest.mark.parametrize("seeds", [0, 3])
def test_a_metric_is_nan_in_the_log_while_it_is_unknown_and_never_a_fault(seeds):
    sink = Memory()
    run = partial(train, tiny(6, algorithm=Late(), logging={"every": PER}, on_nan="raise"), sinks=[sink])
    result = jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0))
    rows = result.history["metrics"]
    expected = {
        "train/late": [np.nan] * 3 + [3, 4, np.inf],
        "train/count": [np.nan] * 3 + [3, 4, 5],
        "train/known": [1] * 6,
    }
    for name, row in expected.items():
        column = np.asarray(rows[name]).reshape(-1, 6)
        np.testing.assert_array_equal(column, np.broadcast_to(row, column.shape))
    assert all(r.name == "metrics" for r in sink.records) and len(sink.records) == 6
    assert ["train/late" in r.values for r in sink.records] == [False] * 3 + [True] * 3


def test_losses_of_dqn_are_unknown_until_it_learns_and_that_is_no_fault():
    config = tiny(4, algorithm=small_dqn(), logging={"every": PER}, on_nan="raise")
    rows = jax.vmap(partial(train, config))(keys(2)).history["metrics"]
    for name in LEARNED:
        column = np.asarray(rows[f"train/{name}"])
        assert np.isnan(column[:, :2]).all() and np.isfinite(column[:, 2:]).all()


# ---- what is written in place


def touch(trainer, state, key):
    seen = InPlace(state.agent["seen"].value + 10)
    return state.replace(agent=state.agent | {"seen": seen}), {}


@pytest.mark.parametrize("seeds", [0, 3])
def test_an_event_of_one_seed_that_writes_in_place_is_refused_by_name_while_tracing(seeds):
    config = tiny(algorithm=Notes())
    key = keys(seeds) if seeds else jax.random.key(0)
    message = r"event 'touch': writes to what is tree.InPlace; needs scope='population'"
    trainer = Trainer(config, [Event("touch", at(5 * PER), touch)])
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(partial(trainer.run, num_updates=12), jax.eval_shape(trainer.new, key))
    run = partial(train, config, events=[Event("touch", at(5 * PER), touch)])
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(jax.vmap(run) if seeds else run, key)


def test_an_event_that_moves_the_agent_and_hands_on_what_is_in_place_is_none_of_those():
    def move(trainer, state, key):
        inner = jax.tree.map(lambda x: x + 1, state.agent["inner"])
        return state.replace(agent={**state.agent, "inner": inner}), {}

    trainer = Trainer(tiny(algorithm=Notes()), [Event("move", every(PER), move)])
    jax.eval_shape(partial(trainer.run, num_updates=12), jax.eval_shape(trainer.new, keys(3)))


@pytest.mark.parametrize("seeds", [0, 3])
def test_a_population_event_may_write_in_place(seeds):
    event = Event("touch", at(5 * PER), touch, scope="population")
    run = partial(train, tiny(algorithm=Notes()), events=[event])
    agent = (jax.vmap(run)(keys(seeds)) if seeds else run(jax.random.key(0))).state.agent
    assert (np.asarray(agent["seen"].value).reshape(-1, 12) == [12] * 5 + [2] * 7).all()


# ---- a replay in the loop


@cache
def dqn_states(how, on_nan, *updates, ends=(0.2, 0.4, 0.2)):
    config = tiny(params={"end": 0.2}, algorithm=small_dqn(), on_nan=on_nan)
    events = {
        "nan": [Event("poison", at(5 * PER), poison)],
        "healed": [Event("poison", at(5 * PER), poison), Event("heal", at(8 * PER), heal)],
        "stop": [Event("stop", at(5 * PER), stop)],
    }[how]
    return seeds_of(config, ends, events, updates)


@pytest.mark.parametrize(("how", "stopped_at"), [("nan", 6), ("stop", 5)])
def test_a_stopped_seed_keeps_every_bit_of_its_replay(how, stopped_at):
    then, last = dqn_states(how, "freeze", stopped_at, 12)
    assert last.stopped_at.tolist() == [-1, stopped_at, -1]
    assert differing(seed(1, then.agent), seed(1, last.agent)) == []
    for i in (0, 2):
        assert differing(seed(i, then.agent.replay), seed(i, last.agent.replay)) != []


@pytest.mark.parametrize("how", ["nan", "stop"])
def test_what_becomes_of_one_seed_changes_no_bit_of_the_replay_of_the_others(how):
    (last,), (sound,) = (dqn_states(how, "freeze", 12, ends=ends) for ends in ((0.2, 0.4, 0.2), (0.2,) * 3))
    for i in (0, 2):
        assert differing(seed(i, last), seed(i, sound)) == []


def test_an_update_that_was_skipped_lies_in_the_replay_and_is_never_drawn():
    between, last = dqn_states("healed", "skip", 8, 10)
    assert last.status.tolist() == [RUNNING] * 3
    for state, kept in ((between, [0, 1, 2, 3, 4]), (last, [2, 3, 4, 8, 9])):
        ring = seed(1, state.agent).replay
        assert np.isnan(ring.rows.value.reward).any()  # the rows stay where they were written
        clock = jnp.int32(int(state.clock) - 1)
        batch = replay.sample(ring, clock, jax.random.key(0), 500, gamma=0.9, n_step=3)
        weight = np.asarray(batch.weight) > 0
        assert weight.any() and not weight.all()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(batch))
        blocks = np.asarray(batch.place.row)[weight] // 4
        assert sorted({int(x) for x in np.asarray(ring.written)[blocks]}) == kept
    agent = seed(1, last.agent)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((agent.params, agent.opt_state)))
    assert differing(agent.params, seed(1, between.agent.params)) != []  # it learns again
    assert (
        differing(seed(1, between.agent.params), seed(1, dqn_states("healed", "skip", 5)[0].agent.params))
        == []
    )


def test_a_nan_reward_of_dqn_is_named_in_its_update_and_the_others_go_on():
    sink, config = Memory(), tiny(params={"end": 0.2}, algorithm=small_dqn(), on_nan="freeze")

    def one(end, key):
        given = tiny(params={"end": end}, algorithm=config.algorithm, on_nan="freeze")
        return train(given, key, events=[Event("poison", at(5 * PER), poison)], sinks=[sink])

    result = jax.vmap(one)(jnp.array(ENDS), keys(3))
    (record,) = [r for r in sink.records if r.name == "non_finite"]
    assert record.update == 6
    assert record.values["reward"].tolist() == [False, True, False]
    assert not record.values["agent"].any() or record.values["agent"].tolist() == [False, True, False]
    assert result.state.status.tolist() == [RUNNING, NON_FINITE, RUNNING]
    (sound,) = dqn_states("nan", "freeze", 12, ends=(0.2,) * 3)
    for i in (0, 2):
        assert differing(seed(i, result.state.agent), seed(i, sound.agent)) == []
    for _, x in arrays((result.state.agent.params, result.state.agent.opt_state)):
        assert np.isfinite(x).all()


# ---- memory


@pytest.mark.parametrize("seeds", [0, 4])
@pytest.mark.parametrize("what", ["run", "launch"])
def test_no_copy_of_a_replay_is_made_whatever_its_size(what, seeds):
    """Temporaries at two capacities differ by less than 1 % of the difference of the rings."""
    key = keys(seeds) if seeds else jax.random.key(0)
    per = 64  # a stamp for so many transitions is copied, 4 bytes of what all of them have
    events = [Event("stop", every(2 * per), stop), Event("poison", at(5 * per), poison)]
    sizes = {"learning_starts": 2 * per, "target_update_interval": 3 * per}

    def memory(size):
        config = tiny(
            params={"end": 0.2},
            num_envs=16,
            algorithm=small_dqn(buffer_size=size, **sizes),
            logging={"every": 4 * per},
            evaluation={"every": 4 * per, "num_episodes": 2},
            on_nan="freeze",
        )
        trainer = Trainer(config, events)
        state = jax.eval_shape(trainer.new, key)
        ring = sum(x.size * x.dtype.itemsize for x in in_place(state.agent))
        if what == "run":
            run = jax.jit(trainer.run, static_argnums=1, donate_argnums=0)
            compiled = run.lower(state, 12).compile()
        else:
            compiled = Programs(config, events, key, 0)._advance
        return compiled.memory_analysis().temp_size_in_bytes, ring

    (small, small_ring), (large, large_ring) = memory(10**4), memory(10**5)
    assert abs(large - small) < 0.01 * (large_ring - small_ring)
