"""Node sensor_health: faults of cameras and lidars on /diagnostics."""

from __future__ import annotations

from perception_rt.component import sensor_health
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run


class SensorHealthNode(ComponentNode):
    """The node of `component.sensor_health`."""

    COMPONENT = sensor_health.SensorHealth


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([SensorHealthNode], args, images=False)
