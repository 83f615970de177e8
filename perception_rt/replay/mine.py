"""Find the moments of a replay where camera and lidar, or detector and tracker, disagree most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception_rt.codec.detection_array import NamedDetections
from perception_rt.replay.bag import Bag, frames_of
from perception_rt.replay.export import (
    ARRAY_2D,
    ARRAY_3D,
    NEAR_NS,
    ExportTopic,
    boxes_in_picture,
    export,
    find_view,
    read_topics,
)
from perception_rt.replay.message_types import header_stamp_ns, typestore
from perception_rt.replay.report.choose import sensors_of
from perception_rt.replay.survey import Survey, survey_bag
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.stage.fusion.fuse import iou_2d
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.stage.road_users import ROAD_USERS, canonical
from perception_rt.types import CameraFrame, ConfigError

FOLDER = "mined"
SPACING_NS = 500_000_000
"""Least time between two moments of one kind."""
IOU, NEAR_M = 0.3, 2.0
"""From this overlap in the image, or up to this distance in space, two boxes are one object."""
FARTHEST_M = 50.0  # beyond, a lidar has too few points on a car
CAMERA_LIDAR, DETECTOR_TRACKER, HEALTH = "camera and lidar", "detector and tracker", "sensor health"
DIAGNOSTICS, HEALTH_NODE = "/diagnostics", "sensor_health"
LONGEST_CAPTION = 110


@dataclass(frozen=True)
class MinedMoment:
    """A moment to look at.

    Attributes:
        kind: what disagrees. stamp_ns: of the message. score: sum of the scores of boxes that only one has.
        detail: which boxes. topics: those to draw; two, or none.
    """

    kind: str
    stamp_ns: int
    score: float
    detail: str
    topics: tuple[str, ...] = ()


def mine(folder: Path, recording: Path, metrics: Mapping[str, Any], count: int) -> list[MinedMoment]:
    """Write the `count` moments with the most disagreement to `folder/mined`.

    Pictures with the boxes of both sides lie in `pictures/`; the raw images with labels in `coco/` and
    `kitti/`, for labelling tools and `perception-rt train`: the boxes of the replay, and those that the
    recording itself has, as ground truth. `moments.json` lists the moments.

    Args:
        folder: output of a replay. recording: what was replayed. metrics: content of metrics.json.

    Raises:
        ConfigError: the replay has no detections. BagError: a bag cannot be read.
    """
    out = folder / FOLDER
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as stack:
        outputs = stack.enter_context(Bag(folder / "bag"))
        sensors = stack.enter_context(Bag(recording, salvage=True))
        topics = {topic.name: topic for topic in read_topics(outputs, sensors)}
        survey = survey_bag(sensors, None)
        found = [
            *_camera_and_lidar(topics, metrics, survey),
            *_detector_and_tracker(topics, metrics),
            *_health(outputs),
        ]
        moments = choose_moments(found, count)
        out.mkdir()
        (out / "moments.json").write_text(json.dumps([one.__dict__ for one in moments], indent=1) + "\n")
        if moments:
            _write_labels([*topics.values(), *_recorded(sensors)], moments, sensors, out)
            _draw(topics, moments, sensors, survey, out / "pictures")
    return moments


def choose_moments(found: Sequence[MinedMoment], count: int) -> list[MinedMoment]:
    """Return the strongest moments of each kind in turn, by time; no two of a kind close together."""
    queues = []
    for kind in (HEALTH, CAMERA_LIDAR, DETECTOR_TRACKER):
        ordered = sorted(
            (one for one in found if one.kind == kind), key=lambda one: (-one.score, one.stamp_ns)
        )
        apart: list[MinedMoment] = []
        for one in ordered:
            if one.score > 0 and all(abs(one.stamp_ns - other.stamp_ns) >= SPACING_NS for other in apart):
                apart.append(one)
        queues.append(apart)
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return sorted(turns[:count], key=lambda one: (one.stamp_ns, one.kind))


# Disagreement.


def _camera_and_lidar(
    topics: Mapping[str, ExportTopic], metrics: Mapping[str, Any], survey: Survey
) -> Iterator[MinedMoment]:
    detectors = [sensor for sensor in sensors_of(metrics) if sensor.output in topics]
    for camera in (topics[one.output] for one in detectors if one.is_camera and one.output):
        for lidar in (topics[one.output] for one in detectors if not one.is_camera and one.output):
            frame = next((message.frame_id for message in camera.messages.values()), "")
            seen = replace(lidar)
            if not lidar.messages or ((seen.view is None or frame) and not find_view(seen, survey, frame)):
                continue
            for stamp_ns, message in camera.messages.items():
                other = _nearest(lidar, stamp_ns)
                if other is not None and seen.view is not None and other.stamp_ns in seen.view.poses:
                    yield _in_image(camera, message, seen, other)


def _nearest_stamp(topic: ExportTopic, stamp_ns: int, within_ns: int) -> int | None:
    stamp = min(topic.messages, key=lambda other: abs(other - stamp_ns), default=None)
    return stamp if stamp is not None and abs(stamp - stamp_ns) <= within_ns else None


def _nearest(topic: ExportTopic, stamp_ns: int) -> NamedDetections | None:
    stamp = _nearest_stamp(topic, stamp_ns, NEAR_NS)
    return None if stamp is None else topic.messages[stamp]


def _in_image(
    camera: ExportTopic, seen: NamedDetections, lidar: ExportTopic, other: NamedDetections
) -> MinedMoment:
    """Compare the road users of a camera with those of a lidar that should be in its image."""
    assert lidar.view is not None
    pose = lidar.view.poses[other.stamp_ns]
    projected = project_boxes(other.detections.xyzlwh_yaw, lidar.view.model, pose)
    asked = (projected.share >= 0.5) & (projected.depth <= FARTHEST_M)
    boxes, _ = boxes_in_picture(camera, seen)
    same = iou_2d(boxes, projected.xyxy) >= IOU
    users = np.array([canonical(name) in ROAD_USERS for name in _names(seen)], bool)
    alone = users & ~same.any(1)
    unseen = asked & ~same[users].any(0)
    return _moment(CAMERA_LIDAR, seen, (camera.name, alone), (lidar.name, unseen), other)


def _detector_and_tracker(
    topics: Mapping[str, ExportTopic], metrics: Mapping[str, Any]
) -> Iterator[MinedMoment]:
    for tracks in topics.values():
        if not tracks.name.endswith("/tracks") or tracks.name not in metrics["outputs"]:
            continue
        node = metrics["outputs"][tracks.name]["node"]
        for stream in metrics["streams"].values():
            source = topics.get(stream["topic"])
            if stream["node"] != node or source is None or source.is_3d != tracks.is_3d:
                continue
            for stamp_ns, message in source.messages.items():
                found = tracks.messages.get(stamp_ns)
                if found is not None and found.frame_id == message.frame_id:
                    same = _same(message, found, tracks.is_3d)
                    one, other = np.logical_not(same.any(1)), np.logical_not(same.any(0))
                    yield _moment(DETECTOR_TRACKER, message, (source.name, one), (tracks.name, other), found)


def _same(one: NamedDetections, other: NamedDetections, is_3d: bool) -> np.ndarray:
    """(N, M) bool, which boxes may be one object."""
    if not is_3d:
        return iou_2d(one.detections.upright().xyxy, other.detections.upright().xyxy) >= IOU
    between = one.detections.xyzlwh_yaw[:, None, :2] - other.detections.xyzlwh_yaw[None, :, :2]
    return np.hypot(between[..., 0], between[..., 1]) <= NEAR_M


def _moment(
    kind: str,
    message: NamedDetections,
    one: tuple[str, np.ndarray],
    other: tuple[str, np.ndarray],
    answer: NamedDetections,
) -> MinedMoment:
    total, told = 0.0, []
    for (topic, alone), said in ((one, message), (other, answer)):
        total += float(said.detections.scores[alone].sum())
        named = zip(_names(said), said.detections.scores, alone, strict=True)
        names = [f"{name} {score:.2f}" for name, score, is_alone in named if is_alone]
        told += [f"only {topic}: {', '.join(names[:6])}"] if names else []
    return MinedMoment(kind, message.stamp_ns, round(total, 3), "; ".join(told), (one[0], other[0]))


def _names(message: NamedDetections) -> list[str]:
    return [message.classes[label] for label in message.detections.labels]


def _health(outputs: Bag) -> Iterator[MinedMoment]:
    """Yield each new fault that a sensor_health node reported."""
    last: dict[str, str] = {}
    for message in outputs.messages([DIAGNOSTICS]) if DIAGNOSTICS in outputs.topics else ():
        array: Any = typestore().deserialize_cdr(message.data, message.message_type)
        stamp_ns = array.header.stamp.sec * 10**9 + array.header.stamp.nanosec
        for status in array.status:
            node, of_sensor, _ = status.name.partition(":")
            if not of_sensor or node.rpartition("/")[2] != HEALTH_NODE:
                continue
            level = int(status.level)
            if level > 0 and last.get(status.name) != status.message:
                yield MinedMoment(HEALTH, stamp_ns, float(level), f"{status.name}: {status.message}")
            last[status.name] = status.message if level > 0 else ""


# What is written.


def _recorded(recording: Bag) -> list[ExportTopic]:
    """The boxes in a recording itself."""
    return read_topics(recording, recording) if recording.of_type(ARRAY_2D, ARRAY_3D) else []


def _write_labels(
    topics: Sequence[ExportTopic], moments: Sequence[MinedMoment], recording: Bag, out: Path
) -> None:
    """Write images and labels of the moments; a sensor's own topics, and fused ones."""
    chosen = []
    for topic in topics:
        near = [_nearest_stamp(topic, one.stamp_ns, SPACING_NS) for one in moments]
        stamps = {stamp for stamp in near if stamp is not None}
        messages = {stamp: topic.messages[stamp] for stamp in sorted(stamps)}
        pictures = {stamp: topic.pictures[stamp] for stamp in messages if stamp in topic.pictures}
        if pictures and not topic.stamps:
            chosen.append(replace(topic, messages=messages, pictures=pictures))
    for how in ("coco", "kitti") if chosen else ():
        with suppress(ConfigError):  # none of these pictures can be decoded
            export(chosen, recording, how, out / how, True)


def _draw(
    topics: Mapping[str, ExportTopic],
    moments: Sequence[MinedMoment],
    recording: Bag,
    survey: Survey,
    folder: Path,
) -> None:
    """Draw each moment: both sides, one below the other; a fault of a sensor as its plain picture."""
    folder.mkdir()
    pictured = [name for name, topic in topics.items() if topic.picture]
    times = {picture: _times(recording, picture) for picture in {topics[name].picture for name in pictured}}
    for number, moment in enumerate(moments):
        names = moment.topics or (pictured or list(topics))[:1]
        picture = next((topics[name].picture for name in names if topics[name].picture), "")
        image = _image(recording, picture, times.get(picture, []), moment.stamp_ns)
        parts = []
        for name in names:
            message = _nearest(topics[name], moment.stamp_ns) if moment.topics else None
            shown = {} if message is None else {message.stamp_ns: message}
            topic = replace(topics[name], messages=shown, view=None)
            if topic.is_3d and image is not None:
                find_view(topic, survey, image.frame_id)
            parts.append(_side(topic, message, image, moment))
        width = max(part.shape[1] for part in parts)
        parts = [cv2.copyMakeBorder(p, 0, 0, 0, width - p.shape[1], cv2.BORDER_CONSTANT) for p in parts]
        path = folder / f"{number:03d}_{moment.kind.replace(' ', '_')}_{moment.stamp_ns}.jpg"
        cv2.imwrite(str(path), np.vstack(parts)[:, :, ::-1])


def _times(recording: Bag, topic: str) -> list[tuple[int, int]]:
    """Return stamp and log time of each image of a camera."""
    stamped = ((header_stamp_ns(one.data), one.log_ns) for one in recording.messages([topic]))
    return [(stamp_ns, log_ns) for stamp_ns, log_ns in stamped if stamp_ns is not None]


def _image(recording: Bag, topic: str, times: Sequence[tuple[int, int]], stamp_ns: int) -> CameraFrame | None:
    """Return the image of a camera nearest to a stamp, of those that can be decoded."""
    for at_ns, log_ns in sorted(times, key=lambda one: abs(one[0] - stamp_ns)):
        for _, frame in frames_of(recording.messages([topic], log_ns, log_ns + 1)):
            if isinstance(frame, CameraFrame) and frame.stamp_ns == at_ns:
                return frame
    return None


def _side(
    topic: ExportTopic, message: NamedDetections | None, image: CameraFrame | None, moment: MinedMoment
) -> np.ndarray:
    """Return an RGB picture with the boxes of one side and a caption."""
    pixels = None if image is None else image.pixels[:, :, ::-1] if image.bgr else image.pixels
    if message is not None and not topic.is_3d and pixels is not None:
        drawn = draw_detections(pixels, message.detections, message.classes)
    elif message is not None and topic.view is not None and pixels is not None:
        pose = topic.view.poses[message.stamp_ns]
        drawn = draw_boxes3d(pixels, message.detections, message.classes, topic.view.model, pose)
    elif message is not None and topic.is_3d:
        drawn = draw_bev(np.zeros((0, 4), np.float32), message.detections, message.classes)
    else:
        drawn = np.zeros((64, 640, 3), np.uint8) if pixels is None else np.ascontiguousarray(pixels)
    said = topic.name if moment.topics else moment.detail
    strip = np.full((28, drawn.shape[1], 3), 24, np.uint8)
    place, white = (8, 20), (240, 240, 240)
    cv2.putText(strip, said[:LONGEST_CAPTION], place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1, cv2.LINE_AA)
    return np.vstack([strip, drawn])


def check_count(count: int | None) -> None:
    """Check `--mine`.

    Raises:
        ConfigError: not from 1 to 1000.
    """
    if count is not None and not 1 <= count <= 1000:
        raise ConfigError(f"--mine={count}: must be from 1 to 1000")
