"""ROS time with a finer resolution than /clock."""

from __future__ import annotations

import threading
import time
from collections import deque

from rclpy.clock import JumpThreshold, ROSClock
from rclpy.duration import Duration

TICKS = 40  # over which the speed of simulated time is measured
LONGEST_STEP_NS = 200_000_000  # between two messages of /clock; a longer gap is a pause


class SmoothClock:
    """Extrapolates simulated time between two messages of /clock.

    Players publish the time 40 times a second (`ros2 bag play --clock`), which is too coarse for ages and for
    the phase of a scheduler. The clock runs at most one usual step past the last message, so it stops when a
    player is paused. It goes back only when /clock does.

    Args:
        clock: of a node.
    """

    def __init__(self, clock: ROSClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ticks: deque[tuple[int, int]] = deque(maxlen=TICKS)  # simulated and system time, ns
        self._latest_ns = 0
        threshold = JumpThreshold(
            min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._handle = clock.create_jump_callback(threshold, post_callback=self._ticked)

    def now_ns(self) -> int:
        """Return the time, ns."""
        if not self._clock.ros_time_is_active:
            return time.time_ns()  # what the clock says then, for a fifth of the price
        told = self._clock.now().nanoseconds
        with self._lock:
            known = bool(self._ticks) and told == self._ticks[-1][0]  # else a tick is arriving now
            time_ns = told + (self._ahead_ns() if known else 0)
            if 0 < self._latest_ns - time_ns <= LONGEST_STEP_NS:
                return self._latest_ns
            self._latest_ns = time_ns
            return time_ns

    def _ahead_ns(self) -> int:
        if len(self._ticks) < 2:
            return 0
        (first, since), (last, at) = self._ticks[0], self._ticks[-1]
        step = (last - first) / (len(self._ticks) - 1)
        return int(min((time.monotonic_ns() - at) * (last - first) / max(at - since, 1), step))

    def _ticked(self, _: object) -> None:
        now, machine = self._clock.now().nanoseconds, time.monotonic_ns()
        with self._lock:
            before = self._ticks[-1][0] if self._ticks else now
            if not 0 <= now - before <= LONGEST_STEP_NS:
                self._ticks.clear()
                self._latest_ns = 0
            self._ticks.append((now, machine))
