"""One car tracked from lidar and radar fixes: the Kalman core of the ego filter with a turning car's motion.

The state is x, y, vx, vy and turn rate (coordinated turn; Bar-Shalom, Li, Kirubarajan: Estimation with
Applications to Tracking and Navigation, 2001, 11.7). Velocity by components has no singular heading where
nothing is known of it, and a radar's range rate is nearly linear in it; what is not is relinearised once
(iterated Kalman filter).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, exp, hypot, inf, sin
from pathlib import Path

import numpy as np

from bench.rows import Row, row
from perception_rt.stage.vehicle_state.kalman import correct
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types import BagError

# Of the sensors, as the data set's course states them.
LIDAR_SIGMA = 0.15  # m
RADAR_SIGMA = (0.3, 0.03, 0.3)  # m, rad, m/s
# Of the car; the last three were chosen on the first half of the recording.
SPEED_SIGMA, TURN_SIGMA = 6.0, 0.5  # m/s an axis and rad/s, at the start
ACCELERATION, TURN_ACCELERATION, TURN_TIME_S = 0.2, 0.2, 5.0  # m/s^2/sqrt(Hz), rad/s^2/sqrt(Hz), s
TARGETS = (("x_m", "m", 0.070), ("y_m", "m", 0.085), ("vx_m_s", "m/s", 0.34), ("vy_m_s", "m/s", 0.24))


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A lidar fix (x, y in m) or a radar fix (range in m, bearing in rad, range rate in m/s), and the truth.

    Attributes:
        values: two or three numbers. stamp_us: microseconds. truth: x, y, vx, vy.
    """

    values: tuple[float, ...]
    stamp_us: int
    truth: tuple[float, ...]


def udacity_rows(path: Path) -> list[Row]:
    """Errors over all sightings of one causal pass, the first included."""
    sightings = read_sightings(path)
    error = track(sightings) - np.array([sighting.truth for sighting in sightings])
    half = len(error) // 2
    parts = (("", error), ("tuned_half_", error[:half]), ("unseen_half_", error[half:]))
    return [
        row(
            f"ego/udacity_ekf/{part}rmse_{name}",
            float(np.sqrt((rows[:, axis] ** 2).mean())),
            unit,
            "" if part else f"<= {target:.3f}",
        )
        for part, rows in parts
        for axis, (name, unit, target) in enumerate(TARGETS)
    ]


def read_sightings(path: Path) -> list[Sighting]:
    """Read the text file of the data set.

    Raises:
        BagError: a line that is neither a lidar's nor a radar's.
    """
    sightings = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        kind, *rest = line.split()
        count = {"L": 2, "R": 3}.get(kind)
        if count is None or len(rest) < count + 5:
            raise BagError(f"{path}:{number}: {line!r} is neither a lidar's nor a radar's row")
        values = tuple(float(value) for value in rest[:count])
        truth = tuple(float(value) for value in rest[count + 1 : count + 5])
        sightings.append(Sighting(values, int(rest[count]), truth))
    return sightings


def track(sightings: list[Sighting]) -> np.ndarray:
    """(N, 4) x, y, vx, vy after each sighting."""
    x, covariance = _first(sightings[0])
    found, stamp_us = [x[:4]], sightings[0].stamp_us
    for sighting in sightings[1:]:
        x, covariance = _predict(x, covariance, (sighting.stamp_us - stamp_us) * 1e-6)
        stamp_us = sighting.stamp_us
        before, at = x, x
        for _ in range(2):
            residual, jacobian, noise = _observe(sighting, at)
            residual = (residual - jacobian @ (before - at)).tolist()
            at, after = correct(before, covariance, residual, jacobian, noise, inf)
        x, covariance = at, after
        found.append(x[:4])
    return np.array(found)


def _first(sighting: Sighting) -> tuple[np.ndarray, np.ndarray]:
    if len(sighting.values) == 2:
        x, sigma = (*sighting.values, 0.0, 0.0, 0.0), LIDAR_SIGMA
    else:
        reach, bearing, rate = sighting.values
        c, s = cos(bearing), sin(bearing)
        x, sigma = (reach * c, reach * s, rate * c, rate * s, 0.0), RADAR_SIGMA[0]
    sigmas = np.array([sigma, sigma, SPEED_SIGMA, SPEED_SIGMA, TURN_SIGMA])
    return np.array(x), np.diag(sigmas * sigmas)


def _predict(x: np.ndarray, covariance: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    px, py, vx, vy, turn = x.tolist()
    angle, fade = turn * dt, exp(-dt / TURN_TIME_S)
    c, s = cos(angle), sin(angle)
    chord = float(np.sinc(angle / 2 / np.pi)) * dt
    along, across = cos(angle / 2) * chord, sin(angle / 2) * chord
    dx, dy = along * vx - across * vy, across * vx + along * vy
    moved = np.array([px + dx, py + dy, c * vx - s * vy, s * vx + c * vy, turn * fade])
    transition = np.array(
        [
            [1, 0, along, -across, -dy * dt / 2],
            [0, 1, across, along, dx * dt / 2],
            [0, 0, c, -s, -moved[3] * dt],
            [0, 0, s, c, moved[2] * dt],
            [0, 0, 0, 0, fade],
        ]
    )
    power = ACCELERATION**2
    spread = np.zeros((5, 5))
    spread[[0, 1], [0, 1]] = power * dt**3 / 3
    spread[[0, 1, 2, 3], [2, 3, 0, 1]] = power * dt**2 / 2
    spread[[2, 3], [2, 3]] = power * dt
    spread[4, 4] = TURN_ACCELERATION**2 * dt
    covariance = transition @ covariance @ transition.T
    return moved, (covariance + covariance.T) / 2 + spread


def _observe(sighting: Sighting, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    px, py, vx, vy, _ = x.tolist()
    if len(sighting.values) == 2:
        residual = np.array(sighting.values) - x[:2]
        return residual, np.eye(2, 5), np.diag([LIDAR_SIGMA**2] * 2).tolist()
    reach = hypot(px, py)
    ux, uy = px / reach, py / reach
    rate = vx * ux + vy * uy
    jacobian = np.array(
        [
            [ux, uy, 0, 0, 0],
            [-uy / reach, ux / reach, 0, 0, 0],
            [(vx - rate * ux) / reach, (vy - rate * uy) / reach, ux, uy, 0],
        ]
    )
    measured = sighting.values
    residual = np.array([measured[0] - reach, wrapped(measured[1] - atan2(py, px)), measured[2] - rate])
    return residual, jacobian, np.diag(np.square(RADAR_SIGMA)).tolist()
