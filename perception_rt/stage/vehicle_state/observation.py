"""What each kind of measurement says of the state: residual, Jacobian and noise.

The filter's state is the vehicle's six values (`motion`) and five slow errors of its sensors, then, of an
omnidirectional vehicle, its sideways speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import cos, inf, isfinite, nan, pi, sin, tan

import numpy as np

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.motion import ACCELERATION, SPEED, YAW, YAW_RATE, X, Y
from perception_rt.types.state import Fix, Imu, Measurement, Noise, Pose, Steering, Twist

GYRO_BIAS, ACCELERATION_BIAS, SPEED_SCALE, EAST_OFFSET, NORTH_OFFSET = range(6, 11)
SIZE = 11
SIDEWAYS = SIZE  # a twelfth state, m/s to the left, where the vehicle can move so

STANDSTILL_YAW_RATE_SIGMA = 0.002  # rad/s: what a standing car may seem to turn
STANDSTILL_YAW_RATE = 0.01  # rad/s: a reading below may be one of a vehicle that stands
SKID_SLIP = 0.5  # relative error of the yaw rate of wheels that turn by slipping: it depends on the ground
WHEEL_TURN_SIGMA = 0.01  # rad/s: what wheels of slightly different radius seem to turn
STEERING_SLIP_SIGMA = 0.01  # rad/s: what the bicycle model leaves out
MAX_STEERING = 1.4  # rad

Observation = tuple[list[float], np.ndarray, Noise, float]
"""Residual, Jacobian, the sensor's noise, and the variance of what the model of the measurement leaves out,
which is added to the noise and not scaled with it."""
Quantities = list[tuple[str, Callable[[list[float]], Observation]]]
"""Name and function of the state that observes it."""


class MeasurementModel:
    """Residual, Jacobian and noise of any measurement. Jacobians are the observer's, and the next call's."""

    def __init__(self, config: VehicleStateConfig) -> None:
        self.config = config
        size = SIZE + (not config.non_holonomic)
        (
            self._speed,
            self._turn,
            self._gyro,
            self._force,
            self._fix,
            self._pose,
            self._steering,
            self._aside,
            self._rest,
        ) = (np.zeros((rows, size)) for rows in (1, 1, 1, 1, 2, 3, 1, 1, 1))
        self._rest[0, GYRO_BIAS] = 1
        if not config.non_holonomic:
            self._aside[0, SIDEWAYS] = 1
        self._turn[0, YAW_RATE] = 1
        self._gyro[0, [YAW_RATE, GYRO_BIAS]] = 1
        self._force[0, [ACCELERATION, ACCELERATION_BIAS]] = 1
        self._fix[[0, 1], [X, Y]] = self._fix[[0, 1], [EAST_OFFSET, NORTH_OFFSET]] = 1
        self._pose[[0, 1, 2], [X, Y, YAW]] = 1
        self._steering[0, YAW_RATE] = 1

    def quantities(self, measurement: Twist | Imu | Pose | Steering) -> Quantities:
        """Return the quantities of a measurement, each with a function of the state that observes it.

        Each is gated and corrected on its own, so that one bad quantity does not cost the others. A fix is
        not here, as its place in the plane depends on the origin: see `of_fix`.
        """
        if isinstance(measurement, Twist):
            return self._of_twist(measurement)
        if isinstance(measurement, Imu):
            return self._of_imu(measurement)
        if isinstance(measurement, Pose):
            return [("pose", partial(self._observe_pose, measurement))]
        return [("yaw_rate", partial(self._observe_steering, measurement))]

    def of_fix(self, east: float, north: float, fix: Fix, state: list[float]) -> Observation:
        """Of a fix at (east, north), m."""
        arm_east, arm_north = self.lever_arm(fix, state[YAW])
        self._fix[0, YAW], self._fix[1, YAW] = -arm_north, arm_east
        residual = [
            east - state[X] - arm_east - state[EAST_OFFSET],
            north - state[Y] - arm_north - state[NORTH_OFFSET],
        ]
        return residual, self._fix, self.white(fix), 0.0

    def at_rest(self, imu: Imu, state: list[float]) -> Observation:
        """Of the gyro of a vehicle that stands: what it reads is its bias (zero angular rate update)."""
        assert imu.yaw_rate is not None
        residual, noise = [imu.yaw_rate - state[GYRO_BIAS]], _noise(imu.yaw_rate_variance)
        return residual, self._rest, noise, STANDSTILL_YAW_RATE_SIGMA**2

    def white(self, fix: Fix) -> Noise:
        """The part of a fix's covariance that is new in every fix, m^2."""
        share = 1 - self.config.fix_correlated_share
        return [[share * value for value in row] for row in fix.noise]

    def offset_variance(self, fix: Fix) -> float:
        """The part that persists, an axis, m^2."""
        return self.config.fix_correlated_share * (fix.covariance[0] + fix.covariance[2]) / 2

    def lever_arm(self, fix: Fix, yaw: float) -> tuple[float, float]:
        """From base_link to the antenna in the fixed frame, m."""
        (x, y), c, s = fix.antenna or self.config.fix_lever_arm_m, cos(yaw), sin(yaw)
        return c * x - s * y, s * x + c * y

    def _of_twist(self, twist: Twist) -> Quantities:
        found: Quantities = []
        if twist.speed is not None:
            noise = _noise(twist.speed_variance)
            found.append(("speed", partial(self._observe_speed, twist.speed, noise)))
        if twist.yaw_rate is not None:
            noise, slip = _noise(twist.yaw_rate_variance), WHEEL_TURN_SIGMA**2
            if self.config.turns_in_place:
                slip += (SKID_SLIP * twist.yaw_rate) ** 2
            found.append(("yaw_rate", partial(self._observe_turn, twist.yaw_rate, noise, slip)))
        if twist.sideways is not None and not self.config.non_holonomic:
            noise = _noise(twist.sideways_variance)
            found.append(("sideways", partial(self._observe_aside, twist.sideways, noise)))
        if self._stands(twist):
            found.append(
                ("standstill", partial(self._observe_turn, 0.0, [[STANDSTILL_YAW_RATE_SIGMA**2]], 0.0))
            )
        return found

    def _observe_speed(self, speed: float, noise: Noise, state: list[float]) -> Observation:
        scale = 1 + state[SPEED_SCALE]
        self._speed[0, SPEED], self._speed[0, SPEED_SCALE] = scale, state[SPEED]
        return [speed - scale * state[SPEED]], self._speed, noise, 0.0

    def _observe_aside(self, sideways: float, noise: Noise, state: list[float]) -> Observation:
        return [sideways - state[SIDEWAYS]], self._aside, noise, 0.0

    def _observe_turn(self, yaw_rate: float, noise: Noise, slip: float, state: list[float]) -> Observation:
        return [yaw_rate - state[YAW_RATE]], self._turn, noise, slip

    def _stands(self, twist: Twist) -> bool:
        """Whether the vehicle stands, and so does not turn (zero-velocity update)."""
        if twist.speed is None or abs(twist.speed) >= self.config.standstill_speed:
            return False
        if twist.sideways is not None and abs(twist.sideways) >= self.config.standstill_speed:
            return False
        if twist.yaw_rate is None:
            return not self.config.turns_in_place
        return abs(twist.yaw_rate) < STANDSTILL_YAW_RATE  # no wheel turns

    def _of_imu(self, imu: Imu) -> Quantities:
        found: Quantities = []
        if imu.yaw_rate is not None:
            noise = _noise(imu.yaw_rate_variance)
            found.append(("yaw_rate", partial(self._observe_gyro, imu.yaw_rate, noise)))
        if imu.acceleration is not None:
            noise = _noise(imu.acceleration_variance)
            found.append(("acceleration", partial(self._observe_force, imu.acceleration, noise)))
        return found

    def _observe_gyro(self, yaw_rate: float, noise: Noise, state: list[float]) -> Observation:
        return [yaw_rate - state[YAW_RATE] - state[GYRO_BIAS]], self._gyro, noise, 0.0

    def _observe_force(self, acceleration: float, noise: Noise, state: list[float]) -> Observation:
        expected = state[ACCELERATION] + state[ACCELERATION_BIAS]
        if not self.config.non_holonomic:  # the push along x of a body that turns while it slides
            expected -= state[YAW_RATE] * state[SIDEWAYS]
            self._force[0, YAW_RATE], self._force[0, SIDEWAYS] = -state[SIDEWAYS], -state[YAW_RATE]
        return [acceleration - expected], self._force, noise, 0.0

    def _observe_pose(self, pose: Pose, state: list[float]) -> Observation:
        residual = [pose.x - state[X], pose.y - state[Y], wrapped(pose.yaw - state[YAW])]
        return residual, self._pose, pose.noise, 0.0

    def _observe_steering(self, steering: Steering, state: list[float]) -> Observation:
        """The kinematic bicycle: yaw rate = speed tan(angle) / wheelbase."""
        slope = tan(steering.angle) / self.config.wheelbase_m
        gain = state[SPEED] * (1 + tan(steering.angle) ** 2) / self.config.wheelbase_m
        self._steering[0, SPEED] = -slope
        variance = gain * gain * steering.variance + STEERING_SLIP_SIGMA**2
        return [slope * state[SPEED] - state[YAW_RATE]], self._steering, [[variance]], 0.0


def fault_of(measurement: Measurement) -> str | None:
    """What makes a measurement useless whatever the state is, with its values; None when nothing does."""
    values, noise = measurement.values, measurement.noise
    if not values:
        return "the message gives no quantity that can be used"
    if not isfinite(sum(values)):
        return f"values={values}: not finite"
    if not _positive(noise):
        return f"covariance={noise}: not positive definite"
    if isinstance(measurement, Fix) and not (abs(values[0]) <= 90 and abs(values[1]) <= 360):
        return f"latitude, longitude={values[:2]}: not on the Earth"
    if isinstance(measurement, Fix) and not isfinite(sum(measurement.antenna or ())):
        return f"antenna={measurement.antenna}: not finite"
    if isinstance(measurement, Steering) and abs(values[0]) > MAX_STEERING:
        return f"angle={values[0]}: beyond {MAX_STEERING} rad"
    return None


def _noise(variance: float | None) -> Noise:
    return [[nan if variance is None else variance]]


def _positive(noise: Noise) -> bool:
    """Whether a covariance is finite and positive definite."""
    diagonal = [row[i] for i, row in enumerate(noise)]
    if not (min(diagonal) > 0 and sum(diagonal) < inf):
        return False
    if len(noise) == 1:
        return True
    beside = sum([abs(value) for i, row in enumerate(noise) for value in row[:i]])
    return beside == 0 or (isfinite(beside) and bool(np.linalg.eigvalsh(noise)[0] > 0))


def wrapped(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + pi) % (2 * pi) - pi
