"""Latency statistics over the latest samples."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

ANOTHER_CLOCK_NS = 1_000_000_000  # stamps further from the clock than this are of another clock
LEAST_STAMPS = 4  # to judge them


def stamp_fault(stamps_ns: Sequence[int]) -> str:
    """Return what is wrong with the stamps of messages in a row, and the remedy; empty if nothing is."""
    if len(stamps_ns) < LEAST_STAMPS:
        return ""
    if not any(stamps_ns):
        return "all stamps are 0: the driver must set header.stamp"
    if len(set(stamps_ns)) == 1:
        return "all stamps are the same: the driver must stamp each message anew"
    steps = [after - before for before, after in pairwise(stamps_ns)]
    if sum(step < 0 for step in steps) > len(steps) / 2:
        return "stamps run backwards: mend the sensor's clock, or the order of the messages"
    return ""


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted samples, at least one, by the nearest-rank method: one of the samples."""
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


class LatencyWindow:
    """The latest `size` samples of one duration, ms; safe to use from several threads."""

    def __init__(self, size: int = 2048) -> None:
        self._samples: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value_ms: float) -> None:
        """Add one sample, ms."""
        with self._lock:
            self._samples.append(value_ms)

    def percentiles(self) -> dict[str, float] | None:
        """Return `{"p50": ms, "p99": ms}` by nearest rank, or None before the first sample."""
        with self._lock:
            ordered = sorted(self._samples)
        if not ordered:
            return None
        return {f"p{q}": nearest_rank(ordered, q) for q in (50, 99)}


class ClockOffset:
    """How far the stamps of a stream lie behind the clock, in the median of the latest messages."""

    def __init__(self, size: int = 33) -> None:
        self._behind_ns: deque[int] = deque(maxlen=size)
        self._stamps_ns: deque[int] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, arrival_ns: int, stamp_ns: int) -> None:
        """Add a message."""
        with self._lock:
            self._behind_ns.append(arrival_ns - stamp_ns)
            self._stamps_ns.append(stamp_ns)

    def fault(self) -> str:
        """Return the `stamp_fault` of the latest messages."""
        with self._lock:
            return stamp_fault(list(self._stamps_ns))

    def behind_ns(self) -> int | None:
        """Return the offset, ns, negative where stamps are ahead; None up to `ANOTHER_CLOCK_NS`."""
        with self._lock:
            ordered = sorted(self._behind_ns)
        if not ordered:
            return None
        middle = ordered[len(ordered) // 2]
        return middle if abs(middle) > ANOTHER_CLOCK_NS else None

    def reset(self) -> None:
        """Start over: the clock was set back."""
        with self._lock:
            self._behind_ns.clear()
            self._stamps_ns.clear()


class RateMeter:
    """Rate of the latest events, from their times."""

    def __init__(self, size: int = 64) -> None:
        self._times_ns: deque[int] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, now_ns: int) -> None:
        """Count an event; a clock that was set back starts the measurement over."""
        with self._lock:
            if self._times_ns and now_ns < self._times_ns[-1]:
                self._times_ns.clear()
            self._times_ns.append(now_ns)

    def rate_hz(self, now_ns: int) -> float:
        """Return events per second, Hz; falls towards zero once they stop."""
        with self._lock:
            if len(self._times_ns) < 2:
                return 0.0
            intervals = len(self._times_ns) - 1
            first, last = self._times_ns[0], self._times_ns[-1]
        silence = now_ns - last
        mean = (last - first) / intervals
        # A silence of several intervals is more than jitter: it counts.
        span = last - first + (silence if silence > 2 * mean else 0)
        return intervals / (span / 1e9) if span > 0 else 0.0
