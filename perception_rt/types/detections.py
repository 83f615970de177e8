"""Detections as structs of arrays, filtered by mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Detections2D:
    """Boxes in one image.

    Attributes:
        xyxy: (N, 4) float32, left top right bottom in px of the native image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, index into the model's class names.
        theta: (N,) float32 rad: `xyxy` is then the box before this turn about its centre, from x to y; None
            where all are upright.
        keypoints: (N, P, 3) float32, x y in px and how surely each is seen, in [0, 1]; None for a model
            without.
    """

    xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    theta: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_rows(self.scores, self.labels, "xyxy", self.xyxy, 4)
        count = len(self.scores)
        if self.theta is not None and self.theta.shape != (count,):
            raise ValueError(f"theta must be ({count},), got {self.theta.shape}")
        if self.keypoints is not None and (
            self.keypoints.ndim != 3 or len(self.keypoints) != count or self.keypoints.shape[2] != 3
        ):
            raise ValueError(f"keypoints must be ({count}, P, 3), got {self.keypoints.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections2D:
        """The detections that a boolean mask, an index array or a slice selects."""
        more = (None if value is None else value[index] for value in (self.theta, self.keypoints))
        return Detections2D(self.xyxy[index], self.scores[index], self.labels[index], *more)

    def corners(self) -> np.ndarray:
        """(N, 4, 2) px: the corners of each box, turned by its `theta`."""
        corners = self.xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        if self.theta is None:
            return corners
        centre = corners.mean(1, keepdims=True)
        x, y = np.moveaxis(corners - centre, -1, 0)
        cos, sin = np.cos(self.theta)[:, None], np.sin(self.theta)[:, None]
        return centre + np.stack((x * cos - y * sin, x * sin + y * cos), -1)

    def upright(self) -> Detections2D:
        """The same with the upright box around each turned one, for what knows no angles."""
        if self.theta is None:
            return self
        corners = self.corners()
        xyxy = np.concatenate((corners.min(1), corners.max(1)), 1)
        return Detections2D(xyxy, self.scores, self.labels, None, self.keypoints)

    @classmethod
    def empty(cls) -> Detections2D:
        """No detections: a result like any other."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Detections3D:
    """Boxes in one frame of space, turned about its vertical axis (REP 103: x forward, y left, z up).

    Attributes:
        xyzlwh_yaw: (N, 7) float32, centre x y z, length width height in m, yaw in rad (0 along x, positive
            to the left), in the sensor's frame.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, index into the model's class names.
    """

    xyzlwh_yaw: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        _check_rows(self.scores, self.labels, "xyzlwh_yaw", self.xyzlwh_yaw, 7)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections3D:
        """The detections that a boolean mask, an index array or a slice selects."""
        return Detections3D(self.xyzlwh_yaw[index], self.scores[index], self.labels[index])

    @classmethod
    def empty(cls) -> Detections3D:
        """No detections: a result like any other."""
        return cls(np.zeros((0, 7), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def _check_rows(scores: np.ndarray, labels: np.ndarray, name: str, boxes: np.ndarray, columns: int) -> None:
    n = len(scores)
    for field, array, shape, dtype in (
        (name, boxes, (n, columns), np.float32),
        ("scores", scores, (n,), np.float32),
        ("labels", labels, (n,), np.int64),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{field} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")
