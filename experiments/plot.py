"""Draw a run's curves from its `metrics.jsonl`.

In: a run's directory. Out: a PNG with the training return and every evaluation over env steps; with
several seeds the interquartile mean with the range of the middle half, and of evaluations each seed, thin.

    python experiments/plot.py runs/cartpole --out curves.png
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def read(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curve -> env steps [N] and values [N, S]."""
    rows: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    log = directory / "metrics.jsonl"
    if not log.is_file():
        raise SystemExit(f"{directory} holds no metrics.jsonl: needs the directory of a run")
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        key = {"metrics": "rollout/return_mean"}.get(record["name"], "return_mean")
        if key in record["values"]:
            name = "training, last 100 episodes" if record["name"] == "metrics" else record["name"]
            rows[name].append((record["env_steps"], np.atleast_1d(np.array(record["values"][key], float))))
    return {
        name: (np.array([x for x, _ in row]), np.stack([y for _, y in row])) for name, row in rows.items()
    }


def middle_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half over seeds, [N, S] to [N]."""
    ordered = np.sort(values, axis=-1)
    edges = np.linspace(0, 1, ordered.shape[-1] + 1)
    weight = np.diff(np.clip(edges, 0.25, 0.75))
    return (ordered * weight).sum(-1) / weight.sum()


def draw(directory: Path, out: Path, title: str) -> None:
    """One panel, a color for each curve."""
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=150)
    curves = read(directory)
    if not curves:
        raise SystemExit(f"{directory} has logged no return yet")
    for name, (steps, values) in curves.items():
        middle = middle_mean(values)
        marker = "" if name.startswith("training") else "o"
        many = f", interquartile mean of {values.shape[1]} seeds" if values.shape[1] > 1 else ""
        (line,) = axes.plot(steps, middle, marker=marker, markersize=3, linewidth=1.8, label=name + many)
        if many:
            low, high = np.nanpercentile(values, (25, 75), axis=1)
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            if marker:
                axes.plot(steps, values, color=line.get_color(), linewidth=0.4, alpha=0.5)
    axes.set_xlabel("env steps of one seed")
    axes.set_ylabel("return")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, help="default curves.png in the directory")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    out = options.out or options.directory / "curves.png"
    draw(options.directory, out, options.title or options.directory.name)
    print(out)


if __name__ == "__main__":
    main()
