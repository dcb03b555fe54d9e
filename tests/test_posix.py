"""On a system that is not POSIX the import says so, and nothing else fails before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("begin", ["import jaxtrain", "from jaxtrain.tools import cli"])
def test_without_fcntl_the_import_names_it_and_what_works(begin):
    """What Windows lacks besides is gone too: an import that needs it before the guard would fail by that."""
    gone = "import os, signal, sys; sys.modules['fcntl'] = None; del signal.SIGHUP, os.register_at_fork"
    done = subprocess.run(
        [sys.executable, "-c", f"{gone}; {begin}"], cwd=ROOT, capture_output=True, text=True
    )
    *_, last = done.stderr.strip().splitlines()
    assert done.returncode == 1 and last.startswith("ImportError: jaxtrain needs a POSIX system"), done.stderr
    assert "no module fcntl" in last and "WSL 2" in last
    assert "During handling" not in done.stderr and len(done.stderr.splitlines()) < 10
