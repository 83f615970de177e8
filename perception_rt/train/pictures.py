"""Shared code of networks that learn from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from perception_rt.train.augment import GREY, transform_of
from perception_rt.train.dataset.labels import LabelledFrame, read_picture
from perception_rt.train.score import LOWEST_SCORE, Answer, detection_score
from perception_rt.train.trainee import TrainingItem

CACHED = 128  # pictures of a few MB each
LONGEST_GOLDEN = 1920  # px of a golden picture


class PictureDetector:
    """Base class of image detectors."""

    clouds = False
    boxes = True
    metric = "ap50"
    augmentations: tuple[str, ...] = ("flip", "colour")
    sigmoid = True

    def __init__(self) -> None:
        self.use(self.augmentations)

    def use(self, augmentations: Sequence[str]) -> None:
        """See `Trainee`."""
        self._transform = transform_of(augmentations)

    def items(self, frames: Sequence[LabelledFrame], labels: Sequence[np.ndarray]) -> list[TrainingItem]:
        """Return the frames as items."""
        return [TrainingItem(*pair) for pair in zip(frames, labels, strict=True)]

    def answer(self, runtime: Any, item: TrainingItem) -> Answer:
        """Return the boxes of a bundle."""
        return runtime(read_picture(item.frame.path)[None], score_threshold=LOWEST_SCORE)[:3]

    def score(
        self, items: Sequence[TrainingItem], answers: Sequence[Answer], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Return the average precision."""
        return detection_score(
            [item.frame for item in items], [item.labels for item in items], answers, classes
        )


def training_picture(item: TrainingItem) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB; unlabelled regions are grey."""
    image = read_picture(item.frame.path)
    if not len(item.frame.regions):
        return image
    shown, (height, width) = image.copy(), image.shape[:2]

    def windows(boxes: np.ndarray) -> list[tuple[slice, slice]]:
        px = np.clip(np.rint(boxes), 0, [width, height, width, height]).astype(int).tolist()
        return [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in px]

    for window in windows(item.frame.regions):
        shown[window] = GREY
    for window in windows(item.frame.xyxy):
        shown[window] = image[window]
    return shown


def golden_picture(items: Sequence[TrainingItem]) -> np.ndarray:
    """Return (1, H, W, 3) uint8 RGB: the picture with the most objects that is small enough for a bundle."""
    best = max(items, key=lambda item: len(item.labels))
    image = read_picture(best.frame.path)
    scale = LONGEST_GOLDEN / max(image.shape[:2])
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image[None]
