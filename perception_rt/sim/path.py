"""The road's reference line and the ego's motion along it, in closed form.

The line's heading is a sum of sines of the arc length, so its curvature is exact and bounded, and the line
never crosses itself. The ego's speed is a sum of sines of time. Velocity, yaw rate and acceleration are
therefore exact derivatives, which makes them suitable to test filters.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

_STEP_M = 0.5
_BLOCK = 2048
_START_M = -512.0
# Gauss-Legendre nodes and weights on [0, 1]: three points integrate a cell to rounding error.
_NODES = (np.polynomial.legendre.leggauss(3)[0] + 1) / 2
_WEIGHTS = np.polynomial.legendre.leggauss(3)[1] / 2


class RoadPath:
    """A planar curve by arc length: the middle of the ego's lane; ``s = 0`` is the world's origin.

    Args:
        rng: draws the shape.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        wavelength = np.array([rng.uniform(380, 620), rng.uniform(170, 260)])
        amplitude = np.array([rng.uniform(0.15, 0.5), rng.uniform(0.02, 0.16)])
        self._k = 2 * np.pi / wavelength
        self._amplitude = amplitude
        self._phase = rng.uniform(0, 2 * np.pi, 2)
        self._heading0 = rng.uniform(-np.pi, np.pi)
        self._xy = np.zeros((1, 2))
        self._growing = threading.Lock()  # sensors may render on different threads
        self._reach(512)
        self._xy -= self._xy[int(-_START_M / _STEP_M)]

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Heading at arc length s [m], rad, not wrapped."""
        s = np.asarray(s, float)[..., None]
        return self._heading0 + (self._amplitude * np.sin(self._k * s + self._phase)).sum(-1)

    def curvature(self, s: np.ndarray | float) -> np.ndarray:
        """d heading / d s at arc length s [m], 1/m, positive to the left."""
        s = np.asarray(s, float)[..., None]
        return (self._amplitude * self._k * np.cos(self._k * s + self._phase)).sum(-1)

    def position(
        self, s: np.ndarray | float, d: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return world x, y and heading at arc length s and lateral offset d (left positive), m."""
        s = np.asarray(s, float)
        if s.size and s.min() < _START_M:
            raise ValueError(f"s={s.min()}: the road starts at {_START_M} m")
        if s.size:
            self._reach(s.max() + _STEP_M)
        cell = np.floor((s - _START_M) / _STEP_M).astype(np.int64)
        s0 = _START_M + cell * _STEP_M
        u = (s - s0) / _STEP_M
        h0, h1, h = self.heading(s0), self.heading(s0 + _STEP_M), self.heading(s)
        # Cubic Hermite between grid points with the exact tangents: error below 1e-8 m.
        b00, b10 = (1 + 2 * u) * (1 - u) ** 2, u * (1 - u) ** 2 * _STEP_M
        b01, b11 = u * u * (3 - 2 * u), u * u * (u - 1) * _STEP_M
        p0, p1 = self._xy[cell], self._xy[cell + 1]
        x = b00 * p0[..., 0] + b10 * np.cos(h0) + b01 * p1[..., 0] + b11 * np.cos(h1)
        y = b00 * p0[..., 1] + b10 * np.sin(h0) + b01 * p1[..., 1] + b11 * np.sin(h1)
        return x - d * np.sin(h), y + d * np.cos(h), h

    def _end_m(self) -> float:
        return _START_M + (len(self._xy) - 1) * _STEP_M

    def _reach(self, end_m: float) -> None:
        """Append blocks of fixed size until `end_m`, so that values do not depend on the order of calls."""
        if self._end_m() >= end_m:
            return
        with self._growing:
            while self._end_m() < end_m:
                s = self._end_m() + _STEP_M * (np.arange(_BLOCK)[:, None] + _NODES)
                h = self.heading(s)
                step = _STEP_M * np.stack([np.cos(h) @ _WEIGHTS, np.sin(h) @ _WEIGHTS], -1)
                self._xy = np.concatenate([self._xy, self._xy[-1] + np.cumsum(step, 0)])


@dataclass(frozen=True, slots=True)
class SimulatedEgo:
    """The vehicle's state: base_link (on the ground, rear axle) in the odom frame, REP 103 and REP 105.

    Attributes:
        x: m. y: m. yaw: rad in [-pi, pi). v: forward speed, m/s. yaw_rate: rad/s. accel: forward, m/s^2.
    """

    x: float
    y: float
    yaw: float
    v: float
    yaw_rate: float
    accel: float


class EgoMotion:
    """The ego's motion along the path: its speed is a mean plus two sines, always above 3 m/s.

    Args:
        rng: draws the speed profile.
        path: the line that base_link follows.
    """

    def __init__(self, rng: np.random.Generator, path: RoadPath) -> None:
        self.path = path
        self.mean_v = rng.uniform(7.5, 12.0)
        self._w = np.array([2 * np.pi / rng.uniform(18, 30), 2 * np.pi / rng.uniform(7, 11)])
        self._a = np.array([rng.uniform(0.8, 2.6), rng.uniform(0.2, 0.7)])
        self._q = rng.uniform(0, 2 * np.pi, 2)

    def s(self, t: float) -> float:
        """Return the arc length travelled at t [s], m; zero at t = 0."""
        swing = self._a / self._w * (np.cos(self._w * t + self._q) - np.cos(self._q))
        return float(self.mean_v * t - swing.sum())

    def v(self, t: float) -> float:
        """Return the forward speed at t, m/s."""
        return float(self.mean_v + (self._a * np.sin(self._w * t + self._q)).sum())

    def arrival(self, s: float) -> float:
        """Return the time at which the ego passes arc length s (may be negative), by bisection to 1e-6 s."""
        slack = float((2 * self._a / self._w).sum()) / self.mean_v
        low, high = s / self.mean_v - slack, s / self.mean_v + slack
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if self.s(middle) < s else (low, middle)
        return low

    def state(self, t: float) -> SimulatedEgo:
        """Return the full state at t [s]."""
        s, v = self.s(t), self.v(t)
        x, y, heading = self.path.position(s)
        return SimulatedEgo(
            x=float(x),
            y=float(y),
            yaw=float((heading + np.pi) % (2 * np.pi) - np.pi),
            v=v,
            yaw_rate=float(self.path.curvature(s)) * v,
            accel=float((self._a * self._w * np.cos(self._w * t + self._q)).sum()),
        )
