"""Plant one bug after the other in a copy of the package, and see which test notices.

In: words that select mutants by file or description; none for all. Out: a table of mutant and first
failing test, and exit code 1 if fewer than 95 % are noticed.
Knows nothing of the bugs; `learning.py`, `loop.py`, `config.py` and `life_cycle.py` list them.

    python -m tests.mutants.run [WORD ...] [--out TABLE.md]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS, TESTS

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600
ENOUGH = 0.95


FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def failures(place: Path, paths: Iterable[str], *options: str) -> list[str]:
    """Run test files in a copy of the repository: the tests that fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *paths]
    try:
        run = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"no end after {TIMEOUT_SECONDS} s"]
    found = FAILURE.findall(run.stdout)
    if (run.returncode == 0) != (not found):
        raise RuntimeError(f"pytest itself failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return found


def noticed_by(mutant: Mutant, place: Path, known: Iterable[str]) -> str | None:
    """The first test that fails on the mutant and did not fail before, or None."""
    file = place / "jaxtrain" / mutant.file
    source = file.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.what!r} does not fit {mutant.file}: see test_mutants.py")
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        found = failures(place, TESTS[mutant.file], "-x", *(f"--deselect={name}" for name in known))
    finally:
        file.write_text(source, encoding="utf-8")
    return found[0].removeprefix("tests/") if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant bugs and see which test notices.")
    parser.add_argument(
        "words", nargs="*", help="only mutants whose file or description contains one of these"
    )
    parser.add_argument("--out", type=Path, help="append the table to this file as it grows")
    arguments = parser.parse_args()
    chosen = [
        m for m in MUTANTS if not arguments.words or any(w in f"{m.file} {m.what}" for w in arguments.words)
    ]
    rows: list[str | None] = []

    def say(line: str) -> None:
        print(line, flush=True)
        if arguments.out is not None:
            with arguments.out.open("a", encoding="utf-8") as out:
                out.write(line + "\n")

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("jaxtrain", "tests", "experiments", "examples"):
            shutil.copytree(ROOT / part, place / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", place)
        known = failures(place, dict.fromkeys(path for m in chosen for path in TESTS[m.file]))
        for failing in known:
            say(f"Fails without any mutant, left out: {failing}\n")
        say("| mutant | file | first failing test | seconds |\n|---|---|---|---|")
        for mutant in chosen:
            begun = time.perf_counter()
            rows.append(noticed_by(mutant, place, known))
            seconds = time.perf_counter() - begun
            say(f"| {mutant.what} | {mutant.file} | {rows[-1] or '**none**'} | {seconds:.0f} |")
    share = sum(row is not None for row in rows) / max(1, len(rows))
    say(f"\n{share:.1%} of {len(rows)} noticed.")
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
