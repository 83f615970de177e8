"""Node fusion: pairs the detections of cameras and lidars by stamp and fuses them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from perception_rt.component import fusion
from perception_rt.component.graph import read_graph, sends_images
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run
from perception_rt.types import ConfigError


class FusionNode(ComponentNode):
    """The node of `component.fusion`."""

    COMPONENT = fusion.Fusion


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([FusionNode], args, images=_names_images(sys.argv if args is None else args))


def _names_images(words: Sequence[str]) -> bool:
    """Return whether ROS arguments name an image topic, without which fusion sends no images."""
    files = [file for word, file in pairwise(words) if word == "--params-file"]
    try:
        graph = [node for file in files for node in read_graph(file)]
    except ConfigError:  # rcl reads other files, too
        return True
    fusions = [node for node in graph if node.name == "fusion"]
    return sends_images(fusions) or any("image_topic" in word for word in words)
