"""Random lidars for sim/street.py: ring patterns, heights, noise, gaps, and motion distortion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_rt.sim.lidar import ELEVATIONS, Receiver
from perception_rt.sim.raycast import RayGrid

TURN_S = 0.1
# Degrees, ascending, and number of columns; share of the streets that each one scans.
_PATTERNS = (
    (np.concatenate([np.linspace(-24.8, -8.83, 32), np.linspace(-8.33, 2.0, 32)]), 2000, 0.36),
    (np.linspace(-30.67, 10.67, 32), 1080, 0.14),
    (np.sort(np.concatenate([np.linspace(-25, 15, 24), np.linspace(-4, 2, 16)])), 1800, 0.08),
    (np.sort(np.concatenate([np.linspace(-25, 15, 32), np.linspace(-4.2, 2.5, 32)])), 1400, 0.1),
    (np.linspace(-22.5, 22.5, 64), 1024, 0.06),
    (np.linspace(-16.6, 16.6, 64), 1024, 0.06),
    (np.linspace(-15, 15, 16), 1800, 0.06),
    (np.linspace(-25, 15, 128), 1024, 0.04),
    (np.rad2deg(ELEVATIONS), 1080, 0.1),
)


@dataclass(frozen=True, slots=True, eq=False)
class LidarModel:
    """A sensor on a vehicle.

    Attributes:
        grid: its rays. height: above the ground, m. receiver: of the light.
        sector: half angle of view about x, rad; pi for all. lost: share of lost packets. compensated: True if
            the cloud is corrected for the vehicle's own motion.
    """

    grid: RayGrid
    height: float
    receiver: Receiver
    sector: float
    lost: float
    compensated: bool
    stray: float

    @classmethod
    def seeded(cls, rng: np.random.Generator) -> LidarModel:
        """Return a random common sensor with a random mounting."""
        share = np.array([pattern[2] for pattern in _PATTERNS])
        degrees, columns, _ = _PATTERNS[rng.choice(len(_PATTERNS), p=share / share.sum())]
        degrees = np.sort(degrees + rng.normal(0, 0.3) + rng.normal(0, 0.03, len(degrees)))
        columns = round(columns * rng.uniform(0.75, 1.1))
        return cls(
            RayGrid.of(columns, np.deg2rad(degrees), rng.uniform(0, 2 * np.pi / columns) - np.pi),
            rng.uniform(1.5, 2.15),
            Receiver(
                rng.uniform(0.008, 0.035),
                rng.choice([0.01, 0.05, 0.12]),
                rng.uniform(250, 900),
                rng.uniform(0.9, 2),
            ),
            rng.uniform(0.8, 1.6) if rng.random() < 0.2 else np.pi,
            rng.uniform(0, 0.12) if rng.random() < 0.2 else 0.0,
            bool(rng.random() < 0.75),
            rng.uniform(0, 0.01),
        )

    def seen(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return (N,) bool, True for (N, 4) points within the sector and in packets that are not lost."""
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        packet = ((azimuth + np.pi) * (180 / np.pi)).astype(np.int64) % 360
        arrives = rng.random(360) >= self.lost
        return (np.abs(azimuth) <= self.sector) & arrives[packet]

    def scatter(self, points: np.ndarray, rng: np.random.Generator) -> None:
        """Move random outliers of (N, 4) points away from the sensor."""
        count = rng.binomial(len(points), self.stray)
        rows = rng.integers(0, max(len(points), 1), count)
        points[rows, :3] *= (1 + rng.exponential(0.04, (count, 1))).astype(np.float32)

    def blur(self, points: np.ndarray, velocity: np.ndarray, speed: float) -> None:
        """Move (N, 4) points to their positions when their ray was fired, by (N, 2) velocity over ground,
        m/s.

        The stamp is the middle of the revolution, which starts and ends at the rear. `speed` is the
        vehicle's.
        """
        late = np.arctan2(points[:, 1], points[:, 0]) * np.float32(-TURN_S / (2 * np.pi))
        points[:, :2] += velocity * late[:, None]
        if not self.compensated:
            points[:, 0] -= speed * late
