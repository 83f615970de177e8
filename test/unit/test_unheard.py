"""Components publish on topics with subscribers, and spend nothing on the others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception_rt.codec.vehicle import encode_odometry
from perception_rt.component.parameters import resolve
from perception_rt.component.vehicle_state import VehicleState
from perception_rt.types.state import EgoState

OUTPUTS = ("~/odometry", "~/predicted_path", "~/predictions", "~/markers")


class Output:
    def __init__(self, heard: bool) -> None:
        self.heard, self.sent = heard, 0

    def publish(self, data: bytes) -> None:
        self.sent += 1

    def get_subscription_count(self) -> int:
        return int(self.heard)


class Host:
    """As much of a host as vehicle_state uses."""

    def __init__(self, heard: set[str]) -> None:
        self.now, self.outputs = 10**9, {topic: Output(topic in heard) for topic in OUTPUTS}
        self.receive = self.tick = lambda *_: None

    def get_name(self) -> str:
        return "vehicle_state"

    def now_ns(self) -> int:
        return self.now

    def resolve_topic_name(self, topic: str) -> str:
        return topic

    def create_publisher(self, message_type: str, topic: str, depth: int) -> Output:
        return self.outputs[topic]

    def create_subscription(self, message_type, topic, callback, reliability) -> None:
        self.receive = callback

    def create_timer(self, period_s, callback) -> None:
        self.tick = callback

    def transforms(self) -> None:
        return None

    def info(self, text: str) -> None:
        """Say nothing."""

    def warn(self, stream: str, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("heard", [set(), *({topic} for topic in OUTPUTS), set(OUTPUTS)])
def test_only_what_is_heard_is_published(heard):
    host = Host(heard)
    component = VehicleState(host, resolve(VehicleState.PARAMETERS, {"imu_topic": ""}))
    component.setup()
    component.active = True
    here = EgoState(host.now, 0.0, 0.0, math.pi / 2, 5.0, 0.1, 0.0, np.eye(6))
    host.receive(encode_odometry(here, "odom", "base_link"))
    host.tick()
    assert {topic for topic, output in host.outputs.items() if output.sent} == heard
