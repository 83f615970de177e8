"""Node camera_segmenter: labels the pixels of camera images."""

from __future__ import annotations

from perception_rt.component import camera_segmenter
from perception_rt.node.detector import DetectorNode
from perception_rt.node.run import run


class CameraSegmenterNode(DetectorNode):
    """The node of `component.camera_segmenter`."""

    COMPONENT = camera_segmenter.CameraSegmenter


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([CameraSegmenterNode], args)
