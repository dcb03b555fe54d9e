"""What algorithms are made of, public for one's own: `from jaxtrain.rl import field, gae, actor_critic, …`.

- `field`: the decorator `field.config` and the fields of hyperparameters; `Problem`, what a `check` returns.
- `actor_critic`, `NetworkConfig`, `networks`, `recurrent`: networks for any space.
- `distribution`, `distributions`: what a policy's output means.
- `gae`, `lambda_returns`, `n_step_returns`, `vtrace`, `discounted_returns`, `returns`: targets of a rollout.
- `minibatch`, `replay`, `normalize`: to learn from a rollout in parts, from earlier ones, from scaled ones.
- `InPlace`, `Known`: marks for big arrays of an agent, and for metrics that mean nothing yet.

May import the ground files and `config.field`. Knows nothing of algorithms, environments or the loop.
"""

from jaxtrain.config import field
from jaxtrain.errors import Problem
from jaxtrain.known import Known
from jaxtrain.rl import distributions, minibatch, networks, normalize, recurrent, replay, returns
from jaxtrain.rl.actor_critic import actor_critic
from jaxtrain.rl.distributions import Distribution, distribution
from jaxtrain.rl.networks import NetworkConfig
from jaxtrain.rl.returns import discounted_returns, gae, lambda_returns, n_step_returns, vtrace
from jaxtrain.tree import InPlace

__all__ = [
    "Distribution",
    "InPlace",
    "Known",
    "NetworkConfig",
    "Problem",
    "actor_critic",
    "discounted_returns",
    "distribution",
    "distributions",
    "field",
    "gae",
    "lambda_returns",
    "minibatch",
    "n_step_returns",
    "networks",
    "normalize",
    "recurrent",
    "replay",
    "returns",
    "vtrace",
]
