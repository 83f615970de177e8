"""Scores of `bev_cluster` on whole circles of other lidars and with fewer rings.

Its parameters were chosen on these recordings, but for Argoverse 2 (`bench.tune`).

Argoverse 2 (64 rings) and the nuScenes keyframe (32) are labelled all around, KITTI's four frames (64) in the
camera's view. A car is found by a footprint with IoU 0.3, a pedestrian or cyclist within half a metre.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bench.inputs import DATA
from bench.lidar_accuracy import IMAGE_SIZE, REACH, labelled_frames, points_inside
from bench.rows import Row, row
from perception_rt.model.boxes3d import iou_bev
from perception_rt.model.runtime import CloudRuntime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.kitti import DONT_CARE, boxes_in_velodyne
from perception_rt.replay.metrics3d import match_greedy
from perception_rt.replay.score.scene import unlabelled
from perception_rt.replay.score.truth import View
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import Detections3D, LidarFrame

CLASSES = ("car", "pedestrian", "cyclist")
NAMES = {
    **dict.fromkeys(("Car", "Van", "REGULAR_VEHICLE"), "car"),
    **dict.fromkeys(("Pedestrian", "PEDESTRIAN"), "pedestrian"),
    "pedestrian": "pedestrian",
    "car": "car",
    **dict.fromkeys(("Cyclist", "BICYCLIST", "MOTORCYCLIST", "bicycle"), "cyclist"),
}
LEAST_POINTS = {"car": 20, "pedestrian": 5, "cyclist": 10}
AV2_LIDAR_M = (1.35, 0.0, 1.64)  # in the vehicle's frame
TARGETS = {"pedestrian_recall": ">= 0.6", "pedestrian_precision": ">= 0.4"}
RINGS = {2: ">= 0.85", 4: ">= 0.6"}


@dataclass(frozen=True, slots=True, eq=False)
class Circle:
    """A labelled cloud; `view` and `regions` say where KITTI has labels, None all around."""

    points: np.ndarray
    boxes: np.ndarray
    names: np.ndarray
    view: View | None = None
    regions: np.ndarray | None = None


def circle_rows(prefix: str, runtime: CloudRuntime) -> list[Row]:
    """Pooled over the recordings, by class; then the share of KITTI's cars that fewer rings leave."""
    circles = [*kitti(), *argoverse(), *nuscenes()]
    found = [detect3d(runtime, LidarFrame(circle.points, 0, 0, "lidar")) for circle in circles]
    rows = []
    for name in CLASSES:
        hit, asked, right, claimed = np.sum(
            [counts(*pair, name) for pair in zip(circles, found, strict=True)], 0
        ).tolist()
        for what, part, whole in (("recall", hit, asked), ("precision", right, claimed)):
            key = f"{name}_{what}"
            value = part / whole if whole else None
            rows.append(row(f"{prefix}/{key}", value, f"of {whole}", TARGETS.get(key, "")))
    whole = sum(cars_found(runtime, circle, 1) for circle in kitti())
    for step, target in RINGS.items():
        part = sum(cars_found(runtime, circle, step) for circle in kitti())
        rows.append(row(f"{prefix}/rings_1_of_{step}_recall_ratio", part / whole, f"of {whole} cars", target))
    return rows


def counts(circle: Circle, found: Detections3D, name: str) -> tuple[int, int, int, int]:
    """Return found and all truths, correct and all detections, of a class."""
    label, boxes = CLASSES.index(name), found.xyzlwh_yaw
    if name == "car":
        near, least = iou_bev(torch.from_numpy(circle.boxes).float(), torch.from_numpy(boxes)).numpy(), 0.3
    else:
        away = np.linalg.norm(circle.boxes[:, None, :2] - boxes[None, :, :2], axis=2)
        near, least = np.clip(1 - away, 0, None), 0.5
        near[~np.isin(circle.names, CLASSES[1:])] = 0
    near[:, found.labels != label] = 0
    match = match_greedy(near, found.scores, least)
    inside = np.array([points_inside(circle.points, box) for box in circle.boxes])
    reach = np.hypot(circle.boxes[:, 0], circle.boxes[:, 1]) < REACH
    asked = (circle.names == name) & (inside >= LEAST_POINTS[name]) & reach
    hit = np.zeros(len(asked), bool)
    hit[match[match >= 0]] = True
    mine = (found.labels == label) & (np.hypot(boxes[:, 0], boxes[:, 1]) < REACH)
    blamed = np.ones(len(boxes), bool)
    if circle.view is not None and circle.regions is not None:
        blamed = ~unlabelled(boxes.astype(np.float64), circle.view, circle.regions)
    right = mine & (match >= 0)
    return int((hit & asked).sum()), int(asked.sum()), int(right.sum()), int((mine & blamed | right).sum())


def cars_found(runtime: CloudRuntime, circle: Circle, step: int) -> int:
    """Return how many cars with 50 points are found with every `step`-th ring, by bands of elevation."""
    points = circle.points
    found = detect3d(runtime, LidarFrame(fewer_rings(points, step), 0, 0, "lidar"))
    boxes = torch.from_numpy(found.xyzlwh_yaw[found.labels == 0])
    cars = circle.boxes[circle.names == "car"]
    cars = cars[[points_inside(points, box) >= 50 and np.hypot(*box[:2]) < REACH for box in cars]]
    return int((iou_bev(torch.from_numpy(cars).float(), boxes) > 0.3).any(1).sum())


def fewer_rings(points: np.ndarray, step: int, first: int = 0) -> np.ndarray:
    """One ring of `step` of KITTI's lidar, by 64 bands of elevation."""
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    ring = ((elevation + 24.8) / 26.8 * 63).round().astype(int)
    return points[ring % step == first]


def kitti() -> Iterator[Circle]:
    """The labelled frames."""
    for scene in labelled_frames():
        objects = scene.labels[scene.labels.types != DONT_CARE]
        regions = scene.labels.xyxy[scene.labels.types == DONT_CARE]
        boxes = boxes_in_velodyne(objects.hwlxyz_ry, scene.calibration)
        view = View(scene.calibration, IMAGE_SIZE)
        yield Circle(scene.points, boxes, _classes(objects.types), view, regions)


def argoverse() -> Iterator[Circle]:
    """The sweep of the log, in the frame of its lidars."""
    with np.load(DATA / "av2/adcf7d18.npz") as log:
        at = log["timestamp_ns"] == log["sweep_timestamp_ns"]
        names = ("tx_m", "ty_m", "tz_m", "length_m", "width_m", "height_m", "qw", "qz")
        *columns, qw, qz = (log[name][at].astype(np.float64) for name in names)
        boxes = np.stack([*columns, 2 * np.arctan2(qz, qw)], 1)
        boxes[:, :3] -= AV2_LIDAR_M
        points = np.column_stack((log["sweep_xyz"] - AV2_LIDAR_M, log["sweep_intensity"])).astype(np.float32)
        yield Circle(points, boxes, _classes(log["category"][at]))


def nuscenes() -> Iterator[Circle]:
    """The keyframe."""
    folder = DATA / "bags/nuscenes_keyframe"
    labelled = json.loads((folder / "boxes.json").read_text())["boxes"]
    with Bag(folder) as bag:
        frame = frame_of(next(iter(bag.messages(["/lidar_top/points"]))))
    assert isinstance(frame, LidarFrame)
    boxes = np.array([box["xyzlwh_yaw"] for box in labelled])
    yield Circle(frame.points, boxes, _classes([box["class"] for box in labelled]))


def _classes(types: object) -> np.ndarray:
    return np.array([NAMES.get(str(kind), str(kind)) for kind in types])  # type: ignore[attr-defined]
