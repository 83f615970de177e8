"""Collecting what a running graph publishes: detections, ground truth, the last word of the ledgers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import QoSProfile
from vision_msgs.msg import Detection2DArray, Detection3DArray

from perception_rt.codec.detections import decode_detections
from perception_rt.codec.detections3d import decode_detections3d
from perception_rt.node.run import make_executor, spin
from perception_rt.types import Detections2D, Detections3D

KEEP_ALL = QoSProfile(depth=1000)
READERS: dict[str, tuple[type, Callable]] = {
    "detect2d": (Detection2DArray, decode_detections),
    "detect3d": (Detection3DArray, decode_detections3d),
}


class Collector:
    """Records detection topics and the latest diagnostics; use it in a `with`.

    Args:
        topics: by topic, the task (``detect2d``, ``detect3d``) whose results it carries, and the class names
            by label.

    Attributes:
        detections: by topic, by stamp in ns.
        ids: of the detections; the same keys.
        statuses: by name of the status, its latest values as texts.
    """

    def __init__(self, topics: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        self.detections: dict[str, dict[int, Detections2D | Detections3D]] = {topic: {} for topic in topics}
        self.ids: dict[str, dict[int, list[str]]] = {topic: {} for topic in topics}
        self.statuses: dict[str, dict[str, str]] = {}
        self._context = Context()
        self._topics = topics
        self._stop = threading.Event()

    def __enter__(self) -> Collector:
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("perception_rt_collector", context=self._context)
        for topic, (task, classes) in self._topics.items():
            message_type, decode = READERS[task]
            self._node.create_subscription(
                message_type,
                topic,
                lambda data, topic=topic, decode=decode, classes=classes: self._on_detections(
                    topic, *decode(data, classes)
                ),
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

    def _on_detections(
        self, topic: str, stamp_ns: int, _frame: str, detections: Detections2D | Detections3D, *ids: list[str]
    ) -> None:
        self.detections[topic][stamp_ns] = detections
        self.ids[topic][stamp_ns] = ids[0] if ids else []

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = {item.key: item.value for item in status.values}
