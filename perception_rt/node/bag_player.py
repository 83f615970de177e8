"""Node bag_player: publishes a rosbag2 with its recorded spacing, and /clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile

from perception_rt.component.parameters import Parameter
from perception_rt.node.messages import message_class
from perception_rt.node.run import run
from perception_rt.node.source import SOURCE_PARAMETERS, Event, SourceNode
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.message_types import is_latched
from perception_rt.replay.time_base import AUTO, TIMES, choose_time_base
from perception_rt.replay.warnings import clock_warnings
from perception_rt.types import ConfigError

HEAD_START_S = (
    0.02  # of /clock before the first message: nodes ignore messages until simulated time has begun
)
SENSOR_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2")


class BagPlayerNode(SourceNode):
    """Publishes the recorded messages unchanged, stamps included."""

    PARAMETERS = (
        Parameter("bag", "", "The rosbag2 folder (mcap or sqlite3)."),
        Parameter("topics", [""], "Topics to play; one empty name: all."),
        Parameter("time", AUTO, "Times to play by: log, stamps, or auto.", choices=TIMES),
        *SOURCE_PARAMETERS,
    )

    def __init__(self, node_name: str = "bag_player", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._bag: Bag = None  # type: ignore[assignment]  # between `setup` and `teardown`
        self._outputs: dict[str, Publisher] = {}

    def setup(self) -> None:
        """Open the bag and create a publisher for every topic whose type is installed."""
        if not self.values["bag"]:
            raise ConfigError("bag='': name a rosbag2 folder, e.g. -p bag:=/data/drive1")
        self._bag = Bag(self.values["bag"])
        wanted = [topic for topic in self.values["topics"] if topic] or list(self._bag.topics)
        missing = sorted(set(wanted) - set(self._bag.topics))
        if missing:
            raise ConfigError(f"topics={missing}: not in the bag, which has {sorted(self._bag.topics)}")
        for topic in wanted:
            if topic == "/clock":  # this node is the clock
                continue
            kind = self._bag.topics[topic][0]
            message_type = message_class(kind) if re.fullmatch(r"\w+/\w+/\w+", kind) else None
            if message_type is None:
                self.get_logger().warning(f"{topic}: {kind}: not installed, or not read: not played")
                continue
            self._outputs[topic] = self.create_publisher(message_type, topic, qos_of(topic, kind))
        base = choose_time_base(self._bag, list(self._outputs), self.values["time"])
        self._bag.retime(base.behind_ns)
        for line in clock_warnings(base.summary()):
            self.get_logger().warning(line)

    def teardown(self) -> None:
        """Close the bag."""
        for publisher in self._outputs.values():
            self.destroy_publisher(publisher)
        self._outputs = {}
        if self._bag is not None:
            self._bag.__exit__()
            self._bag = None  # type: ignore[assignment]

    def listened(self) -> list[Publisher]:
        """Return the sensor topics, or all topics if there are none."""
        sensors = [self._outputs[t] for t in self._bag.of_type(*SENSOR_TYPES) if t in self._outputs]
        return sensors or list(self._outputs.values())

    def events(self) -> Iterator[Event]:
        """Yield every message at its log time; the clock starts shortly before."""

        def emit(message: BagMessage) -> None:
            self._outputs[message.topic].publish(message.data)

        for number, message in enumerate(self._bag.messages(list(self._outputs))):
            if number == 0:
                self.publish_clock(message.log_ns)
                self.halt.wait(HEAD_START_S)
            yield message.log_ns, partial(emit, message)


def qos_of(topic: str, message_type: str) -> QoSProfile:
    """Return a reliable QoS, which matches every subscriber; transient local for what is published once."""
    latched = is_latched(topic, message_type)
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=10, durability=durability)


def main(args: list[str] | None = None) -> int:
    """Run the node until the bag ends."""
    return run([BagPlayerNode], args)
