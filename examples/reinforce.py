"""REINFORCE with a learned baseline, for discrete actions: an algorithm of one's own in one short file.

Used as `algorithm: {name: "reinforce:Reinforce"}`, see `reinforce.yaml`; as
`--algorithm.name reinforce:Reinforce`; or from Python as `Config(algorithm=Reinforce(), ...)`.

Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
Learning".
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxtrain.rl import Problem, actor_critic, distribution, field, lambda_returns
from jaxtrain.types import ActOutput, Algorithm, Discrete


@field.config
class Reinforce:
    """REINFORCE with a learned baseline; one gradient step for each rollout."""

    name: str = field.text("reinforce")
    rollout_length: int = field.integer(32, low=1, help="env steps of each environment per update, T")
    learning_rate: float = field.rate(5e-3, low=0)
    gamma: float = field.rate(0.99, low=0, high=1, help="discount per step")
    hidden_sizes: tuple[int, ...] = field.integers((64, 64), low=1, help="dense layers")

    def check(self, spec):
        fits = isinstance(spec.action_space, Discrete)
        return (
            [] if fits else [Problem("name", self.name, f"needs Discrete actions, not {spec.action_space}")]
        )

    def make(self, spec):
        dist = distribution(spec.action_space)
        net = actor_critic(spec.observation_space, dist, hidden_sizes=self.hidden_sizes)
        optimizer = optax.adam(self.learning_rate)

        def init(key):
            params = net.init(key, spec.observation)
            return {"params": params, "optimizer": optimizer.init(params)}

        def policy(agent, clock, *, greedy):
            def act(obs, carry, key):  # of B environments
                logits = net.policy(agent["params"], obs)
                return ActOutput(dist.mode(logits) if greedy else dist.sample(logits, key), carry, ())

            return act

        sample = partial(policy, greedy=False)

        def update(agent, runner, experience, clock, key):
            runner, rollout = experience.collect(sample(agent, clock), runner, key)  # leaves [T, B, ...]
            ends = rollout.terminated, rollout.truncated  # a cut episode goes on in the critic's eyes
            after = net.value(agent["params"], rollout.next_obs)
            target = lambda_returns(rollout.reward, after, *ends, gamma=self.gamma, lambda_=1.0)
            advantage = target - net.value(agent["params"], rollout.obs)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

            def loss(params):
                logits, value = net.both(params, rollout.obs)
                policy_loss = -jnp.mean(dist.log_prob(logits, rollout.action) * advantage)
                value_loss = jnp.mean(jnp.square(value - target))
                return policy_loss + 0.5 * value_loss, {"policy_loss": policy_loss, "value_loss": value_loss}

            grads, metrics = jax.grad(loss, has_aux=True)(agent["params"])
            change, state = optimizer.update(grads, agent["optimizer"])
            return (
                {"params": optax.apply_updates(agent["params"], change), "optimizer": state},
                runner,
                metrics,
            )

        return Algorithm(init, partial(policy, greedy=True), sample, update)
