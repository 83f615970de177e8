"""fusion: pairs the detections of a camera and a lidar by stamp and fuses them into one list of objects."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from perception_rt.codec.camera_info import parse_camera_info
from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.codec.encode import encode_image
from perception_rt.codec.image import parse_image
from perception_rt.codec.markers import box_markers, encode_markers
from perception_rt.component.component import Component, Host
from perception_rt.component.parameters import TRANSFORM_WAIT, Parameter
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pairing import Pair, StampPairing
from perception_rt.realtime.pipeline import Parsed, StreamStats
from perception_rt.realtime.ready_queue import ReadyQueue
from perception_rt.stage.draw import draw_boxes3d, draw_outlines
from perception_rt.stage.fusion.named import Answer, FusionStage
from perception_rt.types import ConfigError, PerceptionError
from perception_rt.types.status import Level, Status

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
POLL_S = 0.01  # resolution of the waits for a partner and for a transform
KEPT_IMAGES = 15


class Fusion(Component):
    """Fuses the detections of one camera and one lidar; light work, on the executor's thread."""

    NAME = "fusion"
    PARAMETERS = (
        Parameter("detections_2d_topic", "camera_detector/detections", "The camera's Detection2DArray."),
        Parameter("detections_3d_topic", "lidar_detector/detections", "The lidar's Detection3DArray."),
        Parameter(
            "camera_info_topic", "camera/camera_info", "CameraInfo of the camera of detections_2d_topic."
        ),
        Parameter("image_topic", "", "The camera's image, for ~/image_annotated; empty for none."),
        Parameter(
            "slop_ms", 50.0, "Largest difference between the stamps of a pair, ms.", (0.0, 1000.0), live=True
        ),
        Parameter(
            "max_wait_ms",
            100.0,
            "How long a lidar message waits for the camera's, ms.",
            (0.0, 1e3),
            live=True,
        ),
        TRANSFORM_WAIT,
        Parameter("iou_threshold", 0.3, "Smallest IoU of a match in the image.", (0.01, 1.0), live=True),
        Parameter(
            "camera_recall",
            0.5,
            "Share of the objects in plain view that the camera's detector finds; 0 lowers no score.",
            (0.0, 0.99),
            live=True,
        ),
        Parameter(
            "lidar_height_m",
            0.0,
            "Height of the lidar above the ground, m; 0: estimated from the boxes.",
            (0.0, 10.0),
            live=True,
        ),
        Parameter(
            "fixed_frame",
            "",
            "Frame, like odom, through which motion between the two stamps is compensated; empty: none.",
        ),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        # None before `setup` and after `teardown`.
        self._pairing: StampPairing = None  # type: ignore[assignment]
        self._queue: ReadyQueue[Pair] = None  # type: ignore[assignment]

    # Lifecycle.

    def setup(self) -> None:
        """Create publishers and subscriptions."""
        topics = {
            name: self.values[f"{name}_topic"] for name in ("detections_2d", "detections_3d", "camera_info")
        }
        for name, topic in topics.items():
            if not topic:
                raise ConfigError(f"{name}_topic={topic!r}: must name a topic")
        self._camera, self._lidar = StreamStats(), StreamStats()
        self._stage = FusionStage(self.host.transforms().lookup)
        self._stage.no_model = f"no CameraInfo on {self.host.resolve_topic_name(topics['camera_info'])} yet"
        self._pairing = StampPairing(self._lidar, self._camera, 0, 0)
        self._queue = ReadyQueue(self._is_ready, 0)
        self.on_parameters()
        self._images: OrderedDict[int, Parsed] = OrderedDict()
        self._unplaced = 0
        self._rejected = 0  # detections that make no box
        self._detections = self.host.create_publisher("vision_msgs/msg/Detection3DArray", "~/detections", 5)
        self._markers = self.host.create_publisher("visualization_msgs/msg/MarkerArray", "~/markers", 1)
        self._annotated = self.host.create_publisher(IMAGE, "~/image_annotated", 1)
        self.host.create_subscription(
            "sensor_msgs/msg/CameraInfo", topics["camera_info"], self._on_camera_info, "best_effort"
        )
        self.listen(
            "vision_msgs/msg/Detection2DArray", topics["detections_2d"], self._camera, self._on_camera
        )
        self.listen("vision_msgs/msg/Detection3DArray", topics["detections_3d"], self._lidar, self._on_lidar)
        if self.values["image_topic"]:
            kind = COMPRESSED if self.values["image_topic"].endswith("/compressed") else IMAGE
            self.host.create_subscription(kind, self.values["image_topic"], self._on_image, "best_effort")
        self.host.create_timer(POLL_S, self._on_wait)

    def stop(self) -> None:
        """End the messages that wait."""
        with self.gate:
            self._cancel("the node was deactivated")

    def teardown(self) -> None:
        """Release what `setup` created."""
        self._pairing = self._queue = None  # type: ignore[assignment]

    def on_clock_reset(self) -> None:
        """End the messages that wait for their partner or for a transform."""
        self._cancel("the clock was set back")

    def _cancel(self, reason: str) -> None:
        if self._pairing is None or self._queue is None:
            return
        for pair in self._queue.clear():
            self._finish_entry(pair, Outcome.SUPERSEDED, reason)
        self._pairing.clear(reason)

    def on_parameters(self) -> None:
        """Apply changed limits."""
        self._pairing.window_ns = round(self.values["slop_ms"] * 1e6)
        self._pairing.max_wait_ns = round(self.values["max_wait_ms"] * 1e6)
        self._queue.max_wait_ns = round(self.values["transform_wait_ms"] * 1e6)
        self._stage.iou_threshold = self.values["iou_threshold"]
        self._stage.camera_recall = self.values["camera_recall"]
        self._stage.ground_z = -self.values["lidar_height_m"] or None
        self._stage.fixed_frame = self.values["fixed_frame"]

    # Messages.

    def _on_camera(self, data: bytes, entry: Entry) -> None:
        message = decode_named_detections(data)
        self._rejected += len(message.rejected)
        self._answer_all(self._pairing.put_partner(entry, message.stamp_ns, message, self.host.now_ns()))

    def _on_lidar(self, data: bytes, entry: Entry) -> None:
        message = decode_named_detections3d(data)
        self._rejected += len(message.rejected)
        self._answer_all(self._pairing.put_anchor(entry, message.stamp_ns, message, self.host.now_ns()))

    def _on_wait(self) -> None:
        with self.gate:
            if self.active:
                self._answer_all(self._pairing.poll(self.host.now_ns()))

    def _is_ready(self, pair: Pair) -> bool:
        """Return whether a pair lacks no transform that may still come."""
        if pair.partner is None:
            return True
        return not self._stage.lacks_transform(pair.partner.item, pair.anchor.item)

    def _on_camera_info(self, data: bytes) -> None:
        try:
            self._stage.model = parse_camera_info(data)
        except PerceptionError as error:
            self._stage.model, self._stage.no_model = None, f"CameraInfo: {error}"
            self.host.warn(self.host.resolve_topic_name(self.values["camera_info_topic"]), error)

    def _on_image(self, data: bytes) -> None:
        """Keep the latest images while ~/image_annotated has subscribers."""
        if not self._annotated.get_subscription_count():
            self._images.clear()
            return
        topic = self.values["image_topic"]
        try:
            compressed = topic.endswith("/compressed")
            image: Parsed = parse_compressed(data) if compressed else parse_image(data)
        except PerceptionError as error:
            self.host.warn(self.host.resolve_topic_name(topic), error)
            return
        self._images[image.stamp_ns] = image
        if len(self._images) > KEPT_IMAGES:
            self._images.popitem(last=False)

    def _answer_all(self, pairs: list[Pair]) -> None:
        """Fuse these pairs, and those that waited for a transform, once they are ready; in order."""
        now = self.host.now_ns()
        for pair in pairs:
            for ready in self._queue.put(pair, now):
                self._answer(ready)
        for ready in self._queue.poll(now):
            self._answer(ready)

    def _answer(self, pair: Pair) -> None:
        """Fuse and publish; both messages of the pair end here."""
        began = self.host.now_ns()
        try:
            if pair.partner is None:
                answer = self._stage.alone(pair.anchor.item, pair.reason)
            else:
                answer = self._stage.pair(pair.partner.item, pair.anchor.item)
            done = self.host.now_ns()
            self._publish(pair, answer)
        except Exception as error:  # noqa: BLE001 - after any failure the next message is processed
            self._finish_entry(pair, Outcome.MODEL_ERROR, str(error))
            self.host.warn(self.host.get_name(), error)
            return
        self._measure(pair, began, done)
        self._finish_entry(pair, Outcome.UNSYNCED if answer.reason else Outcome.PUBLISHED, answer.reason)
        self._unplaced += len(answer.fused.unplaced)
        self.visualize(self._publish_extras, pair, answer)

    def _publish(self, pair: Pair, answer: Answer) -> None:
        """Publish the objects with the header of the lidar's message; ids say which sensors found them."""
        lidar, fused = pair.anchor.item, answer.fused
        data = Detection3DEncoder(fused.classes).encode(
            fused.detections,
            lidar.stamp_ns,
            lidar.frame_id,
            ids=fused.sources,
            covariances=fused.covariance.reshape(-1, 36),
        )
        self._detections.publish(data)

    def _finish_entry(self, pair: Pair, outcome: Outcome, reason: str) -> None:
        self._lidar.ledger.finish(pair.anchor.entry, outcome, reason)
        if pair.partner is not None:
            self._camera.ledger.finish(pair.partner.entry, outcome, reason)

    def _measure(self, pair: Pair, began_ns: int, done_ns: int) -> None:
        now = self.host.now_ns()
        for stats, held in ((self._lidar, pair.anchor), (self._camera, pair.partner)):
            if held is not None:
                stats.measure(held.entry, "wait", began_ns - held.arrival_ns)
                stats.measure(held.entry, "infer", done_ns - began_ns)
                stats.measure(held.entry, "publish", now - done_ns)
                stats.answered(held.entry, now)

    def _publish_extras(self, pair: Pair, answer: Answer) -> None:
        """Publish markers and the annotated image where they have subscribers."""
        lidar, fused = pair.anchor.item, answer.fused
        if self._markers.get_subscription_count():
            markers = box_markers(fused.detections, fused.classes, fused.sources)
            self._markers.publish(encode_markers(markers, lidar.stamp_ns, lidar.frame_id))
        partner, model, camera_from_lidar = pair.partner, answer.model, answer.camera_from_lidar
        if partner is None or model is None or camera_from_lidar is None:
            return
        if not self._annotated.get_subscription_count():
            return
        image = self._images.get(partner.stamp_ns)
        if image is None:
            return
        frame = image.decode()
        picture = draw_outlines(frame.pixels, partner.item.detections.xyxy)
        picture = draw_boxes3d(
            picture, fused.detections, fused.classes, model, camera_from_lidar, frame.bgr, fused.sources
        )
        encoding = "bgr8" if frame.bgr else "rgb8"
        self._annotated.publish(encode_image(picture, encoding, frame.stamp_ns, frame.frame_id))

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for each stream."""
        stage = self._stage
        values = {
            "camera_info": stage.model.frame_id if stage.model else stage.no_model,
            "missing": stage.missing,
            "camera_objects_unplaced": self._unplaced,
            "rejected_boxes": self._rejected,
        }
        level, message = Level.OK, "running" if self.active else "inactive"
        if self.active and stage.missing:
            level, message = Level.WARN, f"not fused: {stage.missing}"
        return [Status(self.host.get_name(), level, message, "", values), *self.stream_statuses()]
