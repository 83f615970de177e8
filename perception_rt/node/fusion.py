"""Node fusion: pairs the detections of cameras and lidars by stamp and fuses them."""

from __future__ import annotations

from perception_rt.component import fusion
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run


class FusionNode(ComponentNode):
    """The node of `component.fusion`."""

    COMPONENT = fusion.Fusion


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([FusionNode], args)
