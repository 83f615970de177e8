"""Write detections, tracks and predictions in the formats of other tools: COCO, KITTI, MOT, YOLO, CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.replay.bag import Bag, frames_of
from perception_rt.replay.message_types import header_stamp_ns, typestore
from perception_rt.replay.survey import Survey, survey_bag
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.stage.transforms import camera_way, transform
from perception_rt.types import (
    BagError,
    CameraFrame,
    CodecError,
    ConfigError,
    Detections2D,
    LidarFrame,
    TransformError,
)

ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CLOUD, CAMERA_INFO = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo"
_FOLDERS = {"yolo": "{}/images", "kitti": "{}/image_2"}
"""Where the tools of a format look for the pictures of a topic."""
FORMATS = ("coco", "kitti", "mot", "yolo", "csv")
_SEEN = ("coco", "kitti", "yolo")
"""Formats of boxes as a camera sees them."""
NEAR_NS = 60_000_000
"""How far the stamps of boxes in space may be from those of the picture, ns."""
UNKNOWN_3D = "-1 -1 -1 -1000 -1000 -1000 -10"  # what KITTI writes for "not known"


@dataclass(frozen=True)
class ExportCamera:
    """A camera, and where it is for each message of boxes.

    Attributes:
        poses: (4, 4) by stamp of the message, takes points of its frame to where K and D of the model hold;
            none where the recording has no transforms of that time.
    """

    model: CameraModel
    poses: Mapping[int, np.ndarray]


@dataclass
class ExportTopic:
    """The messages of one topic of detections.

    Attributes:
        name: of the topic. is_3d: whether its boxes are in space.
        messages: decoded, by stamp in ns, in their order. stamps: of each box where they differ, by stamp.
        sensor: the topic of the sensor whose frames they answer; empty if not found.
        frames: number of the frame by stamp: the k-th message of the sensor, from 0.
        picture: the topic of the images that show the boxes; empty if there is none.
        pictures: number of the image by stamp of the boxes, counted like `frames`.
        size: width and height of the images, px; zeros if not known.
        view: the camera of boxes in space.
    """

    name: str
    is_3d: bool
    messages: dict[int, NamedDetections] = field(default_factory=dict)
    stamps: dict[int, list[int]] = field(default_factory=dict)
    sensor: str = ""
    frames: dict[int, int] = field(default_factory=dict)
    picture: str = ""
    pictures: dict[int, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    view: ExportCamera | None = None

    @property
    def file_name(self) -> str:
        """The topic as a file name."""
        return self.name.strip("/").replace("/", "_")

    def numbered(self) -> Iterator[tuple[int, NamedDetections]]:
        """Yield each message with the number of its frame."""
        for place, (stamp_ns, message) in enumerate(self.messages.items()):
            yield self.frames.get(stamp_ns, place), message

    def pictured(self) -> Iterator[tuple[int, NamedDetections]]:
        """Yield each message that has a picture with the number of that."""
        for stamp_ns, message in self.messages.items():
            if stamp_ns in self.pictures:
                yield self.pictures[stamp_ns], message

    @property
    def has_tracks(self) -> bool:
        """Whether the ids are track ids: each at most once in a message."""
        ids = [[id_ for id_ in message.ids if id_] for message in self.messages.values()]
        return any(ids) and all(len(set(one)) == len(one) for one in ids)

    @property
    def unposed(self) -> int:
        """Of how many messages the camera's pose is not known."""
        return 0 if self.view is None else len(self.messages.keys() - self.view.poses.keys())

    @property
    def unfit(self) -> str:
        """Why the boxes are not those of a picture or frame; empty if they are."""
        if self.stamps:
            return "left out: predictions are of later times than the frame; use csv"
        return ""

    @property
    def unpictured(self) -> str:
        """Why the boxes cannot be drawn in pictures; empty if they can."""
        if self.is_3d and self.view is None:
            return "left out: boxes in space, and no camera with CameraInfo and transforms to them"
        if not self.pictures:
            return "left out: no pictures of their times in the recording"
        return self.unfit


def read_topics(detections: Bag, recording: Bag, topics: Sequence[str] = ()) -> list[ExportTopic]:
    """Read topics of detections, and number their frames by those of the sensors.

    Args:
        detections: what a replay wrote, or any recording. recording: of the sensors.
        topics: names; empty for all.

    Raises:
        ConfigError: a topic is not there, or there is none. BagError: a message cannot be read.
    """
    there = detections.of_type(ARRAY_2D, ARRAY_3D)
    if missing := sorted(set(topics) - set(there)):
        raise ConfigError(
            f"--topic={missing[0]}: not there; topics of detections are {', '.join(there) or 'none'}"
        )
    if not there:
        raise ConfigError("there is no topic of type Detection2DArray or Detection3DArray")
    sensors = {name: _stamps(recording, name) for name in recording.of_type(*IMAGES, CLOUD)}
    survey, found = survey_bag(recording, None), []
    for name in topics or there:
        kind = detections.topics[name][0]
        topic = ExportTopic(name, kind == ARRAY_3D)
        decode: Callable = decode_named_detections3d if topic.is_3d else decode_named_detections
        for message in detections.messages([name]):
            try:
                decoded = decode(message.data)
            except CodecError as error:
                raise BagError(f"{name} at {message.log_ns} ns: {error}") from error
            topic.messages[decoded.stamp_ns] = decoded
            if name.endswith("predictions"):
                topic.stamps[decoded.stamp_ns] = _box_stamps(kind, message.data)
        _find_sensor(topic, sensors, recording)
        _find_pictures(topic, sensors, recording, survey)
        found.append(topic)
    return found


def _stamps(bag: Bag, topic: str) -> list[int]:
    return [stamp for m in bag.messages([topic]) if (stamp := header_stamp_ns(m.data)) is not None]


def _box_stamps(kind: str, data: bytes) -> list[int]:
    """Return the stamp of each box; that of a prediction is the predicted time."""
    stamps = [one.header.stamp for one in typestore().deserialize_cdr(data, kind).detections]  # type: ignore[attr-defined]
    return [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps]


def _find_sensor(topic: ExportTopic, sensors: Mapping[str, list[int]], recording: Bag) -> None:
    """Find the sensor with the same stamps; of several, the one whose name is most alike."""

    def common(name: str) -> tuple[int, bool, bool, bool]:
        whole = name.removesuffix("/compressed")
        is_cloud = recording.topics[name][0] == CLOUD
        alike = whole in topic.name, whole.rpartition("/")[0] in topic.name
        return len(topic.messages.keys() & set(sensors[name])), is_cloud == topic.is_3d, *alike

    best = max(sensors, key=common, default="")
    if best and common(best)[0]:
        topic.sensor = best
        topic.frames = {stamp: number for number, stamp in enumerate(sensors[best])}


def _find_pictures(
    topic: ExportTopic, sensors: Mapping[str, list[int]], recording: Bag, survey: Survey
) -> None:
    """Find the images that show the boxes, and for boxes in space the camera and its pose."""
    picture = topic.sensor if not topic.is_3d else find_view(topic, survey)
    stamps = np.array(sensors.get(picture, []), np.int64)
    if recording.topics.get(picture, ("",))[0] not in IMAGES or not len(stamps):
        return
    shown = next((frame for _, frame in frames_of(recording.messages([picture]))), None)
    if not isinstance(shown, CameraFrame):
        return  # none of the images can be decoded
    topic.picture, topic.size = picture, (shown.pixels.shape[1], shown.pixels.shape[0])
    for stamp_ns in topic.messages if topic.view is None else topic.view.poses:
        nearest = int(np.abs(stamps - stamp_ns).argmin())
        if abs(int(stamps[nearest]) - stamp_ns) <= NEAR_NS * topic.is_3d:
            topic.pictures[stamp_ns] = nearest


def find_view(topic: ExportTopic, survey: Survey, frame: str = "") -> str:
    """Set the first camera from which transforms lead to the boxes; return the topic of its images.

    Args:
        topic: of boxes in space. survey: of the recording, with all transforms: between a vehicle and a
            fixed frame they change from message to message. frame: only the camera of this frame.
    """
    frame = frame.removeprefix("/")
    cameras = {one.frame_id: one.name for one in reversed(survey.of_type(*IMAGES))}
    for info in survey.of_type(CAMERA_INFO):
        if frame and info.frame_id != frame:
            continue
        try:
            model = parse_camera_info(info.sample or b"")
        except CodecError:
            continue
        if poses := _poses(topic, model, survey):
            topic.view = ExportCamera(model, poses)
            return cameras.get(info.frame_id, "")
    return ""


def _poses(topic: ExportTopic, model: CameraModel, survey: Survey) -> dict[int, np.ndarray]:
    poses = {}
    for stamp_ns, message in topic.messages.items():
        with suppress(TransformError):
            poses[stamp_ns] = camera_way(survey.transforms.lookup, model, message.frame_id, stamp_ns)
    return poses


def export(topics: Sequence[ExportTopic], recording: Bag, how: str, out: Path, images: bool) -> list[str]:
    """Write topics in a format; return a line for each file or topic that is left out.

    Args:
        topics: see `read_topics`. recording: of the sensors.
        how: one of `FORMATS`. out: folder, created. images: also write the pictures.

    Raises:
        ConfigError: `how` is unknown, or nothing can be written in this format.
    """
    writers = {"coco": _coco, "kitti": _kitti, "mot": _mot, "yolo": _yolo, "csv": _csv}
    if how not in writers:
        raise ConfigError(f"--format={how}: must be one of {', '.join(FORMATS)}")
    out.mkdir(parents=True, exist_ok=True)
    lines, written = [], 0
    for topic in topics:
        folder = out / _FOLDERS.get(how, "images").format(topic.file_name)
        asked = set(topic.pictures.values()) if images and (how == "csv" or not topic.unfit) else set()
        there = write_images(recording, topic.picture, asked, folder) if asked else set()
        if asked:  # none is labelled that cannot be decoded
            shown = {stamp: number for stamp, number in topic.pictures.items() if number in there}
            topic = replace(topic, pictures=shown)
        told, count = writers[how](topic, out, images)
        lines.append(f"{topic.name}: {told}")
        if how in _SEEN and count and topic.unposed:
            lines.append(f"{topic.name}: {topic.unposed} messages left out: no transforms of their times")
        written += count
        if asked:
            broken = f", {len(asked - there)} cannot be decoded" if asked - there else ""
            lines.append(f"{topic.picture}: {len(there)} pictures{broken}")
            if how == "kitti" and topic.is_3d and (number := write_clouds(recording, topic, folder.parent)):
                lines.append(f"{topic.sensor}: {number} clouds")
    if not written:
        raise ConfigError(f"--format={how}: nothing can be written: {'; '.join(lines)}")
    return lines


def write_images(recording: Bag, sensor: str, numbers: Collection[int], folder: Path) -> set[int]:
    """Write some images of a camera as PNG, numbered from 0; return those that could be decoded."""
    written: set[int] = set()
    for number, message in enumerate(recording.messages([sensor])):
        for _, frame in frames_of([message]) if number in numbers else ():
            assert isinstance(frame, CameraFrame)
            _write_image(frame, folder / image_name(sensor, number))
            written.add(number)
    return written


def _write_image(frame: CameraFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = frame.pixels if frame.bgr else frame.pixels[:, :, ::-1]
    cv2.imwrite(str(path), np.ascontiguousarray(pixels))


def write_clouds(recording: Bag, topic: ExportTopic, folder: Path) -> int:
    """Write the clouds of boxes in space as KITTI's `velodyne` and `calib`; return how many.

    They have the numbers of the pictures. Boxes of another frame than their cloud's have none.
    """
    assert topic.view is not None  # it has pictures
    if recording.topics.get(topic.sensor, ("",))[0] != CLOUD:
        return 0
    rows = {"P2": np.column_stack([topic.view.model.k, np.zeros(3)]), "R0_rect": np.eye(3)}
    count = 0
    stamps = topic.pictures.keys() & topic.messages.keys()
    seen = (one for one in recording.messages([topic.sensor]) if header_stamp_ns(one.data) in stamps)
    for _, frame in frames_of(seen):
        stamp = frame.stamp_ns
        if not isinstance(frame, LidarFrame) or frame.frame_id != topic.messages[stamp].frame_id:
            continue
        name = Path(image_name(topic.picture, topic.pictures[stamp]))
        for kind in ("velodyne", "calib"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        np.ascontiguousarray(frame.points, "<f4").tofile((folder / "velodyne" / name).with_suffix(".bin"))
        rows["Tr_velo_to_cam"] = topic.view.poses[stamp][:3]
        lines = [f"{key}: {' '.join(f'{v:.9e}' for v in m.ravel())}\n" for key, m in rows.items()]
        (folder / "calib" / name).with_suffix(".txt").write_text("".join(lines))
        count += 1
    return count


def image_name(sensor: str, frame: int) -> str:
    """Return the path of a picture: a folder for each camera, and the number of the image."""
    return f"{sensor.strip('/').replace('/', '_')}/{frame:06d}.png"


def _upright(message: NamedDetections) -> np.ndarray:
    """(N, 4) px, the upright boxes."""
    found: Detections2D = message.detections
    return found.upright().xyxy


def _names(message: NamedDetections) -> list[str]:
    return [message.classes[label] for label in message.detections.labels]


def boxes_in_picture(topic: ExportTopic, message: NamedDetections) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 4) px, and which of them are in the picture: all in 2D, those in view in 3D."""
    if not topic.is_3d:
        return _upright(message), np.ones(len(message.detections), bool)
    assert topic.view is not None
    pose = topic.view.poses[message.stamp_ns]
    projected = project_boxes(message.detections.xyzlwh_yaw, topic.view.model, pose)
    return projected.xyxy, projected.visible


# Formats. Each returns what was written, in words, and the number of frames.


def _coco(topic: ExportTopic, out: Path, images: bool) -> tuple[str, int]:
    if topic.unpictured:
        return topic.unpictured, 0
    width, height = topic.size
    classes: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for frame, message in topic.pictured():
        name = image_name(topic.picture, frame)
        listed.append({"id": frame + 1, "file_name": name, "width": width, "height": height})
        listed[-1]["stamp_ns"] = message.stamp_ns
        xyxy, shown = boxes_in_picture(topic, message)
        for k, kind in enumerate(_names(message)):
            if not shown[k]:
                continue
            x, y, right, bottom = (round(float(value), 3) for value in xyxy[k])
            box = {"id": len(boxes) + 1, "image_id": frame + 1}
            box["category_id"] = classes.setdefault(kind, len(classes) + 1)
            boxes.append(
                box
                | {
                    "bbox": [x, y, round(right - x, 3), round(bottom - y, 3)],
                    "area": round((right - x) * (bottom - y), 3),
                    "iscrowd": 0,
                    "score": round(float(message.detections.scores[k]), 6),
                }
                | ({"track_id": message.ids[k]} if topic.has_tracks and message.ids[k] else {})
            )
    content = {
        "info": {"description": topic.name},
        "images": listed,
        "annotations": boxes,
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in classes.items()],
    }
    (out / f"{topic.file_name}.json").write_text(json.dumps(content))
    return f"{len(boxes)} boxes in {topic.file_name}.json", len(listed)


def _kitti(topic: ExportTopic, out: Path, images: bool) -> tuple[str, int]:
    if topic.unfit or (topic.is_3d and topic.view is None):
        return topic.unfit or topic.unpictured, 0
    view, has_tracks = topic.view, topic.has_tracks
    paired = images and bool(topic.pictures)  # with pictures, labels have their numbers
    folder = out / topic.file_name / (Path("label_2", image_name(topic.picture, 0)).parent if paired else ".")
    folder.mkdir(parents=True, exist_ok=True)
    tracked, ids = [], _Numbers()
    count = 0
    for frame, message in topic.pictured() if paired else topic.numbered():
        if view is not None and message.stamp_ns not in view.poses:
            continue
        xyxy, shown = boxes_in_picture(topic, message)
        lines = []
        for k, kind in enumerate(_names(message)):
            if not shown[k]:
                continue
            solid, alpha = UNKNOWN_3D, -10.0
            if view is not None:
                pose = view.poses[message.stamp_ns]
                solid, alpha = kitti_box(message.detections.xyzlwh_yaw[k], pose)
            box = " ".join(f"{value:.2f}" for value in xyxy[k])
            label = f"{kind.replace(' ', '_') or 'DontCare'} -1 -1 {alpha:.4f} {box} {solid}"
            label += f" {message.detections.scores[k]:.4f}"
            lines.append(label)
            if has_tracks and message.ids[k]:
                tracked.append(f"{frame} {ids.of(message.ids[k])} {label}")
        (folder / f"{frame:06d}.txt").write_text("".join(f"{line}\n" for line in lines))
        count += 1
    if tracked:
        (out / f"{topic.file_name}_tracking.txt").write_text("".join(f"{line}\n" for line in tracked))
    return f"{count} label files in {folder.relative_to(out)}/", count


def kitti_box(box: np.ndarray, camera_from_boxes: np.ndarray) -> tuple[str, float]:
    """Return height, width, length, bottom centre and ry of a box as KITTI writes them, and alpha.

    Args:
        box: (7,) xyzlwh_yaw. camera_from_boxes: (4, 4), from its frame to the optical frame.
    """
    x, y, z, length, width, height, yaw = map(float, box)
    centre = transform(camera_from_boxes, np.array([[x, y, z]]))[0]
    bottom = centre + np.array([0.0, height / 2, 0.0])  # y points down
    ahead = camera_from_boxes[:3, :3] @ [np.cos(yaw), np.sin(yaw), 0.0]
    ry = float(np.arctan2(-ahead[2], ahead[0]))
    alpha = (ry - np.arctan2(bottom[0], bottom[2]) + np.pi) % (2 * np.pi) - np.pi
    numbers = (height, width, length, *bottom, ry)
    return " ".join(f"{value:.4f}" for value in numbers), float(alpha)


class _Numbers:
    """A number for each id, in the order of first appearance; numbers stay."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, id_: str) -> int:
        if id_.isdecimal() and len(id_) < 10:
            return int(id_)
        return self._numbers.setdefault(id_, 10**9 + len(self._numbers))


def _mot(topic: ExportTopic, out: Path, images: bool) -> tuple[str, int]:
    if topic.unfit:
        return topic.unfit, 0
    ids, rows, has_tracks = _Numbers(), [], topic.has_tracks
    for frame, message in topic.numbered():
        for k, score in enumerate(message.detections.scores):
            number = ids.of(message.ids[k]) if has_tracks and message.ids[k] else -1
            if topic.is_3d:
                x, y, z = message.detections.xyzlwh_yaw[k, :3]
                box = f"-1,-1,-1,-1,{score:.4f},{x:.3f},{y:.3f},{z:.3f}"
            else:
                left, top, right, bottom = _upright(message)[k]
                box = f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},{score:.4f},-1,-1,-1"
            rows.append(f"{frame + 1},{number},{box}\n")
    (out / f"{topic.file_name}.txt").write_text("".join(rows))
    return f"{len(rows)} rows in {topic.file_name}.txt", len(topic.messages)


def _yolo(topic: ExportTopic, out: Path, images: bool) -> tuple[str, int]:
    if topic.unpictured:
        return topic.unpictured, 0
    width, height = topic.size
    classes: dict[str, int] = {}
    folder = out / topic.file_name / "labels" / Path(image_name(topic.picture, 0)).parent
    folder.mkdir(parents=True, exist_ok=True)
    for frame, message in topic.pictured():
        xyxy, shown = boxes_in_picture(topic, message)
        clipped = np.clip(xyxy, 0, [width, height, width, height])
        lines = []
        for k, kind in enumerate(_names(message)):
            left, top, right, bottom = clipped[k]
            if not shown[k] or right <= left or bottom <= top:
                continue
            centre = ((left + right) / 2 / width, (top + bottom) / 2 / height)
            extent = ((right - left) / width, (bottom - top) / height)
            label = classes.setdefault(kind, len(classes))
            numbers = " ".join(f"{value:.6f}" for value in (*centre, *extent))
            lines.append(f"{label} {numbers}\n")
        (folder / f"{frame:06d}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {json.dumps(name)}\n" for name, number in classes.items())
    text = f"path: .\ntrain: images\nval: images\nnames:{chr(10) + names if names else ' {}' + chr(10)}"
    (out / topic.file_name / "data.yaml").write_text(text)
    return f"{len(topic.pictures)} label files in {folder.relative_to(out)}/", len(topic.pictures)


def _csv(topic: ExportTopic, out: Path, images: bool) -> tuple[str, int]:
    box = (
        ("x", "y", "z", "length", "width", "height", "yaw")
        if topic.is_3d
        else ("x1", "y1", "x2", "y2", "theta")
    )
    with (out / f"{topic.file_name}.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("frame", "stamp_ns", "for_stamp_ns", "frame_id", "class", "score", "id", *box))
        count = 0
        for frame, message in topic.numbered():
            found = message.detections
            ahead = topic.stamps.get(message.stamp_ns, [])
            for k, kind in enumerate(_names(message)):
                if topic.is_3d:
                    values: Iterable[float] = found.xyzlwh_yaw[k]
                else:
                    values = (*found.xyxy[k], 0.0 if found.theta is None else found.theta[k])
                at = ahead[k] if len(ahead) == len(found) else message.stamp_ns
                head = (frame, message.stamp_ns, at, message.frame_id, kind, f"{found.scores[k]:.6g}")
                rows.writerow((*head, message.ids[k], *(f"{value:.6g}" for value in values)))
                count += 1
    return f"{count} rows in {topic.file_name}.csv", len(topic.messages)
