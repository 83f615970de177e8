"""Node object_tracker: tracks detections and predicts the paths of the tracks."""

from __future__ import annotations

from perception_rt.component import object_tracker
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run


class ObjectTrackerNode(ComponentNode):
    """The node of `component.object_tracker`."""

    COMPONENT = object_tracker.ObjectTracker


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([ObjectTrackerNode], args, images=False)
