"""Merge the detections of one or several lidars in one frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.stage.road_users import canonical, compatible
from perception_rt.stage.transforms import transform
from perception_rt.types import Detections3D

Lidar = tuple[Detections3D, Sequence[str], np.ndarray]
"""Boxes, class names by label, and (4, 4) that takes points of the lidar's frame to the common one."""


def merge_lidars(lidars: Sequence[Lidar]) -> tuple[Detections3D, tuple[str, ...]]:
    """Return the boxes of all lidars in the common frame, and their class names.

    If boxes of two lidars have compatible classes, and the centre of one lies in the other, the one with the
    better score is kept.
    """
    moved = [move_boxes(found.xyzlwh_yaw, matrix) for found, _, matrix in lidars]
    if len(lidars) == 1:
        found, classes, _ = lidars[0]
        return Detections3D(moved[0], found.scores, found.labels), tuple(classes)
    boxes = np.concatenate(moved)
    scores = np.concatenate([found.scores for found, _, _ in lidars])
    source = np.repeat(np.arange(len(lidars)), [len(found) for found, _, _ in lidars])
    names = [canonical(classes[label]) for found, classes, _ in lidars for label in found.labels]
    same = compatible(names, names) & (source[:, None] != source[None])
    same &= _holds_centre(boxes) | _holds_centre(boxes).T
    kept = np.ones(len(boxes), bool)
    for row in np.argsort(-scores, kind="stable"):
        if kept[row]:
            kept &= ~same[row] | (np.arange(len(boxes)) == row) | (scores > scores[row])
    classes = tuple(dict.fromkeys(names))
    labels = np.array([classes.index(name) for name in names], np.int64)
    return Detections3D(boxes[kept], scores[kept], labels[kept]), classes


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Transform (N, 7) xyzlwh_yaw by a (4, 4) matrix; the boxes stay upright in the new frame."""
    if np.array_equal(matrix, np.eye(4)):
        return boxes
    result = boxes.astype(np.float64)
    result[:, :3] = transform(matrix, result[:, :3])
    ahead = np.stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6])), 1) @ matrix[:2, :2].T
    result[:, 6] = np.arctan2(ahead[:, 1], ahead[:, 0])
    return result.astype(boxes.dtype)


def _holds_centre(boxes: np.ndarray) -> np.ndarray:
    """Return (N, N) bool: the footprint of the first contains the centre of the second."""
    away = boxes[None, :, :2].astype(np.float64) - boxes[:, None, :2]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    ahead, aside = away[..., 0] * cos + away[..., 1] * sin, away[..., 1] * cos - away[..., 0] * sin
    return (np.abs(ahead) <= boxes[:, None, 3] / 2) & (np.abs(aside) <= boxes[:, None, 4] / 2)
