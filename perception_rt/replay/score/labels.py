"""Read label files as ground truth: KITTI's object and tracking benchmarks, and MOTChallenge.

KITTI labels objects in the view of its left colour camera. As in its development kits, these objects are
ignored: occluded beyond "largely", truncated (object benchmark: by more than half), lower than 25 px in the
image, or `Person_sitting`. Detections in a `DontCare` region or, in space, outside of the camera's view are
not false positives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_rt.replay.kitti import (
    DONT_CARE,
    Calibration,
    Labels,
    boxes_in_velodyne,
    read_calibration,
    read_object_labels,
    read_tracking_labels,
)
from perception_rt.replay.kitti_tracking import LEAST_HEIGHT, MOST_OCCLUDED
from perception_rt.replay.mot import MotFrame, read_mot
from perception_rt.replay.score.truth import BoxTruth, Moment, View
from perception_rt.stage.road_users import canonical
from perception_rt.types import BagError

MOST_TRUNCATED = 0.5  # of an object's box in the object benchmark; the tracking benchmark's 1 means partly
IMAGE_SIZE = (1242, 375)  # px, of KITTI's rectified images
FRAME_FILE = re.compile(r"\d+\.txt")
PEDESTRIAN = ("pedestrian",)


class LabelledSensor(NamedTuple):
    """A sensor with labels.

    Attributes:
        topic, frame_id: of its messages.
        stamps_ns: of its messages, in recorded order.
        flat: whether it is a camera.
    """

    topic: str
    frame_id: str
    stamps_ns: tuple[int, ...]
    flat: bool


def read_labels(path: Path, sensors: Sequence[LabelledSensor]) -> list[BoxTruth]:
    """Read the truth of label files for each sensor; see `sources.load_truth` for the formats.

    Raises:
        BagError: a file cannot be read, or labels a frame that the recording does not have.
    """
    if path.is_dir():
        return _kitti_objects(path, sensors)
    if _is_mot(path):
        return [_mot(path, sensor) for sensor in sensors if sensor.flat]
    labels = read_tracking_labels(path)
    calibrations = _Calibrations(path.parent.parent / "calib" / path.name)
    name = f"KITTI tracking labels {path.name}"
    # A tracking file has no rows for frames without objects, so every frame of the recording is labelled.
    return [
        _kitti(name, labels, range(len(sensor.stamps_ns)), sensor, calibrations, 0.0) for sensor in sensors
    ]


def _is_mot(path: Path) -> bool:
    try:
        with path.open() as file:
            return "," in file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error


def _kitti_objects(folder: Path, sensors: Sequence[LabelledSensor]) -> list[BoxTruth]:
    files = {int(path.stem): path for path in folder.glob("*.txt") if FRAME_FILE.fullmatch(path.name)}
    if not files:
        raise BagError(f"{folder}: no label files; expected names are 000000.txt, 000001.txt, ...")
    labels = {number: read_object_labels(files[number]) for number in sorted(files)}
    # A recording is one drive, so that all frames have the calibration of the first.
    calibrations = _Calibrations(folder.parent / "calib" / files[min(files)].name)
    name = f"KITTI object labels {folder.name}"
    return [_kitti(name, labels, labels, sensor, calibrations, MOST_TRUNCATED) for sensor in sensors]


class _Calibrations:
    """The calibration next to the labels, read on demand."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Calibration:
        if not self._path.is_file():
            raise BagError(f"{self._path}: no calibration, which KITTI's boxes in space need")
        return read_calibration(self._path)


def _kitti(
    name: str,
    labels: dict[int, Labels],
    frames: Iterable[int],
    sensor: LabelledSensor,
    calibrations: _Calibrations,
    most_truncated: float,
) -> BoxTruth:
    _check_frames(name, max(labels, default=0), 0, sensor)
    classes = tuple(dict.fromkeys(canonical(t) for f in labels.values() for t in f.types if t != DONT_CARE))
    calibration = None if sensor.flat else calibrations.read()
    nothing = np.zeros(0, np.int64)
    moments = []
    for number in frames:
        found = labels.get(number)
        if found is None:
            empty = np.zeros((0, 4 if sensor.flat else 7))
            moments.append(Moment(sensor.stamps_ns[number], empty, nothing, nothing, nothing.astype(bool)))
            continue
        objects = found[found.types != DONT_CARE]
        boxes = objects.xyxy if calibration is None else boxes_in_velodyne(objects.hwlxyz_ry, calibration)
        moments.append(
            Moment(
                stamp_ns=sensor.stamps_ns[number],
                boxes=boxes.astype(np.float64),
                labels=np.array([classes.index(canonical(t)) for t in objects.types], np.int64),
                ids=objects.track_ids,
                ignored=need_not_be_found(objects, most_truncated, sensor.flat),
                regions=found[found.types == DONT_CARE].xyxy.astype(np.float64),
            )
        )
    return BoxTruth(
        name=f"{name} of {sensor.topic}",
        frame_id=sensor.frame_id,
        classes=classes,
        moments=_in_order(moments),
        flat=sensor.flat,
        view=None if calibration is None else View(calibration, IMAGE_SIZE),
        least_height=LEAST_HEIGHT if sensor.flat else 0.0,
    )


def image_labels(found: Labels) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names, (N, 4) float64 xyxy in px and (N,) bool "need not be found" of the objects, (R, 4) DontCare."""
    objects, regions = found[found.types != DONT_CARE], found[found.types == DONT_CARE]
    ignored = need_not_be_found(objects, MOST_TRUNCATED, flat=True)
    return objects.types.tolist(), objects.xyxy.astype(np.float64), ignored, regions.xyxy.astype(np.float64)


def need_not_be_found(objects: Labels, most_truncated: float, flat: bool) -> np.ndarray:
    """Return (N,) bool: which objects are ignored; low ones in the image alone (`flat`)."""
    hidden = (objects.occluded > MOST_OCCLUDED) | (objects.truncated > most_truncated)
    sitting = objects.types == "Person_sitting"
    low = objects.xyxy[:, 3] - objects.xyxy[:, 1] <= LEAST_HEIGHT
    return hidden | sitting | (low & flat)


def _mot(path: Path, sensor: LabelledSensor) -> BoxTruth:
    frames = read_mot(path)
    _check_frames(path.name, max(frames, default=1), 1, sensor)
    moments = [_mot_moment(found, sensor.stamps_ns[number - 1]) for number, found in frames.items()]
    name = f"MOTChallenge {path.name} of {sensor.topic}"
    return BoxTruth(name, sensor.frame_id, PEDESTRIAN, _in_order(moments), flat=True)


def _mot_moment(found: MotFrame, stamp_ns: int) -> Moment:
    count = len(found.ids)
    labels, ignored = np.zeros(count, np.int64), np.zeros(count, bool)
    return Moment(stamp_ns, found.xyxy.astype(np.float64), labels, found.ids, ignored)


def _check_frames(name: str, last: int, first: int, sensor: LabelledSensor) -> None:
    count = len(sensor.stamps_ns)
    if last - first >= count:
        raise BagError(
            f"{name}: labels frame {last}, but {sensor.topic} has {count} messages, counted from {first}"
        )


def _in_order(moments: list[Moment]) -> list[Moment]:
    by_stamp = {moment.stamp_ns: moment for moment in moments}
    return [by_stamp[stamp_ns] for stamp_ns in sorted(by_stamp)]
