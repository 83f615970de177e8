"""Which detection belongs to which track."""

from __future__ import annotations

import numpy as np

from perception_rt.stage.assignment import linear_sum_assignment


def assign(distance: np.ndarray, spread: np.ndarray, gate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair tracks with detections, at most one of each, for the highest likelihood inside the gates.

    The cost of a pair is twice its negative log likelihood, distance + spread, so that a new track, whose
    wide covariance makes every distance small, does not take the detection of an old one. As many pairs as
    the gates allow are worth more than any cheaper choice of fewer.

    Args:
        distance: (T, D) squared Mahalanobis distances; infinite where a pair is impossible.
        spread: (T, D) log determinants of the innovation covariances.
        gate: (T,) largest distance of a pair.

    Returns:
        (P,) rows of tracks, ascending, and (P,) rows of detections.
    """
    inside = distance <= gate[:, None]
    if not inside.any():
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    cost = distance + spread
    lowest, highest = cost[inside].min(), cost[inside].max()
    beyond = lowest + (highest - lowest + 1.0) * (min(cost.shape) + 1)
    tracks, detections = linear_sum_assignment(np.where(inside, cost, beyond))
    valid = inside[tracks, detections]
    return tracks[valid], detections[valid]
