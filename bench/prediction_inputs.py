"""Tracks of many objects from positions alone, to be predicted."""

from __future__ import annotations

import numpy as np

from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig
from perception_rt.types import Tracks
from perception_rt.types.predictions import Predictions


def bare_tracks(xy: np.ndarray, labels: np.ndarray, speed_sd: float) -> Tracks:
    """Return N tracks with current detections, in order, and unknown velocities.

    Args:
        xy: (N, 2) m. labels: (N,) int64. speed_sd: of each part of the velocity, m/s.
    """
    n = len(xy)
    boxes, covariance = np.zeros((n, 7), np.float32), np.zeros((n, 6, 6), np.float32)
    boxes[:, :2], boxes[:, 3:6] = xy, 1.0
    covariance[:, range(6), range(6)] = np.square([1.0, 1.0, 1.0, speed_sd, speed_sd, 1.0])
    columns = [np.zeros(n, np.float32) for _ in range(2)]
    return Tracks(
        ids=np.arange(n),
        xyzlwh_yaw=boxes,
        velocity=np.zeros((n, 2), np.float32),
        yaw_rate=np.zeros(n, np.float32),
        covariance=covariance,
        scores=np.ones(n, np.float32),
        labels=labels,
        hits=np.ones(n, np.int64),
        age_s=columns[0],
        missed_s=columns[1],
        detection=np.arange(n),
    )


def predict_after(
    seen: np.ndarray,
    labels: np.ndarray,
    step_s: float,
    config: PredictorConfig,
    sd: np.ndarray,
    speed_sd: float,
) -> Predictions:
    """Predict the path after the last of K positions.

    Args:
        seen: (N, K, 2) m, every step_s. labels: (N,) int64. sd: (N,) standard deviation of the positions, m.
        speed_sd: of the velocity before anything was seen, m/s.
    """
    predictor = ObjectPredictor(config)
    covariance = np.square(sd)[:, None, None] * np.eye(2)
    for step in range(seen.shape[1]):
        xy = seen[:, step]
        tracks = bare_tracks(xy, labels, speed_sd)
        predictions = predictor.update(round(step * step_s * 1e9), tracks, xy, covariance)
    return predictions


def squared_distances(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(...) squared Mahalanobis distances of (..., 2) errors; NaN stays NaN."""
    return np.einsum("...i,...ij,...j->...", error, np.linalg.inv(covariance), error)
