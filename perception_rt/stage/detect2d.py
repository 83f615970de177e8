"""Detect objects in camera frames: several cameras, one bundle, one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from perception_rt.codec.tensor import as_tensor
from perception_rt.model.runtime import ImageRuntime
from perception_rt.types import CameraFrame, Detections2D


def detect2d(
    runtime: ImageRuntime,
    frames: Sequence[CameraFrame],
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> list[Detections2D]:
    """Detect objects in every frame; frames of equal size and channel order share one forward pass.

    Args:
        runtime: a bundle of task `detect2d`.
        frames: any number of frames of any sizes.
        score_threshold: least score; None for the bundle's own.
        nms_threshold: IoU above which the lower score of a class is dropped; None for the bundle's own.

    Returns:
        One result for each frame, in order.

    Raises:
        ModelError: the network failed or the device is out of memory.
    """
    results: list[Detections2D] = [Detections2D.empty()] * len(frames)
    for indices, images, bgr in image_batches(frames):
        xyxy, scores, labels, image_index = runtime(images, bgr, score_threshold, nms_threshold)
        extras = (runtime.extras.get(name) for name in ("theta", "keypoints"))
        detections = Detections2D(xyxy, scores, labels, *extras)
        for position, index in enumerate(indices):
            results[index] = detections[np.asarray(image_index == position)]
    return results


def image_batches(frames: Sequence[CameraFrame]) -> Iterator[tuple[list[int], torch.Tensor, bool]]:
    """Yield batches of equal size and channel order: indices, (N, H, W, 3) uint8 images, and whether BGR."""
    groups: dict[tuple, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault((frame.pixels.shape, frame.bgr), []).append(index)
    for (_, bgr), indices in groups.items():
        tensors = [as_tensor(frames[index].pixels) for index in indices]
        yield indices, tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors), bgr
