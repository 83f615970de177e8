"""The correction of a Kalman filter by a few values at once, behind a chi-square gate.

For arrays this small every NumPy call counts, so the innovation's Cholesky factor is taken in plain floats.
The covariance is reduced by W^T W, where W is the whitened gain, and so stays symmetric to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from operator import mul
from typing import NamedTuple

import numpy as np


class Sight(NamedTuple):
    """What a measurement sees of a state.

    Attributes:
        cross: (m, n) covariance of the expected values and the state.
        spread: m rows of m, the expected values' covariance.
    """

    cross: np.ndarray
    spread: list[list[float]]


def sight(covariance: np.ndarray, jacobian: np.ndarray) -> Sight:
    """What m values with this (m, n) Jacobian see of a state with this (n, n) covariance."""
    cross = jacobian.dot(covariance)
    return Sight(cross, cross.dot(jacobian.T).tolist())


def correct(
    x: np.ndarray,
    covariance: np.ndarray,
    residual: Sequence[float],
    jacobian: np.ndarray,
    noise: Sequence[Sequence[float]],
    gate: float,
    seen: Sight | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fuse one to three values.

    Args:
        x: (n,) mean. covariance: (n, n).
        residual: m values, measured less expected.
        jacobian: (m, n) of the expected values.
        noise: m rows of m, the values' covariance, positive definite.
        gate: the largest squared Mahalanobis distance of the residual that is taken.
        seen: the `sight` of covariance and jacobian, where it is known already.

    Returns:
        The new mean and covariance; None when the residual is outside the gate.
    """
    cross, spread = seen or sight(covariance, jacobian)
    whitening = inverse_factor(spread, noise)
    white = [sum(map(mul, row, residual)) for row in whitening]
    if not sum([y * y for y in white]) <= gate:
        return None
    if len(white) == 1:  # the same products without a matrix of one number
        row = whitening[0][0] * cross[0]
        return x + white[0] * row, covariance - row[:, None] * row
    gain = np.array(whitening).dot(cross)
    return x + np.array(white).dot(gain), covariance - gain.T.dot(gain)


def inverse_factor(spread: Sequence[Sequence[float]], noise: Sequence[Sequence[float]]) -> list[list[float]]:
    """L^-1 of spread + noise = L L^T, both m rows of m, m one to three."""
    m = len(noise)
    a = 1 / sqrt(spread[0][0] + noise[0][0])
    if m == 1:
        return [[a]]
    below = (spread[1][0] + noise[1][0]) * a
    b = 1 / sqrt(spread[1][1] + noise[1][1] - below * below)
    second = -below * a * b
    if m == 2:
        return [[a, 0.0], [second, b]]
    left = (spread[2][0] + noise[2][0]) * a
    right = (spread[2][0] + noise[2][0]) * second + (spread[2][1] + noise[2][1]) * b
    c = 1 / sqrt(spread[2][2] + noise[2][2] - left * left - right * right)
    third = [-(left * a + right * second) * c, -right * b * c, c]
    return [[a, 0.0, 0.0], [second, b, 0.0], third]
