"""The camera detector under the stop-watch, in the process that measures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from perception_rt.node.camera_detector import CameraDetector
from perception_rt.node.run import Graph
from perception_rt.types import CameraFrame, Detections2D, PerceptionError

TOPIC = "/camera/image_raw"
SETTLE_S = 0.5
FASTEST_HZ = 1000.0  # a scheduler rate that never holds a frame back


class Answer(NamedTuple):
    """One published frame; times in ns of the machine's wall clock."""

    stamp_ns: int
    infer_ns: int
    published_ns: int


class MeasuredDetector(CameraDetector):
    """A camera detector that keeps when it answered which frame.

    Attributes:
        answers: every published frame.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answers: list[Answer] = []
        self._infer_ns = 0
        self._halt = threading.Event()

    def infer(self, frames: list[CameraFrame]) -> list[Detections2D]:
        """As it is, timed."""
        began = time.perf_counter_ns()
        results = super().infer(frames)
        self._infer_ns = time.perf_counter_ns() - began
        return results

    def publish(self, stream: str, frame: CameraFrame, result: Detections2D) -> None:
        """As it is; then the time."""
        super().publish(stream, frame, result)
        self.answers.append(Answer(frame.stamp_ns, self._infer_ns, time.time_ns()))

    def stop(self) -> None:
        """Also end a loop of `forward_ns`."""
        self._halt.set()
        super().stop()

    def set_rate(self, hz: float) -> None:
        """Set the scheduler's rate."""
        self.set_parameters([Parameter("rate_hz", value=float(hz))])

    def forward_ns(self, image: np.ndarray, seconds: float) -> np.ndarray:
        """Run the bundle alone, on the thread that it always runs on: ns of each run."""
        images = image[None]
        self._halt.clear()

        def loop() -> np.ndarray:
            times = [time.perf_counter_ns()]
            while times[-1] - times[0] < seconds * 1e9 and not self._halt.is_set():
                self.runtime(images)
                times.append(time.perf_counter_ns())
            return np.diff(times)

        return self._worker.call(loop).result()

    def answered(self, seconds: float) -> list[Answer]:
        """What is answered within the next `seconds`."""
        first = len(self.answers)
        time.sleep(seconds)
        return self.answers[first:]

    def book(self) -> dict:
        """The ledger of the camera."""
        return self._pipeline.accounts[TOPIC].ledger.snapshot()

    def lost(self) -> int:
        """Messages that the transport says it lost."""
        return self._subscriptions_in[TOPIC].lost

    def deadline_misses(self) -> int:
        """Runs that were still busy at the next tick."""
        return self._scheduler.deadline_misses


@contextmanager
def detector(bundle: str, sizes: list[tuple[int, int]], threads: int = 0) -> Iterator[MeasuredDetector]:
    """A running, inactive node, warmed up for images of (width, height)."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    values = {
        "bundle": bundle,
        "image_topics": [TOPIC],
        "warmup_sizes": [f"{width}x{height}" for width, height in sizes],
        "threads": threads,
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = MeasuredDetector(parameter_overrides=overrides)
    graph = Graph([node])
    try:
        if not graph.start():
            raise PerceptionError("the camera detector could not be brought up; its log is above")
        node.trigger_deactivate()
        yield node
    finally:
        node.stop()
        graph.end()
        rclpy.try_shutdown()


@contextmanager
def active(node: MeasuredDetector, hz: float) -> Iterator[None]:
    """Activated at a scheduler rate, settled; deactivated afterwards, so that no frame is pending."""
    node.set_rate(hz)
    node.trigger_activate()
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        node.trigger_deactivate()
