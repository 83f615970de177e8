"""Calibrated spread of predictions: error quantiles from recordings and from the current objects.

A filter's covariance says how uncertain its state is, but not what people decide to do: its ellipses are too
large in calm scenes and too small in busy ones. So the spread of a class is scaled to quantiles of errors on
recordings, by horizon (split conformal prediction; Lei et al., "Distribution-free predictive inference for
regression", JASA 113, 2018). Errors are counted in units of an object's unrest, how much its velocity has
changed recently, and the quantiles of errors LEADS_S ahead are followed while running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from perception_rt.stage.quantiles import chi_square_quantile

SHARES = (0.5, 0.95)
# Mahalanobis distances that hold these shares of a Gaussian.
GAUSSIAN = np.sqrt([chi_square_quantile(share, 2) for share in SHARES])
SLOW_S = 1.0  # time constant of the slow velocity for the comparison
MEMORY_S = 3.0  # for which a change of velocity counts
KNOWN_S = 1.3  # an object is seen for so long before its prediction is checked
YOUNG_S = 2.3  # predictions of one seen for so long are twice as far off as of one seen for ever
LEADS_S = (0.4, 0.8, 1.2)  # how far ahead predictions are checked
LATEST = 1.5  # a check later than this multiple of its lead is dropped
GROWTH = 1.3  # errors grow with this power of the time around a lead
TREND = (1 / 3, 1 / 2)  # how much of the factors' trend over the last two leads goes on, at 50 % and 95 %
MOST_TREND = 1.0  # power of the time at most
PRIOR_WEIGHT, MEMORY = 20.0, 4000.0  # errors that the recordings count as, and after which old ones fade
_BINS = np.geomspace(1e-2, 1e2, 129)  # of errors over their expected median
_EDGES = np.log(_BINS[1:])


@dataclass(frozen=True, slots=True)
class Spread:
    """Error quantiles of predictions of one class, in units of an object's unrest, m/s.

    Attributes:
        base: unrest of one whose velocity does not change, m/s.
        restless: what the mean square of the changes of velocity adds to its square.
        lead_half, lead_most: radii that hold 50 % and 95 % after LEADS_S as they are found while running, s.
        horizons_s: moments ahead, increasing, s.
        half, most: radii that hold 50 % and 95 % at each of them, where those of the leads are right, s.
    """

    base: float
    restless: float
    lead_half: tuple[float, ...]
    lead_most: tuple[float, ...]
    horizons_s: tuple[float, ...]
    half: tuple[float, ...]
    most: tuple[float, ...]

    def radii(self, times_s: np.ndarray) -> np.ndarray:
        """Return (2, T) radii of 50 % and of 95 %, s; powers of the time between the horizons and beyond."""
        at, x = np.log(self.horizons_s), np.log(times_s)
        return np.exp([_line(x, at, np.log(radii)) for radii in (self.half, self.most)])


@lru_cache(64)
def _radii(spread: Spread, times_s: tuple[float, ...]) -> np.ndarray:
    """`Spread.radii` of moments that hardly ever change."""
    return spread.radii(np.array(times_s))


def _line(x: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate linearly; the first and the last segment are extrapolated."""
    piece = (np.searchsorted(at, x) - 1).clip(0, len(at) - 2)
    slope = np.diff(values) / np.diff(at)
    return values[piece] + slope[piece] * (x - at[piece])


class Errors:
    """The unrest of each object, and the errors of predictions by class.

    Args:
        spreads: of each class; None to use the filter's covariance.
    """

    def __init__(self, spreads: Sequence[Spread | None]) -> None:
        self._spreads = spreads
        learned = [spread is not None for spread in spreads]
        self._learned = np.array(learned, bool)
        self._base, self._restless = np.array([(s.base, s.restless) if s else (1.0, 1.0) for s in spreads]).T
        nothing = (1.0,) * len(LEADS_S), (2.0,) * len(LEADS_S)
        leads = np.array([(s.lead_half, s.lead_most) if s else nothing for s in spreads])
        self._lead = leads.transpose(1, 2, 0)  # (2, L, C)
        # Log-normal distributions with the recordings' quantiles, (L, C, B).
        normal = NormalDist()
        sd = np.log(self._lead[1] / self._lead[0]) / normal.inv_cdf(SHARES[1])
        below = np.vectorize(normal.cdf)(np.log(_BINS) / sd[..., None])
        self._counts = PRIOR_WEIGHT * np.diff(below, axis=-1)
        self.forget()

    def forget(self) -> None:
        """Remove the objects, but keep the learned errors."""
        # Slow velocity, mean square of changes, time it is known for.
        self._objects = np.zeros((0, 4))
        # For each lead the prediction that is checked: place, velocity, unrest, time since.
        self._checked = np.zeros((0, len(LEADS_S), 6))

    def align(self, rows: np.ndarray, known: np.ndarray) -> None:
        """Reorder to the objects `rows` (N,); where `known` (N,) is false, begin a new one."""
        new = np.tile([np.nan, np.nan, 0.0, 0.0], (len(rows), 1))
        new[known] = self._objects[rows[known]]
        checked = np.full((len(rows), len(LEADS_S), 6), np.nan)
        checked[known] = self._checked[rows[known]]
        self._objects, self._checked = new, checked

    def advance(self, dt: float) -> None:
        """Advance by dt s."""
        self._checked[..., 5] += dt

    def unrest(self, labels: np.ndarray) -> np.ndarray:
        """Return (N,) m/s, for objects of these classes; infinite until two velocities are known."""
        with np.errstate(divide="ignore"):
            young = 1 + YOUNG_S / self._objects[:, 3]
        return np.sqrt(self._base[labels] ** 2 + self._restless[labels] * self._objects[:, 2]) * young

    def observe(
        self, rows: np.ndarray, dt: float, xy: np.ndarray, velocity: np.ndarray, labels: np.ndarray
    ) -> None:
        """Update with measured positions and filtered velocities.

        Args:
            rows: (M,) of the objects. dt: since the update before, s.
            xy: (M, 2) m. velocity: (M, 2) m/s. labels: (N,) of all objects.
        """
        rows, mine = rows[self._learned[labels[rows]]], self._learned[labels[rows]]
        xy, velocity, objects = xy[mine], velocity[mine], self._objects[rows]
        slow = np.where(np.isnan(objects[:, :2]), velocity, objects[:, :2])
        off, kept = velocity - slow, objects[:, 3] * np.exp(-dt / MEMORY_S)
        total = np.maximum(kept + dt, 1e-9)
        objects[:, 2] = (objects[:, 2] * kept + (off**2).sum(1) / 2 * dt) / total
        objects[:, 3] = total
        objects[:, :2] = slow + off * (1 - np.exp(-dt / SLOW_S))
        self._objects[rows] = objects
        known = objects[:, 3] >= KNOWN_S - 1e-6
        now = np.column_stack((xy, velocity, self.unrest(labels)[rows], np.zeros(len(rows))))
        for lead, lead_s in enumerate(LEADS_S):
            age = self._checked[rows, lead, 5]
            due = age >= lead_s - 1e-6
            if due.any():
                self._check(lead, self._checked[rows[due], lead], xy[due], labels[rows[due]])
            fresh = known & (due | np.isnan(age))
            self._checked[rows[fresh], lead] = now[fresh]

    def _check(self, lead: int, checked: np.ndarray, xy: np.ndarray, labels: np.ndarray) -> None:
        """Add the errors of predictions (K, 6) for objects that are now at `xy` (K, 2)."""
        late = checked[:, 5] / LEADS_S[lead]
        soon = late <= LATEST
        checked, xy, labels, late = checked[soon], xy[soon], labels[soon], late[soon]
        error = np.linalg.norm(xy - checked[:, :2] - checked[:, 5:] * checked[:, 2:4], axis=1)
        expected = checked[:, 4] * self._lead[0, lead, labels] * late**GROWTH
        place = (np.searchsorted(_BINS, error / expected) - 1).clip(0, len(_BINS) - 2)
        counts = self._counts[lead]
        counts *= np.minimum(MEMORY / counts.sum(1), 1.0)[:, None]
        np.add.at(counts, (labels, place), 1.0)

    def factors(self, labels: np.ndarray | None = None) -> np.ndarray:
        """Return (2, L, C): current errors relative to recordings at each lead, at 50 % and at 95 %.

        Args:
            labels: (C,) the classes; None for all.
        """
        some = slice(None) if labels is None else labels
        counts, leads = self._counts[:, some], self._lead[:, :, some]
        below = np.cumsum(counts, axis=-1) / counts.sum(-1, keepdims=True)
        found = [[[np.interp(share, row, _EDGES) for row in lead] for lead in below] for share in SHARES]
        return np.exp(found) * leads[0] / leads

    def growth(self, times_s: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Return (2, C, T): the factors at times ahead; beyond the last lead with a damped trend.

        Args:
            times_s: (T,) ahead, s. labels: (C,) the classes; None for all.
        """
        logs, x, at = np.log(self.factors(labels)), np.log(times_s), np.log(LEADS_S)
        trend = (logs[:, -1] - logs[:, -2]) / (at[-1] - at[-2])
        power = (np.reshape(TREND, (-1, 1)) * trend).clip(-MOST_TREND, MOST_TREND)
        beyond = power[..., None] * (x - at[-1]).clip(min=0)
        inner = [[np.interp(x, at, of) for of in share.T] for share in logs]
        return np.exp(inner + beyond)

    def radii(self, labels: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """Return (2, N, T) radii that contain 50 % and 95 %, m; infinite if unknown."""
        radii = np.full((2, len(labels), len(times_s)), np.inf)
        learned = np.unique(labels[self._learned[labels]])
        if not len(learned):
            return radii
        factors, unrest = self.growth(times_s, learned), self.unrest(labels)
        for place, label in enumerate(learned.tolist()):
            spread = self._spreads[label]
            assert spread is not None  # as it is learned
            mine = labels == label
            scaled = _radii(spread, tuple(times_s.tolist())) * factors[:, place]
            radii[:, mine] = scaled[:, None] * unrest[mine][:, None]
        return radii
