"""Scores of a lidar detector on real clouds: KITTI's labelled frames and sequence, and a drive without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress, TaskID

from bench.inputs import CITY, DATA
from bench.kitti import read_velodyne_sequence
from bench.rows import Row, row
from perception_rt.model.boxes3d import iou_bev
from perception_rt.model.runtime import CloudRuntime, Runtime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.kitti import (
    DONT_CARE,
    Calibration,
    Labels,
    boxes_in_velodyne,
    read_calibration,
    read_object_labels,
    read_tracking_labels,
    read_velodyne,
)
from perception_rt.replay.metrics3d import match_greedy
from perception_rt.replay.score.labels import IMAGE_SIZE
from perception_rt.replay.score.scene import unlabelled
from perception_rt.replay.score.truth import View
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import Detections3D, LidarFrame

CITY_TOPIC = "/lidar/points"
REACH = 40.0  # m
LEAST_POINTS = 50
BANDS = ((0, 10), (10, 20), (20, 30), (30, 40))
IOUS = {30: 0.3, 50: 0.5}
TARGETS = {"recall_iou30": ">= 0.80", "precision_iou30": ">= 0.30"}
LANES = 6.0  # m to either side: the own lane and its neighbours


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A labelled cloud."""

    points: np.ndarray
    labels: Labels
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The matched labels and detections of one frame.

    Attributes:
        asked: (T,) range of each Car and Van that has to be found, m.
        found: (T,) whether it was, as a car.
        claimed: (D,) range of each detection that counts, m.
        right: (D,) whether it is a labelled object.
    """

    asked: np.ndarray
    found: np.ndarray
    claimed: np.ndarray
    right: np.ndarray


def lidar_rows(bundle: str, bar: Progress) -> list[Row]:
    """Return every score of a bundle on recordings, if available; its classes include `car`."""
    if not DATA.is_dir():
        return []
    runtime = Runtime.open(bundle, device="cpu")
    rows = []
    for name, scenes in (("frames", labelled_frames()), ("tracking_0000", labelled_sequence())):
        task = bar.add_task(f"lidar, {name}", total=len(scenes))
        found = [detect(runtime, scene.points, bar, task) for scene in scenes]
        rows += score_rows(f"lidar/{bundle}/{name}", scenes, found, runtime.manifest.classes)
    from bench.lidar_circle import circle_rows

    rows += circle_rows(f"lidar/{bundle}/circle", runtime)
    return rows + city_rows(f"lidar/{bundle}/kitti_city", runtime)


def labelled_frames() -> list[Scene]:
    """The four frames of the object benchmark."""
    return [
        Scene(
            read_velodyne(folder / "velodyne.bin"),
            read_object_labels(folder / "label.txt"),
            read_calibration(folder / "calib.txt"),
        )
        for folder in sorted(DATA.glob("frames/*"))
    ]


def labelled_sequence() -> list[Scene]:
    """77 consecutive frames of the tracking benchmark."""
    folder = DATA / "tracking_kitti"
    calibration = read_calibration(folder / "calib/0000.txt")
    labels = read_tracking_labels(folder / "label/0000.txt")
    clouds = read_velodyne_sequence(folder / "velodyne_0000_first77.npz")
    return [Scene(cloud, labels[index], calibration) for index, cloud in enumerate(clouds)]


def detect(runtime: CloudRuntime, points: np.ndarray, bar: Progress, task: TaskID) -> Detections3D:
    """Return the detections at the bundle's own thresholds."""
    found = detect3d(runtime, LidarFrame(points, 0, 0, "velodyne"))
    bar.advance(task)
    return found


def score_rows(
    prefix: str, scenes: Sequence[Scene], found: Sequence[Detections3D], classes: Sequence[str]
) -> list[Row]:
    """Recall and precision, and both by range."""
    rows = []
    for percent, threshold in IOUS.items():
        outcomes = [
            outcome(scene, detections, classes, threshold)
            for scene, detections in zip(scenes, found, strict=True)
        ]
        asked, hit = (np.concatenate([getattr(o, name) for o in outcomes]) for name in ("asked", "found"))
        claimed, right = (
            np.concatenate([getattr(o, name) for o in outcomes]) for name in ("claimed", "right")
        )
        for name, ranges, good in (("recall", asked, hit), ("precision", claimed, right)):
            key = f"{name}_iou{percent}"
            rows.append(row(f"{prefix}/{key}", share(good), "ratio", TARGETS.get(key, "")))
            for low, high in BANDS:
                band = good[(ranges >= low) & (ranges < high)]
                if len(band):
                    rows.append(row(f"{prefix}/{key}_{low}_{high}m", share(band), f"of {len(band)}"))
    return rows


def share(good: np.ndarray) -> float:
    """Return the share of True values; NaN if there are none."""
    return float(good.mean()) if len(good) else float("nan")


def outcome(scene: Scene, found: Detections3D, classes: Sequence[str], threshold: float) -> Outcome:
    """Match detections to the labelled objects of a frame by footprint.

    A Car or Van within `REACH` has to be found if it holds `LEAST_POINTS`. A detection within `REACH` counts
    where it matches an object of any type, or else lies in the camera's view but in no DontCare region.
    """
    labels = scene.labels
    objects = labels[labels.types != DONT_CARE]
    truth = boxes_in_velodyne(objects.hwlxyz_ry, scene.calibration)
    boxes = found.xyzlwh_yaw
    iou = iou_bev(torch.from_numpy(truth), torch.from_numpy(boxes)).numpy()
    match = match_greedy(iou, found.scores, threshold)
    matched = np.zeros(len(truth), bool)
    matched[match[(match >= 0) & (found.labels == classes.index("car"))]] = True
    away, range_of = np.hypot(truth[:, 0], truth[:, 1]), np.hypot(boxes[:, 0], boxes[:, 1])
    points = np.array([points_inside(scene.points, box) for box in truth], np.int64)
    asked = np.isin(objects.types, ("Car", "Van")) & (points >= LEAST_POINTS) & (away < REACH)
    regions = labels.xyxy[labels.types == DONT_CARE]
    blamed = ~unlabelled(boxes.astype(np.float64), View(scene.calibration, IMAGE_SIZE), regions)
    counts = (range_of < REACH) & ((match >= 0) | blamed)
    return Outcome(away[asked], matched[asked], range_of[counts], match[counts] >= 0)


def points_inside(points: np.ndarray, box: np.ndarray) -> int:
    """Return the number of points in a box."""
    away = points[:, :3] - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    along, left = away[:, 0] * cos + away[:, 1] * sin, away[:, 1] * cos - away[:, 0] * sin
    return int((np.abs(np.stack((along, left, away[:, 2]), 1)) <= box[3:6] / 2).all(1).sum())


def city_rows(prefix: str, runtime: CloudRuntime) -> list[Row]:
    """Cars ahead in every cloud of the recorded drive."""
    car = runtime.manifest.classes.index("car")
    answered = ahead = 0
    for frame in city():
        found = detect3d(runtime, frame)
        x, y = found.xyzlwh_yaw[:, 0], found.xyzlwh_yaw[:, 1]
        answered += 1
        ahead += bool(((found.labels == car) & (x > 0) & (x < REACH) & (np.abs(y) < LANES)).any())
    return [
        row(f"{prefix}/clouds_answered", answered, "clouds", "24"),
        row(f"{prefix}/frames_with_car_ahead", ahead, "frames", ">= 22"),
    ]


def city() -> Iterator[LidarFrame]:
    """The clouds of the recorded drive."""
    with Bag(CITY) as bag:
        for message in bag.messages([CITY_TOPIC]):
            yield frame_of(message)
