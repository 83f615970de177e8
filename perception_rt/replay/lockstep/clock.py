"""The time of one node in a replay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.timing import Timing


class NodeClock:
    """Virtual time as a node sees it: while it works and its time is measured, the clock goes on.

    Args:
        loop: of the replay. timing: of the inference; None where time is measured.
    """

    def __init__(self, loop: EventLoop, timing: Timing | None) -> None:
        self.loop = loop
        self.timing = timing
        self._began_ns: int | None = None

    def now_ns(self) -> int:
        """Return virtual time plus what the callback in progress has taken, where that is measured."""
        elapsed = 0 if self._began_ns is None else time.perf_counter_ns() - self._began_ns
        return self.loop.now_ns() + elapsed

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Let the work inside take its time, where time is measured."""
        if self.timing is None:
            self._began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._began_ns = None
