"""Which components a graph has, and which overrides are for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perception_rt.component.component import Component
from perception_rt.component.graph import GraphNode, class_of
from perception_rt.types import ConfigError

SOURCES = ("bag_player", "drive_simulator", "video_player")
"""Nodes of a graph whose part the recording plays."""
OF_ROS = ("use_sim_time", "autostart")
"""Parameters that every node has, and that mean nothing here."""

Overrides = Mapping[str, Mapping[str, Any]]
"""By node name (absolute or not; "" for all), parameters by name."""


def component_class(name: str) -> type[Component]:
    """The component of a node."""
    return class_of("perception_rt.component", name)


def replayable_nodes(nodes: Sequence[GraphNode]) -> list[tuple[GraphNode, type[Component]]]:
    """The nodes that take messages, each with its component.

    Raises:
        ConfigError: there are none.
    """
    found = [(node, component_class(node.name)) for node in nodes if node.name not in SOURCES]
    if not found:
        raise ConfigError("the parameter file names no node that takes messages")
    return found


def overrides_of(node: GraphNode, overrides: Overrides) -> dict[str, Any]:
    """Those for one node; what names it more exactly wins."""
    return {
        key: value for name in ("", node.name, node.path) for key, value in overrides.get(name, {}).items()
    }


def check_overrides(nodes: Sequence[GraphNode], overrides: Overrides) -> None:
    """Refuse an override that nobody takes: a slip of the pen must not pass as a result.

    Raises:
        ConfigError: names it, and what there is instead.
    """
    for name, values in overrides.items():
        named = [node for node in nodes if name in ("", node.name, node.path)]
        if not named:
            raise ConfigError(
                f"-p {name}:...: no such node; of the graph: {', '.join(n.path for n in nodes)}"
            )
        if any(node.name in SOURCES for node in named):
            continue  # what they take is not known here
        known = {one.name for node in named for one in component_class(node.name).PARAMETERS}
        for parameter in values:
            if parameter not in known and parameter not in OF_ROS:
                of = name or "any node"
                raise ConfigError(f"-p {parameter}: no parameter of {of}; known: {', '.join(sorted(known))}")
