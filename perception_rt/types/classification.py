"""What an image shows as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Classes of one image, or of a part of it.

    Attributes:
        scores: (N,) float32 in [0, 1], best first.
        labels: (N,) int64, index into the model's class names.
    """

    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.scores),)
        for name, array, dtype in (("scores", self.scores, np.float32), ("labels", self.labels, np.int64)):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Classification:
        """No class: all were below the threshold."""
        return cls(np.zeros(0, np.float32), np.zeros(0, np.int64))
