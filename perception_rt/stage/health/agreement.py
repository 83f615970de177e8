"""Check whether camera and lidar detect the same objects, from the sources of fused detections."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from perception_rt.stage.fusion.fuse import BOTH, CAMERA
from perception_rt.stage.health.checks import NEVER, Check, Finding, Limits

WINDOW_S = 3.0
LEAST_OBJECTS = 15  # of the camera, in the window
LEARN_S = 5.0  # of messages from which the usual share is learned
LEAST_USUAL = 0.2  # share of the camera's objects that the lidar confirms, below which there is no check
FOLLOW = 0.02

LIMITS = {"agreement": Limits(0.4, NEVER, "camera and lidar see different objects", below=True)}


class AgreementHealth:
    """Compares the share of the camera's objects that the lidar confirms with the usual share.

    Args:
        sensor: topic of the fused detections. findings: list that faults are added to.
    """

    def __init__(self, sensor: str, findings: list[Finding]) -> None:
        self.checks = {name: Check(sensor, name, limits, findings) for name, limits in LIMITS.items()}
        self._usual: float | None = None
        self._counts: deque[tuple[int, int, int]] = deque()  # time, confirmed, all of the camera

    def reset(self) -> None:
        """Forget the latest messages: the clock was set back."""
        self._counts.clear()
        for check in self.checks.values():
            check.clear(0)

    def update(self, now_ns: int, sources: Sequence[str]) -> None:
        """Take the sources of the objects of one message, as `fusion` publishes them in the ids."""
        both = sum(source == BOTH for source in sources)
        self._counts.append((now_ns, both, both + sum(source == CAMERA for source in sources)))
        window_ns = (WINDOW_S if self._usual is not None else LEARN_S) * 1e9
        full = now_ns - self._counts[0][0] >= window_ns
        while now_ns - self._counts[0][0] > window_ns:
            self._counts.popleft()
        seen = sum(count for _, _, count in self._counts)
        if not full or seen < LEAST_OBJECTS:
            self.checks["agreement"].update(now_ns, None)
            return
        share = sum(count for _, count, _ in self._counts) / seen
        if self._usual is None:
            self._usual = share
        elif self._usual >= LEAST_USUAL:
            if not self.checks["agreement"].update(now_ns, share / self._usual):
                self._usual += FOLLOW * (share - self._usual)
        else:
            self._usual += FOLLOW * (share - self._usual)
