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
    """

    xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, array, shape, dtype in (
            ("xyxy", self.xyxy, (n, 4), np.float32),
            ("scores", self.scores, (n,), np.float32),
            ("labels", self.labels, (n,), np.int64),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections2D:
        """The detections that a boolean mask, an index array or a slice selects."""
        return Detections2D(self.xyxy[index], self.scores[index], self.labels[index])

    @classmethod
    def empty(cls) -> Detections2D:
        """No detections: a result like any other."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
