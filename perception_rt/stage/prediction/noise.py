"""How well positions are measured, learned from the measurements themselves.

The noise of a position shows in accelerations that change sign from step to step; motion does not do that.
The correlation of successive accelerations gives its variance (after Mehra: On the identification of
variances and adaptive Kalman filtering, IEEE Transactions on Automatic Control 15(2), 1970). It belongs to
the sensor and the class more than to one object, so all objects of a class share it.
"""

from __future__ import annotations

import numpy as np

PRIOR_SCALE = 1.0  # before anything is known, what is stated holds
PRIOR_WEIGHT = 1.0  # of it, in samples: positions without noise, like those of a map, show within a second
SIZE_WEIGHT = 20.0  # few samples may cancel out by chance: their mean size counts as so many
MEMORY = 400.0  # samples after which old ones fade
LEAST_SCALE, MOST_SCALE = 1e-5, 4.0
MOST_RATIO = 9.0  # of one sample: a change of identity is no noise
_PAST = 3


class NoiseScale:
    """The factor between the stated and the true variance of positions, by class.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self._weight = np.zeros(classes)
        self._mean, self._size = np.zeros(classes), np.zeros(classes)
        self.forget()

    def forget(self) -> None:
        """Drop the objects, keep what was learned."""
        self._xy, self._times_s = np.zeros((0, _PAST, 2)), np.zeros((0, _PAST))

    def align(self, rows: np.ndarray, known: np.ndarray) -> None:
        """Take the objects `rows` (N,) of those before; where `known` (N,) is false, a new one."""
        xy, times = np.full((len(rows), _PAST, 2), np.nan), np.full((len(rows), _PAST), np.nan)
        xy[known], times[known] = self._xy[rows[known]], self._times_s[rows[known]]
        self._xy, self._times_s = xy, times

    def of(self, labels: np.ndarray) -> np.ndarray:
        """(N,) factors for objects of these classes."""
        weight = self._weight[labels]
        size = (self._size[labels] * weight + PRIOR_SCALE * PRIOR_WEIGHT) / (weight + PRIOR_WEIGHT)
        mean = (self._mean[labels] * weight + size * SIZE_WEIGHT) / (weight + SIZE_WEIGHT)
        return mean.clip(LEAST_SCALE, MOST_SCALE)

    def observe(
        self, rows: np.ndarray, time_s: float, xy: np.ndarray, variance: np.ndarray, labels: np.ndarray
    ) -> None:
        """Take measured positions.

        Args:
            rows: (M,) of the objects. time_s: of the measurement.
            xy: (M, 2) m. variance: (M,) stated variance of x and of y, m^2. labels: (M,).
        """
        if not len(rows):
            return
        past, now = self._xy[rows], np.full((len(rows), 1), time_s)
        places = np.concatenate((past, xy[:, None]), 1)
        steps = np.diff(np.concatenate((self._times_s[rows], now), 1), axis=1)
        steps = np.where(steps > 1e-3, steps, np.nan)
        velocities = np.diff(places, axis=1) / steps[..., None]
        first, second = np.diff(velocities, axis=1).swapaxes(0, 1)
        one, two, three = steps.T
        expected = (1 / one + 2 / two + 1 / three) / two * variance  # of -first * second, in x and in y
        ratio = -(first * second).sum(1) / 2 / expected
        good = np.isfinite(ratio)
        count = np.bincount(labels[good], minlength=len(self._mean))
        ratio, classes = ratio[good].clip(-MOST_RATIO, MOST_RATIO), labels[good]
        kept = np.minimum(self._weight, MEMORY)
        weight = np.maximum(kept + count, 1)
        self._mean = (self._mean * kept + np.bincount(classes, ratio, len(kept))) / weight
        self._size = (self._size * kept + np.bincount(classes, np.abs(ratio), len(kept))) / weight
        self._weight = kept + count
        self._xy[rows] = places[:, 1:]
        self._times_s[rows] = np.concatenate((self._times_s[rows, 1:], now), 1)
