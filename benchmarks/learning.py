"""What an experiment reaches: many seeds at once, the interquartile mean and its 95 % interval.

In: YAML files of `experiments/`, overrides. Out: a row for each evaluation event, and JSON.

    python benchmarks/learning.py experiments/cartpole_ppo.yaml --num-seeds 16

The score is the last evaluation's mean return of each seed, never a maximum over time. Mean and interval are
those of `jaxtrain/tools/stats.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from throughput import about

import jaxtrain
from jaxtrain.tools import short, stats


def learn(file: str, overrides: list[str], num_seeds: int) -> dict[str, Any]:
    """Train and summarize one file."""
    sys.path.append(str(Path(file).resolve().parent))  # modules that it names, as for `jaxtrain train`
    config = short.config(jaxtrain.load_config(file, overrides))
    keys = jax.random.split(jax.random.key(0), num_seeds)
    begun = time.perf_counter()
    result = jax.block_until_ready(jax.vmap(jaxtrain.train, in_axes=(None, 0))(config, keys))
    took = time.perf_counter() - begun
    rows: dict[str, Any] = {}
    for name, columns in result.history.items():
        if "return_mean" in columns:
            scores = np.asarray(columns["return_mean"], np.float64)  # [S, marks]
            low, high = stats.iqm_interval(scores[:, -1], samples=20_000)
            rows[name] = {
                "iqm": stats.iqm(scores[:, -1]),
                "low": low,
                "high": high,
                "worst": float(scores[:, -1].min()),
                "curve": [round(float(x), 2) for x in map(stats.iqm, scores.T)],
            }
    return {
        "file": file,
        "overrides": overrides,
        "num_seeds": num_seeds,
        "env_steps": config.total_env_steps,
        "seconds_with_compilation": took,
        "scores": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override, may be repeated"
    )
    parser.add_argument("--num-seeds", type=int, default=16)
    parser.add_argument("--json", help="write the results to this file")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for file in options.files:
        result = learn(file, options.set, short.repeats(options.num_seeds))
        results.append(result)
        for name, row in result["scores"].items():
            print(
                f"{file}  {name}: IQM {row['iqm']:.1f} [{row['low']:.1f}, {row['high']:.1f}], "
                f"worst {row['worst']:.1f}, "
                f"{result['num_seeds']} seeds of {result['env_steps']:,} env steps, "
                f"{result['seconds_with_compilation']:.0f} s; curve {row['curve']}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({**about(), "results": results}, out, indent=2)


if __name__ == "__main__":
    main()
