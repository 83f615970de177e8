"""Node vehicle_state: estimates and predicts the vehicle's pose from its own sensors."""

from __future__ import annotations

from perception_rt.component import vehicle_state
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run


class VehicleStateNode(ComponentNode):
    """The node of `component.vehicle_state`."""

    COMPONENT = vehicle_state.VehicleState


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([VehicleStateNode], args, images=False)
