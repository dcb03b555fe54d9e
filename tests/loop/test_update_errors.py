"""An algorithm that breaks what the loop is promised is named before anything compiles."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxtrain import Trainer, train
from jaxtrain.config import field
from jaxtrain.known import Known
from jaxtrain.types import Algorithm
from tests.helpers import Reinforce, keys, tiny
from tests.loop.seeds import PER


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
        "update gave a tuple of 2, needs (agent, runner, metrics)",
    ),
    "a dict": (with_update(lambda a, r, m: {"agent": a}), "update gave dict, needs (agent, runner, metrics)"),
    "another tree": (
        with_update(lambda a, r, m: (a | {"more": a["value"]}, r, m)),
        "the agent is another tree than before: has ['more']",
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
    "a carry": (lambda out: out._replace(carry=out.action), "the policy's carry is another tree"),
}


@pytest.mark.parametrize("gives", ANSWERS)
def test_a_policy_that_gives_something_else_is_named_with_what_it_needs(gives):
    trainer = Trainer(tiny(algorithm=Acting(gives=gives)))
    with pytest.raises(TypeError, match=ANSWERS[gives][1]):
        jax.eval_shape(trainer.new, keys(2))
