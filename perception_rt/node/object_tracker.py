"""Node object_tracker: detections to tracks with ids that stay, and to where the tracks will be."""

from __future__ import annotations

from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from perception_rt.codec.detections import DetectionEncoder, decode_named_detections
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.codec.markers import box_markers, encode_markers, path_markers
from perception_rt.codec.vehicle import pose_covariance
from perception_rt.node.listener import ListenerNode
from perception_rt.node.parameters import Parameter
from perception_rt.node.run import run
from perception_rt.node.shell import status
from perception_rt.node.transforms import Transforms, listen_to_transforms
from perception_rt.realtime.ledger import Fate
from perception_rt.realtime.pipeline import Account
from perception_rt.stage.object_tracking import ObjectTracking2D, ObjectTracking3D, Tracked, boxes_of
from perception_rt.types import ConfigError, Detections2D, Detections3D, TransformError
from perception_rt.types.palette import PALETTE


class ObjectTracker(ListenerNode):
    """Tracks in space (`3d`) or in the image (`2d`); the work is light, and done on the executor's thread."""

    PARAMETERS = (
        Parameter("detections_topic", "lidar_detector/detections", "Detection3DArray, or 2DArray for 2d."),
        Parameter(
            "dimensions", "3d", "What is tracked: boxes in space or in an image.", choices=("3d", "2d")
        ),
        Parameter(
            "fixed_frame",
            "odom",
            "Frame that stands still, in which 3d tracks live; empty: the sensor's own.",
        ),
        Parameter("horizon_s", 3.0, "How far 3d tracks are predicted, s.", (0.1, 30.0)),
        Parameter("step_s", 0.5, "Between two predicted moments, s.", (0.05, 5.0)),
    )

    def __init__(self, node_name: str = "object_tracker", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._transforms: Transforms | None = None
        self._tracking: ObjectTracking2D | ObjectTracking3D | None = None

    def setup(self) -> None:
        """Make the tracker and wire the topics."""
        topic, in_space = self.values["detections_topic"], self.values["dimensions"] == "3d"
        if not topic:
            raise ConfigError(f"detections_topic={topic!r}: must name a topic")
        self._account = Account()
        self._count = 0
        self._missing = ""
        kind = Detection3DArray if in_space else Detection2DArray
        self._tracks = self.open_output(kind, "~/tracks", 5)
        if in_space:
            self._transforms = listen_to_transforms(self) if self.values["fixed_frame"] else None
            odometry = bool(self.values["fixed_frame"])
            self._tracking = ObjectTracking3D(self.values["horizon_s"], self.values["step_s"], odometry)
            self._predictions = self.open_output(Detection3DArray, "~/predictions", 5)
            self._markers = self.open_output(MarkerArray, "~/markers", 1)
        else:
            self._tracking = ObjectTracking2D()
        self.listen(kind, topic, self._account, self._on_3d if in_space else self._on_2d)

    def teardown(self) -> None:
        """Unsubscribe and forget."""
        self.close_inputs()
        if self._transforms is not None:
            self._transforms.close()
        self.close_outputs()
        self._transforms = self._tracking = None

    # The way of a message.

    def _on_2d(self, data: bytes) -> None:
        message = decode_named_detections(data)
        began = self.now_ns()
        if self._is_late(message.stamp_ns):
            return
        tracks = self._tracking.update(message)
        self._count = len(tracks)
        found = Detections2D(tracks.xyxy, tracks.scores, tracks.labels)
        encoder = DetectionEncoder(self._tracking.classes.names)
        self._tracks.publish(encoder.encode(found, message.stamp_ns, message.frame_id, _texts(tracks.ids)))
        self._settle(message.stamp_ns, began)

    def _on_3d(self, data: bytes) -> None:
        message = decode_named_detections3d(data)
        began = self.now_ns()
        if self._is_late(message.stamp_ns):
            return
        frame, pose = self.values["fixed_frame"] or message.frame_id, None
        if self._transforms is not None:
            try:
                pose = self._transforms.lookup(frame, message.frame_id, message.stamp_ns)
            except TransformError as error:
                self._missing = str(error)
                self._account.ledger.settle(Fate.UNSYNCED, str(error))
                return
        self._missing = ""
        tracked = self._tracking.update(message, pose)
        self._count = len(tracked.tracks)
        self._publish(tracked, message.stamp_ns, frame)
        self._settle(message.stamp_ns, began)
        if self._markers.get_subscription_count():
            self.show(self._publish_markers, tracked, message.stamp_ns, frame)

    def _is_late(self, stamp_ns: int) -> bool:
        behind_ns = self._account.order.behind_ns(stamp_ns)
        if behind_ns:
            reason = f"stamp is {behind_ns / 1e6:.1f} ms behind the newest"
            self._account.ledger.settle(Fate.LATE, reason)
        return bool(behind_ns)

    def _settle(self, stamp_ns: int, began_ns: int) -> None:
        now = self.now_ns()
        self._account.ledger.settle(Fate.PUBLISHED)
        self._account.stages["infer"].add((now - began_ns) / 1e6)
        self._account.age.add((now - stamp_ns) / 1e6)
        self._account.rate.add(now)

    def _publish(self, tracked: Tracked, stamp_ns: int, frame_id: str) -> None:
        tracks, ids = tracked.tracks, _texts(tracked.tracks.ids)
        encoder = Detection3DEncoder(self._tracking.classes.names)
        found = Detections3D(tracks.xyzlwh_yaw, tracks.scores, tracks.labels)
        covariances = pose_covariance(tracks.covariance[:, :3, :3].astype(np.float64))
        self._tracks.publish(encoder.encode(found, stamp_ns, frame_id, ids, covariances=covariances))
        ahead, stamps, plane = boxes_of(tracked.predictions, tracks)
        ids = np.repeat(ids, len(tracked.predictions.stamps_ns)).tolist()
        covariances = pose_covariance(plane)
        self._predictions.publish(
            encoder.encode(ahead, stamp_ns, frame_id, ids, covariances=covariances, stamps_ns=stamps.tolist())
        )

    def _publish_markers(self, tracked: Tracked, stamp_ns: int, frame_id: str) -> None:
        tracks = tracked.tracks
        found = Detections3D(tracks.xyzlwh_yaw, tracks.scores, tracks.labels)
        boxes = box_markers(found, self._tracking.classes.names, _texts(tracks.ids))
        here = tracks.xyzlwh_yaw[:, None, :2].astype(np.float64)
        paths = np.concatenate((here, tracked.predictions.xy), axis=1)
        colours = [PALETTE[label % len(PALETTE)] for label in tracks.labels]
        self._markers.publish(encode_markers(boxes + path_markers(paths, colours), stamp_ns, frame_id))

    # Diagnostics.

    def diagnostics(self) -> list[DiagnosticStatus]:
        """One status for the node and one for the stream."""
        tracking = self._tracking
        if not self._configured or tracking is None:
            return []
        values = {"tracks": self._count, "resets": tracking.resets, "missing": self._missing}
        level, message = DiagnosticStatus.OK, "running" if self.active else "inactive"
        if self.active and self._missing:
            level, message = DiagnosticStatus.WARN, f"not tracked: {self._missing}"
        return [status(self.get_name(), level, message, "", values), *self.stream_statuses()]


def _texts(ids: np.ndarray) -> list[str]:
    return [str(number) for number in ids.tolist()]


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([ObjectTracker], args)
