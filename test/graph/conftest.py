"""Real rclpy over real topics, each test in a Context and a domain of its own."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from vision_msgs.msg import Detection2DArray  # noqa: E402

from perception_rt.codec.encode import encode_compressed, encode_image  # noqa: E402
def transport_environment(): return {}
from perception_rt.node.run import Graph, make_executor, spin  # noqa: E402

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ |= transport_environment()


def wait_for(condition: Callable[[], object], timeout_s: float = 15.0) -> bool:
    """Whether `condition()` came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def square(x: int = 10, y: int = 20, size: int = 30, shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A black RGB image with one bright red square, which `BrightBox` finds."""
    image = np.zeros((*shape, 3), np.uint8)
    image[y : y + size, x : x + size, 0] = 255
    return image


class Bench:
    """Publishes to the nodes under test and keeps what they publish."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        domain = 50 + (os.getpid() + random.SystemRandom().randrange(50)) % 50
        rclpy.init(context=self.context, domain_id=domain)
        self.domain = domain
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = make_executor(self.context)
        self.executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=spin, args=(self.executor, self._stop, self.context))
        self._thread.start()
        self.graph: Graph | None = None
        self.detections: dict[str, list] = {}
        self.status: dict[str, object] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name] = status

    def start(self, node_class: type, **values):
        """Bring up a node of `node_class` with these parameters; its outputs are recorded."""
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = node_class(context=self.context, parameter_overrides=overrides)
        self.graph = Graph([node], self.context)
        self.up = self.graph.start()
        return node

    def listen(self, topic: str) -> list:
        """Record Detection2DArray messages."""
        kept = self.detections.setdefault(topic, [])
        self.node.create_subscription(Detection2DArray, topic, kept.append, 50)
        return kept

    def publisher(self, topic: str, reliability: str = "best_effort", compressed: bool = False):
        """A publisher of images, matched with its subscriber."""
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
        publisher = self.node.create_publisher(CompressedImage if compressed else Image, topic, qos)
        return publisher

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send(self, publisher, image: np.ndarray, stamp_ns: int | None = None) -> int:
        """Publish an RGB image; returns its stamp."""
        stamp_ns = self.now_ns() if stamp_ns is None else stamp_ns
        publisher.publish(encode_image(image, "rgb8", stamp_ns, "camera"))
        return stamp_ns

    def send_jpeg(self, publisher, data: bytes) -> None:
        """Publish a CompressedImage."""
        publisher.publish(encode_compressed(data, "jpeg", self.now_ns(), "camera"))

    def end(self) -> float:
        """End nodes and bench; returns how long the nodes took, s."""
        began = time.monotonic()
        if self.graph is not None:
            self.graph.end()
        took = time.monotonic() - began
        self._stop.set()
        self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        return took


@pytest.fixture
def bench():
    """A `Bench` that ends with the test."""
    bench = Bench()
    yield bench
    if bench.context.ok():
        bench.end()


def stamp_ns(message) -> int:
    """The header's stamp, ns."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
