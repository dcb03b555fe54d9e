"""Files and directories that are whole or not there.

In: a path. Out: a place to write to, which becomes that path at the end.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jaxtrain import signals


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A place beside `path`, moved there once the block has ended well; what was there stays until then.

    After an error or a signal nothing of it is left: SIGINT is a `KeyboardInterrupt`, whoever handles it, and
    SIGTERM then does what it would have done.
    """

    def stop() -> None:
        raise KeyboardInterrupt

    caught: list[int] = []
    try:
        with (
            signals.listening(signals.ENDING, what="taking away what is not whole", handle=stop) as caught,
            tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as place,
        ):
            part = Path(place) / path.name
            yield part
            part.replace(path)
    finally:
        if signal.SIGTERM in caught:
            signal.raise_signal(signal.SIGTERM)
