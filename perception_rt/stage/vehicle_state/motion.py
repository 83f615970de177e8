"""How a vehicle moves between two moments: constant turn rate and acceleration (CTRA).

Schubert, Richter, Wanielik: Comparison and Evaluation of Advanced Motion Models for Vehicle Tracking, FUSION
2008. The position's integrals are taken by two-point Gauss-Legendre quadrature instead of in closed form:
the error is below 1e-5 m for a step of MAX_STEP_S, and nothing is singular where the way is straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, sin, sqrt

import numpy as np

X, Y, YAW, SPEED, YAW_RATE, ACCELERATION = range(6)
MAX_STEP_S = 0.1
SLOW_M_S = 3.0  # below, yaw rate changes as if at this speed
_LOW, _HIGH = 0.5 - 0.5 / sqrt(3), 0.5 + 0.5 / sqrt(3)


@dataclass(frozen=True, slots=True)
class MotionNoise:
    """How far the vehicle departs from CTRA. The defaults are those of a passenger car on roads.

    Attributes:
        jerk: density of white jerk along the way, m/s^3/sqrt(Hz).
        lateral_jerk: the same across it, which drives the yaw rate: the faster, the less it changes.
        drift: density of the position's own walk (slip, uneven ground), m/sqrt(s).
        acceleration_time_s: the acceleration fades with this time constant (Singer's model): drivers do not
            keep it for long.
        yaw_rate_time_s: the same of the yaw rate.
    """

    jerk: float = 0.5
    lateral_jerk: float = 0.6
    drift: float = 0.1
    acceleration_time_s: float = 4.0
    yaw_rate_time_s: float = 10.0


def advance(
    state: Sequence[float],
    dt: float,
    noise: MotionNoise,
    transition: np.ndarray | None,
    spread: np.ndarray | None,
) -> list[float]:
    """One step of at most MAX_STEP_S.

    Args:
        state: x, y, yaw, speed, yaw_rate, acceleration; further entries are left out.
        dt: s.
        noise: of the vehicle.
        transition: the identity, of (6, 6) or more; its upper left becomes the Jacobian of the step. None,
            with `spread`: only the values are wanted.
        spread: zero, of (6, 6) or more; its upper left becomes the covariance of the step's noise.

    Returns:
        The six values after the step; yaw is not wrapped.
    """
    x, y, yaw, speed, yaw_rate, acceleration = state[:6]
    fade, turn_fade = exp(-dt / noise.acceleration_time_s), exp(-dt / noise.yaw_rate_time_s)
    gain, turn_gain = noise.acceleration_time_s * (1 - fade), noise.yaw_rate_time_s * (1 - turn_fade)
    low, high, half = _LOW * dt, _HIGH * dt, dt / 2
    v1, v2 = speed + acceleration * low, speed + acceleration * high
    yaw1, yaw2 = yaw + yaw_rate * low, yaw + yaw_rate * high
    c1, s1, c2, s2 = cos(yaw1) * half, sin(yaw1) * half, cos(yaw2) * half, sin(yaw2) * half
    dx, dy = v1 * c1 + v2 * c2, v1 * s1 + v2 * s2
    turned, sped = yaw_rate * turn_gain, acceleration * gain
    moved = [x + dx, y + dy, yaw + turned, speed + sped, yaw_rate * turn_fade, acceleration * fade]
    if transition is None or spread is None:
        return moved
    transition[X, YAW], transition[Y, YAW] = -dy, dx
    transition[X, SPEED], transition[Y, SPEED] = c1 + c2, s1 + s2
    transition[X, YAW_RATE] = -(low * v1 * s1 + high * v2 * s2)
    transition[Y, YAW_RATE] = low * v1 * c1 + high * v2 * c2
    transition[X, ACCELERATION], transition[Y, ACCELERATION] = low * c1 + high * c2, low * s1 + high * s2
    transition[YAW, YAW_RATE], transition[YAW_RATE, YAW_RATE] = turn_gain, turn_fade
    transition[SPEED, ACCELERATION], transition[ACCELERATION, ACCELERATION] = gain, fade
    spread[X, X] = spread[Y, Y] = noise.drift * noise.drift * dt
    _integrate(spread, SPEED, ACCELERATION, noise.jerk * noise.jerk * dt, dt)
    yaw_acceleration = noise.lateral_jerk / max(abs(speed), SLOW_M_S)
    _integrate(spread, YAW, YAW_RATE, yaw_acceleration * yaw_acceleration * dt, dt)
    return moved


def slide(
    state: Sequence[float], sideways: float, dt: float, transition: np.ndarray | None = None
) -> tuple[float, float]:
    """What a sideways speed adds to a step of `advance`; adds it to `transition` too, if given.

    Args:
        state: before the step, as of `advance`.
        sideways: m/s to the left.
        dt: s.
        transition: of the same step; its last row and column are those of the sideways speed.

    Returns:
        The way in x and y, m.
    """
    yaw = state[YAW] + state[YAW_RATE] * dt / 2
    ahead, left = cos(yaw) * dt, sin(yaw) * dt
    if transition is not None:
        transition[X, -1], transition[Y, -1] = -left, ahead
        for column, share in ((YAW, 1.0), (YAW_RATE, dt / 2)):
            transition[X, column] -= share * sideways * ahead
            transition[Y, column] -= share * sideways * left
    return -sideways * left, sideways * ahead


def _integrate(spread: np.ndarray, of: int, rate: int, power: float, dt: float) -> None:
    """White noise into a rate, and through it into the rate's integral."""
    spread[rate, rate] = power
    spread[of, rate] = spread[rate, of] = power * dt / 2
    spread[of, of] = power * dt * dt / 3
