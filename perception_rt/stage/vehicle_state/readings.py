"""From what messages say to what the filter takes: frames, and variances where a message does not know."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import exp, hypot, isfinite
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.vehicle import FixReading, ImuReading, MotionReading
from perception_rt.types.state import Fix, Imu, Measurement, Pose, Twist

QUANTITIES = ("speed", "yaw_rate", "acceleration", "sideways")
STANDARD_GRAVITY = 9.80665  # m/s^2
GRAVITY_READINGS = 50  # their mean tells gravity from what a vehicle does
GRAVITY_COSINE = 0.87  # 30 degrees: no road is as steep
ANGULAR_ACCELERATION_SIGMA = 0.2  # rad/s^2: of its estimate
SPIN_TIME_S = 0.1  # over which angular acceleration is smoothed
_POSE_UNKNOWN = np.diag([1.0, 1.0, 0.05**2])  # m^2 and rad^2


class DefaultVariances(NamedTuple):
    """Variances where a message does not know its own: m^2/s^2, rad^2/s^2, m^2/s^4, m^2."""

    speed: float
    yaw_rate: float
    acceleration: float
    fix: float


def measured_twist(
    reading: MotionReading, defaults: DefaultVariances, sensor: str, omnidirectional: bool = False
) -> Twist:
    """Return speed, yaw rate and, if omnidirectional, sideways speed, each where the message has it."""
    speed, yaw_rate = reading.twist_variance
    aside, variance = reading.sideways if omnidirectional and reading.sideways else (None, None)
    return Twist(
        reading.stamp_ns,
        reading.speed,
        None if reading.speed is None else speed or defaults.speed,
        reading.yaw_rate,
        None if reading.yaw_rate is None else yaw_rate or defaults.yaw_rate,
        sensor,
        aside,
        None if aside is None else variance or defaults.speed,
    )


def without(measurement: Measurement, ignored: Collection[str]) -> Measurement:
    """The measurement less its quantities that are in `ignored`, as ``odometry.yaw_rate``."""
    names = (name for name in QUANTITIES if f"{measurement.sensor}.{name}" in ignored)
    emptied: dict[str, Any] = {
        key: None for name in names if hasattr(measurement, name) for key in (name, f"{name}_variance")
    }
    return replace(measurement, **emptied) if emptied else measurement


def measured_pose(reading: MotionReading, sensor: str) -> Pose | None:
    """Return the pose of an odometry or of a localisation; None where the message has none."""
    if reading.pose is None:
        return None
    known = reading.pose_covariance
    covariance = known if known is not None and known.any() else _POSE_UNKNOWN
    upper = tuple(covariance[np.triu_indices(3)].tolist())
    return Pose(reading.stamp_ns, *reading.pose, upper, sensor)


class AngularAcceleration:
    """The angular acceleration of an IMU, smoothed, from its successive turns."""

    def __init__(self) -> None:
        self._value = [0.0] * 3
        self._last: tuple[int, list[float]] | None = None

    def add(self, stamp_ns: int, turned: np.ndarray) -> list[float]:
        """Return 3 values, rad/s^2, after a turn (3,), rad/s; late or broken ones, or gaps, tell nothing."""
        turn = turned.tolist()
        if not isfinite(sum(turn)):
            return self._value
        dt = 0.0 if self._last is None else (stamp_ns - self._last[0]) * 1e-9
        if self._last is not None and 0 < dt <= SPIN_TIME_S:
            share, before = 1 - exp(-dt / SPIN_TIME_S), self._last[1]
            self._value = [
                value + share * ((new - old) / dt - value)
                for value, new, old in zip(self._value, turn, before, strict=True)
            ]
        elif dt > SPIN_TIME_S:
            self._value = [0.0] * 3
        if dt >= 0:
            self._last = stamp_ns, turn
        return self._value


def measured_imu(
    reading: ImuReading,
    base_from_imu: np.ndarray,
    defaults: DefaultVariances,
    spin: Sequence[float] | None = None,
) -> Imu:
    """Return yaw rate and forward acceleration in base_link, each where the message has it.

    An IMU off the centre feels the turn too: w x (w x r), and w' x r where the turn changes. Both are taken
    off; what is unsure of w' adds to the acceleration's variance.

    Args:
        reading: in the IMU's own frame.
        base_from_imu: (4, 4) mounting, m.
        defaults: where the message does not know its variances.
        spin: angular acceleration w' about the 3 axes of the IMU's frame, rad/s^2, where it is known.
    """
    # In plain floats: of three numbers, every call of NumPy costs more than the sum.
    ahead, left, up, _ = base_from_imu.tolist()
    arm = ahead[3], left[3], up[3]
    yaw_rate = acceleration = yaw_rate_variance = acceleration_variance = None
    of_turn = 0.0
    if reading.angular_velocity is not None:
        turn = reading.angular_velocity.tolist()
        about = _dot(ahead, turn), _dot(left, turn), _dot(up, turn)
        yaw_rate = about[2]
        yaw_rate_variance = _along(reading.angular_covariance, up, defaults.yaw_rate)
        of_turn = about[0] * _dot(about, arm) - arm[0] * _dot(turn, turn)
    if spin is not None:
        of_turn += _dot(left, spin) * arm[2] - _dot(up, spin) * arm[1]
    if reading.linear_acceleration is not None:
        acceleration = _dot(ahead, reading.linear_acceleration.tolist()) - of_turn
        acceleration_variance = _along(reading.linear_covariance, ahead, defaults.acceleration)
        acceleration_variance += ANGULAR_ACCELERATION_SIGMA**2 * (arm[1] * arm[1] + arm[2] * arm[2])
    return Imu(reading.stamp_ns, yaw_rate, yaw_rate_variance, acceleration, acceleration_variance)


class Gravity:
    """Whether an IMU's acceleration has gravity in it (REP 145), and from where; the mean of its readings.

    Attributes:
        included: None until `GRAVITY_READINGS` readings have come.
        mean: 3 values, m/s^2, in base_link's axes.
    """

    def __init__(self) -> None:
        self.included: bool | None = None
        self.mean = [0.0] * 3
        self._count = 0

    def add(self, push: np.ndarray, base_from_imu: np.ndarray) -> None:
        """Take an acceleration in the IMU's frame; one that is not finite tells nothing."""
        pushed = push.tolist()
        felt = [_dot(row, pushed) for row in base_from_imu.tolist()[:3]]
        if not isfinite(sum(felt)):
            return
        self._count += 1
        count = min(self._count, 10 * GRAVITY_READINGS)
        self.mean = [mean + (new - mean) / count for mean, new in zip(self.mean, felt, strict=True)]
        if self._count >= GRAVITY_READINGS:
            self.included = hypot(*self.mean) > STANDARD_GRAVITY / 2

    @property
    def fault(self) -> str:
        """Empty where gravity is felt along z of base_link; else the mounting is wrong, and this says it."""
        x, y, z = self.mean
        if not self.included or z > GRAVITY_COSINE * hypot(x, y, z):
            return ""
        return f"gravity is felt along ({x:.1f}, {y:.1f}, {z:.1f}) of the base frame, not along z: check /tf"


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Product of the first three values of each."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _along(covariance: np.ndarray | None, axis: Sequence[float], unknown: float) -> float:
    if covariance is None:
        return unknown
    return _dot([_dot(row, axis) for row in covariance.T.tolist()], axis) or unknown


def measured_fix(
    reading: FixReading, defaults: DefaultVariances, antenna: tuple[float, float] | None = None
) -> Fix:
    """A fix; of its covariance, east and north.

    Args:
        reading: of the message.
        defaults: where the message does not know its variances.
        antenna: its x and y in base_link, m, where /tf tells it.
    """
    known = reading.covariance
    east_north = np.eye(2) * defaults.fix if known is None or not known[:2, :2].any() else known[:2, :2]
    (xx, xy), (_, yy) = east_north.tolist()
    place = reading.latitude, reading.longitude, reading.altitude
    return Fix(reading.stamp_ns, *place, (xx, xy, yy), antenna=antenna)
