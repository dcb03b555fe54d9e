"""The log of a run as whole rows, whatever a crash, a copy or an editor has made of its bytes.

In: the path of `metrics.jsonl`. Out: its rows; or the same file, cut back to the end of a row, and what was
amiss with it. Knows nothing of what rows mean, nor of how long the log should be.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtrain.runs import disk

MOST = 1 << 30  # bytes of a log that are read where nobody waits for more
_MOST_OF_A_LINE = 1 << 26


def rows(
    path: Path, only: str | None = None, most: int = MOST
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of a log with the numbers of their lines, from 1; None for a line that is no row.

    A last line without its end, which is being written, is left out, and what is behind the first `most`
    bytes.

    Args:
      only: the name of the records that are wanted; the others cost little and are left out.

    Raises:
      OSError: it cannot be read.
    """
    wanted = b"" if only is None else json.dumps(only).encode()
    with path.open("rb", buffering=1 << 20) as file:
        number, left = 0, most
        while left > 0 and (line := file.readline(_MOST_OF_A_LINE)):
            number, left = number + 1, left - len(line)
            if wanted in line and (line.endswith(b"\n") or len(line) == _MOST_OF_A_LINE):
                row = _row(line) if line.endswith(b"\n") else None
                if row is None or only in (None, row["name"]):
                    yield number, row


def mend(path: Path) -> list[str]:
    """Cut a log back to the end of its last whole row, so that the next one begins a line.

    Returns:
      A sentence for what was cut off, and one for zeroes that stay between rows, as a lost block leaves them.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, end = len(data), _end_of_rows(data)
        hole = data.find(b"\0", 0, end)
        line = data[:hole].count(b"\n") + 1 if hole >= 0 else None
    found: list[str] = []
    if end < size:
        disk.cut(path, end)
        found.append(f"{path.name} ended with {size - end:,} bytes that are no row, which are cut off")
    if line is not None:
        found.append(f"{path.name} has zeroes in line {line:,}, where rows are missing")
    return found


def _end_of_rows(data: mmap.mmap) -> int:
    """Where the last line ends that is a JSON object; 0 if none is."""
    end = data.rfind(b"\n") + 1
    while end:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        if _is_row(data[begin:end]):
            break
        end = begin
    return end


def _is_row(line: bytes) -> bool:
    return isinstance(_parsed(line), dict)


def _parsed(line: bytes) -> Any:
    """What a line is as JSON; None for one that is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _row(line: bytes) -> dict[str, Any] | None:
    """A line with the entries that a record has, each of its type; None for any other."""
    found = _parsed(line) if line.lstrip().startswith(b"{") else None
    if not isinstance(found, dict):
        return None
    env_steps = found.get("env_steps")
    sound = isinstance(found.get("name"), str) and type(env_steps) is int and 0 <= env_steps < 1 << 63
    parts = (found.get("values"), found.setdefault("time", {}))
    return found if sound and all(isinstance(part, dict) for part in parts) else None
