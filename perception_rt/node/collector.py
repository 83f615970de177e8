"""Collecting what a running graph publishes: detections, ground truth, the last word of the ledgers."""

from __future__ import annotations

import threading

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import QoSProfile
from vision_msgs.msg import Detection2DArray

from perception_rt.codec.detections import decode_detections
from perception_rt.node.run import make_executor, spin
from perception_rt.types import Detections2D

KEEP_ALL = QoSProfile(depth=1000)


class Collector:
    """Records Detection2DArray topics and the latest diagnostics; use it in a `with`.

    Args:
        topics: detection topics, each with the class names by label.

    Attributes:
        detections: by topic, by stamp in ns.
        statuses: by name of the status, its latest values as texts.
    """

    def __init__(self, topics: dict[str, list[str]]) -> None:
        self.detections: dict[str, dict[int, Detections2D]] = {topic: {} for topic in topics}
        self.statuses: dict[str, dict[str, str]] = {}
        self._context = Context()
        self._topics = topics
        self._stop = threading.Event()

    def __enter__(self) -> Collector:
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("perception_rt_collector", context=self._context)
        for topic, classes in self._topics.items():
            self._node.create_subscription(
                Detection2DArray,
                topic,
                lambda data, topic=topic, classes=classes: self._on_detections(topic, classes, data),
                KEEP_ALL,
                raw=True,
            )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, KEEP_ALL)
        self._executor = make_executor(self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=spin, args=(self._executor, self._stop, self._context))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_detections(self, topic: str, classes: list[str], data: bytes) -> None:
        stamp_ns, _, detections = decode_detections(data, classes)
        self.detections[topic][stamp_ns] = detections

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = {item.key: item.value for item in status.values}
