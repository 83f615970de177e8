"""Detector nodes with timing, in the measuring process."""

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

from perception_rt.component.camera_detector import CameraDetector
from perception_rt.component.component import Host
from perception_rt.component.detector import DetectorComponent
from perception_rt.component.lidar_detector import LidarDetector
from perception_rt.node.detector import DetectorNode
from perception_rt.node.run import Graph
from perception_rt.types import PerceptionError

TOPIC = "/sensor"
SETTLE_S = 0.5
FASTEST_HZ = 1000.0  # a scheduler rate that never delays a frame


class Answer(NamedTuple):
    """One published frame; times in ns of the machine's wall clock."""

    stamp_ns: int
    infer_ns: int
    published_ns: int


class Measured(DetectorComponent):
    """Mixin of a detector that records when it published each frame.

    Attributes:
        answers: every published frame.
    """

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self.answers: list[Answer] = []
        self._infer_ns = 0

    def infer(self, frames: list) -> list:
        """Infer and measure the time."""
        began = time.perf_counter_ns()
        results = super().infer(frames)
        self._infer_ns = time.perf_counter_ns() - began
        return results

    def publish(self, stream: str, frame: Any, result: Any) -> None:
        """Publish, then record the time."""
        super().publish(stream, frame, result)
        self.answers.append(Answer(frame.stamp_ns, self._infer_ns, time.time_ns()))


class MeasuredDetector(DetectorNode):
    """The node of a measured detector."""

    component: Measured

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._halt = threading.Event()

    @property
    def answers(self) -> list[Answer]:
        """Every published frame."""
        return self.component.answers

    def stop(self) -> None:
        """Also end a loop of `forward_ns`."""
        self._halt.set()
        super().stop()

    def set_rate(self, hz: float) -> None:
        """Set the scheduler's rate."""
        self.set_parameters([Parameter("rate_hz", value=float(hz))])

    def forward_ns(self, data: np.ndarray, seconds: float) -> np.ndarray:
        """Run the bundle alone on its worker thread; return the time of each run, ns."""
        self._halt.clear()

        def loop() -> np.ndarray:
            times = [time.perf_counter_ns()]
            while times[-1] - times[0] < seconds * 1e9 and not self._halt.is_set():
                self.component.runtime(data)
                times.append(time.perf_counter_ns())
            return np.diff(times)

        return self.component.worker.call(loop).result()

    def answered(self, seconds: float) -> list[Answer]:
        """Return the frames published within the next `seconds`."""
        first = len(self.answers)
        time.sleep(seconds)
        return self.answers[first:]

    def book(self) -> dict:
        """The ledger of the sensor."""
        return self.component.stats[TOPIC].ledger.snapshot()

    def lost(self) -> int:
        """Messages reported as lost by the transport."""
        return sum(subscription.lost for subscription in self._host.subscriptions)

    def deadline_misses(self) -> int:
        """Runs that were still busy at the next tick."""
        return self.component.scheduler.deadline_misses


class MeasuredCameraDetector(Measured, CameraDetector):
    """The camera detector, measured."""


class MeasuredLidarDetector(Measured, LidarDetector):
    """The lidar detector, measured."""


class MeasuredCamera(MeasuredDetector):
    """Its node."""

    COMPONENT = MeasuredCameraDetector


class MeasuredLidar(MeasuredDetector):
    """Its node."""

    COMPONENT = MeasuredLidarDetector


@contextmanager
def running(node_class: type[MeasuredDetector], **values: Any) -> Iterator[MeasuredDetector]:
    """A running, inactive node with these parameters, on the topic `TOPIC`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    topics = "image_topics" if issubclass(node_class.COMPONENT, CameraDetector) else "points_topics"
    overrides = [Parameter(name, value=value) for name, value in {**values, topics: [TOPIC]}.items()]
    node = node_class(parameter_overrides=overrides)
    graph = Graph([node])
    try:
        if not graph.start():
            raise PerceptionError(f"{node.get_name()} could not be brought up; its log is above")
        node.trigger_deactivate()
        yield node
    finally:
        node.stop()
        graph.end()
        rclpy.try_shutdown()


@contextmanager
def active(node: MeasuredDetector, hz: float) -> Iterator[None]:
    """Activate the node at a scheduler rate and let it settle; deactivate it afterwards."""
    node.set_rate(hz)
    node.trigger_activate()
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        node.trigger_deactivate()
