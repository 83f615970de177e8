"""Accuracy of 3D detections on the ground plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception_rt.model.boxes3d import iou_bev
from perception_rt.replay.metrics import check_frames
from perception_rt.types import Detections3D

RECALLS = np.linspace(0, 1, 101)


def match_greedy(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Assign detections to truths greedily in order of score, as COCO and KITTI do.

    Args:
        iou: (T, D) overlap of T truths with D detections.
        scores: (D,) of the detections; equal ones choose in their order.
        threshold: minimum overlap of a match.

    Returns:
        (D,) int64, row of the free truth with the highest overlap, or -1.

    Raises:
        ValueError: `iou` has not one column per score.
    """
    if iou.ndim != 2 or iou.shape[1:] != scores.shape:
        raise ValueError(f"iou must be (T, {len(scores)}), got {iou.shape}")
    matched = np.full(len(scores), -1, np.int64)
    if not len(iou):
        return matched
    free = np.array(iou, copy=True)
    for d in np.argsort(-scores, kind="stable"):
        best = int(free[:, d].argmax())
        if free[best, d] >= threshold:
            matched[d] = best
            free[best] = -np.inf
    return matched


def average_precision_bev(
    truths: Sequence[Detections3D],
    detections: Sequence[Detections3D],
    classes: Sequence[str],
    iou_threshold: float = 0.5,
    ignore: Sequence[np.ndarray] | None = None,
    ignore_detections: Sequence[np.ndarray] | None = None,
) -> dict:
    """Score detections against truths by the overlap of their footprints, class by class.

    Average precision is interpolated at 101 recalls, as COCO and `replay.metrics` do, so that the figures of
    camera and lidar compare (KITTI's 40 points leave recall 0 out and come out a little lower).
    A class without a truth that counts has no precision: it is absent from ``per_class`` and from the mean.

    Args:
        truths: one entry per frame; scores are ignored.
        detections: one entry per frame, in the same order and coordinates.
        classes: names, indexed by the labels of both.
        iou_threshold: minimum overlap of a match.
        ignore: per frame a (T,) bool mask of truths to ignore (too few points, out of range):
            a detection matched to one counts neither way. Truths that count are matched first.
        ignore_detections: per frame a (D,) bool mask of detections that are no error where they match
            nothing (those out of the range that is scored).

    Returns:
        ``{"map": float, "per_class": {name: {"ap", "truths", "recall"}}}``: `truths` is how many count,
        `recall` the share of them that is found at any score; the mean is NaN where no truth counts.

    Raises:
        ValueError: the lists or masks differ in length, or a label has no class name.
    """
    (counted,) = count_detections(
        truths, detections, classes, iou_of_footprints, (iou_threshold,), ignore, ignore_detections
    )
    per_class = {
        name: {
            "ap": float(found.precision.mean()),
            "truths": found.truths,
            "recall": float(found.hits.sum() / found.truths),
        }
        for name, found in counted.items()
    }
    mean = float(np.mean([row["ap"] for row in per_class.values()])) if per_class else float("nan")
    return {"map": mean, "per_class": per_class}


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The matched detections of one class.

    Attributes:
        truths: how many count.
        scores: (D,) of the detections that count, falling. hits: (D,) bool, whether each is right.
        precision: (101,) at recalls 0, 0.01 .. 1: the best at that recall or a higher one, 0 where none is.
    """

    truths: int
    scores: np.ndarray
    hits: np.ndarray
    precision: np.ndarray


Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps (T, 7) and (D, 7) boxes to a (T, D) similarity; larger means more similar."""


def iou_of_footprints(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the (T, D) bird's-eye-view IoU of (T, 7) and (D, 7) boxes."""
    return iou_bev(torch.from_numpy(truth), torch.from_numpy(found)).numpy()


def count_detections(
    truths: Sequence[Detections3D],
    detections: Sequence[Detections3D],
    classes: Sequence[str],
    similarity: Similarity,
    thresholds: Sequence[float],
    ignore: Sequence[np.ndarray] | None = None,
    ignore_detections: Sequence[np.ndarray] | None = None,
) -> list[dict[str, Counted]]:
    """Match detections to truths, class by class; the arguments are those of `average_precision_bev`.

    Args:
        similarity: of boxes. thresholds: minimum similarities of a match; each is counted separately.

    Returns:
        The result by class for each threshold; classes without counted truths are absent.
    """
    check_frames(truths, detections, classes)
    ignore = _masks("ignore", ignore, truths)
    excused = _masks("ignore_detections", ignore_detections, detections)
    counted: list[dict[str, Counted]] = [{} for _ in thresholds]
    for label, name in enumerate(classes):
        of_truth, of_found = ([frame.labels == label for frame in frames] for frames in (truths, detections))
        count = sum(int((mask & ~skip).sum()) for mask, skip in zip(of_truth, ignore, strict=True))
        if not count:
            continue
        outcomes: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in thresholds]
        for truth, found, t, d, skip, pardon in zip(
            truths, detections, of_truth, of_found, ignore, excused, strict=True
        ):
            alike, scores = similarity(truth.xyzlwh_yaw[t], found.xyzlwh_yaw[d]), found.scores[d]
            for of_threshold, threshold in zip(outcomes, thresholds, strict=True):
                of_threshold.append(_outcomes(alike, scores, skip[t], pardon[d], threshold))
        for row, of_threshold in zip(counted, outcomes, strict=True):
            row[name] = _ranked(count, of_threshold)
    return counted


def _ranked(truths: int, outcomes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Counted:
    scores, hits = (np.concatenate(column) for column in zip(*outcomes, strict=True))
    order = np.argsort(-scores, kind="stable")
    return Counted(truths, scores[order], hits[order], _interpolated_precision(hits[order], truths))


def _masks(
    name: str, masks: Sequence[np.ndarray] | None, frames: Sequence[Detections3D]
) -> Sequence[np.ndarray]:
    if masks is None:
        return [np.zeros(len(frame), bool) for frame in frames]
    if [mask.shape for mask in masks] != [(len(frame),) for frame in frames]:
        raise ValueError(f"{name} must hold one bool per box of each frame")
    return masks


def _outcomes(
    alike: np.ndarray, scores: np.ndarray, ignore: np.ndarray, excused: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the detections of one class in one frame that count, and whether each is right."""
    hit = match_greedy(alike[~ignore], scores, threshold) >= 0
    pardoned = np.zeros(len(scores), bool)
    pardoned[~hit] = match_greedy(alike[ignore][:, ~hit], scores[~hit], threshold) >= 0
    counts = hit | ~(pardoned | excused)
    return scores[counts], hit[counts]


def _interpolated_precision(hit: np.ndarray, truths: int) -> np.ndarray:
    """(101,) best precision at each of RECALLS or a higher one; `hit` by falling score."""
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / truths, RECALLS, side="left")
    return np.append(precision, 0.0)[at]
