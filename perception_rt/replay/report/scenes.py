"""Read the sensor data and the outputs of one moment from the recording and the replay's bag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from perception_rt.codec import (
    CameraModel,
    NamedDetections,
    decode_named_detections3d,
    parse_camera_info,
)
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.segmentation import decode_segmentation
from perception_rt.replay.bag import Bag, BagMessage, frame_of
from perception_rt.replay.report.choose import ARRAY_3D, DECODERS, IMAGES, MomentChoice, SensorStream
from perception_rt.stage.transforms import TransformBuffer, camera_way, transform
from perception_rt.types import CameraFrame, CodecError, Detections3D, LidarFrame, TransformError
from perception_rt.types.segmentation import Segmentation

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_BEFORE_NS, _AFTER_NS = 2_000_000_000, 300_000_000
"""Search range around the choice for its message and the transforms."""
_ANSWER_NS = 5_000_000_000
_SAME_MOMENT_NS = 100_000_000


@dataclass(slots=True)
class SceneObjects:
    """Boxes in the lidar frame with labels and predicted paths.

    Attributes:
        source: topic. classes: class names by label. notes: text for each box.
        paths: (N, T, 2) predicted positions, m; None without predictions.
        ids: of tracks; empty for other boxes.
    """

    source: str
    detections: Detections3D
    classes: Sequence[str]
    notes: Sequence[str]
    paths: np.ndarray | None = None
    ids: Sequence[str] = ()


@dataclass(slots=True)
class ReportScene:
    """One moment of one sensor.

    Attributes:
        choice: the chosen message and the reason.
        frame: sensor data; None if unreadable. missing: reasons for everything that is not shown.
        detections: the detector's output in the sensor frame.
        labels: of pixels, and the names of the classes.
        objects: for a lidar, tracks if available, else fused boxes, else detections.
        ego_path: (T, 2) predicted positions of the vehicle, m.
        camera: for a lidar, the image of that moment with the tracks or the fused boxes.
    """

    choice: MomentChoice
    frame: CameraFrame | LidarFrame | None = None
    missing: list[str] = field(default_factory=list)
    detections: NamedDetections | None = None
    labels: tuple[Segmentation, tuple[str, ...]] | None = None
    objects: SceneObjects | None = None
    ego_path: np.ndarray | None = None
    camera: tuple[CameraFrame, SceneObjects, CameraModel, np.ndarray] | None = None


class SceneInputs:
    """The sensor messages around a chosen moment.

    Attributes:
        message: the chosen message, found by its stamp if known, else by its arrival.
    """

    def __init__(self) -> None:
        self.message: BagMessage | None = None
        self._models: dict[str, CameraModel] = {}
        self._images: dict[str, tuple[int, BagMessage]] = {}  # distance, and the nearest one

    def take(self, message: BagMessage, sensor: SensorStream, choice: MomentChoice) -> None:
        """Keep a message if it is needed; skip an unreadable one."""
        try:
            stamp_ns, frame_id = CdrReader(message.data).header()
            if message.message_type == CAMERA_INFO:
                self._models[frame_id] = parse_camera_info(message.data)
        except CodecError:
            stamp_ns, frame_id = None, ""
        if message.topic == sensor.topic and self.message is None:
            known = choice.stamp_ns is not None
            if (stamp_ns == choice.stamp_ns) if known else (message.log_ns == choice.near_ns):
                self.message = message
        if (
            message.message_type in IMAGES
            and not sensor.is_camera
            and stamp_ns is not None
            and choice.stamp_ns is not None
        ):
            away = abs(stamp_ns - choice.stamp_ns)
            if away <= _SAME_MOMENT_NS and (frame_id not in self._images or away < self._images[frame_id][0]):
                self._images[frame_id] = away, message

    def cameras(self) -> Iterator[tuple[CameraModel, CameraFrame]]:
        """Return the calibrated cameras, each with the image nearest to the choice."""
        for frame_id in sorted(self._models.keys() & self._images.keys()):
            model = self._models[frame_id]
            try:
                image = frame_of(self._images[frame_id][1])
            except CodecError:
                continue  # none to show
            if isinstance(image, CameraFrame) and image.pixels.shape[:2] == (model.height, model.width):
                yield model, image


class SceneReader:
    """Read scenes of a run.

    Args:
        bag: the recording. outputs: the output bag of the run. metrics: metrics of the run.
    """

    def __init__(self, bag: Bag, outputs: Bag, metrics: Mapping) -> None:
        self._bag, self._outputs = bag, outputs
        named = metrics["outputs"]
        kinds = {topic: output["type"] for topic, output in named.items() if topic in outputs.topics}
        boxes = [topic for topic, kind in sorted(kinds.items()) if kind == ARRAY_3D]
        inputs = {stream["node"]: stream["topic"] for stream in metrics["streams"].values()}
        self._tracks = next((topic for topic in boxes if topic.endswith("/tracks")), None)
        self._predictions = self._beside(self._tracks, boxes)
        self._fused = next(
            (t for t in boxes if t.endswith("/detections") and inputs.get(named[t]["node"]) in kinds), None
        )
        paths = [topic for topic, kind in sorted(kinds.items()) if kind == "nav_msgs/msg/Path"]
        self._ego = next((self._beside(path, boxes) for path in paths), None)
        self._static = [m.data for m in bag.messages(["/tf_static"])] if "/tf_static" in bag.topics else []

    @staticmethod
    def _beside(topic: str | None, boxes: list[str]) -> str | None:
        """Return the predictions topic of the node that publishes a topic."""
        other = f"{topic}".rpartition("/")[0] + "/predictions"
        return other if other in boxes else None

    def read(self, sensor: SensorStream, choice: MomentChoice, own: bool = False) -> ReportScene:
        """Read the scene of a choice; `missing` lists what cannot be read.

        With `own`, a lidar's picture shows the boxes of its detector, not the tracks or fused boxes.
        """
        scene = ReportScene(choice)
        inputs = self._read_inputs(sensor, choice)
        if inputs.message is None:
            scene.missing.append("the message is not in the recording")
            return scene
        try:
            scene.frame = frame_of(inputs.message)
        except CodecError as error:
            scene.missing.append(f"cannot be shown: {error}")
            return scene
        if choice.lost or choice.stamp_ns is None:
            return scene
        answers = self._answers(sensor, choice.stamp_ns, inputs.message.log_ns)
        if sensor.output is not None:
            scene.detections = answers.get(sensor.output)
        if sensor.labels is not None:
            scene.labels = self._labels(sensor, choice.stamp_ns, inputs.message.log_ns)
        if isinstance(scene.frame, LidarFrame):
            shown = (sensor.output,) if own else (self._tracks, self._fused, sensor.output)
            self._fill_space(scene, scene.frame, shown, inputs, answers)
        return scene

    def _read_inputs(self, sensor: SensorStream, choice: MomentChoice) -> SceneInputs:
        """Read the sensor messages around the choice, one at a time to save memory."""
        topics = [sensor.topic]
        if not sensor.is_camera:
            topics += self._bag.of_type(*IMAGES, CAMERA_INFO)
        start_ns, stop_ns = choice.near_ns - _BEFORE_NS, choice.near_ns + _AFTER_NS
        if choice.stamp_ns is not None:  # with synchronized clocks, messages are logged after their stamp
            start_ns = max(start_ns, min(choice.stamp_ns, choice.near_ns) - _SAME_MOMENT_NS)
        inputs = SceneInputs()
        for message in self._bag.messages(topics, start_ns, stop_ns):
            inputs.take(message, sensor, choice)
        return inputs

    def _answers(self, sensor: SensorStream, seen_ns: int, start_ns: int) -> dict[str, NamedDetections]:
        """Return the outputs for stamp `seen_ns` by topic, and the latest predicted path before it."""
        topics = (sensor.output, self._tracks, self._predictions, self._fused, self._ego)
        wanted = {topic for topic in topics if topic is not None}
        found: dict[str, NamedDetections] = {}
        for message in self._outputs.messages(
            sorted(wanted), start_ns - _SAME_MOMENT_NS, start_ns + _ANSWER_NS
        ):
            stamp_ns, _ = CdrReader(message.data).header()
            if message.topic == self._ego:
                if stamp_ns <= seen_ns or message.topic not in found:
                    found[message.topic] = decode_named_detections3d(message.data)
            elif stamp_ns == seen_ns:
                found[message.topic] = DECODERS[message.message_type](message.data)
            if len(found) == len(wanted) and stamp_ns > seen_ns:
                break
        return found

    def _labels(
        self, sensor: SensorStream, seen_ns: int, start_ns: int
    ) -> tuple[Segmentation, tuple[str, ...]] | None:
        """Return the labels of the image with stamp `seen_ns`."""
        span = start_ns - _SAME_MOMENT_NS, start_ns + _ANSWER_NS
        for message in self._outputs.messages([str(sensor.labels)], *span):
            stamp_ns, _ = CdrReader(message.data).header()
            if stamp_ns == seen_ns:
                return decode_segmentation(message.data, sensor.classes)[2], sensor.classes
        return None

    def _fill_space(
        self,
        scene: ReportScene,
        cloud: LidarFrame,
        shown: Sequence[str | None],
        inputs: SceneInputs,
        answers: dict[str, NamedDetections],
    ) -> None:
        transforms = self._transforms(scene.choice.near_ns)
        for topic in shown:
            if topic is None or topic not in answers:
                continue
            try:
                ahead = None
                if topic == self._tracks and self._predictions is not None:
                    ahead = answers.get(self._predictions)
                scene.objects = _objects(topic, answers[topic], ahead, cloud, transforms)
                break
            except TransformError as error:
                scene.missing.append(f"{topic} is not shown: {error}")
        if self._ego is not None and self._ego in answers:
            scene.ego_path = _from_its_start(answers[self._ego].detections.xyzlwh_yaw.astype(np.float64))
        if scene.objects is not None and scene.objects.ids:
            scene.camera = self._look(cloud, cloud.frame_id, scene.objects, inputs, transforms)
        elif self._fused in shown and self._fused is not None and self._fused in answers:
            fused = answers[self._fused]
            objects = SceneObjects(self._fused, fused.detections, fused.classes, fused.ids)
            scene.camera = self._look(cloud, fused.frame_id, objects, inputs, transforms)

    def _transforms(self, near_ns: int) -> TransformBuffer:
        buffer, moving = TransformBuffer(), []
        if "/tf" in self._bag.topics:
            start_ns, stop_ns = near_ns - _BEFORE_NS, near_ns + _AFTER_NS
            moving = [message.data for message in self._bag.messages(["/tf"], start_ns, stop_ns)]
        for messages, static in ((self._static, True), (moving, False)):
            for data in messages:
                buffer.add_message(data, static)  # the nodes report what is wrong on /diagnostics
        return buffer

    @staticmethod
    def _look(
        cloud: LidarFrame,
        frame_id: str,
        objects: SceneObjects,
        inputs: SceneInputs,
        transforms: TransformBuffer,
    ) -> tuple[CameraFrame, SceneObjects, CameraModel, np.ndarray] | None:
        """Return the image nearest to a cloud, its camera and the objects; None if none matches."""
        for model, image in inputs.cameras():
            try:
                camera_from_lidar = camera_way(transforms.lookup, model, frame_id, cloud.stamp_ns)
            except TransformError:
                continue
            return image, objects, model, camera_from_lidar
        return None


def _objects(
    topic: str,
    found: NamedDetections,
    ahead: NamedDetections | None,
    cloud: LidarFrame,
    transforms: TransformBuffer,
) -> SceneObjects:
    """Transform boxes and paths into the frame of the cloud; raise TransformError if that is impossible."""
    lidar_from = transforms.lookup(cloud.frame_id, found.frame_id, cloud.stamp_ns)
    boxes = found.detections.xyzlwh_yaw.astype(np.float64)
    boxes[:, :3] = transform(lidar_from, boxes[:, :3])
    boxes[:, 6] += np.arctan2(lidar_from[1, 0], lidar_from[0, 0])
    detections = Detections3D(boxes.astype(np.float32), found.detections.scores, found.detections.labels)
    tracked = topic.endswith("/tracks")
    notes = [f"#{id_}" if tracked else id_ for id_ in found.ids]
    paths = None if ahead is None else _paths(found.ids, ahead, lidar_from)
    return SceneObjects(topic, detections, found.classes, notes, paths, found.ids if tracked else ())


def _paths(ids: Sequence[str], ahead: NamedDetections, lidar_from: np.ndarray) -> np.ndarray | None:
    """Return predicted paths (N, T, 2) in the order of `ids`; None if a track lacks a moment."""
    places = transform(lidar_from, ahead.detections.xyzlwh_yaw[:, :3].astype(np.float64))[:, :2]
    by_id = [places[[row for row, id_ in enumerate(ahead.ids) if id_ == wanted]] for wanted in ids]
    return np.stack(by_id) if by_id and len({len(path) for path in by_id}) == 1 else None


def _from_its_start(boxes: np.ndarray) -> np.ndarray | None:
    """Return (T, 2) positions of (T, 7) boxes relative to the first pose."""
    if not len(boxes):
        return None
    cos, sin = np.cos(boxes[0, 6]), np.sin(boxes[0, 6])
    x, y = (boxes[:, :2] - boxes[0, :2]).T
    return np.column_stack((cos * x + sin * y, cos * y - sin * x))
