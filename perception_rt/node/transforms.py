"""The transforms of /tf and /tf_static, from tf2_ros if it works, else from our own buffer."""

from __future__ import annotations

import importlib
import threading
from types import ModuleType
from typing import Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from perception_rt.component import component
from perception_rt.stage.transforms import TransformBuffer, to_matrix
from perception_rt.types import PerceptionError, TransformError

DEPTH = 100
MOVING = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches every publisher
LATCHED = QoSProfile(depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformSubscriber(component.Transforms, Protocol):
    """The `Transforms` of a component in a ROS node."""

    def clear(self) -> None:
        """Drop all but the static transforms, as the clock was set back."""
        ...

    def close(self) -> None:
        """Unsubscribe."""
        ...


def subscribe_transforms(node: Node) -> TransformSubscriber:
    """Subscribe to /tf and /tf_static on the node's executor."""
    tf2_ros = _import_tf2(node)
    return TransformListener(node) if tf2_ros is None else Tf2Listener(node, tf2_ros)


def _import_tf2(node: Node) -> ModuleType | None:
    """Return tf2_ros; None if it is not installed, or cannot be imported, which is logged."""
    try:
        return importlib.import_module("tf2_ros")
    except ModuleNotFoundError as error:
        if error.name == "tf2_ros":
            return None
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a broken installation of tf2_ros must not fail the node
        reason = f"{type(error).__name__}: {error}"
    node.get_logger().warning(f"tf2_ros cannot be imported ({reason}): using our own transform buffer")
    return None


class _VolatileHint:
    """Warns once if a publisher of /tf_static is volatile, as later nodes miss its transforms."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said = False

    def check(self) -> None:
        """Check the publishers; call it with each message of /tf_static."""
        if self._said:
            return
        infos = self._node.get_publishers_info_by_topic("/tf_static")
        names = {one.node_name for one in infos if one.qos_profile.durability == DurabilityPolicy.VOLATILE}
        if names:
            self._said = True
            self._node.get_logger().warning(
                f"/tf_static is volatile from {', '.join(sorted(names))}: a node that starts later lacks the "
                "mounting; publish it transient local (a bag: ros2 bag play --qos-profile-overrides-path)"
            )


class TransformListener:
    """Fills a `TransformBuffer`; logs a malformed transform at WARN, at most once a second."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer = TransformBuffer()
        self._lock = threading.Lock()  # detectors look up on the worker's thread
        self._hint = _VolatileHint(node)
        # Late subscribers receive static transforms if the publisher is transient local; a bag recorded
        # without QoS profiles is played as volatile.
        self._subscriptions = [
            node.create_subscription(
                TFMessage, topic, lambda data, topic=topic: self._add(data, topic), qos, raw=True
            )
            for topic, qos in (("/tf", MOVING), ("/tf_static", LATCHED), ("/tf_static", MOVING))
        ]

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """See `TransformBuffer.lookup`."""
        with self._lock:
            return self._buffer.lookup(target, source, stamp_ns)

    def clear(self) -> None:
        """See `TransformBuffer.clear`."""
        with self._lock:
            self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _add(self, data: bytes, topic: str) -> None:
        if topic == "/tf_static":
            self._hint.check()
        with self._lock:
            self._buffer.add_message(data, topic == "/tf_static", lambda error: self._warn(topic, error))

    def _warn(self, topic: str, error: PerceptionError) -> None:
        self._node.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=1.0)


class Tf2Listener:
    """The buffer of tf2_ros with our interface and errors."""

    def __init__(self, node: Node, tf2_ros: ModuleType) -> None:
        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()  # without a node: its own jump callback waits for a whole second
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)
        # tf2's own subscription matches only transient local publishers of /tf_static.
        self._node = node
        self._hint = _VolatileHint(node)
        self._volatile = node.create_subscription(TFMessage, "/tf_static", self._add_static, MOVING)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """See `TransformBuffer.lookup`."""
        if stamp_ns < 0:  # asked for by a look back from the first moments of simulated time, or from stamp 0
            raise TransformError(target, source, f"stamp {stamp_ns / 1e9:.6f} s is negative")
        try:
            found = self._buffer.lookup_transform(
                target.removeprefix("/"), source.removeprefix("/"), Time(nanoseconds=stamp_ns)
            )
        except self._error as error:
            raise TransformError(target, source, str(error)) from error
        move, turn = found.transform.translation, found.transform.rotation
        return to_matrix(np.array([move.x, move.y, move.z]), np.array([turn.x, turn.y, turn.z, turn.w]))

    def clear(self) -> None:
        """Drop all but the static transforms."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()
        self._node.destroy_subscription(self._volatile)

    def _add_static(self, message: TFMessage) -> None:
        self._hint.check()
        for one in message.transforms:
            self._buffer.set_transform_static(one, "default_authority")
