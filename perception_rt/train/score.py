"""Scores on a user's data set: average precision, or the share of correct classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_rt.replay.kitti import read_calibration
from perception_rt.replay.score.counting import Precision, precision_of
from perception_rt.replay.score.scene import ScoredScene, inside, unlabelled
from perception_rt.replay.score.truth import Moment, View
from perception_rt.train.dataset.labels import LabelledFrame

LOWEST_SCORE = 0.01  # average precision needs boxes with low scores, too
MOST_IN_REGION = 0.5  # share of a box in an unlabelled region above which it is not a false positive
THRESHOLDS = (0.05, 0.9)  # range of the threshold with the best F1

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (K, 4 or 7), scores (K,), labels (K,)."""


def detection_score(
    frames: Sequence[LabelledFrame],
    labels: Sequence[np.ndarray],
    answers: Sequence[Answer],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return the figures of `precision_of`, and ``"threshold"``, the score with the best F1 at IoU 0.5.

    Args:
        frames: the labelled frames.
        labels: of the objects of each frame.
        answers: the detections of each frame.
        classes: names, by label.
    """
    scenes = [_scene(*columns) for columns in zip(frames, labels, answers, strict=True)]
    precision = precision_of(scenes, classes, flat=all(frame.solid is None for frame in frames))
    truths = sum(row["truths"] for row in precision.figures["per_class"].values())
    threshold = best_threshold(precision, truths)
    return {**precision.figures, "frames": len(frames), "threshold": threshold}


def _scene(frame: LabelledFrame, labels: np.ndarray, answer: Answer) -> ScoredScene:
    found, scores, found_labels = answer
    solid = frame.solid is not None
    boxes = (frame.solid if solid else frame.xyxy).astype(np.float64)  # type: ignore[union-attr]
    found, regions = found.astype(np.float64), frame.regions.astype(np.float64)
    if solid:
        excused = np.zeros(len(found), bool)
        if frame.calibration is not None and len(found):
            excused = unlabelled(found, View(read_calibration(frame.calibration), frame.view), regions)
    else:
        excused = inside(found, regions) > MOST_IN_REGION
    no_ids = np.full(len(labels), -1, np.int64)
    moment = Moment(0, boxes, labels, no_ids, frame.ignored, regions)
    return ScoredScene(
        boxes,
        labels,
        no_ids,
        frame.ignored,
        found,
        scores,
        found_labels,
        excused,
        np.arange(len(found)),
        regions,
        moment,
        None,
    )


def best_threshold(precision: Precision, truths: int) -> float | None:
    """Return the threshold with the highest F1; None without detections or objects."""
    order = np.argsort(-precision.confidences, kind="stable")
    scores, hits = precision.confidences[order], precision.hits[order]
    asked = (scores >= THRESHOLDS[0]) & (scores <= THRESHOLDS[1])
    if not truths or not asked.any():
        return None
    f1 = 2 * np.cumsum(hits) / (np.arange(1, len(hits) + 1) + truths)
    return round(float(scores[np.where(asked, f1, -1.0).argmax()]), 3)


def classification_score(truths: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the share of correct classes, in total and for each class.

    Args:
        truths: (N,) int64. labels: (N,) int64, of the best score.
        classes: names, by label.
    """
    right = truths == labels
    per_class = {
        name: {"accuracy": float(right[truths == label].mean()), "truths": int((truths == label).sum())}
        for label, name in enumerate(classes)
        if (truths == label).any()
    }
    return {"accuracy": float(right.mean()), "per_class": per_class, "frames": len(truths)}
