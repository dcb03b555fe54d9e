"""The log of a run as whole rows, whatever a crash, a copy or an editor has made of its bytes.

In: the path of `metrics.jsonl`. Out: the same file, cut back to the end of a row, and what was amiss with it.
Knows nothing of what rows mean, nor of how long the log should be.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path

from jaxtrain.runs import disk


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
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
