"""Late fusion: 3D boxes of a lidar and 2D boxes of a camera become one list of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.fusion.monocular import place
from perception_rt.stage.fusion.project import ProjectedBoxes, project_boxes
from perception_rt.stage.road_users import ROAD_USERS, UNKNOWN, canonical, compatible, group
from perception_rt.types import Detections2D, Detections3D

LIDAR, CAMERA, BOTH = "lidar", "camera", "camera+lidar"
SHORT = {BOTH: "C+L", LIDAR: "L", CAMERA: "C"}  # for pictures
SAME_OBJECT_IOU = 0.6  # two camera boxes of one group with more overlap are one object under two names
# How well a lidar's box lies: x y z in m, the turns about x y z in rad.
LIDAR_SIGMA = np.array([0.2, 0.2, 0.2, 0.05, 0.05, 0.1])
# Where a camera should have seen an object: this high, whole, and not covered.
SEEN_PX = 40.0
SEEN_SHARE = 0.9
COVERED = 0.3
# A camera's box is a part of a cyclist: this much inside of it, and as far within so many deviations.
PART_SHARE, PART_SIGMAS = 0.7, 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Objects that camera and lidar found.

    Attributes:
        detections: boxes in the lidar's frame; labels index `classes`.
        classes: canonical class names: all of `ROAD_USERS`, then others that were found.
        sources: N of `camera+lidar`, `lidar`, `camera`.
        covariance: (N, 6, 6) float64 of x y z (m) and the turns about x y z (rad), as in
            geometry_msgs/PoseWithCovariance.
        partners: (N, 2) int64, row of the lidar's and of the camera's detections; -1 where it has none.
        unplaced: rows of the camera's detections that nothing is known of in space: without a lidar box, and
            of a class without a usual size.
    """

    detections: Detections3D
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    covariance: np.ndarray
    partners: np.ndarray
    unplaced: np.ndarray

    def __len__(self) -> int:
        return len(self.sources)


def fuse(
    camera: Detections2D,
    camera_classes: Sequence[str],
    lidar: Detections3D,
    lidar_classes: Sequence[str],
    model: CameraModel,
    camera_from_lidar: np.ndarray,
    iou_threshold: float = 0.3,
    camera_recall: float = 0.5,
    ground_z: float | None = None,
) -> Fused:
    """One list of objects from the detections of both sensors at one time.

    * The lidar's boxes are projected and matched to the camera's of a compatible class, so that the sum of
      IoUs is greatest (Hungarian assignment). A camera that names one object twice keeps the surer name.
    * A match is wrong only if both sensors are: its score is 1 - (1 - a)(1 - b). The surer one names the
      class, the camera where they are level; the place and the size are the lidar's.
    * The lidar's other objects stay. Where the camera should have seen one (large enough, whole, uncovered,
      of a group that it knows) and has nothing there, the odds of its score are multiplied by the share of
      such objects that it misses, 1 - `camera_recall` (Bayes' rule).
    * The camera's other objects stay where their class has a usual size, placed by `monocular.place`; not the
      rider and the bicycle of a cyclist that the lidar found as one.

    Args:
        camera: boxes in px of the image that `model` describes.
        camera_classes: all that the camera's detector can find, by label.
        lidar: boxes in the lidar's frame.
        lidar_classes: names by label.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the optical frame.
        iou_threshold: least IoU of a match.
        camera_recall: of the objects that the camera should see, how many it finds; 0 to lower no score.
        ground_z: height of the ground in the lidar's frame, m; None to take it from the boxes' lower faces.

    Raises:
        CodecError: the camera's lens cannot be used (see `project`).
    """
    lidar_names = [canonical(lidar_classes[label]) for label in lidar.labels]
    camera_names = [canonical(camera_classes[label]) for label in camera.labels]
    projected = project_boxes(lidar.xyzlwh_yaw, model, camera_from_lidar)
    distinct = _distinct(camera, camera_names)
    rows, columns = _match(projected, lidar_names, camera, camera_names, distinct, iou_threshold)
    scores = lidar.scores.astype(np.float64)
    missed = _missed(projected, lidar_names, camera, {group(canonical(name)) for name in camera_classes})
    missed[rows] = False
    scores[missed] = _lowered(scores[missed], camera_recall)
    names, sources = list(lidar_names), [LIDAR] * len(lidar)
    partners = np.stack((np.arange(len(lidar)), np.full(len(lidar), -1)), 1)
    for row, column in zip(rows, columns, strict=True):
        seen = float(camera.scores[column])
        names[row] = _named(names[row], scores[row], camera_names[column], seen)
        scores[row] = 1 - (1 - scores[row]) * (1 - seen)
        sources[row], partners[row, 1] = BOTH, column
    alone = np.setdiff1d(np.flatnonzero(distinct), columns)
    ground_z = _ground(lidar) if ground_z is None else ground_z
    alone_names = [camera_names[column] for column in alone]
    boxes, covariance, known = place(camera.xyxy[alone], alone_names, model, camera_from_lidar, ground_z)
    kept = known & ~_is_part(
        camera.xyxy[alone], alone_names, boxes, covariance, projected, lidar, lidar_names
    )
    placed = alone[kept]
    return _joined(
        np.concatenate((lidar.xyzlwh_yaw, boxes[kept])),
        np.concatenate((scores, camera.scores[placed])),
        names + [camera_names[column] for column in placed],
        sources + [CAMERA] * len(placed),
        np.concatenate((_lidar_covariance(len(lidar)), covariance[kept])),
        np.concatenate((partners, np.stack((np.full(len(placed), -1), placed), 1))),
        alone[~known],
    )


def lidar_alone(lidar: Detections3D, lidar_classes: Sequence[str]) -> Fused:
    """The lidar's objects where no camera says anything of them: what `fuse` gives, scores untouched."""
    count = len(lidar)
    return _joined(
        lidar.xyzlwh_yaw,
        lidar.scores,
        [canonical(lidar_classes[label]) for label in lidar.labels],
        [LIDAR] * count,
        _lidar_covariance(count),
        np.stack((np.arange(count), np.full(count, -1)), 1),
        np.zeros(0, np.int64),
    )


def iou_2d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of (N, 4) and (M, 4) xyxy."""
    inner = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - inner
    return inner / np.maximum(union, 1e-9)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.prod(np.maximum(size, 0), axis=2)


def _area(xyxy: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0).astype(np.float64), axis=1)


def _distinct(camera: Detections2D, names: Sequence[str]) -> np.ndarray:
    """(M,) bool, false where a surer box of the same group has the same place."""
    order = np.argsort(-camera.scores, kind="stable")
    same = (iou_2d(camera.xyxy, camera.xyxy) > SAME_OBJECT_IOU) & compatible(names, names)
    distinct = np.ones(len(camera), bool)
    for rank, row in enumerate(order):
        if distinct[row]:
            distinct[order[rank + 1 :]] &= ~same[row, order[rank + 1 :]]
    return distinct


def _match(
    projected: ProjectedBoxes,
    lidar_names: Sequence[str],
    camera: Detections2D,
    camera_names: Sequence[str],
    distinct: np.ndarray,
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both that belong together."""
    iou = iou_2d(projected.xyxy, camera.xyxy)
    allowed = (iou >= max(iou_threshold, 1e-6)) & compatible(lidar_names, camera_names)
    allowed &= projected.visible[:, None] & distinct[None]
    rows, columns = linear_sum_assignment(np.where(allowed, iou, 0.0), maximize=True)
    chosen = allowed[rows, columns]
    return rows[chosen], columns[chosen]


def _named(lidar_name: str, lidar_score: float, camera_name: str, camera_score: float) -> str:
    """What a match is called."""
    if lidar_name == "cyclist" and camera_name in ("bicycle", "motorcycle"):
        return lidar_name  # with its rider, whom the camera's detector names apart
    if lidar_name in UNKNOWN or (camera_score >= lidar_score and camera_name not in UNKNOWN):
        return camera_name
    return lidar_name


def _is_part(
    xyxy: np.ndarray,
    names: Sequence[str],
    boxes: np.ndarray,
    covariance: np.ndarray,
    projected: ProjectedBoxes,
    lidar: Detections3D,
    lidar_names: Sequence[str],
) -> np.ndarray:
    """(M,) bool: the camera's object is the rider or the vehicle of one of the lidar's cyclists."""
    cyclists = np.flatnonzero([name == "cyclist" for name in lidar_names])
    inside = _intersection(xyxy, projected.xyxy[cyclists]) / np.maximum(_area(xyxy), 1e-9)[:, None]
    ranges = np.hypot(boxes[:, 0], boxes[:, 1]).astype(np.float64)
    away = np.hypot(lidar.xyzlwh_yaw[cyclists, 0], lidar.xyzlwh_yaw[cyclists, 1])[None] - ranges[:, None]
    ray = boxes[:, :2] / np.maximum(ranges, 1e-9)[:, None]
    sigma = np.sqrt(np.einsum("mi,mij,mj->m", ray, covariance[:, :2, :2], ray))[:, None]
    part = np.array([group(name) in ("pedestrian", "two-wheeler") for name in names], bool)
    return part & ((inside >= PART_SHARE) & (np.abs(away) <= PART_SIGMAS * sigma)).any(1)


def _missed(
    projected: ProjectedBoxes, names: Sequence[str], camera: Detections2D, camera_groups: set[str]
) -> np.ndarray:
    """(N,) bool: the camera should have seen the object, and has nothing there."""
    height = projected.xyxy[:, 3] - projected.xyxy[:, 1]
    clear = (height >= SEEN_PX) & (projected.share >= SEEN_SHARE)
    clear &= np.array([group(name) in camera_groups for name in names], bool)
    area = np.maximum(_area(projected.xyxy), 1e-9)[:, None]
    nearer = projected.depth[None] < projected.depth[:, None]
    by_objects = np.where(nearer, _intersection(projected.xyxy, projected.xyxy) / area, 0).sum(1)
    by_camera = (_intersection(projected.xyxy, camera.xyxy) / area).max(1, initial=0)
    return clear & (by_objects < COVERED) & (by_camera < COVERED)


def _lowered(scores: np.ndarray, recall: float) -> np.ndarray:
    """Scores after a sensor that finds `recall` of the true objects, and none that are not, found nothing."""
    left = scores * (1 - recall)
    return left / np.maximum(left + 1 - scores, 1e-9)


def _ground(lidar: Detections3D) -> float | None:
    """Median height of the boxes' lower faces; None for fewer than three boxes."""
    if len(lidar) < 3:
        return None
    return float(np.median(lidar.xyzlwh_yaw[:, 2] - lidar.xyzlwh_yaw[:, 5] / 2))


def _lidar_covariance(count: int) -> np.ndarray:
    return np.broadcast_to(np.diag(LIDAR_SIGMA**2), (count, 6, 6)).copy()


def _joined(
    boxes: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    sources: Sequence[str],
    covariance: np.ndarray,
    partners: np.ndarray,
    unplaced: np.ndarray,
) -> Fused:
    """The surest first; names become labels."""
    order = np.argsort(-scores, kind="stable")
    classes = (*ROAD_USERS, *sorted(set(names) - set(ROAD_USERS)))
    labels = np.array([classes.index(names[row]) for row in order], np.int64)
    detections = Detections3D(
        boxes[order].astype(np.float32), np.clip(scores[order], 0, 1).astype(np.float32), labels
    )
    return Fused(
        detections,
        classes,
        tuple(sources[row] for row in order),
        covariance[order],
        partners[order].astype(np.int64),
        unplaced.astype(np.int64),
    )
