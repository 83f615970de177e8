"""Calibration of the confidence of detections."""

from __future__ import annotations

import numpy as np

BINS = 10


def calibration(confidences: np.ndarray, hits: np.ndarray) -> dict | None:
    """Return the expected calibration error and the bins of a reliability diagram.

    ECE as of Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017: the mean
    over all detections of the gap between confidence and precision, in ten bins of equal width.
    Missed objects have no confidence and do not count here.

    Args:
        confidences: (D,) in [0, 1]. hits: (D,) bool, true positives.

    Returns:
        `{"ece", "detections", "bins": [{"low", "high", "count", "confidence", "right"}]}` with the means of
        the non-empty bins; None without detections.
    """
    count = len(confidences)
    if not count:
        return None
    place = np.minimum((confidences * BINS).astype(int), BINS - 1)
    bins, ece = [], 0.0
    for k in np.unique(place):
        mine = place == k
        confidence, right = float(confidences[mine].mean()), float(hits[mine].mean())
        ece += float(mine.mean()) * abs(confidence - right)
        bins.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "count": int(mine.sum()),
                "confidence": confidence,
                "right": right,
            }
        )
    return {"ece": ece, "detections": count, "bins": bins}
