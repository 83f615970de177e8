"""Node camera_detector: detects objects in camera images at a fixed rate."""

from __future__ import annotations

from perception_rt.component import camera_detector
from perception_rt.node.detector import DetectorNode
from perception_rt.node.run import run


class CameraDetectorNode(DetectorNode):
    """The node of `component.camera_detector`."""

    COMPONENT = camera_detector.CameraDetector


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([CameraDetectorNode], args)
