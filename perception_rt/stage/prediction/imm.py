"""An interacting multiple model filter for many objects at once.

Blom and Bar-Shalom: The interacting multiple model algorithm for systems with Markovian switching
coefficients, IEEE Transactions on Automatic Control 33(8), 1988. The mode is drawn again after mode_time_s =
T on average, so a step's transitions are exp(-dt / T) I + (1 - exp(-dt / T)) 1 shares^T, and two steps are
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_rt.stage.prediction.motion import ACCELERATION, MODES, STATES, STOP, VX, VY, YAW_RATE, columns
from perception_rt.stage.prediction.motion import advance as move


@dataclass(slots=True, eq=False)
class Bank:
    """The filters of N objects at one time.

    Attributes:
        mean: (N, 3, 6) float64, a state a mode. covariance: (N, 3, 6, 6). weights: (N, 3), the modes'
            probabilities. motion: (N,) of `motion.columns`.
    """

    mean: np.ndarray
    covariance: np.ndarray
    weights: np.ndarray
    motion: np.ndarray

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: np.ndarray) -> Bank:
        """Return copies of the filters that a boolean mask or an index array selects."""
        return Bank(*(getattr(self, name)[index] for name in self.__slots__))

    def joined(self, other: Bank) -> Bank:
        """Return these filters, followed by the others."""
        return Bank(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


def shares(motion: np.ndarray) -> np.ndarray:
    """Return (N, 3) the prior probabilities of the modes."""
    turn, stop = motion["turn_share"], motion["stop_share"]
    return np.stack([1 - turn - stop, turn, stop], 1)


def begin(
    xy: np.ndarray,
    covariance: np.ndarray,
    velocity: np.ndarray,
    velocity_covariance: np.ndarray,
    motion: np.ndarray,
) -> Bank:
    """Return the filters of new objects.

    Args:
        xy: (N, 2) m. covariance: (N, 2, 2) m^2.
        velocity: (N, 2) m/s. velocity_covariance: (N, 2, 2) m^2/s^2.
        motion: (N,) of `motion.columns`.
    """
    n = len(xy)
    mean, spread = np.zeros((n, len(MODES), STATES)), np.zeros((n, len(MODES), STATES, STATES))
    mean[:, :, :2], mean[:, :, 2:4] = xy[:, None], velocity[:, None]
    spread[:, :, :2, :2], spread[:, :, 2:4, 2:4] = covariance[:, None], velocity_covariance[:, None]
    spread[:, :, ACCELERATION, ACCELERATION] = motion["acceleration"][:, None] ** 2
    spread[:, :, YAW_RATE, YAW_RATE] = motion["yaw_rate"][:, None] ** 2
    return Bank(mean, spread, shares(motion), motion)


def empty() -> Bank:
    """Return no filters."""
    vectors, matrices = np.zeros((0, 2)), np.zeros((0, 2, 2))
    return begin(vectors, matrices, vectors, matrices, columns([]))


def advance(bank: Bank, dt: float) -> None:
    """Mix the modes and advance them by dt, s, in place."""
    kept = np.exp(-dt / bank.motion["mode_time_s"])[:, None, None]
    switch = kept * np.eye(len(MODES)) + (1 - kept) * shares(bank.motion)[:, None]  # from row to column
    joint = bank.weights[:, :, None] * switch
    weights = joint.sum(1)
    came_from = (joint / weights[:, None]).swapaxes(1, 2)  # (N, to, from)
    mean, covariance = mix(came_from, bank.mean, bank.covariance)
    starts = came_from[:, :, STOP] * bank.motion["start_speed"][:, None] ** 2
    starts[:, STOP] = 0
    covariance[:, :, [VX, VY], [VX, VY]] += starts[..., None]
    bank.mean, bank.covariance = move(mean, covariance, bank.motion, dt)
    bank.weights = weights


def mix(weights: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments of Gaussian mixtures.

    Args:
        weights: (N, K, M), sums of 1 over the last. mean: (N, M, D). covariance: (N, M, D, D).

    Returns:
        (N, K, D) and (N, K, D, D).
    """
    n, m, d = mean.shape
    mixed = weights @ mean
    apart = mean[:, None] - mixed[:, :, None]  # (N, K, M, D)
    spread = (weights @ covariance.reshape(n, m, d * d)).reshape(n, weights.shape[1], d, d)
    return mixed, spread + (apart * weights[..., None]).swapaxes(-1, -2) @ apart


def correct(bank: Bank, rows: np.ndarray, xy: np.ndarray, covariance: np.ndarray) -> None:
    """Update the filters with measured positions, in place.

    Args:
        rows: (M,) of the bank. xy: (M, 2) m. covariance: (M, 2, 2) m^2, positive definite.
    """
    mean, spread = bank.mean[rows], bank.covariance[rows]
    residual = xy[:, None] - mean[..., :2]
    expected = spread[..., :2, :2] + covariance[:, None]
    inverse, determinant = invert(expected)
    gain = spread[..., :, :2] @ inverse  # (M, 3, 6, 2)
    distance = np.einsum("nmi,nmij,nmj->nm", residual, inverse, residual)
    bank.mean[rows] = mean + (gain @ residual[..., None])[..., 0]
    kept = np.eye(STATES) - gain @ np.eye(2, STATES)
    # Joseph's form stays positive definite even for very accurate measurements.
    bank.covariance[rows] = kept @ spread @ kept.swapaxes(-1, -2) + gain @ covariance[
        :, None
    ] @ gain.swapaxes(-1, -2)
    score = np.log(bank.weights[rows]) - (distance + np.log(determinant)) / 2
    weights = np.exp(score - score.max(1, keepdims=True))
    weights = np.maximum(weights / weights.sum(1, keepdims=True), 1e-9)  # no mode may vanish
    bank.weights[rows] = weights / weights.sum(1, keepdims=True)


def invert(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inverse and determinant of (..., 2, 2)."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * d - b * c
    adjugate = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2)
    return adjugate / determinant[..., None, None], determinant


def mixture(weights: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments over the modes, at T times.

    Args:
        weights: (N, M). mean: (N, M, T, 2). covariance: (N, M, T, 2, 2).

    Returns:
        (N, T, 2) and (N, T, 2, 2).
    """
    n, m, t, d = mean.shape
    by_moment = np.repeat(weights, t, 0)[:, None]
    mixed, moments = mix(
        by_moment,
        mean.swapaxes(1, 2).reshape(n * t, m, d),
        covariance.swapaxes(1, 2).reshape(n * t, m, d, d),
    )
    return mixed.reshape(n, t, d), moments.reshape(n, t, d, d)
