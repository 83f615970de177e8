"""The cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return how many cores this process may run on, affinity included where the system knows it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
