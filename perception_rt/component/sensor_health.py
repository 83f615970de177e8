"""sensor_health: checks cameras, lidars and their calibration by their messages."""

from __future__ import annotations

from functools import partial
from typing import Any

from perception_rt.component.component import Component, Host
from perception_rt.component.parameters import MAX_IMAGE_MB, RELIABILITY, SIGNIFICANT_BITS, Parameter
from perception_rt.stage.health.monitor import (
    CAMERA_INFO,
    COMPRESSED,
    FUSED,
    IMAGE,
    POINTS,
    POLL_S,
    HealthMonitor,
    camera_info_topic,
)
from perception_rt.types import ConfigError, PerceptionError
from perception_rt.types.status import Level, Status


class SensorHealth(Component):
    """Reports faults of sensors on /diagnostics; runs on the executor's thread.

    Attributes:
        monitor: None before `setup` and after `teardown`.
    """

    NAME = "sensor_health"
    PARAMETERS = (
        Parameter("image_topics", ["image_raw"], "Images, as for camera_detector; one empty name for none."),
        Parameter(
            "points_topics", ["points"], "Point clouds, as for lidar_detector; one empty name for none."
        ),
        Parameter(
            "timing_topics",
            [""],
            "Other sensors, to check stamps and rate: TOPIC TYPE, like /imu sensor_msgs/msg/Imu.",
        ),
        Parameter(
            "fusion_topic", "", "Objects of fusion, to check that camera and lidar agree; empty for none."
        ),
        Parameter(
            "expected_hz",
            [0.0],
            "Rates of the sensors in the order of the topics, Hz; 0: measured in the first two seconds.",
        ),
        Parameter("picture_hz", 3.0, "Maximum rate of image checks, Hz.", (0.5, 60.0)),
        Parameter("image_is_rectified", False, "The images are rectified: use P of CameraInfo."),
        MAX_IMAGE_MB,
        SIGNIFICANT_BITS,
        RELIABILITY,
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self.monitor: HealthMonitor | None = None

    def setup(self) -> None:
        """Subscribe to the sensors."""
        topics = sensor_topics(self.values)
        names = {topic: self.host.resolve_topic_name(topic) for topic in topics}
        if len(set(names.values())) != len(names):
            raise ConfigError(f"topics={list(names)}: two of them are one: {list(names.values())}")
        rates = self.values["expected_hz"]
        if min(rates, default=0.0) < 0 or len(rates) > max(1, len(topics)):
            raise ConfigError(f"expected_hz={rates}: must be one rate for each of {list(topics)}, or 0")
        self._errors = 0
        self.monitor = HealthMonitor(
            {names[topic]: kind for topic, kind in topics.items()},
            self.host.transforms().lookup,
            dict(zip(names.values(), rates, strict=False)),
            self.values["picture_hz"],
            self.values["image_is_rectified"],
            {
                "max_bytes": round(self.values["max_image_mb"] * 1e6),
                "significant_bits": self.values["significant_bits"],
            },
        )
        self._levels = self.monitor.levels()
        for topic, kind in topics.items():
            take = partial(self._take, partial(self.monitor.take, names[topic]), names[topic])
            self.host.create_subscription(kind, topic, take, self.values["reliability"])
            if kind in (IMAGE, COMPRESSED) and POINTS in topics.values():
                self._subscribe_info(names[topic])
        self.host.create_timer(POLL_S, self._poll)

    def _subscribe_info(self, name: str) -> None:
        info, monitor = camera_info_topic(name), self.monitor
        assert monitor is not None  # set above
        take = partial(self._take, lambda data, now_ns: monitor.take_camera_info(name, data), info)
        self.host.create_subscription(CAMERA_INFO, info, take, "best_effort")

    def teardown(self) -> None:
        """Release what `setup` created."""
        self.monitor = None

    def on_clock_reset(self) -> None:
        """Forget the latest messages."""
        if self.monitor is not None:
            self.monitor.reset()

    def _take(self, take: Any, name: str, data: bytes) -> None:
        if not self.active:
            return
        try:
            take(data, self.host.now_ns())
        except PerceptionError as error:
            self._errors += 1
            self.host.warn(name, error)
        self._tell()

    def _poll(self) -> None:
        if self.active and self.monitor is not None:
            self.monitor.poll(self.host.now_ns())
            self._tell()

    def _tell(self) -> None:
        """Publish a change of level at once."""
        if self.monitor is None:
            return
        levels = self.monitor.levels()
        if levels != self._levels:
            self._levels = levels
            self.host.publish_diagnostics()

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for each sensor."""
        if self.monitor is None:
            return []
        name = self.host.get_name()
        reports = [sensor.report() for sensor in self.monitor.sensors.values()]
        level = max((report.level for report in reports), default=Level.OK) if self.active else Level.OK
        faulty = [report.topic for report in reports if report.level]
        message = f"faults: {', '.join(faulty)}" if faulty else "all sensors are well"
        values = {"sensors": len(reports), "unreadable": self._errors, "faults": len(self.monitor.findings)}
        return [
            Status(name, level, message if self.active else "inactive", "cpu", values),
            *(
                Status(
                    f"{name}: {report.topic.lstrip('/')}",
                    report.level if self.active else Level.OK,
                    ("; ".join(report.faults) or "well") if self.active else "inactive",
                    report.frame_id or report.topic,
                    report.values,
                )
                for report in reports
            ),
        ]


def sensor_topics(values: dict[str, Any]) -> dict[str, str]:
    """Return the message type of each topic in the parameters.

    Raises:
        ConfigError: no topic, a duplicate topic, or a malformed entry.
    """
    topics: dict[str, str] = {}
    pairs = [
        (topic, COMPRESSED if topic.endswith("/compressed") else IMAGE) for topic in values["image_topics"]
    ]
    pairs += [(topic, POINTS) for topic in values["points_topics"]]
    for entry in values["timing_topics"]:
        topic, _, kind = entry.partition(" ")
        if entry and kind.count("/") != 2:
            raise ConfigError(f"timing_topics={entry!r}: must be TOPIC TYPE, like /imu sensor_msgs/msg/Imu")
        pairs.append((topic, kind))
    pairs.append((values["fusion_topic"], FUSED))
    for topic, kind in pairs:
        if topic in topics:
            raise ConfigError(f"topics: {topic!r} is named twice")
        if topic:
            topics[topic] = kind
    if not topics:
        raise ConfigError("image_topics, points_topics, timing_topics: name no topic")
    return topics
