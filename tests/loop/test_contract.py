"""What the loop and an algorithm promise each other: the clock, who runs, what is known, what is in place."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtrain import Event, Trainer, at, every, train
from jaxtrain.algorithms.dqn import LEARNED
from jaxtrain.config import field
from jaxtrain.known import Known
from jaxtrain.loop.state import NON_FINITE, RUNNING, STOPPED
from jaxtrain.sinks import Memory
from jaxtrain.tree import InPlace
from jaxtrain.types import Algorithm
from tests.helpers import Reinforce, equations, keys, tiny
from tests.loop.seeds import ENDS, PER, poison, seeds_of, small_dqn, stop

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


def test_warm_up_and_target_copy_are_conditions_in_a_run_of_many_seeds():
    config = tiny(4, algorithm=small_dqn())
    agent = jax.eval_shape(Trainer(config).new, jax.random.key(0)).agent
    params, opt = (len(jax.tree.leaves(x)) for x in (agent.params, agent.opt_state))
    found = list(around(jax.vmap(partial(train, config)), keys(3)))
    learn = [aval for aval, n, inside, _ in found if n == 2 * params + opt + 1 and "scan" in inside]
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


@pytest.mark.parametrize("how", ["stop", "nan"])
def test_a_seed_that_has_stopped_is_told_so_in_every_update_from_then_on(how):
    config = tiny(params={"end": 0.2}, algorithm=Notes(), on_nan="freeze")
    event = Event("it", at(5 * PER), stop if how == "stop" else poison)
    state = seeds_of(config, [event])(ENDS)[12]
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
