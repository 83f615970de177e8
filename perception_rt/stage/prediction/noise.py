"""Estimate the measurement noise of positions from the measurements themselves.

The noise of a position shows in accelerations that change sign from step to step; motion does not do that.
The correlation of successive accelerations gives its variance (after Mehra: On the identification of
variances and adaptive Kalman filtering, IEEE Transactions on Automatic Control 15(2), 1970). It takes four
positions, and noise and motion together, which three positions show, are a bound on it. It belongs to the
sensor and the class more than to one object, so all objects of a class share it.
"""

from __future__ import annotations

import numpy as np

PRIOR_SCALE = 1.0  # at the start, the stated variance is used
PRIOR_WEIGHT = 1.0  # of it, in samples: positions without noise, like those of a map, show within a second
SIZE_WEIGHT = 20.0  # few samples may cancel out by chance: weight of their mean size, in samples
MARGIN = 2.0  # of the bound: few samples may be small by chance
MEMORY = 400.0  # samples after which old ones fade
LEAST_SCALE, MOST_SCALE = 1e-5, 4.0
MOST_RATIO = 9.0  # of one sample, as a change of identity is not noise
_PAST = 3


class _Mean:
    """Means by class with exponential forgetting.

    Attributes:
        value, weight: (C,), and how many samples each is of.
    """

    def __init__(self, classes: int) -> None:
        self.value, self.weight = np.zeros(classes), np.zeros(classes)

    def add(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Add samples (M,) of the classes `labels` (M,)."""
        kept = np.minimum(self.weight, MEMORY)
        self.weight = kept + np.bincount(labels, minlength=len(kept))
        total = self.value * kept + np.bincount(labels, values, len(kept))
        self.value = total / np.maximum(self.weight, 1)

    def with_prior(self, labels: np.ndarray, prior: np.ndarray | float, weight: float) -> np.ndarray:
        """Return (N,) means of the classes `labels` (N,), with a prior of that weight."""
        known = self.weight[labels]
        return (self.value[labels] * known + prior * weight) / (known + weight)


class NoiseScale:
    """The ratio of true and stated variance of positions, by class.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._mean, self._size, self._bound = _Mean(classes), _Mean(classes), _Mean(classes)
        self.forget()

    def forget(self) -> None:
        """Remove the objects, but keep the learned factors."""
        self._xy, self._times_s = np.zeros((0, _PAST, 2)), np.zeros((0, _PAST))

    def align(self, rows: np.ndarray, known: np.ndarray) -> None:
        """Reorder to the objects `rows` (N,); where `known` (N,) is false, begin a new one."""
        xy, times = np.full((len(rows), _PAST, 2), np.nan), np.full((len(rows), _PAST), np.nan)
        xy[known], times[known] = self._xy[rows[known]], self._times_s[rows[known]]
        self._xy, self._times_s = xy, times

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return (N,) factors for objects of these classes."""
        size = self._size.with_prior(labels, PRIOR_SCALE, PRIOR_WEIGHT)
        mean = self._mean.with_prior(labels, size, SIZE_WEIGHT)
        bound = MARGIN * self._bound.with_prior(labels, PRIOR_SCALE, PRIOR_WEIGHT)
        return np.minimum(mean, bound).clip(LEAST_SCALE, MOST_SCALE)

    def observe(
        self, rows: np.ndarray, time_s: float, xy: np.ndarray, variance: np.ndarray, labels: np.ndarray
    ) -> None:
        """Update with measured positions.

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
        # What noise alone makes of -first * second and of second^2, in x and in y.
        product = (1 / one + 2 / two + 1 / three) / two * variance
        square = (1 / two**2 + (1 / two + 1 / three) ** 2 + 1 / three**2) * variance
        ratio, bound = -(first * second).sum(1) / 2 / product, (second**2).sum(1) / 2 / square
        good, bounded = np.isfinite(ratio), np.isfinite(bound)
        ratio = ratio[good].clip(-MOST_RATIO, MOST_RATIO)
        self._mean.add(ratio, labels[good])
        self._size.add(np.abs(ratio), labels[good])
        self._bound.add(bound[bounded].clip(max=MOST_RATIO), labels[bounded])
        self._xy[rows] = places[:, 1:]
        self._times_s[rows] = np.concatenate((self._times_s[rows, 1:], now), 1)
