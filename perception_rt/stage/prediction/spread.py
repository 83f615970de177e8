"""How far off predictions are: quantiles learned from recordings and from the objects at hand.

A filter's covariance says how uncertain its state is, but not what people decide to do: on calm scenes its
ellipses hold too much, on busy ones too little. So the spread of a class is scaled to quantiles of errors on
recordings, by horizon (split conformal prediction; Lei et al., "Distribution-free predictive inference for
regression", JASA 113, 2018). Errors are counted in units of an object's unrest, how much its velocity has
changed of late, and the quantiles of errors LEAD_S ahead are followed while running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincinv, ndtr, ndtri

SHARES = (0.5, 0.95)
GAUSSIAN = np.sqrt(2 * gammaincinv(1.0, SHARES))  # Mahalanobis distances that hold these shares of a Gaussian
SLOW_S = 1.0  # time constant of the velocity that the present one is compared with
MEMORY_S = 3.0  # for which a change of velocity counts
KNOWN_S = 1.0  # an object is seen for so long before its prediction is checked
YOUNG_S = 2.3  # predictions of one seen for so long are twice as far off as of one seen for ever
LEAD_S, EARLIEST_S, LATEST_S = 1.2, 1.0, 2.0  # how far ahead predictions are checked
GROWTH = 1.3  # errors grow with this power of the time, between EARLIEST_S and LATEST_S
PRIOR_WEIGHT, MEMORY = 20.0, 4000.0  # errors that the recordings count as, and after which old ones fade
_BINS = np.geomspace(1e-2, 1e2, 129)  # of errors over their expected median


@dataclass(frozen=True, slots=True)
class Spread:
    """Errors of predictions of one class, in units of an object's unrest, m/s.

    Attributes:
        base: unrest of one whose velocity does not change, m/s.
        restless: what the mean square of the changes of velocity adds to its square.
        lead: radii that hold 50 % and 95 % after LEAD_S as they are found while running, s.
        horizons_s: moments ahead, increasing, s.
        half, most: radii that hold 50 % and 95 % at each of them, where `lead` is right, s.
    """

    base: float
    restless: float
    lead: tuple[float, float]
    horizons_s: tuple[float, ...]
    half: tuple[float, ...]
    most: tuple[float, ...]

    def radii(self, times_s: np.ndarray) -> np.ndarray:
        """(2, T) radii of 50 % and of 95 %, s; powers of the time between the horizons and beyond."""
        at, x = np.log(self.horizons_s), np.log(times_s)
        return np.exp([_line(x, at, np.log(radii)) for radii in (self.half, self.most)])


def _line(x: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear; the first and the last piece go on."""
    piece = (np.searchsorted(at, x) - 1).clip(0, len(at) - 2)
    slope = np.diff(values) / np.diff(at)
    return values[piece] + slope[piece] * (x - at[piece])


class Errors:
    """Unrest of each object, and by class how far predictions were off.

    Args:
        spreads: of each class; None where the filter's covariance counts.
    """

    def __init__(self, spreads: Sequence[Spread | None]) -> None:
        self._spreads = spreads
        learned = [spread is not None for spread in spreads]
        self._learned = np.array(learned, bool)
        self._base, self._restless, half, most = np.array(
            [(s.base, s.restless, *s.lead) if s else (1.0, 1.0, 1.0, 2.0) for s in spreads]
        ).T
        self._lead = np.stack((half, most))
        # A log-normal distribution with the recordings' quantiles.
        sd = np.log(most / half) / ndtri(SHARES[1])
        below = ndtr(np.log(_BINS) / sd[:, None])
        self._counts = PRIOR_WEIGHT * np.diff(below, axis=1)
        self.forget()

    def forget(self) -> None:
        """Drop the objects, keep what was learned."""
        # slow velocity, mean square of changes, time it is known for; then the prediction that is checked:
        # place, velocity, unrest, time since.
        self._objects = np.zeros((0, 10))

    def align(self, rows: np.ndarray, known: np.ndarray) -> None:
        """Take the objects `rows` (N,) of those before; where `known` (N,) is false, a new one."""
        objects = np.full((len(rows), 10), np.nan)
        objects[:, 2:4] = 0
        objects[known] = self._objects[rows[known]]
        self._objects = objects

    def advance(self, dt: float) -> None:
        """Let dt s go by."""
        self._objects[:, 9] += dt

    def unrest(self, labels: np.ndarray) -> np.ndarray:
        """(N,) m/s, of objects of these classes; infinite where one velocity at most is known."""
        with np.errstate(divide="ignore"):
            young = 1 + YOUNG_S / self._objects[:, 3]
        return np.sqrt(self._base[labels] ** 2 + self._restless[labels] * self._objects[:, 2]) * young

    def observe(
        self, rows: np.ndarray, dt: float, xy: np.ndarray, velocity: np.ndarray, labels: np.ndarray
    ) -> None:
        """Take measured places and filtered velocities.

        Args:
            rows: (M,) of the objects. dt: since the update before, s.
            xy: (M, 2) m. velocity: (M, 2) m/s. labels: (N,) of all objects.
        """
        rows, mine = rows[self._learned[labels[rows]]], self._learned[labels[rows]]
        xy, velocity, objects = xy[mine], velocity[mine], self._objects[rows]
        age = objects[:, 9]
        due = (age >= EARLIEST_S - 1e-6) & (age <= LATEST_S)
        self._check(objects[due], xy[due], labels[rows[due]])
        slow = np.where(np.isnan(objects[:, :2]), velocity, objects[:, :2])
        off, kept = velocity - slow, objects[:, 3] * np.exp(-dt / MEMORY_S)
        total = np.maximum(kept + dt, 1e-9)
        objects[:, 2] = (objects[:, 2] * kept + (off**2).sum(1) / 2 * dt) / total
        objects[:, 3] = total
        objects[:, :2] = slow + off * (1 - np.exp(-dt / SLOW_S))
        self._objects[rows] = objects
        fresh = (objects[:, 3] >= KNOWN_S - 1e-6) & ~(age < EARLIEST_S - 1e-6)
        kept_rows = rows[fresh]
        self._objects[kept_rows, 4:6], self._objects[kept_rows, 6:8] = xy[fresh], velocity[fresh]
        self._objects[kept_rows, 8] = self.unrest(labels)[kept_rows]
        self._objects[kept_rows, 9] = 0.0

    def _check(self, objects: np.ndarray, xy: np.ndarray, labels: np.ndarray) -> None:
        age = objects[:, 9]
        error = np.linalg.norm(xy - objects[:, 4:6] - age[:, None] * objects[:, 6:8], axis=1)
        expected = objects[:, 8] * self._lead[0, labels] * (age / LEAD_S) ** GROWTH
        place = (np.searchsorted(_BINS, error / expected) - 1).clip(0, len(_BINS) - 2)
        fade = np.minimum(MEMORY / self._counts.sum(1), 1.0)
        self._counts *= fade[:, None]
        np.add.at(self._counts, (labels, place), 1.0)

    def factors(self) -> np.ndarray:
        """(2, C): by what the errors at hand exceed the recordings', at 50 % and at 95 %."""
        below = np.cumsum(self._counts, axis=1) / self._counts.sum(1, keepdims=True)
        edges = np.log(_BINS)
        found = np.array([[np.interp(share, row, edges[1:]) for row in below] for share in SHARES])
        return np.exp(found) * self._lead[0] / self._lead

    def radii(self, labels: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """(2, N, T) radii that hold 50 % and 95 %, m; infinite where nothing is known of them."""
        radii = np.full((2, len(labels), len(times_s)), np.inf)
        factors, unrest = self.factors(), self.unrest(labels)
        for label in np.unique(labels):
            spread = self._spreads[label]
            if spread is not None:
                mine = labels == label
                scaled = spread.radii(times_s) * factors[:, label, None]
                radii[:, mine] = scaled[:, None] * unrest[mine][:, None]
        return radii
