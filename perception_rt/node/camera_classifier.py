"""Node camera_classifier: classifies camera images, or a detector's boxes in them."""

from __future__ import annotations

from perception_rt.component import camera_classifier
from perception_rt.node.detector import DetectorNode
from perception_rt.node.run import run


class CameraClassifierNode(DetectorNode):
    """The node of `component.camera_classifier`."""

    COMPONENT = camera_classifier.CameraClassifier


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([CameraClassifierNode], args)
