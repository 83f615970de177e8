"""An event loop in virtual time: it makes calls in order of time, as fast as possible."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from perception_rt.realtime.clock import VirtualClock


class EventLoop:
    """A queue of scheduled calls, ordered by time; calls for the same time keep their order.

    Attributes:
        clock: virtual time; advances from call to call.
    """

    def __init__(self, start_ns: int) -> None:
        self.clock = VirtualClock(start_ns)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._ticking = True

    def now_ns(self) -> int:
        """Return the virtual time, ns."""
        return self.clock.now_ns()

    def at(self, time_ns: int, call: Callable[[], None]) -> None:
        """Schedule a call; a time in the past means now."""
        heapq.heappush(self._events, (max(time_ns, self.now_ns()), next(self._count), call))

    def every(self, period_ns: int, call: Callable[[], None]) -> None:
        """Schedule a call at a fixed rate, until `end_ticks`."""

        def tick() -> None:
            if self._ticking:
                call()
                self.at(self.now_ns() + period_ns, tick)

        self.at(self.now_ns() + period_ns, tick)

    def run_until(self, time_ns: int) -> None:
        """Make all calls due up to a time, and advance the clock to it."""
        while self._events and self._events[0][0] <= time_ns:
            self.step()
        self.clock.advance_to(max(time_ns, self.now_ns()))

    def skip_to(self, time_ns: int) -> None:
        """Set the clock forward without calls; those that are scheduled move with it."""
        ahead_ns = time_ns - self.now_ns()
        self._events = [(due_ns + ahead_ns, count, call) for due_ns, count, call in self._events]
        self.clock.advance_to(time_ns)

    def step(self) -> None:
        """Make the next call."""
        time_ns, _, call = heapq.heappop(self._events)
        self.clock.advance_to(time_ns)
        call()

    def end_ticks(self) -> None:
        """Stop the periodic calls and make the remaining ones."""
        self._ticking = False
        while self._events:
            self.step()
