"""Segment camera frames: several cameras, one bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.model.segmenter import SegmenterRuntime
from perception_rt.stage.detect2d import image_batches
from perception_rt.types import CameraFrame, Detections2D
from perception_rt.types.segmentation import Segmentation


def segment(
    runtime: SegmenterRuntime,
    frames: Sequence[CameraFrame],
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> list[Segmentation]:
    """Label the pixels of every frame; frames of equal size and channel order share one forward pass.

    Args:
        runtime: a bundle of task `segment`.
        frames: any number of frames of any sizes.
        score_threshold: least score of an object, or of a pixel for semantic segmentation; None for the
            bundle's own.
        nms_threshold: IoU above which the lower score of a class is dropped; None for the bundle's own.

    Returns:
        One result for each frame, in order.

    Raises:
        ModelError: the network failed or the device is out of memory.
    """
    results = [Segmentation.empty()] * len(frames)
    for indices, images, bgr in image_batches(frames):
        xyxy, scores, labels, image_index, maps = runtime(images, bgr, score_threshold, nms_threshold)
        for position, index in enumerate(indices):
            rows = np.asarray(image_index == position)
            objects = Detections2D(xyxy[rows], scores[rows], labels[rows]) if runtime.has_boxes else None
            results[index] = Segmentation(maps[position], objects)
    return results
