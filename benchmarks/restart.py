"""Seconds from `kill -9` to the first new update, and where they go.

In: a YAML file and overrides. Out: a line a round, then JSON with medians, versions and device.

    python benchmarks/restart.py experiments/cartpole_ppo.yaml --rounds 3

A run is started, killed once it has two checkpoints, and resumed in a new process. import: until `jaxtrain`
is there. restore: reading, checking and laying out the checkpoint. compile: both programs, from the cache
where there is one. total: from the kill, with the start of Python and the first update itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def resume(directory: str, killed: float) -> None:
    """In the new process: resume, say how long each part took, and leave after the first update."""
    begun = time.time()
    import jax

    import jaxtrain
    from jaxtrain.runs import program as compiled
    from jaxtrain.runs import resume
    from jaxtrain.runs.launch import launch

    said = {"import": time.time() - begun}
    module = sys.modules["jaxtrain.runs.launch"]
    del launch

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **given: Any) -> Any:
            start = time.time()
            try:
                return function(*args, **given)
            finally:
                said[name] = said.get(name, 0.0) + time.time() - start

        return call

    module.resume_run = timed("restore", module.resume_run)  # type: ignore[attr-defined]
    resume.RunPlan.restored = timed("restore", resume.RunPlan.restored)  # type: ignore[method-assign]
    compiled.Programs.__init__ = timed("compile", compiled.Programs.__init__)  # type: ignore[method-assign]
    advance = compiled.Programs.advance

    def first(this: Any, *args: Any) -> Any:
        jax.block_until_ready(advance(this, *args))
        said["total"] = time.time() - killed
        print(json.dumps(said), flush=True)
        os._exit(0)

    compiled.Programs.advance = first  # type: ignore[method-assign]
    jaxtrain.launch(resume.stored_config(Path(directory)), directory)


def one(file: str, overrides: list[str]) -> dict[str, float]:
    """One kill and one resume."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "run"
        options = [f"--{k.replace('_', '-')}={v}" for k, v in (o.split("=", 1) for o in overrides)]
        command = [
            sys.executable,
            "-m",
            "jaxtrain.tools.cli",
            "train",
            file,
            "--out",
            str(directory),
            *options,
        ]
        # What is timed ends at the kill: in short the run would be over by then.
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"JAXTRAIN_SHORT": "0"})
        while len(list(directory.glob("checkpoints/0*"))) < 2:
            time.sleep(0.02)
            if run.poll() is not None:
                raise SystemExit(f"the run ended with {run.returncode} before it could be killed")
        run.send_signal(signal.SIGKILL)
        killed = time.time()
        run.wait()
        again = [sys.executable, __file__, "--resume", str(directory), str(killed)]
        done = subprocess.run(again, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """See the module."""
    if sys.argv[1:2] == ["--resume"]:
        resume(sys.argv[2], float(sys.argv[3]))
    import jax  # not before: how long the process that resumes takes for it is part of the result

    from jaxtrain.tools import short

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_intermixed_args()
    rounds: list[dict[str, float]] = []
    for _ in range(short.repeats(options.rounds)):
        rounds.append(one(options.file, options.overrides))
        print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in rounds[-1].items()), flush=True)

    result = {
        "median_seconds": {name: statistics.median(r[name] for r in rounds) for name in rounds[0]},
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
