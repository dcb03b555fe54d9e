"""What `import jaxtrain` costs beyond `import jax, flax, optax`, in seconds.

In: the number of rounds. Out: JSON on standard output.
Each import runs in a fresh interpreter and the two take turns, so that a machine that slows
down slows both. A first round fills the byte code and file caches and is not counted.

    python benchmarks/import_time.py --rounds 15
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from jaxtrain.tools import short

ROOT = Path(__file__).parents[1]


def seconds(statement: str) -> float:
    """How long a fresh interpreter takes for one import statement, its own start left out."""
    program = f"import time; begin = time.perf_counter(); {statement}; print(time.perf_counter() - begin)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return float(result.stdout)


def summary(samples: list[float]) -> dict[str, float]:
    """Median and quartiles, and the extremes."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    named = {"median": median, "q25": low, "q75": high, "min": min(samples), "max": max(samples)}
    return {name: round(value, 4) for name, value in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="What `import jaxtrain` costs beyond jax, flax and optax.")
    parser.add_argument("--rounds", type=int, default=11, help="counted rounds, at least 2 (default 11)")
    rounds = short.repeats(parser.parse_args().rounds)
    if rounds < 2:
        parser.error(f"--rounds {rounds}: needs at least 2")
    pairs = [(seconds("import jax, flax, optax"), seconds("import jaxtrain")) for _ in range(rounds + 1)][1:]
    report = {
        "benchmark": "import_time",
        "seconds": {
            "jax_flax_optax": summary([base for base, _ in pairs]),
            "jaxtrain": summary([ours for _, ours in pairs]),
            "difference": summary([ours - base for base, ours in pairs]),
        },
        "rounds": rounds,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
