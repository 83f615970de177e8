"""What /tf and /tf_static say: through tf2_ros where it is installed, else through our own buffer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from perception_rt.codec.transforms import parse_transforms
from perception_rt.component import component
from perception_rt.stage.transforms import TransformBuffer, to_matrix
from perception_rt.types import PerceptionError, TransformError

DEPTH = 100


class TransformSubscriber(component.Transforms, Protocol):
    """As a component asks for it."""

    def close(self) -> None:
        """Stop to listen."""
        ...


def subscribe_transforms(node: Node) -> TransformSubscriber:
    """Listen to /tf and /tf_static on the node's executor."""
    return Tf2Listener(node) if find_spec("tf2_ros") else TransformListener(node)


class TransformListener:
    """Fills a `TransformBuffer`; a message that holds no transform is warned of, once a second."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer = TransformBuffer()
        # Best effort matches every publisher; static transforms are kept for late listeners.
        moving = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", lambda data: self._add(data, False), moving, raw=True),
            node.create_subscription(
                TFMessage, "/tf_static", lambda data: self._add(data, True), latched, raw=True
            ),
        ]

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """As `TransformBuffer.lookup`."""
        return self._buffer.lookup(target, source, stamp_ns)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _add(self, data: bytes, static: bool) -> None:
        try:
            for t in parse_transforms(data):
                self._buffer.add(t.parent, t.child, t.stamp_ns, t.translation, t.quaternion, static)
        except PerceptionError as error:
            topic = "/tf_static" if static else "/tf"
            self._node.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=1.0)


class Tf2Listener:
    """The buffer of tf2_ros, with the interface and the error of ours."""

    def __init__(self, node: Node) -> None:
        import tf2_ros

        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """As `TransformBuffer.lookup`, but for its tolerance: tf2 holds nothing beyond the last stamp."""
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns))
        except self._error as error:
            raise TransformError(target, source, str(error)) from error
        move, turn = found.transform.translation, found.transform.rotation
        return to_matrix(np.array([move.x, move.y, move.z]), np.array([turn.x, turn.y, turn.z, turn.w]))

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()
