"""object_tracker: tracks detections with stable ids, and predicts the paths of the tracks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import DetectionEncoder, decode_named_detections
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.codec.markers import box_markers, encode_markers, path_markers
from perception_rt.codec.vehicle import pose_covariance
from perception_rt.component.component import Component, Host, Transforms
from perception_rt.component.parameters import TRANSFORM_WAIT, Parameter
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pairing import Pair, StampPairing
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.realtime.ready_queue import ReadyQueue
from perception_rt.stage.tracking.object_tracking import ObjectTracking2D, ObjectTracking3D, Tracked, boxes_of
from perception_rt.types import (
    CameraFrame,
    CodecError,
    ConfigError,
    Detections2D,
    Detections3D,
    TransformError,
)
from perception_rt.types.palette import class_colour
from perception_rt.types.status import Level, Status

POLL_S = 0.01  # period of the checks for a transform or an image
HELD_IMAGES = 16  # which wait for their detections
ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"


class Pending(NamedTuple):
    """A message waiting for its transform or image, and its entry in the ledger."""

    message: NamedDetections[Any]
    entry: Entry
    image: CameraFrame | None = None


class ObjectTracker(Component):
    """Tracks in space (`3d`) or in the image (`2d`) on the executor's thread."""

    NAME = "object_tracker"
    PARAMETERS = (
        Parameter(
            "detections_topic",
            "lidar_detector/detections",
            "Detection3DArray, or Detection2DArray for dimensions 2d.",
        ),
        Parameter("dimensions", "3d", "Track boxes in space or in the image.", choices=("3d", "2d")),
        Parameter(
            "fixed_frame",
            "odom",
            "Fixed frame of 3d tracks, like odom; empty: the sensor's frame.",
        ),
        TRANSFORM_WAIT,
        Parameter(
            "image_topic",
            "",
            "Images of 2d detections, to compensate the camera's motion; empty: no compensation.",
        ),
        Parameter(
            "image_wait_ms",
            50.0,
            "Maximum wait of 2d detections for their image, ms; without it they are not compensated.",
            (0.0, 1e3),
            live=True,
        ),
        Parameter("horizon_s", 3.0, "Prediction horizon of 3d tracks, s.", (0.1, 30.0)),
        Parameter("step_s", 0.5, "Time between two predictions, s.", (0.05, 5.0)),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._transforms: Transforms | None = None
        # None before `setup` and after `teardown`; of the dimensions that the parameter names.
        self._tracking: Any = None
        self._queue: ReadyQueue[Pending] = None  # type: ignore[assignment]
        self._pairing: StampPairing | None = None  # of 2d detections and their images
        self._resets = 0  # of trackers before the present one
        self._rejected = 0  # detections that are no valid box

    def setup(self) -> None:
        """Create the tracker, publishers and subscriptions."""
        topic, in_space = self.values["detections_topic"], self.values["dimensions"] == "3d"
        images = self.values["image_topic"]
        if not topic:
            raise ConfigError(f"detections_topic={topic!r}: must name a topic")
        if images and in_space:
            raise ConfigError(f"image_topic={images!r}: dimensions 3d uses no images")
        self._stats, self._images = StreamStats(), StreamStats()
        self._count = self._resets = self._rejected = 0
        self._missing = ""
        self._tracking = self._new_tracking()
        kind = ARRAY_3D if in_space else ARRAY_2D
        self._tracks = self.host.create_publisher(kind, "~/tracks", 5)
        if in_space:
            self._queue = ReadyQueue(self._is_ready, 0)
            self.on_parameters()
            self._transforms = self.host.transforms() if self.values["fixed_frame"] else None
            self._predictions = self.host.create_publisher(ARRAY_3D, "~/predictions", 5)
            self._markers = self.host.create_publisher("visualization_msgs/msg/MarkerArray", "~/markers", 1)
            if self._transforms is not None:
                self.host.create_timer(POLL_S, self._on_wait)
        if images:
            self._pairing = StampPairing(self._stats, self._images, 0, 0, HELD_IMAGES)
            self.on_parameters()
            self.host.create_timer(POLL_S, self._on_wait)
        self.listen(kind, topic, self._stats, self._on_3d if in_space else self._on_2d)
        if images:
            self._listen_to_images(images)

    def _listen_to_images(self, topic: str) -> None:
        # Late: a tracker that sees no image does without the image libraries.
        from perception_rt.codec.compressed import parse_compressed
        from perception_rt.codec.image import parse_image

        compressed = topic.endswith("/compressed")
        kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
        self._parse_image: Any = parse_compressed if compressed else parse_image
        self.listen(kind, topic, self._images, self._on_image, "best_effort")

    def _new_tracking(self) -> ObjectTracking2D | ObjectTracking3D:
        if self.values["dimensions"] == "2d":
            return ObjectTracking2D(bool(self.values["image_topic"]))
        odometry = bool(self.values["fixed_frame"])
        return ObjectTracking3D(self.values["horizon_s"], self.values["step_s"], odometry)

    def stop(self) -> None:
        """End waiting messages."""
        with self.gate:
            self._cancel("the node was deactivated")

    def teardown(self) -> None:
        """Release what `setup` created."""
        self._transforms = self._tracking = self._queue = self._pairing = None  # type: ignore[assignment]

    def on_parameters(self) -> None:
        """Apply changed waits."""
        if self._pairing is not None:
            self._pairing.max_wait_ns = round(self.values["image_wait_ms"] * 1e6)
        if self._queue is not None:
            self._queue.max_wait_ns = round(self.values["transform_wait_ms"] * 1e6)

    def on_clock_reset(self) -> None:
        """Drop all tracks."""
        self._cancel("the clock was set back")
        if self._tracking is not None:
            self._resets += self._tracking.resets + 1
            self._tracking = self._new_tracking()

    def _cancel(self, reason: str) -> None:
        if self._pairing is not None:
            self._pairing.clear(reason)
        for pending in self._queue.clear() if self._queue is not None else ():
            self._stats.ledger.finish(pending.entry, Outcome.SUPERSEDED, reason)

    # Messages.

    def _on_2d(self, data: bytes, entry: Entry) -> None:
        message = decode_named_detections(data)
        self._rejected += len(message.rejected)
        if self._pairing is not None:
            now = self.host.now_ns()
            self._track_pairs(self._pairing.put_anchor(entry, message.stamp_ns, message, now))
        elif self._stats.in_order(entry, message.stamp_ns):
            self._track_2d(Pending(message, entry))

    def _on_image(self, data: bytes, entry: Entry) -> None:
        if self._pairing is not None:
            image = self._parse_image(data)
            now = self.host.now_ns()
            self._track_pairs(self._pairing.put_partner(entry, image.stamp_ns, image, now))

    def _track_pairs(self, pairs: list[Pair]) -> None:
        """Track detections whose image has come, or whose wait is over."""
        for anchor, image, reason in pairs:
            frame = None
            if image is not None:
                try:
                    frame = image.item.decode()
                except CodecError as error:
                    reason = str(error)
                outcome = Outcome.PUBLISHED if frame is not None else Outcome.DECODE_ERROR
                self._images.ledger.finish(image.entry, outcome, reason)
            self._missing = reason
            self._track_all([Pending(anchor.item, anchor.entry, frame)], self._track_2d)

    def _track_2d(self, pending: Pending) -> None:
        message, entry, image = pending
        began = self.host.now_ns()
        self._stats.measure(entry, "wait", began - entry.arrival_ns)
        tracks = self._tracking.update(message, image)
        self._count = len(tracks)
        found = Detections2D(tracks.xyxy, tracks.scores, tracks.labels)
        encoder = DetectionEncoder(self._tracking.classes.names)
        self._tracks.publish(encoder.encode(found, message.stamp_ns, message.frame_id, _texts(tracks.ids)))
        self._finish_entry(entry, began)

    def _on_3d(self, data: bytes, entry: Entry) -> None:
        message = decode_named_detections3d(data)
        self._rejected += len(message.rejected)
        if self._stats.in_order(entry, message.stamp_ns):
            self._track_all(self._queue.put(Pending(message, entry), self.host.now_ns()), self._track_3d)

    def _on_wait(self) -> None:
        with self.gate:
            if self.active:
                now = self.host.now_ns()
                if self._pairing is not None:
                    self._track_pairs(self._pairing.poll(now))
                else:
                    self._track_all(self._queue.poll(now), self._track_3d)

    def _is_ready(self, pending: Pending) -> bool:
        """Return whether the transform at the stamp of a message is known."""
        try:
            self._pose(pending.message)
        except TransformError:
            return False
        return True

    def _pose(self, message: NamedDetections[Any]) -> np.ndarray | None:
        """Return (4, 4) fixed frame from sensor; None if tracks are in the sensor's frame."""
        if self._transforms is None:
            return None
        return self._transforms.lookup(self.values["fixed_frame"], message.frame_id, message.stamp_ns)

    def _track_all(self, due: list[Pending], track: Callable[[Pending], None]) -> None:
        for pending in due:
            try:
                track(pending)
            except Exception as error:
                if pending.entry.outcome is not None:
                    raise
                self._stats.ledger.finish(pending.entry, Outcome.DECODE_ERROR, str(error))
                self.host.warn(next(iter(self.stats)), error)

    def _track_3d(self, pending: Pending) -> None:
        message, entry, _ = pending
        began = self.host.now_ns()
        self._stats.measure(entry, "wait", began - entry.arrival_ns)
        frame = self.values["fixed_frame"] or message.frame_id
        try:
            pose = self._pose(message)
        except TransformError as error:
            self._missing = str(error)
            self._stats.ledger.finish(entry, Outcome.UNSYNCED, str(error))
            return
        self._missing = ""
        tracked: Tracked = self._tracking.update(message, pose)
        self._count = len(tracked.tracks)
        self._publish(tracked, message.stamp_ns, frame)
        self._finish_entry(entry, began)
        if self._markers.get_subscription_count():
            self.visualize(self._publish_markers, tracked, message.stamp_ns, frame)

    def _finish_entry(self, entry: Entry, began_ns: int) -> None:
        now = self.host.now_ns()
        self._stats.measure(entry, "infer", now - began_ns)
        self._stats.answered(entry, now)
        self._stats.ledger.finish(entry, Outcome.PUBLISHED)

    def _publish(self, tracked: Tracked, stamp_ns: int, frame_id: str) -> None:
        tracks, ids = tracked.tracks, _texts(tracked.tracks.ids)
        encoder = Detection3DEncoder(self._tracking.classes.names)
        if self._tracks.get_subscription_count():
            found = Detections3D(tracks.xyzlwh_yaw, tracks.scores, tracks.labels)
            covariances = pose_covariance(tracks.covariance[:, :3, :3].astype(np.float64))
            self._tracks.publish(encoder.encode(found, stamp_ns, frame_id, ids, covariances=covariances))
        if not self._predictions.get_subscription_count():
            return
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
        names = self._tracking.classes.names
        colours = [class_colour(names[label]) for label in tracks.labels]
        self._markers.publish(encode_markers(boxes + path_markers(paths, colours), stamp_ns, frame_id))

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for the stream."""
        tracking = self._tracking
        if tracking is None:
            return []
        values = {
            "tracks": self._count,
            "resets": self._resets + tracking.resets,
            "missing": self._missing,
            "rejected_boxes": self._rejected,
        }
        level, message = Level.OK, "running" if self.active else "inactive"
        if self._pairing is not None:
            values["camera_motion"] = "compensated" if tracking.compensated else "unknown"
        if self.active and self._missing:
            lost = "not tracked" if self._pairing is None else "camera motion is not compensated"
            level, message = Level.WARN, f"{lost}: {self._missing}"
        return [Status(self.host.get_name(), level, message, "cpu", values), *self.stream_statuses()]


def _texts(ids: np.ndarray) -> list[str]:
    return [str(number) for number in ids.tolist()]
