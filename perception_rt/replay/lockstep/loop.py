"""Virtual time: what is due is called in order of time, as fast as the machine goes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from perception_rt.realtime.clock import VirtualClock


class EventLoop:
    """Calls of the future, in order of their time; at one time, in the order in which they were asked for.

    Attributes:
        clock: moves from call to call.
    """

    def __init__(self, start_ns: int) -> None:
        self.clock = VirtualClock(start_ns)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._ticking = True

    def now_ns(self) -> int:
        """The time of the call in hand, ns."""
        return self.clock.now_ns()

    def at(self, time_ns: int, call: Callable[[], None]) -> None:
        """Call at a time; one that has passed is now."""
        heapq.heappush(self._events, (max(time_ns, self.now_ns()), next(self._count), call))

    def every(self, period_ns: int, call: Callable[[], None]) -> None:
        """Call at a fixed rate, until `end_ticks`."""

        def tick() -> None:
            if self._ticking:
                call()
                self.at(self.now_ns() + period_ns, tick)

        self.at(self.now_ns() + period_ns, tick)

    def run_until(self, time_ns: int) -> None:
        """Make all calls of up to a time; then it is that time, unless it had passed."""
        while self._events and self._events[0][0] <= time_ns:
            self.step()
        self.clock.advance_to(max(time_ns, self.now_ns()))

    def step(self) -> None:
        """Make the next call."""
        time_ns, _, call = heapq.heappop(self._events)
        self.clock.advance_to(time_ns)
        call()

    def end_ticks(self) -> None:
        """Make all other calls that are left."""
        self._ticking = False
        while self._events:
            self.step()
