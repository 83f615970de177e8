"""The clock of one node in a replay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.timing import Timing


class NodeClock:
    """The virtual clock of one node; it advances during a callback if time is measured.

    Args:
        loop: the event loop of the replay. timing: duration of inference; None to measure it.
    """

    def __init__(self, loop: EventLoop, timing: Timing | None) -> None:
        self.loop = loop
        self.timing = timing
        self._began_ns: int | None = None

    def now_ns(self) -> int:
        """Return virtual time, ns, plus the time of the running callback if time is measured."""
        elapsed = 0 if self._began_ns is None else time.perf_counter_ns() - self._began_ns
        return self.loop.now_ns() + elapsed

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the `with` block to the clock, if time is measured."""
        if self.timing is None:
            self._began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._began_ns = None
