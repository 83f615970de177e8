"""Late fusion: combine 3D boxes of a lidar and 2D boxes of cameras to one list of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.assignment import linear_sum_assignment
from perception_rt.stage.fusion.monocular import place
from perception_rt.stage.fusion.project import ProjectedBoxes, project_boxes
from perception_rt.stage.road_users import ROAD_USERS, UNKNOWN, canonical, compatible, group
from perception_rt.types import Detections2D, Detections3D

LIDAR, CAMERA, BOTH = "lidar", "camera", "camera+lidar"
SHORT = {BOTH: "C+L", LIDAR: "L", CAMERA: "C"}  # for pictures
SAME_OBJECT_IOU = 0.6  # two camera boxes of one group with more overlap are the same object with two names
# Accuracy of a lidar's box: x y z in m, the turns about x y z in rad.
LIDAR_SIGMA = np.array([0.2, 0.2, 0.2, 0.05, 0.05, 0.1])
# A camera should detect an object of this height, if it is complete and not occluded.
SEEN_PX = 40.0
SEEN_SHARE = 0.9
COVERED = 0.3
# Two cameras' objects are the same: 99 % of a Gaussian in the plane is within these squared deviations.
SAME_PLACE = 9.21
# What a camera shows of an object that another one has matched: this much of the smaller rectangle.
SHOWN_ELSEWHERE = 0.5
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
        partners: (N, 1 + cameras) int64, row of the lidar's and of each camera's detections; -1 where it has
            none.
        unplaced: rows of the cameras' detections, one camera's after the other's, without a position in
            space: no lidar box, and a class without a usual size.
    """

    detections: Detections3D
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    covariance: np.ndarray
    partners: np.ndarray
    unplaced: np.ndarray

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True, slots=True, eq=False)
class CameraView:
    """The input of one camera.

    Attributes:
        detections: boxes in px of the image that `model` describes.
        classes: all classes of the camera's detector, by label.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the frame of the model.
    """

    detections: Detections2D
    classes: Sequence[str]
    model: CameraModel
    camera_from_lidar: np.ndarray


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
    """Call `fuse_views` for one camera, given by its parts.

    Args:
        camera: boxes in px of the image that `model` describes.
        camera_classes: all classes of the camera's detector, by label.
        lidar: boxes in the lidar's frame.
        lidar_classes: names by label.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the frame of the model.
        iou_threshold: see `fuse_views`.
        camera_recall: see `fuse_views`.
        ground_z: see `fuse_views`.

    Raises:
        CodecError: the camera's lens cannot be used (see `project`).
    """
    view = CameraView(camera, camera_classes, model, camera_from_lidar)
    return fuse_views([view], lidar, lidar_classes, iou_threshold, camera_recall, ground_z)


def fuse_views(
    views: Sequence[CameraView],
    lidar: Detections3D,
    lidar_classes: Sequence[str],
    iou_threshold: float = 0.3,
    camera_recall: float = 0.5,
    ground_z: float | None = None,
) -> Fused:
    """Fuse the detections of all sensors at one time to one list of objects.

    - The lidar's boxes are projected into each image and matched to the camera's of a compatible class, with
      the greatest sum of IoUs (Hungarian assignment). If a camera has two names for an object, the one with
      the better score is used.
    - A match is wrong only if both sensors are: its score is 1 - (1 - a)(1 - b), where b is the best score of
      the cameras, as cameras have correlated errors. The sensor with the better score gives the class, the
      camera if they are equal; position and size are the lidar's.
    - The lidar's other objects are kept. If a camera should have detected one (large enough, complete, not
      occluded, of a known group) and did not, the odds of its score are multiplied by the share of such
      objects that a camera misses, 1 - `camera_recall` (Bayes' rule).
    - The cameras' other objects are kept if their class has a usual size, and placed by `monocular.place`,
      except rider and bicycle of a cyclist of the lidar. Objects of several cameras are merged if their
      positions agree.

    Args:
        views: the cameras.
        lidar: boxes in the lidar's frame.
        lidar_classes: names by label.
        iou_threshold: least IoU of a match.
        camera_recall: share of the objects that a camera detects of those that it should detect; 0 keeps all
            scores.
        ground_z: height of the ground in the lidar's frame, m; None to take it from the boxes' lower faces.

    Raises:
        CodecError: a camera's lens cannot be used (see `project`).
    """
    lidar_names = _names(lidar, [canonical(name) for name in lidar_classes])
    seen = [_see(view, lidar, lidar_names, iou_threshold) for view in views]
    partners = np.full((len(lidar), 1 + len(views)), -1)
    partners[:, 0] = np.arange(len(lidar))
    missed = np.zeros(len(lidar), bool)
    for index, one in enumerate(seen):
        partners[one.rows, 1 + index] = one.columns
        missed |= one.missed
    matched = (partners[:, 1:] >= 0).any(1)
    scores = lidar.scores.astype(np.float64)
    scores[missed & ~matched] = _lowered(scores[missed & ~matched], camera_recall)
    names, sources = list(lidar_names), [LIDAR] * len(lidar)
    camera_scores = [view.detections.scores.tolist() for view in views]
    for row in np.flatnonzero(matched).tolist():
        score, name = max(
            (given[column], one.names[column])
            for given, one, column in zip(camera_scores, seen, partners[row, 1:].tolist(), strict=True)
            if column >= 0
        )
        names[row] = _named(names[row], scores[row], name, score)
        scores[row] = 1 - (1 - scores[row]) * (1 - score)
        sources[row] = BOTH
    ground_z = _ground(lidar) if ground_z is None else ground_z
    placed, unplaced = _Placed.none(len(views)), []
    begin = 0
    for index, (view, one) in enumerate(zip(views, seen, strict=True)):
        unmatched = one.distinct.copy()
        unmatched[one.columns] = False
        alone = np.flatnonzero(unmatched)
        elsewhere = matched & (partners[:, 1 + index] < 0)
        alone = alone[~_is_shown_elsewhere(view, one, alone, elsewhere, lidar_names)]
        alone_names = [one.names[column] for column in alone]
        xyxy = view.detections.xyxy[alone]
        boxes, covariance, known = place(xyxy, alone_names, view.model, view.camera_from_lidar, ground_z)
        kept = known & ~_is_part(xyxy, alone_names, boxes, covariance, one.projected, lidar, lidar_names)
        rows = np.full((int(kept.sum()), len(views)), -1)
        rows[:, index] = alone[kept]
        found = _Placed(
            boxes[kept],
            covariance[kept],
            [name for name, keep in zip(alone_names, kept, strict=True) if keep],
            view.detections.scores[alone[kept]].astype(np.float64),
            rows,
        )
        placed = _merged(placed, found, views)
        unplaced.append(begin + alone[~known])
        begin += len(view.detections)
    count = len(placed.names)
    return _joined(
        np.concatenate((lidar.xyzlwh_yaw, placed.boxes)),
        np.concatenate((scores, placed.scores)),
        names + placed.names,
        sources + [CAMERA] * count,
        np.concatenate((_lidar_covariance(len(lidar)), placed.covariance)),
        np.concatenate((partners, np.concatenate((np.full((count, 1), -1), placed.rows), 1))),
        np.concatenate([np.zeros(0, np.int64), *unplaced]),
    )


class _Seen(NamedTuple):
    """The detections of one camera matched with the lidar's boxes.

    Attributes:
        names: canonical, of the camera's detections.
        distinct: (M,) bool, see `_distinct`.
        projected: the lidar's boxes in the image.
        rows, columns: indices of matches.
        missed: (N,) bool, see `_missed`.
    """

    names: list[str]
    distinct: np.ndarray
    projected: ProjectedBoxes
    rows: np.ndarray
    columns: np.ndarray
    missed: np.ndarray


def _see(view: CameraView, lidar: Detections3D, lidar_names: Sequence[str], iou_threshold: float) -> _Seen:
    classes = [canonical(name) for name in view.classes]
    names = _names(view.detections, classes)
    projected = project_boxes(lidar.xyzlwh_yaw, view.model, view.camera_from_lidar)
    distinct = _distinct(view.detections, names)
    rows, columns = _match(projected, lidar_names, view.detections, names, distinct, iou_threshold)
    known = {group(name) for name in classes}
    return _Seen(
        names, distinct, projected, rows, columns, _missed(projected, lidar_names, view.detections, known)
    )


def _names(detections: Detections2D | Detections3D, classes: Sequence[str]) -> list[str]:
    return [classes[label] for label in detections.labels.tolist()]


def _is_shown_elsewhere(
    view: CameraView, one: _Seen, alone: np.ndarray, elsewhere: np.ndarray, lidar_names: Sequence[str]
) -> np.ndarray:
    """Return (M,) bool: the detection shows a part of a lidar object that another camera has matched."""
    if not (len(alone) and elsewhere.any()):
        return np.zeros(len(alone), bool)
    xyxy, others = view.detections.xyxy[alone], one.projected.xyxy[elsewhere]
    least = np.minimum(_area(xyxy)[:, None], _area(others)[None])
    names = [lidar_names[row] for row in np.flatnonzero(elsewhere).tolist()]
    same = compatible([one.names[column] for column in alone], names)
    return (same & (_intersection(xyxy, others) >= SHOWN_ELSEWHERE * np.maximum(least, 1e-9))).any(1)


class _Placed(NamedTuple):
    """K objects placed by cameras; `rows` is (K, cameras), -1 if a camera does not show the object."""

    boxes: np.ndarray
    covariance: np.ndarray
    names: list[str]
    scores: np.ndarray
    rows: np.ndarray

    @classmethod
    def none(cls, cameras: int) -> _Placed:
        """Return no object."""
        return cls(np.zeros((0, 7)), np.zeros((0, 6, 6)), [], np.zeros(0), np.zeros((0, cameras), np.int64))


def _merged(known: _Placed, found: _Placed, views: Sequence[CameraView]) -> _Placed:
    """Merge the objects of several cameras with those of another one, by position and group."""
    if not found.names:
        return known
    if not known.names:
        return found._replace(boxes=found.boxes.astype(np.float64))
    away = found.boxes[None, :, :2].astype(np.float64) - known.boxes[:, None, :2]
    both = known.covariance[:, None, :2, :2] + found.covariance[None, :, :2, :2]
    square = np.einsum("kfi,kfij,kfj->kf", away, np.linalg.inv(both), away)
    allowed = (square <= SAME_PLACE) & compatible(known.names, found.names)
    if allowed.any():  # at a border without overlap of the images, they are two objects
        for index, view in enumerate(views):
            shown = [
                project_boxes(one.boxes, view.model, view.camera_from_lidar).visible for one in (known, found)
            ]
            allowed &= (known.rows[:, index] < 0)[:, None] | shown[1][None]
            allowed &= (found.rows[:, index] < 0)[None] | shown[0][:, None]
    first, second = linear_sum_assignment(np.where(allowed, SAME_PLACE - square, -1.0), maximize=True)
    chosen = allowed[first, second]
    boxes, covariance, names = known.boxes.copy(), known.covariance.copy(), list(known.names)
    scores, rows = known.scores.copy(), known.rows.copy()
    for k, f in zip(first[chosen], second[chosen], strict=True):
        if found.scores[f] > scores[k]:
            names[k], scores[k] = found.names[f], found.scores[f]
            boxes[k, 3:] = found.boxes[f, 3:]
        gain = covariance[k, :3, :3] @ np.linalg.inv(covariance[k, :3, :3] + found.covariance[f, :3, :3])
        boxes[k, :3] += gain @ (found.boxes[f, :3] - boxes[k, :3])
        covariance[k, :3, :3] -= gain @ covariance[k, :3, :3]
        rows[k] = np.maximum(rows[k], found.rows[f])
    new = np.setdiff1d(np.arange(len(found.names)), second[chosen])
    return _Placed(
        np.concatenate((boxes, found.boxes[new])),
        np.concatenate((covariance, found.covariance[new])),
        names + [found.names[f] for f in new],
        np.concatenate((scores, found.scores[new])),
        np.concatenate((rows, found.rows[new])),
    )


def lidar_alone(lidar: Detections3D, lidar_classes: Sequence[str]) -> Fused:
    """Return the lidar's objects if no camera has data: the result of `fuse` with the original scores."""
    count = len(lidar)
    return _joined(
        lidar.xyzlwh_yaw,
        lidar.scores,
        _names(lidar, [canonical(name) for name in lidar_classes]),
        [LIDAR] * count,
        _lidar_covariance(count),
        np.stack((np.arange(count), np.full(count, -1)), 1),
        np.zeros(0, np.int64),
    )


def iou_2d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (N, M) intersection over union of (N, 4) and (M, 4) xyxy."""
    inner = _intersection(a, b)
    union = _area(a)[:, None] + _area(b)[None] - inner
    return inner / np.maximum(union, 1e-9)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    size = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    return size[..., 0] * size[..., 1]


def _area(xyxy: np.ndarray) -> np.ndarray:
    size = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0).astype(np.float64)
    return size[:, 0] * size[:, 1]


def _distinct(camera: Detections2D, names: Sequence[str]) -> np.ndarray:
    """Return (M,) bool, false if a box of the same group with a better score has the same position."""
    order = np.argsort(-camera.scores, kind="stable")
    same = (iou_2d(camera.xyxy, camera.xyxy) > SAME_OBJECT_IOU) & compatible(names, names)
    np.fill_diagonal(same, False)
    distinct = np.ones(len(camera), bool)
    alike = same.any(1)
    for rank in np.flatnonzero(alike[order]).tolist():
        if distinct[order[rank]]:
            distinct[order[rank + 1 :]] &= ~same[order[rank], order[rank + 1 :]]
    return distinct


def _match(
    projected: ProjectedBoxes,
    lidar_names: Sequence[str],
    camera: Detections2D,
    camera_names: Sequence[str],
    distinct: np.ndarray,
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both that match."""
    iou = iou_2d(projected.xyxy, camera.xyxy)
    allowed = (iou >= max(iou_threshold, 1e-6)) & compatible(lidar_names, camera_names)
    allowed &= projected.visible[:, None] & distinct[None]
    rows, columns = linear_sum_assignment(np.where(allowed, iou, 0.0), maximize=True)
    chosen = allowed[rows, columns]
    return rows[chosen], columns[chosen]


def _named(lidar_name: str, lidar_score: float, camera_name: str, camera_score: float) -> str:
    """Return the class name of a match."""
    if lidar_name == "cyclist" and camera_name in ("bicycle", "motorcycle"):
        return lidar_name  # including its rider, which camera detectors report separately
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
    """Return (M,) bool: the camera's object is the rider or the vehicle of one of the lidar's cyclists."""
    cyclists = np.flatnonzero([name == "cyclist" for name in lidar_names])
    if not (len(cyclists) and names):
        return np.zeros(len(names), bool)
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
    """Return (N,) bool: the camera should have detected the object, but did not."""
    height = projected.xyxy[:, 3] - projected.xyxy[:, 1]
    clear = (height >= SEEN_PX) & (projected.share >= SEEN_SHARE)
    clear &= np.array([group(name) in camera_groups for name in names], bool)
    area = np.maximum(_area(projected.xyxy), 1e-9)[:, None]
    nearer = projected.depth[None] < projected.depth[:, None]
    by_objects = np.where(nearer, _intersection(projected.xyxy, projected.xyxy) / area, 0).sum(1)
    by_camera = (_intersection(projected.xyxy, camera.xyxy) / area).max(1, initial=0)
    return clear & (by_objects < COVERED) & (by_camera < COVERED)


def _lowered(scores: np.ndarray, recall: float) -> np.ndarray:
    """Return the scores after a sensor with this recall and without false positives detected nothing."""
    left = scores * (1 - recall)
    return left / np.maximum(left + 1 - scores, 1e-9)


def _ground(lidar: Detections3D) -> float | None:
    """Return the median height of the boxes' lower faces; None for fewer than three boxes."""
    if len(lidar) < 3:
        return None
    lower = np.sort(lidar.xyzlwh_yaw[:, 2] - lidar.xyzlwh_yaw[:, 5] / 2)
    return float(lower[(len(lower) - 1) // 2 : len(lower) // 2 + 1].mean())  # np.median, 5 times as fast


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
    """Sort by score, and convert names to labels."""
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
