"""Find the components of a graph and the parameter overrides of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from perception_rt.component.component import Component
from perception_rt.component.graph import GraphNode, class_of
from perception_rt.component.parameters import NODE_PARAMETERS, check_inherited
from perception_rt.types import ConfigError
from perception_rt.types.executables import NOT_REPLAYED

OF_ROS = ("use_sim_time", *(parameter.name for parameter in NODE_PARAMETERS))
"""Parameters that every ROS node accepts; a replay ignores them."""

Overrides = Mapping[str, Mapping[str, Any]]
"""Parameter values by node name (absolute or not; "" for all nodes) and parameter name."""


def component_class(name: str) -> type[Component]:
    """Return the component class of a node."""
    return class_of("perception_rt.component", name)


def replayable_nodes(nodes: Sequence[GraphNode]) -> list[tuple[GraphNode, type[Component]]]:
    """Return the nodes that process messages, each with its component class.

    Raises:
        ConfigError: there are no such nodes.
    """
    found = [(node, component_class(node.name)) for node in nodes if node.name not in NOT_REPLAYED]
    if not found:
        raise ConfigError("the parameter file names no node that processes messages")
    if len(found) == len(nodes):  # the parameters of sources are not known here
        check_inherited([(make.PARAMETERS, node.inherited) for node, make in found])
    return found


def overrides_of(node: GraphNode, overrides: Overrides) -> dict[str, Any]:
    """Return the overrides of one node; the most specific name wins."""
    return {
        key: value for name in ("", node.name, node.path) for key, value in overrides.get(name, {}).items()
    }


def check_overrides(nodes: Sequence[GraphNode], overrides: Overrides) -> None:
    """Check that every override applies to a node, so that a typo does not go unnoticed.

    Raises:
        ConfigError: a node or parameter is unknown; lists the valid ones.
    """
    for name, values in overrides.items():
        named = [node for node in nodes if name in ("", node.name, node.path)]
        if not named:
            raise ConfigError(
                f"-p {name}:...: no such node; the nodes of the graph are {', '.join(n.path for n in nodes)}"
            )
        if any(node.name in NOT_REPLAYED for node in named):
            continue  # their parameters are not known here
        known = {one.name for node in named for one in component_class(node.name).PARAMETERS}
        for parameter in values:
            if parameter not in known and parameter not in OF_ROS:
                close = get_close_matches(parameter, known, 2)
                valid = f"known parameters: {', '.join(sorted(known))}"
                hint = f"did you mean {' or '.join(close)}?" if close else valid
                raise ConfigError(f"-p {parameter}: not a parameter of {name or 'any node'}; {hint}")
