"""Fusion on a labelled frame of KITTI: FastestDet in the image, bev_cluster in the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress
from scipy.optimize import linear_sum_assignment

from bench.inputs import DATA, FASTESTDET, export_fastestdet
from bench.rows import Row, row
from perception_rt.codec.camera_info import CameraModel
from perception_rt.model.runtime import Runtime
from perception_rt.replay.kitti import (
    DONT_CARE,
    Labels,
    boxes_in_velodyne,
    pinhole,
    read_calibration,
    read_object_labels,
    read_velodyne,
)
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_outlines
from perception_rt.stage.fusion.fuse import BOTH, SHORT, Fused, fuse, iou_2d
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.types import CameraFrame, Detections2D, LidarFrame

FRAME = "000114"  # the richest: 12 objects at 13 to 51 m
NEAR_M = 2.0  # between the middles of an object and its label


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A labelled frame of both sensors.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
        points: (N, 4) float32, velodyne frame.
        labels: all but DontCare.
        boxes: (T, 7) the labels' boxes, velodyne frame.
        model: the camera.
        camera_from_lidar: (4, 4).
    """

    pixels: np.ndarray
    points: np.ndarray
    labels: Labels
    boxes: np.ndarray
    model: CameraModel
    camera_from_lidar: np.ndarray


def fusion_rows(out: Path, bar: Progress) -> list[Row]:
    """Return every score of fusion on recordings, if available; writes a picture to `out`."""
    if not FASTESTDET.is_file():
        return []
    task = bar.add_task("fusion, real frames", total=1)
    scene = read_scene(DATA / "frames" / FRAME)
    camera = Runtime.open(export_fastestdet(out / "fastestdet.pt"), device="cpu")
    lidar = Runtime.open("bev_cluster", device="cpu")
    seen, fused = fuse_scene(scene, camera, lidar)
    cv2.imwrite(str(out / f"fusion_{FRAME}.png"), picture(scene, seen, fused))
    bar.advance(task)
    return rows_of(scene, fused)


def read_scene(folder: Path) -> Scene:
    """A labelled frame of the object benchmark."""
    pixels = cv2.imread(str(folder / "image.png"))
    labels, calibration = read_object_labels(folder / "label.txt"), read_calibration(folder / "calib.txt")
    labels = labels[labels.types != DONT_CARE]
    model, camera_from_lidar = pinhole(calibration, pixels.shape[1::-1])
    boxes = boxes_in_velodyne(labels.hwlxyz_ry, calibration)
    points = read_velodyne(folder / "velodyne.bin")
    return Scene(pixels, points, labels, boxes, model, camera_from_lidar)


def fuse_scene(scene: Scene, camera: Runtime, lidar: Runtime) -> tuple[Detections2D, Fused]:
    """Return the camera's detections, and the fused objects."""
    (seen,) = detect2d(camera, [CameraFrame(scene.pixels, True, 0, "camera")])
    found = detect3d(lidar, LidarFrame(scene.points, 0, 0, "velodyne"))
    classes = camera.manifest.classes, lidar.manifest.classes
    return seen, fuse(seen, classes[0], found, classes[1], scene.model, scene.camera_from_lidar)


def label_iou(scene: Scene) -> np.ndarray:
    """(T,) IoU of each label's own box of space, projected, with its rectangle."""
    projected = project_boxes(scene.boxes, scene.model, scene.camera_from_lidar)
    return np.diagonal(iou_2d(projected.xyxy, scene.labels.xyxy))


def match_labels(scene: Scene, fused: Fused) -> tuple[np.ndarray, np.ndarray]:
    """Match objects and labels by position, at most `NEAR_M` apart, with the least total distance; return
    rows.

    Matching uses positions, as the overlap in the image is scored.
    """
    away = fused.detections.xyzlwh_yaw[:, None, :2] - scene.boxes[None, :, :2]
    distance = np.hypot(away[..., 0], away[..., 1])
    rows, labels = linear_sum_assignment(np.where(distance <= NEAR_M, distance, 1e3))
    near = distance[rows, labels] <= NEAR_M
    return rows[near], labels[near]


def rows_of(scene: Scene, fused: Fused) -> list[Row]:
    """The figures of one frame."""
    rows, labels = match_labels(scene, fused)
    projected = project_boxes(fused.detections.xyzlwh_yaw, scene.model, scene.camera_from_lidar)
    iou = iou_2d(projected.xyxy, scene.labels.xyxy)[rows, labels]
    both = np.array([fused.sources[k] == BOTH for k in rows], bool)
    prefix = f"fusion/{FRAME}"
    return [
        row(f"{prefix}/label_boxes_iou", float(label_iou(scene).mean()), "IoU", ">= 0.9"),
        row(f"{prefix}/projected_iou", float(iou.mean()), "IoU", ">= 0.6"),
        row(f"{prefix}/projected_iou_least", float(iou.min(initial=1.0)), "IoU"),
        row(f"{prefix}/projected_iou_camera_and_lidar", float(iou[both].mean()), "IoU"),
        row(f"{prefix}/labels", len(scene.labels), "objects"),
        row(f"{prefix}/labels_matched", len(rows), "objects"),
        row(f"{prefix}/labels_matched_camera_and_lidar", int(both.sum()), "objects"),
        *(
            row(f"{prefix}/objects_{SHORT[source].lower()}", fused.sources.count(source), "objects")
            for source in SHORT
        ),
    ]


def picture(scene: Scene, seen: Detections2D, fused: Fused) -> np.ndarray:
    """The image with the boxes of both, and the scene from above below it: BGR."""
    notes = [SHORT[source] for source in fused.sources]
    way = scene.model, scene.camera_from_lidar
    top = draw_outlines(scene.pixels, seen.xyxy)
    top = draw_boxes3d(top, fused.detections, fused.classes, *way, bgr=True, notes=notes)
    scale = top.shape[1] / 70
    view = {"x_range": (-3.0, 52.0), "y_range": (-35.0, 35.0), "px_per_m": scale}
    covariance = fused.covariance
    above = draw_bev(
        scene.points, fused.detections, fused.classes, notes=notes, covariance=covariance, **view
    )
    return np.vstack((top, above[:, :, ::-1]))
