"""PPO once more, in NumPy float64: loops, derivatives by hand, no cleverness.

In: parameters, and rollouts that somebody else recorded. Out: parameters and metrics after each update.
Knows nothing of jaxtrain. Policy and value are tanh MLPs, `[(weights[in, out], bias[out]), ...]`.

Source: Schulman et al. 2017; Schulman et al. 2016 for the advantages; Kingma and Ba 2015 for Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ADAM_EPS = 1e-5  # not Adam's own 1e-8: as in OpenAI's baselines


@dataclass
class Settings:
    gamma: float
    gae_lambda: float
    entropy_coef: float
    value_coef: float
    max_grad_norm: float
    clip_value: bool
    value_clip_range: float | None  # None: that of the ratio
    normalize_observations: bool
    normalize_rewards: bool


def forward(layers: list[Any], x: np.ndarray) -> list[np.ndarray]:
    """The input of every layer, and at last the output."""
    seen = [x]
    for i, (weights, bias) in enumerate(layers):
        x = x @ weights + bias
        x = x if i == len(layers) - 1 else np.tanh(x)
        seen.append(x)
    return seen


def backward(layers: list[Any], seen: list[np.ndarray], slope: np.ndarray, into: list[Any]) -> None:
    """Add the derivative with respect to every weight and bias to `into`."""
    for i in reversed(range(len(layers))):
        if i < len(layers) - 1:
            slope = slope * (1 - seen[i + 1] ** 2)
        into[i][0] += np.outer(seen[i], slope)
        into[i][1] += slope
        slope = layers[i][0] @ slope


def softmax_policy(logits: np.ndarray, action: Any) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Log-probability, entropy, and the derivative of either with respect to the logits."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    entropy = -sum(q * np.log(q) for q in p)
    chosen = np.zeros_like(p)
    chosen[action] = 1.0
    return np.log(p[action]), entropy, chosen - p, np.array([-q * (np.log(q) + entropy) for q in p])


def gaussian_policy(
    mean: np.ndarray, log_std: np.ndarray, action: np.ndarray
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Log-probability, entropy, and the derivatives of the first with respect to mean and log_std."""
    log_prob = entropy = 0.0
    for m, s, a in zip(mean, log_std, action, strict=True):
        log_prob += -((a - m) ** 2) / (2 * np.exp(2 * s)) - s - np.log(2 * np.pi) / 2
        entropy += s + np.log(2 * np.pi * np.e) / 2
    z = (action - mean) / np.exp(log_std)
    return log_prob, entropy, z / np.exp(log_std), z**2 - 1


class ReferencePPO:
    """Parameters and all that is remembered between updates."""

    def __init__(self, policy: list[Any], value: list[Any], log_std: Any, settings: Settings, num_envs: int):
        self.policy = [[np.array(w, float), np.array(b, float)] for w, b in policy]
        self.value = [[np.array(w, float), np.array(b, float)] for w, b in value]
        self.log_std = None if log_std is None else np.array(log_std, float)
        self.settings = settings
        self.first_moment = [np.zeros_like(p) for p in self.parameters()]
        self.second_moment = [np.zeros_like(p) for p in self.parameters()]
        self.steps = 0
        self.seen_obs: list[np.ndarray] = []
        self.seen_returns: list[float] = []
        self.running_return = [0.0] * num_envs

    def parameters(self) -> list[np.ndarray]:
        flat = [array for layer in self.policy + self.value for array in layer]
        return flat if self.log_std is None else [*flat, self.log_std]

    def normalized(self, obs: np.ndarray) -> np.ndarray:
        if not self.settings.normalize_observations or not self.seen_obs:
            return obs
        data = np.array(self.seen_obs)
        return np.clip((obs - data.mean(axis=0)) / data.std(axis=0), -10.0, 10.0)

    def scaled_rewards(self, reward: np.ndarray, done: np.ndarray) -> np.ndarray:
        if not self.settings.normalize_rewards:
            return reward
        for t in range(len(reward)):
            for b in range(len(reward[t])):
                self.running_return[b] = self.settings.gamma * self.running_return[b] + reward[t, b]
                self.seen_returns.append(self.running_return[b])
                if done[t, b]:
                    self.running_return[b] = 0.0
        return reward / np.std(self.seen_returns)

    def evaluate(self, obs: np.ndarray) -> float:
        return forward(self.value, obs)[-1][0]

    def judge(self, obs: np.ndarray, action: Any) -> tuple[float, float, Any, Any]:
        out = forward(self.policy, obs)[-1]
        if self.log_std is None:
            return softmax_policy(out, action)
        return gaussian_policy(out, self.log_std, action)

    def update(
        self, rollout: Any, action: np.ndarray, orders: np.ndarray, learning_rate: float, clip_range: float
    ) -> dict[str, float]:
        """One update.

        Args:
          rollout: `obs, reward, terminated, truncated, next_obs`, [T, B, ...].
          action: [T, B, ...], as drawn.
          orders: i64[epochs, minibatches, N], samples counted along B first.
        """
        steps, envs = rollout.reward.shape
        reward = self.scaled_rewards(rollout.reward, rollout.terminated | rollout.truncated)
        samples: list[dict[str, Any]] = []
        for b in range(envs):
            advantage = 0.0
            for t in reversed(range(steps)):
                obs = self.normalized(rollout.obs[t, b])
                value, after = self.evaluate(obs), self.evaluate(self.normalized(rollout.next_obs[t, b]))
                if rollout.terminated[t, b]:
                    after = 0.0
                if rollout.terminated[t, b] or rollout.truncated[t, b]:
                    advantage = 0.0  # what follows is another episode
                delta = reward[t, b] + self.settings.gamma * after - value
                advantage = delta + self.settings.gamma * self.settings.gae_lambda * advantage
                samples.append(
                    {
                        "index": t * envs + b,
                        "obs": obs,
                        "action": action[t, b],
                        "log_prob": self.judge(obs, action[t, b])[0],
                        "value": value,
                        "advantage": advantage,
                        "target": advantage + value,
                    }
                )
        samples.sort(key=lambda s: s["index"])
        rows = []
        for epoch in orders:
            for minibatch in epoch:
                rows.append(self.gradient_step([samples[i] for i in minibatch], learning_rate, clip_range))
        metrics = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
        target = np.array([s["target"] for s in samples])
        error = target - np.array([s["value"] for s in samples])
        self.seen_obs += list(rollout.obs.reshape(steps * envs, -1))
        return {
            **metrics,
            "explained_variance": 1 - error.var() / target.var(),
            "learning_rate": learning_rate,
        }

    def gradient_step(
        self, batch: list[dict[str, Any]], learning_rate: float, clip: float
    ) -> dict[str, float]:
        set_, n = self.settings, len(batch)
        advantages = np.array([s["advantage"] for s in batch])
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_slope = [[np.zeros_like(w), np.zeros_like(b)] for w, b in self.policy]
        value_slope = [[np.zeros_like(w), np.zeros_like(b)] for w, b in self.value]
        log_std_slope = None if self.log_std is None else np.zeros_like(self.log_std)
        total = dict.fromkeys(("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"), 0.0)
        for sample, advantage in zip(batch, advantages, strict=True):
            seen = forward(self.policy, sample["obs"])
            log_prob, entropy, slope, other_slope = self.judge(sample["obs"], sample["action"])
            log_ratio = log_prob - sample["log_prob"]
            ratio = np.exp(log_ratio)
            within = min(max(ratio, 1 - clip), 1 + clip)
            total["policy_loss"] -= min(ratio * advantage, within * advantage) / n
            total["entropy"] += entropy / n
            total["approx_kl"] += (ratio - 1 - log_ratio) / n
            total["clip_fraction"] += (abs(ratio - 1) > clip) / n
            # The minimum has a slope where the ratio is not clipped, or where clipping would raise it.
            push = -advantage * ratio if ratio * advantage <= within * advantage else 0.0
            if self.log_std is None:
                out_slope = (push * slope - set_.entropy_coef * other_slope) / n
            else:
                out_slope = push * slope / n
                log_std_slope += (push * other_slope - set_.entropy_coef) / n
            backward(self.policy, seen, out_slope, policy_slope)

            seen = forward(self.value, sample["obs"])
            value, target = seen[-1][0], sample["target"]
            error, slope_of_error = (value - target) ** 2, 2 * (value - target)
            if set_.clip_value:
                limit = clip if set_.value_clip_range is None else set_.value_clip_range
                moved = value - sample["value"]
                near = sample["value"] + min(max(moved, -limit), limit)
                if abs(moved) > limit and (near - target) ** 2 > error:
                    error, slope_of_error = (near - target) ** 2, 0.0
            total["value_loss"] += 0.5 * error / n
            backward(self.value, seen, np.array([set_.value_coef * 0.5 * slope_of_error / n]), value_slope)
        total["loss"] = (
            total["policy_loss"]
            - set_.entropy_coef * total["entropy"]
            + set_.value_coef * total["value_loss"]
        )
        slopes = [array for layer in policy_slope + value_slope for array in layer]
        slopes += [] if log_std_slope is None else [log_std_slope]
        total["gradient_norm"] = np.sqrt(sum((g**2).sum() for g in slopes))
        self.adam([g * min(1.0, set_.max_grad_norm / total["gradient_norm"]) for g in slopes], learning_rate)
        return total

    def adam(self, slopes: list[np.ndarray], learning_rate: float) -> None:
        self.steps += 1
        for p, g, m, v in zip(self.parameters(), slopes, self.first_moment, self.second_moment, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g**2 - v)
            m_hat, v_hat = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            p -= learning_rate * m_hat / (np.sqrt(v_hat) + ADAM_EPS)
