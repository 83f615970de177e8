"""What each pixel of an image shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_rt.types.detections import Detections2D

UNLABELLED = 255
"""The value of pixels that show none of the classes; so a network may have 255 of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The class of every pixel of one image.

    Attributes:
        labels: (H, W) uint8, index into the model's class names, or `UNLABELLED`; at the size of the image.
        detections: the objects whose masks these are, in px of the image; None of a network that tells
            classes, not objects.
    """

    labels: np.ndarray
    detections: Detections2D | None = None

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise ValueError(f"labels must be (H, W) uint8, got {self.labels.shape} {self.labels.dtype}")

    def shares(self) -> dict[int, float]:
        """By label the part of the pixels that show it, the greatest first; without `UNLABELLED`."""
        counts = np.bincount(self.labels.ravel(), minlength=UNLABELLED + 1)[:UNLABELLED]
        order = np.argsort(-counts, kind="stable")
        return {int(label): float(counts[label] / self.labels.size) for label in order if counts[label]}

    @classmethod
    def empty(cls) -> Segmentation:
        """No pixel at all: the image has no answer."""
        return cls(np.zeros((0, 0), np.uint8))
