"""Report the progress of a replay as JSON lines: ``{"done_s": 1.2, "total_s": 60.0}``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple, TextIO

_EVERY_S = 0.5
_TAIL_BYTES = 4096


class Progress(NamedTuple):
    """The replayed part and the length of a recording, s."""

    done_s: float
    total_s: float


class ProgressLines:
    """Write progress lines at most twice a second, and always the last one.

    Args:
        total_s: length of the recording. file: to write to.
    """

    def __init__(self, total_s: float, file: TextIO) -> None:
        self._total_s = total_s
        self._file = file
        self._next_s = 0.0

    def __call__(self, done_s: float) -> None:
        """Report the position in the recording, s."""
        now_s = time.monotonic()
        if now_s >= self._next_s or done_s >= self._total_s:
            self._next_s = now_s + _EVERY_S
            row = {"done_s": round(done_s, 3), "total_s": round(self._total_s, 3)}
            print(json.dumps(row), file=self._file, flush=True)


def parse_progress(line: str) -> Progress | None:
    """Parse a progress line; return None for any other line."""
    if not line.startswith('{"done_s"'):
        return None
    try:
        row = json.loads(line)
        return Progress(float(row["done_s"]), float(row["total_s"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # an incomplete or similar line


def read_progress(log: Path) -> Progress | None:
    """Return the latest progress in a log; None if there is none yet."""
    found = (parse_progress(line) for line in reversed(tail(log)))
    return next((progress for progress in found if progress is not None), None)


def tail(log: Path) -> list[str]:
    """Return the last lines of a log; empty if it does not exist."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
