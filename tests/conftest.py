"""What every test shares: the platform, and no network.

In: the environment variables of the caller, which win. Out: the same variables, before JAX is imported.
Knows nothing of jaxtrain.
"""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

from tests.xla import FAST

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all the time of a test is compilation, and what is compiled is tiny: a third less without optimizing.
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0 {FAST}")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # that of the user's
os.environ.setdefault("MPLBACKEND", "Agg")  # no screen
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

# Under nohup, and behind an &, these are ignored, and would be by all that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example of a test compiles; how long that takes says nothing of what is claimed.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Of a file that is done no program is held: thousands slow a worker, and XLA has failed among them."""
    import jax  # late, as the variables above are read when it is first imported

    yield
    jax.clear_caches()
