"""Collect detections, ground truth and the latest diagnostics of a running graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage

from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.vehicle import MotionReading, parse_odometry
from perception_rt.model.task import TASKS
from perception_rt.node.messages import installed_class
from perception_rt.node.run import spinning_node
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import Detections2D, Detections3D


def decode_tracks2d(data: bytes, classes: Sequence[str]) -> tuple[int, str, Detections2D, list[str]]:
    """Return stamp in ns, frame_id, boxes and ids of a tracker's Detection2DArray; raises CodecError."""
    message = decode_named_detections(data)
    found = message.detections
    labels = [classes.index(message.classes[label]) for label in found.labels]
    boxes = Detections2D(found.xyxy, found.scores, np.array(labels, np.int64))
    return message.stamp_ns, message.frame_id, boxes, list(message.ids)


KEEP_ALL = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HISTORY_NS = 10**15
PATH = "/vehicle_state/predicted_path"


class Collector:
    """Records detection topics, odometry, transforms and the latest diagnostics; use it in a `with`.

    While the graph runs, the messages are kept as bytes, which takes the graph least of its time; the end of
    the `with` decodes them.

    Args:
        topics: name of the task and class names by label, by topic.
        odometry: topics of nav_msgs/Odometry.
        tracks_2d: the `topics` whose Detection2DArray contains track ids.

    Attributes:
        counts: messages so far by topic.
        detections: by topic, by stamp in ns.
        ids: ids of the detections; same keys.
        frames: by topic, the frame of the latest detections.
        paths: by stamp in ns, the frame and the (T, 2) positions of a predicted path.
        motions: odometry by topic, by stamp in ns.
        transforms: of the whole run.
        statuses: latest values of each status as strings, by name.
    """

    def __init__(
        self,
        topics: Mapping[str, tuple[str, Sequence[str]]],
        odometry: Sequence[str] = (),
        tracks_2d: Sequence[str] = (),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.detections: dict[str, dict[int, Detections2D | Detections3D]] = {topic: {} for topic in topics}
        self.ids: dict[str, dict[int, list[str]]] = {topic: {} for topic in topics}
        self.frames: dict[str, str] = {}
        self.paths: dict[int, tuple[str, np.ndarray]] = {}
        self.motions: dict[str, dict[int, MotionReading]] = {topic: {} for topic in odometry}
        self.transforms = TransformBuffer(HISTORY_NS)
        self.statuses: dict[str, dict[str, str]] = {}
        self._topics = topics
        self._tracks_2d = tracks_2d
        self._received: list[tuple[Callable[[bytes], object], bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Collector:
        node = self._stack.enter_context(spinning_node("perception_rt_collector"))

        def listen(
            kind: type, topic: str, read: Callable[[bytes], object], qos: QoSProfile = KEEP_ALL
        ) -> None:
            node.create_subscription(kind, topic, partial(self._on_message, topic, read), qos, raw=True)

        for topic, (task, classes) in self._topics.items():
            decode = decode_tracks2d if topic in self._tracks_2d else TASKS[task].decoder()
            read = partial(self._read_detections, topic, decode, classes)
            listen(installed_class(TASKS[task].message_type), topic, read)
        for topic in self.motions:
            listen(Odometry, topic, partial(self._read_odometry, topic))
        listen(Path, PATH, self._read_path)
        listen(TFMessage, "/tf", partial(self.transforms.add_message, static=False))
        listen(TFMessage, "/tf_static", partial(self.transforms.add_message, static=True), LATCHED)
        listen(DiagnosticArray, "/diagnostics", self._read_diagnostics)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        received, self._received = self._received, []
        if kind is None:
            for read, data in received:
                read(data)

    def _on_message(self, topic: str, read: Callable[[bytes], object], data: bytes) -> None:
        self._received.append((read, data))
        self.counts[topic] += 1

    def _read_detections(
        self, topic: str, decode: Callable[..., tuple], classes: Sequence[str], data: bytes
    ) -> None:
        stamp_ns, frame, detections, *ids = decode(data, classes)
        self.frames[topic] = frame
        self.detections[topic][stamp_ns] = detections
        self.ids[topic][stamp_ns] = ids[0] if ids else []

    def _read_odometry(self, topic: str, data: bytes) -> None:
        reading = parse_odometry(data)
        self.motions[topic][reading.stamp_ns] = reading

    def _read_path(self, data: bytes) -> None:
        message = deserialize_message(data, Path)
        stamp = message.header.stamp
        xy = [(pose.pose.position.x, pose.pose.position.y) for pose in message.poses]
        self.paths[stamp.sec * 10**9 + stamp.nanosec] = message.header.frame_id, np.array(xy)

    def _read_diagnostics(self, data: bytes) -> None:
        for status in deserialize_message(data, DiagnosticArray).status:
            self.statuses[status.name] = {item.key: item.value for item in status.values}
