"""Bugs to plant in what learns: the algorithms and the parts that they share.

In: nothing. Out: `MUTANTS`, and the test files that are to notice.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

# What is asked about a bug in a file, the likeliest to notice first.
TESTS = {
    "algorithms/ppo.py": (
        "tests/algorithms/test_ppo.py",
        "tests/algorithms/test_ppo_properties.py",
        "tests/algorithms/test_ppo_recurrent.py",
        "tests/probes/test_probes.py",
    ),
    "rl/recurrent.py": ("tests/rl/test_recurrent.py", "tests/algorithms/test_ppo_recurrent.py"),
    "rl/actor_critic.py": ("tests/rl/test_actor_critic.py", "tests/algorithms/test_ppo_recurrent.py"),
    "rl/replay.py": ("tests/rl/test_replay.py", "tests/algorithms/test_dqn.py"),
    "algorithms/dqn.py": ("tests/algorithms/test_dqn.py",),
    "rl/returns.py": (
        "tests/rl/test_returns.py",
        "tests/algorithms/test_ppo.py",
        "tests/algorithms/test_ppo_properties.py",
    ),
    "rl/normalize.py": (
        "tests/rl/test_normalize.py",
        "tests/algorithms/test_ppo.py",
        "tests/algorithms/test_ppo_properties.py",
    ),
    "rl/minibatch.py": (
        "tests/rl/test_minibatch.py",
        "tests/algorithms/test_ppo.py",
        "tests/algorithms/test_ppo_properties.py",
    ),
}

PPO, RECURRENT, ACTOR_CRITIC, REPLAY, DQN, RETURNS, NORMALIZE, MINIBATCH = TESTS

KL = 'learning & ~(metrics["approx_kl"] > 1.5 * hyper.target_kl)'
ORDER = "permutation(key_shuffle, 1 if whole_sequences else time, envs).reshape"
SIZE = "envs if whole_sequences else time * envs"
OVER_ROLLOUT = """        config = __import__("dataclasses").replace(self.hyper, normalize_advantages=False)
        self, a = self._replace(hyper=config), batch.advantage
        batch = batch._replace(advantage=(a - a.mean()) / (a.std() + 1e-8))
        hyper = self.hyper
        remaining ="""
NEXT = "self.net.value(agent.params, normalize.apply(agent.obs_stats, next_obs), carry)"
ZEROS = "jax.tree.map(jnp.zeros_like, rollout.carry)"

MUTANTS = (
    # ---- losses
    Mutant(
        "entropy sign flipped", PPO, "policy_loss - hyper.entropy_coef", "policy_loss + hyper.entropy_coef"
    ),
    Mutant("policy gradient descends", PPO, "policy_loss = -jnp.mean", "policy_loss = jnp.mean"),
    Mutant("larger of the two surrogates", PPO, "jnp.minimum(ratio * adv", "jnp.maximum(ratio * adv"),
    Mutant("ratio the wrong way up", PPO, "ratio = jnp.exp(log_ratio)", "ratio = jnp.exp(-log_ratio)"),
    Mutant("smaller of the two value losses", PPO, "error = jnp.maximum(", "error = jnp.minimum("),
    Mutant("value loss without its half", PPO, "value_loss = 0.5 * jnp.mean", "value_loss = jnp.mean"),
    Mutant(
        "value clipped around the target",
        PPO,
        "jnp.clip(value - batch.value,",
        "jnp.clip(value - batch.target,",
    ),
    Mutant("advantages never normalized", PPO, "if hyper.normalize_advantages:", "if False:"),
    Mutant(
        "advantages normalized over the rollout",
        PPO,
        "        hyper = self.hyper\n        remaining =",
        OVER_ROLLOUT,
    ),
    Mutant(
        "target without the value",
        PPO,
        "value, advantage, advantage + value, rollout.started)",
        "value, advantage, advantage, rollout.started)",
    ),
    Mutant("KL estimated by k1", PPO, "jnp.mean(ratio - 1.0 - log_ratio)", "jnp.mean(-log_ratio)"),
    Mutant("clip fraction of one side", PPO, "jnp.abs(ratio - 1.0) > clip_range", "ratio - 1.0 > clip_range"),
    Mutant("KL target ignored", PPO, KL, "learning"),
    Mutant("the KL stops learning at its target", PPO, "> 1.5 * hyper.target_kl", "> hyper.target_kl"),
    # ---- optimizer and schedules
    Mutant("Adam's eps is 1e-8", PPO, "field.rate(1e-5, above=0)", "field.rate(1e-8, above=0)"),
    Mutant("gradients clipped one by one", PPO, "optax.clip_by_global_norm(", "optax.clip("),
    Mutant("gradient norm after clipping", PPO, "optax.tree.norm(grads)", "optax.tree.norm(updates)"),
    Mutant("rate never annealed", PPO, "(remaining if hyper.anneal_learning_rate else 1.0)", "1.0"),
    Mutant(
        "the clip of values is not annealed",
        PPO,
        "limit = clip_range if hyper.value_clip_range",
        "limit = hyper.clip_range if hyper.value_clip_range",
    ),
    Mutant("clip range never annealed", PPO, "(remaining if hyper.anneal_clip_range else 1.0)", "1.0"),
    Mutant("rate is 0 one update early", PPO, "num_updates - clock, 0)", "num_updates - 1 - clock, 0)"),
    Mutant(
        "annealing counts epochs",
        PPO,
        "num_updates - clock, 0)",
        "num_updates - clock * self.hyper.num_epochs, 0)",
    ),
    # ---- ends of episodes
    Mutant(
        "reset observation bootstrapped",
        PPO,
        "lambda: jnp.where(cut, value_of(rollout.next_obs, carry), following)",
        "lambda: following",
    ),
    Mutant(
        "V(s_t) bootstrapped at a time limit",
        PPO,
        "value_of(rollout.next_obs, carry), following",
        "value, following",
    ),
    Mutant(
        "last step bootstrapped from itself",
        PPO,
        "lambda x: x[-1], (rollout.next_obs, carry)",
        "lambda x: x[-1], (rollout.obs, carry)",
    ),
    Mutant("a value follows itself", PPO, "jnp.concatenate([value[1:], last[None]])", "value"),
    Mutant(
        "death bootstrapped",
        RETURNS,
        "delta = reward + gamma * jnp.where(terminated, 0.0, next_value)",
        "delta = reward + gamma * next_value",
    ),
    Mutant(
        "time limit taken for death",
        RETURNS,
        "jnp.where(terminated, 0.0, next_value) - value",
        "jnp.where(terminated | truncated, 0.0, next_value) - value",
    ),
    Mutant(
        "advantages leak through a time limit",
        RETURNS,
        "jnp.where(terminated | truncated, 0.0, gamma * lambda_)",
        "jnp.where(terminated, 0.0, gamma * lambda_)",
    ),
    Mutant("trace decays without gamma", RETURNS, "0.0, gamma * lambda_)", "0.0, lambda_)"),
    Mutant(
        "running return reset a step early",
        RETURNS,
        "jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])",
        "done",
    ),
    Mutant(
        "running return carried over an end", RETURNS, "jnp.where(done[-1], 0.0, returns[-1])", "returns[-1]"
    ),
    # ---- normalizers
    Mutant(
        "normalizer moves before learning",
        PPO,
        "obs = normalize.apply(agent.obs_stats, rollout.obs)",
        "obs = normalize.apply(normalize.update(agent.obs_stats, rollout.obs), rollout.obs)",
    ),
    Mutant(
        "normalizer never moves",
        PPO,
        "obs_stats=normalize.update(agent.obs_stats, rollout.obs)",
        "obs_stats=agent.obs_stats",
    ),
    Mutant(
        "normalizer takes next_obs",
        PPO,
        "normalize.update(agent.obs_stats, rollout.obs)",
        "normalize.update(agent.obs_stats, rollout.next_obs)",
    ),
    Mutant("critic sees raw observations", PPO, NEXT, "self.net.value(agent.params, next_obs, carry)"),
    Mutant("value in the unit of scaled reward", PPO, "value * normalize.scale(agent.reward_scale)", "value"),
    Mutant(
        "running return not reset at a time limit",
        PPO,
        "done = rollout.terminated | rollout.truncated",
        "done = rollout.terminated",
    ),
    Mutant("what varies little does not", NORMALIZE, "value > 1e-6 * jnp.abs(mean)", "value > 1e-6"),
    Mutant("divided by the variance", NORMALIZE, "value = jnp.sqrt(var)", "value = var"),
    Mutant(
        "latest batch weighs too little",
        NORMALIZE,
        "1.0 / (stats.updates + 1.0)",
        "1.0 / (stats.updates + 2.0)",
    ),
    Mutant("spread between batches forgotten", NORMALIZE, " + (1.0 - weight) * jnp.square(shift)", ""),
    Mutant(
        "outliers not clipped",
        NORMALIZE,
        "jnp.clip((x - mean) / std, -clip, clip)",
        "(x - mean) / std",
    ),
    Mutant(
        "rewards centered",
        NORMALIZE,
        "state, reward / scale(state)",
        "state, (reward - reward.mean()) / scale(state)",
    ),
    # ---- actions and keys
    Mutant("clipped action judged", PPO, 'rollout.extras.get("action", rollout.action)', "rollout.action"),
    Mutant(
        "greedy and sampled swapped", PPO, "dist.mode(params) if greedy", "dist.mode(params) if not greedy"
    ),
    Mutant(
        "one key to collect and to learn",
        PPO,
        "key_collect, key_learn = jax.random.split(key)",
        "key_collect = key_learn = key",
    ),
    Mutant(
        "every epoch in the same order",
        MINIBATCH,
        "jax.random.split(key, num_epochs))",
        "jnp.repeat(key[None], num_epochs))",
    ),
    Mutant("no shuffle", MINIBATCH, ORDER, f"jnp.arange({SIZE}).reshape"),
    Mutant(
        "samples drawn with replacement",
        MINIBATCH,
        ORDER,
        f"jax.random.randint(key_shuffle, ({SIZE},), 0, {SIZE}).reshape",
    ),
    Mutant("odd number of rounds", MINIBATCH, "ROUNDS = 8", "ROUNDS = 7"),
    Mutant(
        "a round that cannot be undone",
        MINIBATCH,
        "x = x + _hash(y, keys[i]) % size_x",
        "x = x + _hash(x, keys[i]) % size_x",
    ),
    Mutant("one round key", MINIBATCH, "_hash(y, keys[i])", "_hash(y, jnp.uint32(i))"),
    Mutant(
        "training is greedy",
        PPO,
        "sample=lambda agent, clock: ppo.policy(agent, greedy=False)",
        "sample=lambda agent, clock: ppo.policy(agent, greedy=True)",
    ),
    Mutant(
        "collecting is greedy",
        PPO,
        "experience.collect(self.policy(agent, greedy=False)",
        "experience.collect(self.policy(agent, greedy=True)",
    ),
    # ---- recurrence
    Mutant(
        "a carry is reset one step late, in training alone",  # PufferLib #622, JaxMARL #191
        RECURRENT,
        "(projected, started))",
        "(projected, jnp.concatenate([jnp.zeros_like(started[:1]), started[:-1]])))",
    ),
    Mutant(
        "a carry is never reset in training",
        RECURRENT,
        "carry = tree.where(start, fresh, carry)",
        "carry = carry",
    ),
    Mutant(
        "the carry before a step is given for that after it",
        RECURRENT,
        "return out[0], out",
        "return out[0], (carry, out[1])",
    ),
    Mutant(
        "learning starts from a fresh carry",
        PPO,
        "self._learn(agent, batch, rollout.carry, clock",
        f"self._learn(agent, batch, {ZEROS}, clock",
    ),
    Mutant(
        "values start from a fresh carry",
        PPO,
        "self.net.values(agent.params, obs, rollout.carry, rollout.started)",
        f"self.net.values(agent.params, obs, {ZEROS}, rollout.started)",
    ),
    Mutant(
        "a truncated state is valued with a fresh carry",
        PPO,
        "value_of(rollout.next_obs, carry), following",
        "value_of(rollout.next_obs, jax.tree.map(jnp.zeros_like, carry)), following",
    ),
    Mutant(
        "a sequence gets the carry of another environment",
        MINIBATCH,
        "return samples, jax.tree.map(lambda x: jnp.take(x, index, axis=0), carry)",
        "return samples, jax.tree.map(lambda x: x[: len(index)], carry)",
    ),
    Mutant("a policy that acts keeps its carry", ACTOR_CRITIC, "carry = carry | {", "_ = carry | {"),
    Mutant(
        "the critic sees what the policy sees",
        ACTOR_CRITIC,
        '"value": select(built if value is None else space, critic_observations)',
        '"value": select(built if value is None else space, policy_observations)',
    ),
    Mutant(
        "a KL that is NaN ends learning and is not seen",
        PPO,
        KL,
        'learning & (metrics["approx_kl"] <= 1.5 * hyper.target_kl)',
    ),
    # ---- replay and DQN
    Mutant(
        "a stopped seed writes", REPLAY, "jnp.where(running, block * length", "jnp.where(True, block * length"
    ),
    Mutant(
        "a dropped block is sampled",
        REPLAY,
        "valid = (stamp >= 0) & (stamp > clock - num_blocks)",
        "valid = stamp >= -1",
    ),
    Mutant("n-step runs through an end", REPLAY, "& ~(terminated | truncated)[:, :-1]", ""),
    Mutant(
        "a time limit is a death",
        REPLAY,
        "over = jnp.take_along_axis(terminated,",
        "over = jnp.take_along_axis(terminated | truncated,",
    ),
    Mutant(
        "a death is bootstrapped",
        REPLAY,
        "jnp.where(valid & ~over, powers[num_steps], 0)",
        "jnp.where(valid, powers[num_steps], 0)",
    ),
    Mutant(
        "an older lap is read",
        REPLAY,
        "follows = replay.written[block] == stamp[:, None] + step // length",
        "follows = replay.written[block] >= -1",
    ),
    Mutant(
        "only half of the ring is drawn from",
        REPLAY,
        "filled = jnp.minimum(clock, num_blocks - 1) + 1",
        "filled = jnp.minimum(clock, num_blocks // 2) + 1",
    ),
    Mutant(
        "the target network follows at once",
        DQN,
        "lambda: new[0], lambda: agent.target_params",
        "lambda: new[0], lambda: new[0]",
    ),
    Mutant(
        "the target network never follows",
        DQN,
        "lambda: new[0], lambda: agent.target_params",
        "lambda: agent.target_params, lambda: agent.target_params",
    ),
    Mutant("no warm-up", DQN, "clock >= plan.learning_starts", "clock >= 0"),
    Mutant(
        "DQN never explores", DQN, "values = jnp.where(explore[..., None], noise, values)", "values = values"
    ),
    Mutant(
        "double Q-learning is not",
        DQN,
        "q(params, batch.next_obs) if self.double else next_value",
        "next_value",
    ),
    Mutant(
        "an invalid action is bootstrapped from", DQN, "q.valid(batch.next_obs, next_choice)", "next_choice"
    ),
)
