"""What each kind of measurement says of the state: residual, Jacobian and noise.

The filter's state is the vehicle's six values (`motion`) and five slow errors of its sensors.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, inf, isfinite, pi, sin, tan

import numpy as np

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.motion import ACCELERATION, SPEED, YAW, YAW_RATE, X, Y
from perception_rt.types.state import Fix, Imu, Measurement, Noise, Pose, Steering, Twist

GYRO_BIAS, ACCELERATION_BIAS, SPEED_SCALE, EAST_OFFSET, NORTH_OFFSET = range(6, 11)
SIZE = 11

STANDSTILL_YAW_RATE_SIGMA = 0.002  # rad/s: what a standing car may seem to turn
STEERING_SLIP_SIGMA = 0.01  # rad/s: what the bicycle model leaves out
MAX_STEERING = 1.4  # rad

Observation = tuple[list[float], np.ndarray, Noise]


class MeasurementModel:
    """Residual, Jacobian and noise of any measurement. Jacobians are the observer's, and the next call's."""

    def __init__(self, config: VehicleStateConfig) -> None:
        self.config = config
        self._speed, self._twist, self._gyro, self._imu, self._fix, self._pose, self._steering = (
            np.zeros((rows, SIZE)) for rows in (1, 2, 1, 2, 2, 3, 1)
        )
        self._twist[1, YAW_RATE] = 1
        for jacobian in (self._gyro, self._imu):
            jacobian[0, [YAW_RATE, GYRO_BIAS]] = 1
        self._imu[1, [ACCELERATION, ACCELERATION_BIAS]] = 1
        self._fix[[0, 1], [X, Y]] = self._fix[[0, 1], [EAST_OFFSET, NORTH_OFFSET]] = 1
        self._pose[[0, 1, 2], [X, Y, YAW]] = 1
        self._steering[0, YAW_RATE] = 1
        self._of: dict[type, Callable[..., Observation]] = {
            Twist: self._of_twist,
            Imu: self._of_imu,
            Pose: self._of_pose,
            Steering: self._of_steering,
        }

    def __call__(self, measurement: Measurement, state: list[float]) -> Observation:
        """Of all but a fix, whose place in the plane depends on the origin: that is `of_fix`."""
        return self._of[type(measurement)](measurement, state)

    def of_fix(self, east: float, north: float, fix: Fix, state: list[float]) -> Observation:
        """Of a fix at (east, north), m."""
        arm_east, arm_north = self.lever_arm(state[YAW])
        self._fix[0, YAW], self._fix[1, YAW] = -arm_north, arm_east
        residual = [
            east - state[X] - arm_east - state[EAST_OFFSET],
            north - state[Y] - arm_north - state[NORTH_OFFSET],
        ]
        return residual, self._fix, self.white(fix)

    def white(self, fix: Fix) -> Noise:
        """The part of a fix's covariance that is new in every fix, m^2."""
        share = 1 - self.config.fix_correlated_share
        return [[share * value for value in row] for row in fix.noise]

    def offset_variance(self, fix: Fix) -> float:
        """The part that persists, an axis, m^2."""
        return self.config.fix_correlated_share * (fix.covariance[0] + fix.covariance[2]) / 2

    def lever_arm(self, yaw: float) -> tuple[float, float]:
        """From base_link to the antenna in the fixed frame, m."""
        (x, y), c, s = self.config.fix_lever_arm_m, cos(yaw), sin(yaw)
        return c * x - s * y, s * x + c * y

    def _of_twist(self, twist: Twist, state: list[float]) -> Observation:
        scale, speed = 1 + state[SPEED_SCALE], state[SPEED]
        slip, yaw_rate, noise = twist.speed - scale * speed, twist.yaw_rate, twist.noise
        if yaw_rate is None:
            if abs(twist.speed) >= self.config.standstill_speed:
                self._speed[0, SPEED], self._speed[0, SPEED_SCALE] = scale, speed
                return [slip], self._speed, noise
            yaw_rate = 0.0
            noise = [[twist.speed_variance, 0.0], [0.0, STANDSTILL_YAW_RATE_SIGMA**2]]
        self._twist[0, SPEED], self._twist[0, SPEED_SCALE] = scale, speed
        return [slip, yaw_rate - state[YAW_RATE]], self._twist, noise

    def _of_imu(self, imu: Imu, state: list[float]) -> Observation:
        turn = imu.yaw_rate - state[YAW_RATE] - state[GYRO_BIAS]
        if imu.acceleration is None:
            return [turn], self._gyro, imu.noise
        return [turn, imu.acceleration - state[ACCELERATION] - state[ACCELERATION_BIAS]], self._imu, imu.noise

    def _of_pose(self, pose: Pose, state: list[float]) -> Observation:
        residual = [pose.x - state[X], pose.y - state[Y], wrapped(pose.yaw - state[YAW])]
        return residual, self._pose, pose.noise

    def _of_steering(self, steering: Steering, state: list[float]) -> Observation:
        """The kinematic bicycle: yaw rate = speed tan(angle) / wheelbase."""
        slope = tan(steering.angle) / self.config.wheelbase_m
        gain = state[SPEED] * (1 + tan(steering.angle) ** 2) / self.config.wheelbase_m
        self._steering[0, SPEED] = -slope
        variance = gain * gain * steering.variance + STEERING_SLIP_SIGMA**2
        return [slope * state[SPEED] - state[YAW_RATE]], self._steering, [[variance]]


def fault_of(measurement: Measurement) -> str | None:
    """What makes a measurement useless whatever the state is, with its values; None when nothing does."""
    values, noise = measurement.values, measurement.noise
    if not isfinite(sum(values)):
        return f"values={values}: not finite"
    if not _positive(noise):
        return f"covariance={noise}: not positive definite"
    if isinstance(measurement, Fix) and not (abs(values[0]) <= 90 and abs(values[1]) <= 360):
        return f"latitude, longitude={values[:2]}: not on the Earth"
    if isinstance(measurement, Steering) and abs(values[0]) > MAX_STEERING:
        return f"angle={values[0]}: beyond {MAX_STEERING} rad"
    return None


def _positive(noise: Noise) -> bool:
    """Whether a covariance is finite and positive definite."""
    diagonal = [row[i] for i, row in enumerate(noise)]
    if not (min(diagonal) > 0 and sum(diagonal) < inf):
        return False
    beside = sum([abs(value) for i, row in enumerate(noise) for value in row[:i]])
    return beside == 0 or (isfinite(beside) and bool(np.linalg.eigvalsh(noise)[0] > 0))


def wrapped(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + pi) % (2 * pi) - pi
