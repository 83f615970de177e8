"""Clocks of the scheduler and the ledger; passed in, never global."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Anything with a time in ns."""

    def now_ns(self) -> int:
        """Return the time now, ns."""
        ...


class VirtualClock:
    """A clock that only moves when told to, for replay and tests."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return the time it was moved to, ns."""
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move forward.

        Raises:
            ValueError: `now_ns` lies before the current time.
        """
        if now_ns < self._now_ns:
            raise ValueError(f"now_ns={now_ns} is before the current time {self._now_ns}")
        self._now_ns = now_ns
