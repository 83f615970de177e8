"""Clocks: what the scheduler and the ledger ask for the time; injected, never global."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the time in ns."""

    def now_ns(self) -> int:
        """The time now, ns."""
        ...


class MonotonicClock:
    """The machine's monotonic clock: for intervals; its zero means nothing."""

    def now_ns(self) -> int:
        """Monotonic time, ns."""
        return time.monotonic_ns()


class VirtualClock:
    """A clock that only its owner moves: replay and tests."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """The time it was moved to, ns."""
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move forward.

        Raises:
            ValueError: `now_ns` lies before the present.
        """
        if now_ns < self._now_ns:
            raise ValueError(f"now_ns={now_ns} is before the present {self._now_ns}")
        self._now_ns = now_ns
