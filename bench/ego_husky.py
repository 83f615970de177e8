"""The ego filter on a ground robot: wheel odometry, IMU and fixes of a Clearpath Husky, without ground truth.

The recording is `husky_test1` of robot_localization (BSD-3-Clause). It has no transform of the IMU: its
readings at rest show that gravity lies along +y, so z of base_link is y of the IMU.

Two figures: how far the state is from the next fix before that is used, and how far it has drifted at the end
of 20 s without fixes, beside dead reckoning by wheel speed and gyro from the same start.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.inputs import DATA
from bench.rows import Row, against, row
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic
from perception_rt.types.state import Fix, Imu, Measurement, Twist

BAG = DATA / "bags" / "husky_test1.bag"
# The nodes' defaults, but that a skid-steered robot turns where it stands.
CONFIG = VehicleStateConfig(turns_in_place=True)
CUT_S = 20.0
LEAST_WAY_M = 15.0  # of a cut-out: where the robot stands nothing drifts


def husky_rows(path: Path = BAG) -> list[Row]:
    """Every row of the recording."""
    measurements = read_husky(path)
    errors = next_fix_errors(measurements)
    plain = next_fix_errors([m for m in measurements if not isinstance(m, Imu)])
    drifts = np.array(list(cut_outs(measurements)))
    rows = [
        row("ego/husky/next_fix_median_m", float(np.median(errors)), "m", "<= 0.71"),
        row("ego/husky/next_fix_without_imu_median_m", float(np.median(plain)), "m"),
        row("ego/husky/cut_outs", len(drifts), "of 20 s"),
    ]
    ours, reckoned = (100 * drifts.mean(0)).tolist()
    unit = "% of the way, mean"
    rows.append(
        against("ego/husky/drift_20s_percent", ours, unit, reckoned, most=True, tuned_on="not on this")
    )
    return rows


@lru_cache(maxsize=1)
def read_husky(path: Path) -> list[Measurement]:
    """The measurements in the order of their arrival, with the covariances that the messages state."""
    from rosbags.highlevel import AnyReader

    found: list[Measurement] = []
    with AnyReader([path]) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
            if connection.topic == "/imu/data":
                turn, push = message.angular_velocity, message.linear_acceleration
                variances = message.angular_velocity_covariance, message.linear_acceleration_covariance
                found.append(Imu(stamp_ns, turn.y, float(variances[0][4]), push.x, float(variances[1][0])))
            elif connection.topic == "/fix":
                xx, xy, _, _, yy = message.position_covariance[:5].tolist()
                place = message.latitude, message.longitude, message.altitude
                found.append(Fix(stamp_ns, *place, (xx, xy, yy)))
            else:
                twist = message.twist.twist
                known = message.twist.covariance
                measured = (twist.linear.x, float(known[0]), twist.angular.z, float(known[35]))
                found.append(Twist(stamp_ns, *measured, sensor="odometry"))
    return found


def next_fix_errors(measurements: list[Measurement]) -> np.ndarray:
    """(N,) m: how far each fix is from the state before it."""
    ego, errors = VehicleStateFilter(CONFIG), []
    for measurement in measurements:
        state = ego.state_at(measurement.stamp_ns) if isinstance(measurement, Fix) else None
        if state is not None:
            errors.append(np.hypot(*(place_of(measurement, ego) - (state.x, state.y))))
        ego.add(measurement)
    return np.array(errors)


def place_of(fix: Fix, ego: VehicleStateFilter) -> np.ndarray:
    """(2,) m east and north in the filter's frame."""
    return enu_from_geodetic(np.array(fix.values), np.array(ego.estimate.place.origin))[:2]


def cut_outs(measurements: list[Measurement]) -> list[tuple[float, float]]:
    """By cut-out, the drift of the filter and of dead reckoning as shares of the way, from fix to fix."""
    stamps = [m.stamp_ns for m in measurements if isinstance(m, Fix)]
    starts = np.arange(stamps[0] + 40 * 10**9, stamps[-1] - CUT_S * 1e9, CUT_S * 1e9)
    found = (cut_out(measurements, int(start)) for start in starts)
    return [drift for drift in found if drift is not None]


def cut_out(measurements: list[Measurement], start_ns: int) -> tuple[float, float] | None:
    """Drift of one cut-out; None where the robot hardly moves."""
    ego, dead, fixes, end_ns = VehicleStateFilter(CONFIG), [], [], start_ns + round(CUT_S * 1e9)
    begun = None
    for measurement in measurements:
        if measurement.stamp_ns > end_ns:
            break
        inside = measurement.stamp_ns >= start_ns
        if inside and begun is None:
            begun = ego.state_at(measurement.stamp_ns)
        if inside and isinstance(measurement, Fix):
            fixes.append(place_of(measurement, ego))
            continue
        if inside:
            dead.append(measurement)
        ego.add(measurement)
    if begun is None or len(fixes) < 2:
        return None
    way, x, y = dead_reckoning(dead, begun.x, begun.y, begun.yaw)
    if way < LEAST_WAY_M:
        return None
    end = ego.state_at(end_ns)
    truth = fixes[-1] - fixes[0] + (begun.x, begun.y)  # the fixes' common offset cancels
    return tuple(float(np.hypot(*(truth - place)) / way) for place in ((end.x, end.y), (x, y)))


def dead_reckoning(measured: list[Measurement], x: float, y: float, yaw: float) -> tuple[float, float, float]:
    """Way driven, m, and the place that wheel speed and gyro lead to."""
    way = speed = rate = 0.0
    for measurement, following in pairwise(sorted(measured, key=lambda m: m.stamp_ns)):
        if isinstance(measurement, Twist):
            speed = measurement.speed
        elif isinstance(measurement, Imu):
            rate = measurement.yaw_rate
        dt = (following.stamp_ns - measurement.stamp_ns) * 1e-9
        x, y = x + speed * dt * np.cos(yaw + rate * dt / 2), y + speed * dt * np.sin(yaw + rate * dt / 2)
        yaw, way = yaw + rate * dt, way + abs(speed) * dt
    return way, x, y
