"""Node lidar_detector: detects objects in point clouds at a fixed rate."""

from __future__ import annotations

from perception_rt.component import lidar_detector
from perception_rt.node.detector import DetectorNode
from perception_rt.node.run import run


class LidarDetectorNode(DetectorNode):
    """The node of `component.lidar_detector`."""

    COMPONENT = lidar_detector.LidarDetector


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([LidarDetectorNode], args)
