"""Accuracy of 3D detections on the ground plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from perception_rt.model.boxes3d import iou_bev
from perception_rt.replay.metrics import check_frames
from perception_rt.types import Detections3D

RECALLS = np.linspace(0, 1, 101)


def match_greedy(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Assign detections to truths as COCO and KITTI do: the best score chooses first, each truth once.

    Args:
        iou: (T, D) overlap of T truths with D detections.
        scores: (D,) of the detections; equal ones choose in their order.
        threshold: the least overlap of a match.

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
    """Scores detections against truths by the overlap of their footprints, class by class.

    Average precision is interpolated at 101 recalls, as COCO and `replay.metrics` do, so that the figures of
    camera and lidar compare (KITTI's 40 points leave recall 0 out and come out a little lower).
    A class without a truth that counts has no precision: it is absent from ``per_class`` and from the mean.

    Args:
        truths: one entry per frame; scores are ignored.
        detections: one entry per frame, in the same order and coordinates.
        classes: names, indexed by the labels of both.
        iou_threshold: the least overlap of a detection with the truth that it finds.
        ignore: per frame a (T,) bool mask of truths that nobody has to find (too few points, out of range):
            a detection matched to one counts neither way. Truths that count are matched first.
        ignore_detections: per frame a (D,) bool mask of detections that are no error where they match
            nothing (those out of the range that is scored).

    Returns:
        ``{"map": float, "per_class": {name: {"ap", "truths", "recall"}}}``: `truths` is how many count,
        `recall` the share of them that is found at any score; the mean is NaN where no truth counts.

    Raises:
        ValueError: the lists or masks differ in length, or a label has no class name.
    """
    check_frames(truths, detections, classes)
    ignore = _masks("ignore", ignore, truths)
    excused = _masks("ignore_detections", ignore_detections, detections)
    per_class = {}
    for label, name in enumerate(classes):
        of_truth, of_found = ([frame.labels == label for frame in frames] for frames in (truths, detections))
        count = sum(int((mask & ~skip).sum()) for mask, skip in zip(of_truth, ignore, strict=True))
        if not count:
            continue
        scores, hits = [], []
        for truth, found, t, d, skip, pardon in zip(
            truths, detections, of_truth, of_found, ignore, excused, strict=True
        ):
            score, hit = _outcomes(truth[t], found[d], skip[t], pardon[d], iou_threshold)
            scores.append(score)
            hits.append(hit)
        hit = np.concatenate(hits)[np.argsort(-np.concatenate(scores), kind="stable")]
        ap = _interpolated_precision(hit, count)
        per_class[name] = {"ap": ap, "truths": count, "recall": float(hit.sum() / count)}
    mean = float(np.mean([row["ap"] for row in per_class.values()])) if per_class else float("nan")
    return {"map": mean, "per_class": per_class}


def _masks(
    name: str, masks: Sequence[np.ndarray] | None, frames: Sequence[Detections3D]
) -> Sequence[np.ndarray]:
    if masks is None:
        return [np.zeros(len(frame), bool) for frame in frames]
    if [mask.shape for mask in masks] != [(len(frame),) for frame in frames]:
        raise ValueError(f"{name} must hold one bool per box of each frame")
    return masks


def _outcomes(
    truth: Detections3D, found: Detections3D, ignore: np.ndarray, excused: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the detections of one class in one frame that count, and whether each is right."""
    iou = iou_bev(torch.from_numpy(truth.xyzlwh_yaw), torch.from_numpy(found.xyzlwh_yaw)).numpy()
    hit = match_greedy(iou[~ignore], found.scores, threshold) >= 0
    pardoned = np.zeros(len(found), bool)
    pardoned[~hit] = match_greedy(iou[ignore][:, ~hit], found.scores[~hit], threshold) >= 0
    counts = hit | ~(pardoned | excused)
    return found.scores[counts], hit[counts]


def _interpolated_precision(hit: np.ndarray, truths: int) -> float:
    """Mean over RECALLS of the best precision at that recall or a higher one; `hit` by falling score."""
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / truths, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())
