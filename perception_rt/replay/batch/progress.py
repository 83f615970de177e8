"""How far a replay is, as lines that a program can read: ``{"done_s": 1.2, "total_s": 60.0}``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple, TextIO

_EVERY_S = 0.5
_TAIL_BYTES = 4096


class Progress(NamedTuple):
    """How much of a recording is replayed, s of its own time."""

    done_s: float
    total_s: float


class ProgressLines:
    """Writes them, not more often than every half second but always the last one.

    Args:
        total_s: how long the recording is. file: where they go.
    """

    def __init__(self, total_s: float, file: TextIO) -> None:
        self._total_s = total_s
        self._file = file
        self._next_s = 0.0

    def __call__(self, done_s: float) -> None:
        """So much is done."""
        now_s = time.monotonic()
        if now_s >= self._next_s or done_s >= self._total_s:
            self._next_s = now_s + _EVERY_S
            row = {"done_s": round(done_s, 3), "total_s": round(self._total_s, 3)}
            print(json.dumps(row), file=self._file, flush=True)


def parse_progress(line: str) -> Progress | None:
    """The progress that a line tells; None for any other line."""
    if not line.startswith('{"done_s"'):
        return None
    try:
        row = json.loads(line)
        return Progress(float(row["done_s"]), float(row["total_s"]))
    except (ValueError, KeyError, TypeError):
        return None  # half a line, or a look-alike


def read_progress(log: Path) -> Progress | None:
    """The latest progress in a log; None where there is none yet."""
    found = (parse_progress(line) for line in reversed(tail(log)))
    return next((progress for progress in found if progress is not None), None)


def tail(log: Path) -> list[str]:
    """The last lines of a log; none where it is not there."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
