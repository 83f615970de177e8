"""A recording through the real graph, in processes of its own, and what came of it, as serialized bytes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosgraph_msgs.msg import Clock

from perception_rt.node.bag_player import SENSOR_TYPES
from perception_rt.node.messages import message_class
from perception_rt.node.run import spinning_node
from perception_rt.node.source import to_time
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import typestore

from .conftest import values_of, wait_for

ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
CAMERA, LIDAR = "/camera_detector/detections", "/lidar_detector/detections"
FUSED, TRACKS = "/fusion/detections", "/object_tracker/tracks"
OUTPUTS = {CAMERA: ARRAY_2D, LIDAR: ARRAY_3D, FUSED: ARRAY_3D, TRACKS: ARRAY_3D}
NEVER = QosTime(2**31 - 1, 0)
CLOCK_HZ = 40  # of `ros2 bag play --clock` where no other is asked for
DISCOVERY_S = 0.5  # the one side may know of the other a little before
DRAIN_S = 0.7
Answers = dict[str, dict[int, bytes]]
"""By topic, by stamp in ns, a serialized message."""


def stamp_of(data: bytes) -> int:
    """The stamp of a serialized message that begins with a header, ns."""
    seconds, nanoseconds = struct.unpack_from("<iI", data, 4)
    return seconds * 10**9 + nanoseconds


class Ear:
    """A node in a domain of its choice that keeps what a graph publishes; use it in a `with`.

    Attributes:
        answers: of OUTPUTS. status: by name, the latest values of /diagnostics.
    """

    def __init__(self, domain: int) -> None:
        self.answers: Answers = {topic: {} for topic in OUTPUTS}
        self.status: dict[str, dict[str, str]] = {}
        self._domain = domain
        self._stack = ExitStack()

    def __enter__(self) -> Ear:
        self.node = self._stack.enter_context(spinning_node("ear", self._domain))
        all_of_it = QoSProfile(depth=1000)
        for topic, kind in OUTPUTS.items():
            keep = lambda data, kept=self.answers[topic]: kept.update({stamp_of(data): bytes(data)})  # noqa: E731
            self.node.create_subscription(message_class(kind), topic, keep, all_of_it, raw=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, all_of_it)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.status |= {status.name: values_of(status) for status in message.status}


@contextmanager
def up(domain: int, config: Path, *overrides: str, separate: bool = False) -> Iterator[subprocess.Popen]:
    """`perception-rt up` in a process of its own; interrupted at the end, unless it ended by itself."""
    command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(config)]
    command += ["--separate"] * separate
    for override in overrides:
        command += ["-p", override]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(20)


def as_drivers_offer(drive: Path, folder: Path) -> Path:
    """A recording once more, with the QoS of usual drivers: sensors best effort, /tf_static latched."""
    with Bag(drive) as bag, Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for message in bag.messages():
            topic, kind = message.topic, message.message_type
            if topic not in connections:
                sensor, static = topic in bag.of_type(*SENSOR_TYPES), topic == "/tf_static"
                qos = Qos(
                    history=QosHistory.KEEP_LAST,
                    depth=5,
                    reliability=QosReliability.BEST_EFFORT if sensor else QosReliability.RELIABLE,
                    durability=QosDurability.TRANSIENT_LOCAL if static else QosDurability.VOLATILE,
                    deadline=NEVER,
                    lifespan=NEVER,
                    liveliness=QosLiveliness.AUTOMATIC,
                    liveliness_lease_duration=NEVER,
                    avoid_ros_namespace_conventions=False,
                )
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=typestore(), offered_qos_profiles=[qos]
                )
            writer.write(connections[topic], message.log_ns, message.data)
    return folder


def play(ear: Ear, drive: Path, clock_hz: float = CLOCK_HZ) -> None:
    """Play a recording as `ros2 bag play --clock` does: once it is discovered, it knows of no listener.

    Serialized messages at their recorded spacing, with the QoS that the recording says was offered; /clock
    from a timer of its own, in step with nothing, that stands at the start until the first message.
    """
    with Bag(drive) as bag:
        messages = list(bag.messages())
    with Reader(drive) as reader:
        outputs = {
            one.topic: ear.node.create_publisher(
                message_class(one.msgtype), one.topic, offered(one.ext.offered_qos_profiles)
            )
            for one in reader.connections
        }
    with clock(ear, messages[0].log_ns, clock_hz) as begin:
        assert wait_for(lambda: all(one.get_subscription_count() for one in outputs.values()), 60)
        time.sleep(DISCOVERY_S)
        began_ns = begin()
        for message in messages:
            due_ns = began_ns + message.log_ns - messages[0].log_ns
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            outputs[message.topic].publish(message.data)
        time.sleep(DRAIN_S)
    for output in outputs.values():
        ear.node.destroy_publisher(output)


def offered(recorded: Sequence[Qos]) -> QoSProfile:
    """What rosbag2 offers for a topic whose publishers offered this: the same, or its default for nothing."""
    if not recorded:
        return QoSProfile(depth=10)
    policies = {
        "reliability": ReliabilityPolicy[recorded[0].reliability.name],
        "durability": DurabilityPolicy[recorded[0].durability.name],
    }
    return QoSProfile(depth=10, **policies)


@contextmanager
def clock(ear: Ear, start_ns: int, rate_hz: float) -> Iterator[Callable[[], int]]:
    """/clock from a thread; it moves from the call of what is given, which returns the monotonic time, ns."""
    publisher = ear.node.create_publisher(
        Clock, "/clock", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    began_ns, ended = [], threading.Event()

    def tick() -> None:
        while not ended.wait(1 / rate_hz):
            passed_ns = time.monotonic_ns() - began_ns[0] if began_ns else 0
            publisher.publish(Clock(clock=to_time(start_ns + passed_ns)))

    def begin() -> int:
        began_ns.append(time.monotonic_ns())
        return began_ns[0]

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield begin
    finally:
        ended.set()
        thread.join()
        ear.node.destroy_publisher(publisher)


def wanted_subscribers() -> str:
    """The override that lets the bag_player wait until an `Ear` hears every output."""
    return f"bag_player:listeners:={json.dumps(list(OUTPUTS))}"


def replayed(folder: Path) -> Answers:
    """The same of a replay's bag."""
    answers: Answers = {topic: {} for topic in OUTPUTS}
    with Reader(folder) as reader:
        wanted = [one for one in reader.connections if one.topic in OUTPUTS]
        for connection, _, data in reader.messages(wanted):
            answers[connection.topic][stamp_of(data)] = bytes(data)
    return answers
