"""Classify images, or boxes in them, in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.codec.tensor import as_tensor
from perception_rt.model.runtime import ClassifierRuntime
from perception_rt.types import CameraFrame
from perception_rt.types.classification import Classification


def classify(
    runtime: ClassifierRuntime,
    frames: Sequence[CameraFrame],
    score_threshold: float | None = None,
    top_k: int = 5,
) -> list[Classification]:
    """Classify every frame.

    Args:
        runtime: a bundle of task `classify`.
        frames: any number of frames of any sizes.
        score_threshold: least score; None for the bundle's own.
        top_k: most classes of a frame.

    Returns:
        One result for each frame, in order; best score first.

    Raises:
        ModelError: the network failed or the device is out of memory.
    """
    results = [Classification.empty()] * len(frames)
    for bgr in {frame.bgr for frame in frames}:
        places = [index for index, frame in enumerate(frames) if frame.bgr == bgr]
        tensors = [as_tensor(frames[index].pixels)[None] for index in places]
        _, scores, labels, image_index = runtime(tensors, bgr, score_threshold)
        for position, index in enumerate(places):
            rows = np.flatnonzero(image_index == position)[:top_k]
            results[index] = Classification(scores[rows], labels[rows])
    return results


def crops(frame: CameraFrame, boxes: np.ndarray, margin: float = 0.0) -> list[CameraFrame | None]:
    """Cut boxes out of a frame as views, without copying.

    Args:
        frame: an image.
        boxes: (N, 5) float64 px: centre x y, turn in rad, size x y, as in vision_msgs/BoundingBox2D; of a
            turned box the upright one around it is cut.
        margin: margin at each side, as a share of the box's width or height.

    Returns:
        One frame for each box; None if the box lies outside of the image, or is not finite.
    """
    height, width = frame.pixels.shape[:2]
    finite = np.isfinite(boxes).all(1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    cos, sin = np.abs(np.cos(boxes[:, 2:3])), np.abs(np.sin(boxes[:, 2:3]))
    sizes = np.abs(boxes[:, 3:])
    half = (sizes * cos + sizes[:, ::-1] * sin) * (0.5 + margin)
    ends = np.concatenate((np.floor(boxes[:, :2] - half), np.ceil(boxes[:, :2] + half)), 1)
    ends = np.clip(ends, 0, [width, height] * 2).astype(np.int64)
    parts: list[CameraFrame | None] = []
    for left, top, right, bottom in ends.tolist():
        pixels = frame.pixels[top:bottom, left:right]
        whole = CameraFrame(pixels, frame.bgr, frame.stamp_ns, frame.frame_id) if pixels.size else None
        parts.append(whole)
    return parts
