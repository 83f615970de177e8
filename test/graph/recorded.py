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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock

from perception_rt.node.messages import message_class
from perception_rt.node.run import make_executor, spin
from perception_rt.node.source import to_time
from perception_rt.replay.bag import Bag

from .conftest import values_of, wait_for

ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
CAMERA, LIDAR = "/camera_detector/detections", "/lidar_detector/detections"
FUSED, TRACKS = "/fusion/detections", "/object_tracker/tracks"
OUTPUTS = {CAMERA: ARRAY_2D, LIDAR: ARRAY_3D, FUSED: ARRAY_3D, TRACKS: ARRAY_3D}
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
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
        self._context = rclpy.Context()
        self._stop = threading.Event()

    def __enter__(self) -> Ear:
        rclpy.init(context=self._context, domain_id=self._domain)
        self.node = rclpy.create_node("ear", context=self._context)
        all_of_it = QoSProfile(depth=1000)
        for topic, kind in OUTPUTS.items():
            keep = lambda data, kept=self.answers[topic]: kept.update({stamp_of(data): bytes(data)})  # noqa: E731
            self.node.create_subscription(message_class(kind), topic, keep, all_of_it, raw=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, all_of_it)
        self._executor = make_executor(self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=spin, args=(self._executor, self._stop, self._context))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.status |= {status.name: values_of(status) for status in message.status}


@contextmanager
def up(domain: int, config: Path, *overrides: str) -> Iterator[subprocess.Popen]:
    """`perception-rt up` in a process of its own; interrupted at the end, unless it ended by itself."""
    command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(config)]
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


def play(ear: Ear, drive: Path, qos: Mapping[str, QoSProfile], clock_hz: float = CLOCK_HZ) -> None:
    """Play a recording as `ros2 bag play --clock` does: once it is discovered, it knows of no listener.

    Serialized messages at their recorded spacing, with the QoS that the recording says was offered; /clock
    from a timer of its own, in step with nothing, that stands at the start until the first message.

    Args:
        qos: by topic, in place of the recorded one, as of `--qos-profile-overrides-path`.
    """
    with Bag(drive) as bag:
        messages = list(bag.messages())
        types = {topic: kind for topic, (kind, _) in bag.topics.items()}
    offered = recorded_qos(drive) | dict(qos)
    outputs = {
        topic: ear.node.create_publisher(message_class(kind), topic, offered[topic])
        for topic, kind in types.items()
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


def recorded_qos(drive: Path) -> dict[str, QoSProfile]:
    """What a player offers: as the first recorded publisher, or rosbag2's default where none is recorded."""
    about = yaml.safe_load((drive / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return {
        topic["topic_metadata"]["name"]: _profile(topic["topic_metadata"]["offered_qos_profiles"])
        for topic in about["topics_with_message_count"]
    }


def _profile(recorded: list[dict] | str) -> QoSProfile:
    profiles = yaml.safe_load(recorded) if isinstance(recorded, str) else recorded
    if not profiles:
        return QoSProfile(depth=10)
    first = profiles[0]
    return QoSProfile(
        depth=10,
        reliability=_policy(ReliabilityPolicy, first["reliability"]),
        durability=_policy(DurabilityPolicy, first["durability"]),
    )


def _policy(kind: type, value: int | str) -> object:
    """By number up to version 8 of metadata.yaml, by name later."""
    return kind[value.upper()] if isinstance(value, str) else kind(value)


def listeners() -> str:
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
