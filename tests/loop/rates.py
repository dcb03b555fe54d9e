"""Rates of every kind in one config, and events and hooks that use them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtrain import Event, every
from jaxtrain.config import field
from tests.helpers import Reinforce, Walk, tiny

PER = tiny().env_steps_per_update


@field.config
class Logged(Reinforce):
    """Its metrics are the rates that it used."""

    name: str = field.text("logged")

    def make(self, spec):
        made = super().make(spec)

        def update(*args):
            agent, runner, metrics = made.update(*args)
            rates = {"learning_rate": self.learning_rate, "gamma": self.gamma}
            return agent, runner, metrics | {name: jnp.asarray(x) for name, x in rates.items()}

        return made._replace(update=update)


def push(key, params, *, amount, offset=0.0):
    """An `OnReset` hook."""
    return params._replace(push=params.push * amount + offset)


def jump(key, state, params, *, far):
    """An `OnStep` hook."""
    return state._replace(position=state.position + far)


def add(trainer, state, key, *, amount, unit=1):
    """An event that moves the policy by its own parameter, and says by how much."""
    moved = state.agent["policy"] + amount * unit
    return state.replace(agent=state.agent | {"policy": moved}), {"amount": jnp.asarray(amount)}


def setting(name, value):
    """The `run` of an event that sets one rate."""

    def run(trainer, state, key):
        return state.replace(hyper=state.hyper.replace({name: value})), {}

    return run


HERE = "tests.loop.rates"
STOCK = {"name": "curriculum", "every": PER, "params": {"field": "scale", "marks": [0.0, 48.0]}}


def every_kind(**rates):
    """A config with rates of every kind, which `rates` changes; keywords are names with `__` for a dot."""
    given = {
        "learning_rate": 0.1,
        "push": 0.2,
        "scale": 0.5,
        "end": 0.3,
        "low": 0.1,
        "last": 2.0,
        "offset": 0.1,
        "far": 0.01,
        "amount": 0.05,
    } | rates
    assert len(given) == 9
    low = {"low": given["low"], "high": 0.9}
    curriculum = STOCK | {"params": STOCK["params"] | {"values": [1.0, given["last"]]}}
    return tiny(
        6,
        params={"push": given["push"]},
        algorithm=Logged(learning_rate=given["learning_rate"]),
        evaluation={
            "every": 2 * PER,
            "num_episodes": 2,
            "max_episode_steps": 7,
            "env": {"id": Walk(), "params": {"scale": given["scale"]}},
            "events": [
                {"name": "inside", "run": "randomize", "on": "reset", "params": {"end": low}},
            ],
        },
        events=[
            curriculum,
            {
                "name": "hook",
                "run": f"{HERE}:push",
                "on": "reset",
                "params": {"amount": 1.1, "offset": given["offset"]},
            },
            {"name": "jump", "run": f"{HERE}:jump", "on": "step", "params": {"far": given["far"]}},
            {"name": "own", "run": f"{HERE}:add", "every": PER, "params": {"amount": given["amount"]}},
            {
                "name": "again",
                "run": "evaluation",
                "every": 3 * PER,
                "params": {
                    "num_episodes": 2,
                    "max_episode_steps": 7,
                    "env": {"id": Walk(), "params": {"end": given["end"]}},
                },
            },
        ],
    )


def look(trainer, state, key):
    leaves = jax.tree_util.tree_leaves_with_path((state.agent, state.runner, state.env_params))
    return state, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


LOOK = (Event("look", every(PER), look),)
