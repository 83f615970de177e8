"""Node vehicle_state: from what the vehicle measures of itself to where it is and where it will be."""

from __future__ import annotations

from perception_rt.component import vehicle_state
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run


class VehicleStateNode(ComponentNode):
    """The node of `component.vehicle_state`."""

    COMPONENT = vehicle_state.VehicleState


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([VehicleStateNode], args)
