"""Kalman filters of many boxes in an image at once: struct of arrays, one NumPy call for all tracks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.stage.tracking.config import Motion2D

MEASURED = 4  # centre x, centre y, width, height in px
LEAST_SIZE = 1.0  # px: a shrinking box does not turn inside out


class BoxFilters2D:
    """State and covariance of every track.

    Centre, width and height have constant velocity, each by itself: the filter of a track is four filters of
    two states, in closed form. Noise scales with the height of the box, so that near and far objects of a
    class share parameters (Wojke et al., DeepSORT, arXiv:1703.07402).

    Args:
        motions: by label.
    """

    def __init__(self, motions: Sequence[Motion2D]) -> None:
        self._acceleration = np.array([[m.acceleration] * 2 + [m.growth] * 2 for m in motions])
        self._noise = np.array([[m.position_sd] * 2 + [m.size_sd] * 2 for m in motions])
        self._speed = np.array([[m.speed] * 2 + [m.growth] * 2 for m in motions])
        self.value, self.rate = np.zeros((0, MEASURED)), np.zeros((0, MEASURED))
        # Variance of the value, of the rate, and what they share.
        self._variance, self._rate_variance, self._shared = (np.zeros((0, MEASURED)) for _ in range(3))

    def predict(self, dt: float, labels: np.ndarray) -> None:
        """Bring every track forward by `dt` s; labels: (T,) of the tracks, here and below."""
        power = (self._acceleration[labels] * self.value[:, 3:]) ** 2
        self.value = self.value + dt * self.rate
        self.value[:, 2:] = np.maximum(self.value[:, 2:], LEAST_SIZE)
        grown = 2 * dt * self._shared + dt**2 * self._rate_variance
        self._variance = self._variance + grown + power * dt**4 / 4
        self._shared = self._shared + dt * self._rate_variance + power * dt**3 / 2
        self._rate_variance = self._rate_variance + power * dt**2

    def warp(self, motion: np.ndarray) -> None:
        """Move every track with the picture: (2, 3) affine map in px, a rotation, scale and translation."""
        turn, scale = motion[:, :2], np.sqrt(abs(np.linalg.det(motion[:, :2])))
        for name in ("value", "rate"):
            moved = getattr(self, name) * scale
            moved[:, :2] = getattr(self, name)[:, :2] @ turn.T
            setattr(self, name, moved)
        self.value[:, :2] += motion[:, 2]
        for name in ("_variance", "_rate_variance", "_shared"):
            moved = getattr(self, name) * scale**2
            moved[:, :2] = getattr(self, name)[:, :2] @ (turn**2).T
            setattr(self, name, moved)

    def _measurement_noise(self, labels: np.ndarray, value: np.ndarray) -> np.ndarray:
        return (self._noise[labels] * value[:, 3:]) ** 2

    def update(self, rows: np.ndarray, measured: np.ndarray, labels: np.ndarray) -> None:
        """Correct the tracks `rows` (P,), whose labels are given, by (P, 4) boxes, one each."""
        variance, shared = self._variance[rows], self._shared[rows]
        noise = self._measurement_noise(labels, self.value[rows])
        total = variance + noise
        innovation = measured - self.value[rows]
        self.value[rows] += variance / total * innovation
        self.rate[rows] += shared / total * innovation
        self._rate_variance[rows] -= shared * shared / total
        self._shared[rows] = shared * noise / total
        self._variance[rows] = variance * noise / total

    def append(self, measured: np.ndarray, labels: np.ndarray) -> None:
        """Begin a track at each of (M, 4) boxes, at rest."""
        still = np.zeros_like(measured)
        self.value = np.concatenate((self.value, measured))
        self.rate = np.concatenate((self.rate, still))
        self._variance = np.concatenate((self._variance, self._measurement_noise(labels, measured)))
        self._shared = np.concatenate((self._shared, still))
        speed = (self._speed[labels] * measured[:, 3:]) ** 2
        self._rate_variance = np.concatenate((self._rate_variance, speed))

    def keep(self, mask: np.ndarray) -> None:
        """Drop the tracks where `mask` (T,) is false."""
        for name in ("value", "rate", "_variance", "_rate_variance", "_shared"):
            setattr(self, name, getattr(self, name)[mask])

    def covariance(self, rows: np.ndarray) -> np.ndarray:
        """(P, 8, 8) float32 of centre x, centre y, width, height and their velocities."""
        covariance = np.zeros((len(rows), 2 * MEASURED, 2 * MEASURED), np.float32)
        at = np.arange(MEASURED)
        covariance[:, at, at] = self._variance[rows]
        covariance[:, at + MEASURED, at + MEASURED] = self._rate_variance[rows]
        covariance[:, at, at + MEASURED] = covariance[:, at + MEASURED, at] = self._shared[rows]
        return covariance
