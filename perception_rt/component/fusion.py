"""fusion: groups the detections of cameras and lidars by stamp and fuses them into one list of objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from perception_rt.codec.camera_info import parse_camera_info
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.codec.markers import box_markers, encode_markers
from perception_rt.component.component import Component, Host, Publisher
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import TRANSFORM_WAIT, Parameter
from perception_rt.realtime.grouping import Group, StampGrouping
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pipeline import Parsed, StreamStats
from perception_rt.realtime.ready_queue import ReadyQueue
from perception_rt.stage.fusion.named import Answer, FusionStage
from perception_rt.types import ConfigError, PerceptionError
from perception_rt.types.status import Level, Status

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
POLL_S = 0.01  # period of the checks for partners and transforms
KEPT_IMAGES = 15
_STAMP = slice(4, 12)  # of a serialized message with a header


class CameraStream:
    """One camera of the node: its topics, its stream and its images."""

    def __init__(self, detections: str, info: str, image: str) -> None:
        self.detections_topic, self.info_topic, self.image_topic = detections, info, image
        self.stats = StreamStats()
        self.images: OrderedDict[int, Parsed] = OrderedDict()
        self.info_content = b""  # the latest CameraInfo in use, without its stamp
        self.annotated: Publisher | None = None


class Fusion(Component):
    """Fuses the detections of cameras and lidars on the executor's thread."""

    NAME = "fusion"
    PARAMETERS = (
        Parameter("detections_2d_topic", "camera_detector/detections", "The camera's Detection2DArray."),
        Parameter("detections_3d_topic", "lidar_detector/detections", "The lidar's Detection3DArray."),
        Parameter(
            "camera_info_topic", "camera/camera_info", "CameraInfo of the camera of detections_2d_topic."
        ),
        Parameter("image_topic", "", "The camera's image, for ~/image_annotated; empty for none."),
        Parameter(
            "detections_2d_topics",
            [""],
            "Detection2DArrays of several cameras; replaces detections_2d_topic.",
        ),
        Parameter(
            "detections_3d_topics",
            [""],
            "Detection3DArrays of several lidars; the first sets rate and stamps.",
        ),
        Parameter("camera_info_topics", [""], "CameraInfos, in the order of detections_2d_topics."),
        Parameter("image_topics", [""], "Images, in the order of detections_2d_topics; or none."),
        Parameter("image_is_rectified", False, "The images are rectified: use P of CameraInfo."),
        Parameter("base_frame", "", "Frame of the published objects, like base_link; empty: the lidar's."),
        Parameter(
            "slop_ms", 50.0, "Maximum difference between the stamps of a pair, ms.", (0.0, 1000.0), live=True
        ),
        Parameter(
            "max_wait_ms",
            100.0,
            "Maximum wait of a lidar message for the other sensors, ms.",
            (0.0, 1e3),
            live=True,
        ),
        TRANSFORM_WAIT,
        Parameter("iou_threshold", 0.3, "Minimum IoU of a match in the image.", (0.01, 1.0), live=True),
        Parameter(
            "camera_recall",
            0.5,
            "Recall of the cameras' detectors on unoccluded objects; 0 lowers no score.",
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
            "Fixed frame, like odom, to compensate motion between stamps; empty: no compensation.",
        ),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        # None before `setup` and after `teardown`.
        self._grouping: StampGrouping = None  # type: ignore[assignment]
        self._queue: ReadyQueue[Group] = None  # type: ignore[assignment]

    # Lifecycle.

    def setup(self) -> None:
        """Create publishers and subscriptions."""
        lidars = self._topics("detections_3d")
        self._cameras = [
            CameraStream(*topics)
            for topics in zip(
                *(self._topics(name) for name in ("detections_2d", "camera_info", "image")), strict=True
            )
        ]
        self._lidars = [StreamStats() for _ in lidars]
        self._stage = FusionStage(self.host.transforms().lookup, len(self._cameras))
        partners = [*self._lidars[1:], *(camera.stats for camera in self._cameras)]
        self._grouping = StampGrouping(self._lidars[0], partners, 0, 0)
        self._queue = ReadyQueue(self._is_ready, 0)
        self.on_parameters()
        self._unplaced = 0
        self._rejected = 0  # detections that are no valid box
        self._detections = self.host.create_publisher("vision_msgs/msg/Detection3DArray", "~/detections", 5)
        self._markers = self.host.create_publisher("visualization_msgs/msg/MarkerArray", "~/markers", 1)
        for index, (topic, stats) in enumerate(zip(lidars, self._lidars, strict=True)):
            receive = partial(self._on_detections, decode_named_detections3d, index - 1)
            self.listen("vision_msgs/msg/Detection3DArray", topic, stats, receive)
        for index, camera in enumerate(self._cameras):
            receive = partial(self._on_detections, decode_named_detections, len(lidars) - 1 + index)
            self.listen("vision_msgs/msg/Detection2DArray", camera.detections_topic, camera.stats, receive)
            info = self.host.resolve_topic_name(camera.info_topic)
            self._stage.cameras[index].no_model = f"no CameraInfo on {info} yet"
            self.host.create_subscription(
                "sensor_msgs/msg/CameraInfo",
                camera.info_topic,
                partial(self._on_camera_info, index),
                "best_effort",
            )
        self._open_images()
        self.host.create_timer(POLL_S, self._on_wait)

    def _topics(self, name: str) -> list[str]:
        """Return the topics in `<name>_topics`, or the one in `<name>_topic`."""
        topics = [topic for topic in self.values[f"{name}_topics"] if topic]
        several = f"{name}_topics" if topics else f"{name}_topic"
        topics = topics or [self.values[several]]
        if name == "image" and topics == [""]:
            return topics * len(self._topics("detections_2d"))
        if not all(topics) or len(set(topics)) != len(topics):
            raise ConfigError(f"{several}={self.values[several]!r}: must name a topic, each once")
        cameras = name in ("camera_info", "image") and len(self._topics("detections_2d"))
        if cameras and len(topics) != cameras:
            raise ConfigError(
                f"{several}={self.values[several]!r}: must name one for each of {cameras} cameras"
            )
        return topics

    def _open_images(self) -> None:
        """Subscribe to the images, and create `~/image_annotated`, or `~/<camera>/image_annotated`."""
        named = [self.host.resolve_topic_name(one.image_topic) for one in self._cameras if one.image_topic]
        prefixes = output_prefixes(named) if named else {}
        for index, camera in enumerate(self._cameras):
            topic = camera.image_topic
            prefix = prefixes[self.host.resolve_topic_name(topic)] if topic else ""
            if topic or len(self._cameras) == 1:
                camera.annotated = self.host.create_publisher(IMAGE, f"~{prefix}/image_annotated", 1)
            if topic:
                kind = COMPRESSED if topic.endswith("/compressed") else IMAGE
                receive = partial(self._on_image, index)
                self.host.create_subscription(kind, topic, receive, "best_effort")

    def stop(self) -> None:
        """End waiting messages."""
        with self.gate:
            self._cancel("the node was deactivated")

    def teardown(self) -> None:
        """Release what `setup` created."""
        self._grouping = self._queue = None  # type: ignore[assignment]

    def on_clock_reset(self) -> None:
        """End the messages waiting for partners or for a transform."""
        self._cancel("the clock was set back")

    def _cancel(self, reason: str) -> None:
        if self._grouping is None or self._queue is None:
            return
        for group in self._queue.clear():
            self._finish(group, Outcome.SUPERSEDED, reason)
        self._grouping.clear(reason)

    def on_parameters(self) -> None:
        """Apply changed limits."""
        self._grouping.set_limits(
            round(self.values["slop_ms"] * 1e6), round(self.values["max_wait_ms"] * 1e6)
        )
        self._queue.max_wait_ns = round(self.values["transform_wait_ms"] * 1e6)
        for name in ("iou_threshold", "camera_recall", "lidar_height_m", "fixed_frame", "base_frame"):
            setattr(self._stage, name, self.values[name])

    # Messages.

    def _on_detections(
        self, decode: Callable[[bytes], NamedDetections], partner: int, data: bytes, entry: Entry
    ) -> None:
        """Take a message of the first lidar (`partner` -1) or of another stream."""
        message = decode(data)
        self._rejected += len(message.rejected)
        now = self.host.now_ns()
        if partner < 0:
            self._answer_all(self._grouping.put_anchor(entry, message.stamp_ns, message, now))
        else:
            self._answer_all(self._grouping.put_partner(partner, entry, message.stamp_ns, message, now))

    def _on_wait(self) -> None:
        with self.gate:
            if self.active:
                self._answer_all(self._grouping.poll(self.host.now_ns()))

    def _split(self, group: Group) -> tuple[list[Any], list[Any]]:
        """Return the messages of the cameras and of the other lidars; None if one is missing."""
        items = [None if held is None else held.item for held in group.partners]
        further = len(self._lidars) - 1
        return items[further:], items[:further]

    def _is_ready(self, group: Group) -> bool:
        """Return whether all transforms of a group have arrived or can no longer arrive."""
        return not self._stage.lacks_transform(group.anchor.item, *self._split(group))

    def _on_camera_info(self, index: int, data: bytes) -> None:
        known, camera = self._stage.cameras[index], self._cameras[index]
        content = b"".join((data[: _STAMP.start], data[_STAMP.stop :]))
        if known.model is not None and content == camera.info_content:
            return  # as usual: one comes with each image
        try:
            known.model = parse_camera_info(data, self.values["image_is_rectified"])
            camera.info_content = content
        except PerceptionError as error:
            known.model, known.no_model = None, f"CameraInfo: {error}"
            self.host.warn(self.host.resolve_topic_name(camera.info_topic), error)

    def _on_image(self, index: int, data: bytes) -> None:
        """Note the size; keep the latest images while ~/image_annotated has subscribers."""
        # Late: a node that sees no image does without the image libraries.
        from perception_rt.codec.compressed import parse_compressed
        from perception_rt.codec.image import parse_image

        camera = self._cameras[index]
        try:
            compressed = camera.image_topic.endswith("/compressed")
            image: Any = parse_compressed(data) if compressed else parse_image(data)
        except PerceptionError as error:
            self.host.warn(self.host.resolve_topic_name(camera.image_topic), error)
            return
        self._stage.cameras[index].image_size = image.height, image.width
        if camera.annotated is None or not camera.annotated.get_subscription_count():
            camera.images.clear()
            return
        camera.images[image.stamp_ns] = image
        if len(camera.images) > KEPT_IMAGES:
            camera.images.popitem(last=False)

    def _answer_all(self, groups: list[Group]) -> None:
        """Fuse these groups and the waiting ones once their transforms are there, in order."""
        now = self.host.now_ns()
        for group in groups:
            for ready in self._queue.put(group, now):
                self._answer(ready)
        for ready in self._queue.poll(now):
            self._answer(ready)

    def _answer(self, group: Group) -> None:
        """Fuse and publish a group, and end all its messages."""
        began = self.host.now_ns()
        try:
            answer = self._stage.fuse(group.anchor.item, *self._split(group))
            done = self.host.now_ns()
            self._publish(group, answer)
        except Exception as error:  # noqa: BLE001 - after any failure the next message is processed
            self._finish(group, Outcome.MODEL_ERROR, str(error))
            self.host.warn(self.host.get_name(), error)
            return
        self._measure(group, began, done)
        self._end(group, answer)
        self._unplaced += len(answer.fused.unplaced)
        self.visualize(self._publish_extras, group, answer)

    def _publish(self, group: Group, answer: Answer) -> None:
        """Publish the objects with the stamp of the lidar's message; their ids name the sensors."""
        fused = answer.fused
        data = Detection3DEncoder(fused.classes).encode(
            fused.detections,
            group.anchor.stamp_ns,
            answer.frame_id,
            ids=fused.sources,
            covariances=fused.covariance.reshape(-1, 36),
        )
        self._detections.publish(data)

    def _streams(self) -> list[StreamStats]:
        """Return the streams of a group's partners, in order."""
        return [*self._lidars[1:], *(camera.stats for camera in self._cameras)]

    def _finish(self, group: Group, outcome: Outcome, reason: str) -> None:
        """End every message of a group with the same outcome."""
        self._lidars[0].ledger.finish(group.anchor.entry, outcome, reason)
        for stats, held in zip(self._streams(), group.partners, strict=True):
            if held is not None:
                stats.ledger.finish(held.entry, outcome, reason)

    def _end(self, group: Group, answer: Answer) -> None:
        """End each message of a fused group; one that was not used is unsynced."""
        reasons = (*answer.lidar_reasons, *answer.reasons)
        for stats, held, reason in zip(self._streams(), group.partners, reasons, strict=True):
            if held is not None:
                stats.ledger.finish(held.entry, Outcome.UNSYNCED if reason else Outcome.PUBLISHED, reason)
        cameras = group.reasons[len(self._lidars) - 1 :]
        alone = "" if any(answer.views) else answer.reason or "; ".join(dict.fromkeys(filter(None, cameras)))
        self._lidars[0].ledger.finish(
            group.anchor.entry, Outcome.UNSYNCED if alone else Outcome.PUBLISHED, alone
        )

    def _measure(self, group: Group, began_ns: int, done_ns: int) -> None:
        now = self.host.now_ns()
        streams = zip((self._lidars[0], *self._streams()), (group.anchor, *group.partners), strict=True)
        for stats, held in streams:
            if held is not None:
                stats.measure(held.entry, "wait", began_ns - held.arrival_ns)
                stats.measure(held.entry, "infer", done_ns - began_ns)
                stats.measure(held.entry, "publish", now - done_ns)
                stats.answered(held.entry, now)

    def _publish_extras(self, group: Group, answer: Answer) -> None:
        """Publish markers and the annotated images where they have subscribers."""
        fused = answer.fused
        if self._markers.get_subscription_count():
            markers = box_markers(fused.detections, fused.classes, fused.sources)
            self._markers.publish(encode_markers(markers, group.anchor.stamp_ns, answer.frame_id))
        partners = group.partners[len(self._lidars) - 1 :]
        for camera, held, view in zip(self._cameras, partners, answer.views, strict=True):
            if held is None or view is None or camera.annotated is None:
                continue
            image = camera.images.get(held.stamp_ns) if camera.annotated.get_subscription_count() else None
            if image is None:
                continue
            from perception_rt.codec.encode import encode_image
            from perception_rt.stage.draw import draw_boxes3d, draw_outlines

            frame = image.decode()
            picture = draw_outlines(frame.pixels, view.detections.xyxy)
            picture = draw_boxes3d(
                picture,
                fused.detections,
                fused.classes,
                view.model,
                view.camera_from_lidar,
                frame.bgr,
                fused.sources,
            )
            encoding = "bgr8" if frame.bgr else "rgb8"
            camera.annotated.publish(encode_image(picture, encoding, frame.stamp_ns, frame.frame_id))

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for each stream."""
        stage = self._stage
        values = {
            "camera_info": "; ".join(
                camera.model.frame_id if camera.model else camera.no_model for camera in stage.cameras
            ),
            "missing": stage.missing,
            "camera_objects_unplaced": self._unplaced,
            "rejected_boxes": self._rejected,
        }
        level, message = Level.OK, "running" if self.active else "inactive"
        if self.active and stage.missing:
            level, message = Level.WARN, f"not fused: {stage.missing}"
        return [Status(self.host.get_name(), level, message, "cpu", values), *self.stream_statuses()]
