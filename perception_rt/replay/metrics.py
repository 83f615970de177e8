"""Detection accuracy by the COCO protocol."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perception_rt.types import Detections2D, Detections3D

Detections = Detections2D | Detections3D


def average_precision(
    truths: Sequence[Detections2D], detections: Sequence[Detections2D], classes: Sequence[str]
) -> dict:
    """Score detections against truths with pycocotools, the reference implementation.

    101-point interpolated average precision, at most 100 detections per image and class, boxes of every size.
    A class without truths has no precision and is absent from ``per_class`` and the means.

    Args:
        truths: one entry per image; scores are ignored.
        detections: one entry per image, in the same order and pixels.
        classes: names, indexed by the labels of both.

    Returns:
        ``{"ap50": float, "ap50_95": float, "per_class": {name: {"ap50", "ap50_95", "truths"}}}``: at IoU 0.50
        and averaged over IoU 0.50:0.05:0.95, in [0, 1]; the means are NaN where there is no truth at all.

    Raises:
        ValueError: the two lists differ in length, or a label has no class name.
    """
    check_frames(truths, detections, classes)
    precision = _precision(truths, detections, len(classes))
    count = np.bincount(_labels(truths), minlength=len(classes))
    per_class = {
        name: {
            "ap50": float(precision[0, :, k].mean()),
            "ap50_95": float(precision[:, :, k].mean()),
            "truths": int(count[k]),
        }
        for k, name in enumerate(classes)
        if count[k]
    }
    means = {
        key: float(np.mean([row[key] for row in per_class.values()])) if per_class else float("nan")
        for key in ("ap50", "ap50_95")
    }
    return {**means, "per_class": per_class}


def check_frames(
    truths: Sequence[Detections], detections: Sequence[Detections], classes: Sequence[str]
) -> None:
    """Check the arguments of a score.

    Raises:
        ValueError: the two lists differ in length, or a label has no class name.
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} truths and {len(detections)} detections: one of each per frame")
    for name, frames in (("truths", truths), ("detections", detections)):
        labels = _labels(frames)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"{name} hold labels {np.unique(labels)}, but there are {len(classes)} classes")


def _labels(frames: Sequence[Detections]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(frame.labels for frame in frames)])


def evaluate(
    truths: Sequence[Detections2D],
    found: Sequence[Detections2D],
    classes: int,
    ignore: Sequence[np.ndarray] | None = None,
) -> COCOeval:
    """Run pycocotools on boxes of every size, with at most 100 detections per image and class.

    Args:
        truths, found: as of `average_precision`.
        classes: number of classes.
        ignore: per image a (T,) bool mask of truths that are regions in COCO's sense (iscrowd): they need not
            be found, and no detection is an error that lies in one with as much of its own area as IoU asks.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(truths, classes, ignore), _coco(found, classes), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _precision(truths: Sequence[Detections2D], found: Sequence[Detections2D], classes: int) -> np.ndarray:
    """(IoU thresholds, recalls, classes), -1 for a class without truth."""
    return evaluate(truths, found, classes).eval["precision"][:, :, :, 0, 0]


def _coco(frames: Sequence[Detections2D], classes: int, ignore: Sequence[np.ndarray] | None = None) -> COCO:
    annotations: list[dict] = []
    for image, frame in enumerate(frames):
        xyxy = frame.xyxy.astype(np.float64)
        wh = xyxy[:, 2:] - xyxy[:, :2]
        crowd = np.zeros(len(frame), bool) if ignore is None else ignore[image]
        for xy, size, score, label, region in zip(
            xyxy[:, :2], wh, frame.scores, frame.labels, crowd, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes id 0 for "unmatched"
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [*xy.tolist(), *size.tolist()],
                    "area": float(size.prod()),
                    "score": float(score),
                    "iscrowd": int(region),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(frames))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
