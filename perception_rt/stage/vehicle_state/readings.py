"""From what messages say to what the filter takes: frames, and variances where a message does not know."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.vehicle import FixReading, ImuReading, MotionReading
from perception_rt.types.state import Fix, Imu, Measurement, Pose, Twist

QUANTITIES = ("speed", "yaw_rate", "acceleration")
_POSE_UNKNOWN = np.diag([1.0, 1.0, 0.05**2])  # m^2 and rad^2


class DefaultVariances(NamedTuple):
    """Variances where a message does not know its own: m^2/s^2, rad^2/s^2, m^2/s^4, m^2."""

    speed: float
    yaw_rate: float
    acceleration: float
    fix: float


def measured_twist(reading: MotionReading, defaults: DefaultVariances, sensor: str) -> Twist:
    """Return speed and yaw rate, each where the message has it."""
    speed, yaw_rate = reading.twist_variance
    return Twist(
        reading.stamp_ns,
        reading.speed,
        None if reading.speed is None else speed or defaults.speed,
        reading.yaw_rate,
        None if reading.yaw_rate is None else yaw_rate or defaults.yaw_rate,
        sensor,
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


def measured_imu(reading: ImuReading, base_from_imu: np.ndarray, defaults: DefaultVariances) -> Imu:
    """Return yaw rate and forward acceleration in base_link, each where the message has it.

    An IMU off the centre feels the turn too: what points to the centre is taken off by the yaw rate of the
    same message; the part of a changing yaw rate is left to the acceleration's noise.

    Args:
        reading: in the IMU's own frame.
        base_from_imu: (4, 4) mounting, m.
        defaults: where the message does not know its variances.
    """
    turn, push = reading.angular_velocity, reading.linear_acceleration
    up, ahead = base_from_imu[2, :3], base_from_imu[0, :3]
    to_centre = 0.0 if turn is None else float(up @ turn) ** 2 * float(base_from_imu[0, 3])
    return Imu(
        reading.stamp_ns,
        None if turn is None else float(up @ turn),
        None if turn is None else _along(reading.angular_covariance, up, defaults.yaw_rate),
        None if push is None else float(ahead @ push) + to_centre,
        None if push is None else _along(reading.linear_covariance, ahead, defaults.acceleration),
    )


def _along(covariance: np.ndarray | None, axis: np.ndarray, unknown: float) -> float:
    return unknown if covariance is None else float(axis @ covariance @ axis) or unknown


def measured_fix(reading: FixReading, defaults: DefaultVariances) -> Fix:
    """A fix; of its covariance, east and north."""
    known = reading.covariance
    east_north = np.eye(2) * defaults.fix if known is None or not known[:2, :2].any() else known[:2, :2]
    (xx, xy), (_, yy) = east_north.tolist()
    return Fix(reading.stamp_ns, reading.latitude, reading.longitude, reading.altitude, (xx, xy, yy))
