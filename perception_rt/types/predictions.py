"""Where objects will be, as structs of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """N objects at T moments to come, in the frame of their tracks.

    Attributes:
        stamps_ns: (T,) int64, the moments.
        ids: (N,) int64, the tracks' ids.
        xy: (N, T, 2) float64, expected positions of the boxes' centres, m.
        yaw: (N, T) float64, of the boxes, in [-pi, pi).
        covariance: (N, T, 2, 2) float64 of xy, m^2; the ellipse of Mahalanobis distance 2.45 holds 95 %.
        half_distance: (N, T) float64, Mahalanobis distance that holds 50 %: 1.18 where errors are Gaussian,
            less for pedestrians, who mostly keep their motion and sometimes turn or stop.
        mode_probabilities: (N, M) float64, of the modes of motion, now; rows sum to 1.
        paths: (N, M, T, 2) float64, positions if a mode is kept, m.
    """

    stamps_ns: np.ndarray
    ids: np.ndarray
    xy: np.ndarray
    yaw: np.ndarray
    covariance: np.ndarray
    half_distance: np.ndarray
    mode_probabilities: np.ndarray
    paths: np.ndarray

    def __post_init__(self) -> None:
        (t,), (n, m) = self.stamps_ns.shape, self.mode_probabilities.shape
        for name, shape, dtype in (
            ("stamps_ns", (t,), np.int64),
            ("ids", (n,), np.int64),
            ("xy", (n, t, 2), np.float64),
            ("yaw", (n, t), np.float64),
            ("covariance", (n, t, 2, 2), np.float64),
            ("half_distance", (n, t), np.float64),
            ("mode_probabilities", (n, m), np.float64),
            ("paths", (n, m, t, 2), np.float64),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")

    def __len__(self) -> int:
        return len(self.ids)
