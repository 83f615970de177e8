"""Run a node of one's own: ``python examples/nearby_node.py --ros-args -p radius_m:=20.0``.

The component passes on the detections within a radius. `listen` counts every message, and the node publishes
the counts on /diagnostics. `ros2 lifecycle`, `ros2 param` and remapping work as for the other nodes.
"""

import numpy as np

from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.component.component import Component
from perception_rt.component.parameters import Parameter
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import run
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.types.status import Level, Status

ARRAY = "vision_msgs/msg/Detection3DArray"


class Nearby(Component):
    """Publishes the detections within `radius_m` of the sensor, with their ids."""

    NAME = "nearby"
    PARAMETERS = (
        Parameter("detections_topic", "lidar_detector/detections", "Detection3DArray to filter."),
        Parameter("radius_m", 30.0, "Largest distance of a box's centre, m.", (0.0, 1e4), live=True),
    )

    def setup(self) -> None:
        """Create the publisher, then the subscription."""
        self._stats = StreamStats()
        self._publisher = self.host.create_publisher(ARRAY, "~/detections", 5)
        self.listen(ARRAY, self.values["detections_topic"], self._stats, self._on_detections)

    def _on_detections(self, data: bytes, entry: Entry) -> None:
        # A CodecError that this raises is logged, and the message is counted as decode_error.
        message = decode_named_detections3d(data)
        if not self._stats.in_order(entry, message.stamp_ns):
            return  # counted as late
        near = np.linalg.norm(message.detections.xyzlwh_yaw[:, :2], axis=1) <= self.values["radius_m"]
        ids = [id_ for id_, kept in zip(message.ids, near, strict=True) if kept]
        encoder = Detection3DEncoder(message.classes)
        found = message.detections[near]
        self._publisher.publish(encoder.encode(found, message.stamp_ns, message.frame_id, ids))
        self._stats.answered(entry, self.host.now_ns())
        self._stats.ledger.finish(entry, Outcome.PUBLISHED)

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for the stream."""
        message = "running" if self.active else "inactive"
        values = {"radius_m": self.values["radius_m"]}
        return [Status(self.host.get_name(), Level.OK, message, "", values), *self.stream_statuses()]


class NearbyNode(ComponentNode):
    """The ROS node around `Nearby`."""

    COMPONENT = Nearby


if __name__ == "__main__":
    run([NearbyNode])
