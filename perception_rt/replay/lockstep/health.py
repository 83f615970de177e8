"""The health of a recording's sensors, judged while it is replayed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from perception_rt.component.component import Component
from perception_rt.component.fusion import Fusion
from perception_rt.component.sensor_health import SensorHealth
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.lockstep.router import Router
from perception_rt.stage.health.checks import Finding
from perception_rt.stage.health.monitor import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    POINTS,
    POLL_S,
    HealthMonitor,
    camera_info_topic,
)
from perception_rt.types import PerceptionError

GAP_POLLS = 200


class SensorWatch:
    """Watches the cameras and lidars that the nodes use, where none of the nodes is a `sensor_health`.

    Whether the pictures are rectified, the graph says only to its `fusion`, and how many of their bits count
    only to the detectors.

    Args:
        router: after all nodes have subscribed. recorded: message types by topic. components: of the graph.
    """

    def __init__(self, router: Router, recorded: dict[str, str], components: Collection[Component]) -> None:
        own = [one.monitor for one in components if isinstance(one, SensorHealth) and one.monitor is not None]
        used = {t: k for t, k in recorded.items() if k in (IMAGE, COMPRESSED, POINTS) and router.users(t)}
        fusions = [one for one in components if isinstance(one, Fusion)]
        rectified = any(one.values["image_is_rectified"] for one in fusions)
        bits = [one.values["significant_bits"] for one in components if "significant_bits" in one.values]
        watched = HealthMonitor(
            used,
            router.transforms.lookup,
            image_is_rectified=rectified,
            image_options={"significant_bits": min(bits, default=16)},
        )
        self._own = watched if used and not own else None
        self._monitors = own if self._own is None else [self._own]
        self._infos = {
            info: topic
            for topic, kind in used.items()
            if kind != POINTS and recorded.get(info := camera_info_topic(topic)) == CAMERA_INFO
        }
        self._polled_ns: int | None = None

    def take(self, message: BagMessage) -> None:
        """Take a recorded message; what cannot be read is in the nodes' ledgers."""
        monitor, now_ns = self._own, message.log_ns
        if monitor is None:
            return
        self._poll(monitor, now_ns)
        try:
            if message.topic in monitor.sensors:
                if message.message_type == monitor.sensors[message.topic].message_type:
                    monitor.take(message.topic, message.data, now_ns)
            elif message.topic in self._infos and message.message_type == CAMERA_INFO:
                monitor.take_camera_info(self._infos[message.topic], message.data)
        except PerceptionError:
            return

    def _poll(self, monitor: HealthMonitor, now_ns: int) -> None:
        """Poll as a node does, also where the recording has no message: its sensors are silent there."""
        step_ns = round(POLL_S * 1e9)
        last_ns = self._polled_ns
        if last_ns is None or now_ns < last_ns:
            last_ns = now_ns - step_ns
        # Of a jump in the log times, the last seconds are enough.
        first_ns = max(last_ns + step_ns, now_ns - GAP_POLLS * step_ns)
        for time_ns in range(first_ns, now_ns + 1, step_ns):
            monitor.poll(time_ns)
            self._polled_ns = time_ns

    def metrics(self, start_ns: int) -> dict[str, Any]:
        """Return the part `health` of metrics.json, times in s after the first message."""
        return {
            "sensors": sorted(topic for monitor in self._monitors for topic in monitor.sensors),
            "findings": [
                _row(finding, start_ns) for monitor in self._monitors for finding in monitor.findings
            ],
        }


def _row(finding: Finding, start_ns: int) -> dict[str, Any]:
    def seconds(time_ns: int | None) -> float | None:
        return None if time_ns is None else round((time_ns - start_ns) / 1e9, 3)

    return {
        "sensor": finding.sensor,
        "check": finding.check,
        "what": finding.what,
        "level": finding.level.name,
        "value": round(finding.value, 4),
        "limit": finding.limit,
        "begin_s": seconds(finding.begin_ns),
        "found_s": seconds(finding.found_ns),
        "end_s": seconds(finding.end_ns),
    }
