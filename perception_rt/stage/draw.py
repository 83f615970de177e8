"""Pictures: what was seen, drawn for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from perception_rt.types import Detections2D
from perception_rt.types.palette import PALETTE

DARK = (20, 20, 20)


def draw_detections(
    pixels: np.ndarray, detections: Detections2D, classes: Sequence[str], bgr: bool = False
) -> np.ndarray:
    """A copy of the image with a box, class and score for every detection.

    Args:
        pixels: (H, W, 3) uint8.
        detections: boxes in px of that image.
        classes: class names by label.
        bgr: the channel order of `pixels`.

    Returns:
        (H, W, 3) uint8 in the same order.
    """
    picture = np.ascontiguousarray(pixels).copy()
    scale = max(0.35, min(picture.shape[:2]) / 1500)
    detections = detections[np.argsort(detections.scores, kind="stable")]  # the surest on top
    for (x1, y1, x2, y2), score, label in zip(
        detections.xyxy.round().astype(int), detections.scores, detections.labels, strict=True
    ):
        colour = PALETTE[label % len(PALETTE)]
        colour = colour[::-1] if bgr else colour
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
        text = f"{classes[label]} {score:.2f}"
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(y1 - height - base - 2, 0)
        cv2.rectangle(picture, (x1 - 1, top), (x1 + width + 2, top + height + base + 2), colour, -1)
        cv2.putText(
            picture, text, (x1 + 1, top + height + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, DARK, 1, cv2.LINE_AA
        )
    return picture
