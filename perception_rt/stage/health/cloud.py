"""Check the clouds of one lidar: empty, blocked, a missing sector, fewer points per ring."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perception_rt.stage.health.checks import Check, Finding, Limits

SECTORS = 72  # of 5 degrees
SAMPLED = 12_000  # maximum number of sampled points
NEAR_M = 1.0
ORIGIN_M = 0.05  # m; nearer points are missing returns that drivers put at the origin
DOWN = -0.05  # sine of the elevation below which beams hit the ground in any scene
LEARN_S = 1.0  # of clouds that give the usual figures, at least `LEARN_CLOUDS`
LEARN_CLOUDS = 3
FOLLOW = 0.02  # weight of a new cloud in the usual figures, without a fault
LEAST_SECTOR = 8.0  # minimum number of usual sampled points of a sector that can be missing
LOST = 0.15  # share of the usual points below which a sector is missing
LEAST_DOWN = 0.1  # minimum share of points below the horizon to represent all

LIMITS = {
    "points": Limits(0.65, 0.3, "the number of points fell", below=True),
    "sector_deg": Limits(30.0, 50.0, "a sector is gone"),
    "near": Limits(0.5, 0.8, "the lidar is blocked"),
    "empty": Limits(0.5, 0.5, "the cloud is empty"),
}


class CloudFigures(NamedTuple):
    """Figures of a cloud.

    Attributes:
        returns: number of returns. down: estimated returns below the horizon. near: share within `NEAR_M`.
        sectors: (SECTORS,) sampled returns by azimuth, scaled to the whole cloud.
    """

    returns: float
    down: float
    near: float
    sectors: np.ndarray


def measure_cloud(points: np.ndarray) -> CloudFigures:
    """Measure (N, 4) float32 points; those nearer than `ORIGIN_M` are not returns."""
    step = max(1, len(points) // SAMPLED) | 1  # odd, as an even stride would skip some rings
    x, y, z = np.ascontiguousarray(points[::step, :3].T)
    with np.errstate(over="ignore"):  # a broken driver may send anything
        distance = np.sqrt(x * x + y * y + z * z)
    real = distance > ORIGIN_M
    if not real.any():
        return CloudFigures(0, 0.0, 0.0, np.zeros(SECTORS))
    x, y, z, distance = x[real], y[real], z[real], distance[real]
    sector = ((np.arctan2(y, x) + np.float32(np.pi)) * np.float32(SECTORS / (2 * np.pi))).astype(np.int32)
    sectors = np.bincount(np.minimum(sector, SECTORS - 1), minlength=SECTORS) * float(step)
    count = min(len(points), len(x) * step)
    down = float((z < DOWN * distance).mean()) * count
    return CloudFigures(count, down, float((distance < NEAR_M).mean()), sectors)


class CloudHealth:
    """Compares the clouds of one lidar with its usual figures.

    Args:
        sensor: topic. findings: list that faults are added to.
    """

    def __init__(self, sensor: str, findings: list[Finding]) -> None:
        self.checks = {name: Check(sensor, name, limits, findings) for name, limits in LIMITS.items()}
        self._learning: list[CloudFigures] = []
        self._usual: CloudFigures | None = None
        self._start_ns = 0

    def reset(self) -> None:
        """End the faults after the clock was set back; the usual figures are kept."""
        self._learning, self._start_ns = [], 0
        for check in self.checks.values():
            check.clear(0)

    def update(self, now_ns: int, figures: CloudFigures) -> None:
        """Update with the figures of a cloud."""
        checks = self.checks
        checks["empty"].update(now_ns, float(figures.returns == 0))
        usual = self._usual
        # Points that are always near belong to the vehicle.
        checks["near"].update(now_ns, figures.near if usual is None else max(0.0, figures.near - usual.near))
        if usual is None:
            self._learn(now_ns, figures)
            return
        there = figures.returns > 0
        checks["points"].update(now_ns, self._share(figures, usual) if there else None)
        checks["sector_deg"].update(now_ns, _gone_deg(figures, usual) if there else None)
        if not any(check.level for check in checks.values()):
            self._usual = _blend(usual, figures, FOLLOW)

    def _share(self, figures: CloudFigures, usual: CloudFigures) -> float:
        """Return points relative to the usual number: of all or below the horizon, whichever fell less."""
        shares = [figures.returns / max(usual.returns, 1)]
        if usual.down > LEAST_DOWN * usual.returns:
            shares.append(figures.down / usual.down)
        return max(shares)

    def _learn(self, now_ns: int, figures: CloudFigures) -> None:
        if not figures.returns or figures.near > LIMITS["near"].warn:
            return
        self._start_ns = self._start_ns or now_ns
        self._learning.append(figures)
        if now_ns - self._start_ns >= LEARN_S * 1e9 and len(self._learning) >= LEARN_CLOUDS:
            returns, down, near = np.median([one[:3] for one in self._learning], 0).tolist()
            sectors = np.median([one.sectors for one in self._learning], 0)
            self._usual = CloudFigures(returns, down, near, sectors)
            self._learning = []


def _blend(old: CloudFigures, new: CloudFigures, share: float) -> CloudFigures:
    """Return old figures, moved towards new ones."""
    rest = 1.0 - share
    return CloudFigures(
        rest * old.returns + share * new.returns,
        rest * old.down + share * new.down,
        rest * old.near + share * new.near,
        rest * old.sectors + share * new.sectors,
    )


def _gone_deg(figures: CloudFigures, usual: CloudFigures) -> float:
    """Return the widest run of missing sectors, degrees."""
    least = LEAST_SECTOR * max(1.0, usual.returns / SAMPLED)
    watched = usual.sectors >= least
    gone = watched & (figures.sectors < LOST * usual.sectors)
    if gone.all():
        return 360.0
    start = int(np.argmin(gone))  # a sector that is present, so that runs do not wrap around
    widest = run = 0
    for lost in np.roll(gone, -start):
        run = run + 1 if lost else 0
        widest = max(widest, run)
    return widest * 360.0 / SECTORS
