"""The ego filter on a ground robot: wheel odometry, IMU and fixes of a Clearpath Husky, without ground truth.

The recording is `husky_test1` of robot_localization (BSD-3-Clause). It has no transform of the IMU: its
readings at rest show that gravity lies along +y, so z of base_link is y of the IMU.

Two figures: how far the state is from the next fix before that is used, and how far it has drifted at the end
of 20 s without fixes. Dead reckoning by wheel speed and gyro stands beside it twice: with the filter's yaw at
the start, and with the yaw that turns its way of the 30 s before onto the fixes, which needs no filter.
The filter is not free of this recording: the rule that the noise of yaw rates may fall, and the strain of the
fixes from which scale and bias are estimated anew (`STRAINED`, 8), were chosen with it in view.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.inputs import DATA
from bench.rows import Row, against, row
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic
from perception_rt.types.state import Fix, Imu, Measurement, Twist

BAG = DATA / "bags" / "husky_test1.bag"
# The nodes' defaults, except that a skid-steered robot turns on the spot.
CONFIG = VehicleStateConfig(turns_in_place=True)
CUT_S = 20.0
ALIGNED_S = 30.0  # of 5, 10, 20, 30 and 40 s that with which dead reckoning drifts least
LEAST_WAY_M = 15.0  # of a cut-out: a standing robot does not drift


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
    for name, figure in (("", np.mean), ("_median", np.median)):
        ours, own_yaw, yaw_of_fixes = (100 * figure(drifts, axis=0)).tolist()
        for start, base in (("", own_yaw), ("_yaw_of_fixes", yaw_of_fixes)):
            label = f"ego/husky/drift_20s{name}{start}_percent"
            unit = f"% of the way, {figure.__name__}"
            rows.append(against(label, ours, unit, base, most=True, tuned_on="STRAINED chosen on this"))
    return rows


@lru_cache(maxsize=1)
def read_husky(path: Path) -> list[Measurement]:
    """Return the measurements in order of arrival, with the covariances of the messages."""
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
    """Return (N,) distance of each fix from the state before it, m."""
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


def cut_outs(measurements: list[Measurement]) -> list[tuple[float, float, float]]:
    """Return drifts as shares of the distance: the filter's, and dead reckoning's with either yaw."""
    stamps = [m.stamp_ns for m in measurements if isinstance(m, Fix)]
    starts = np.arange(stamps[0] + 40 * 10**9, stamps[-1] - CUT_S * 1e9, CUT_S * 1e9)
    reckoned, ego, found = reckon(measurements), VehicleStateFilter(CONFIG), []
    waiting = [int(start) for start in starts]
    for at, measurement in enumerate(measurements):
        if waiting and measurement.stamp_ns >= waiting[0]:
            drift = cut_out(measurements, at, waiting.pop(0), deepcopy(ego), reckoned)
            found += [] if drift is None else [drift]
        ego.add(measurement)
    return found


def cut_out(
    measurements: list[Measurement], at: int, start_ns: int, ego: VehicleStateFilter, reckoned: Reckoned
) -> tuple[float, float, float] | None:
    """Return the drift of one cut-out, from measurement `at` on; None if the robot hardly moves."""
    end_ns = start_ns + round(CUT_S * 1e9)
    begun, fixes = ego.state_at(measurements[at].stamp_ns), []
    for measurement in measurements[at:]:
        if measurement.stamp_ns > end_ns:
            break
        if isinstance(measurement, Fix):
            fixes.append(complex(*place_of(measurement, ego)))
        else:
            ego.add(measurement)
    start, end = reckoned.at(start_ns), reckoned.at(end_ns)
    if begun is None or len(fixes) < 2 or end.way - start.way < LEAST_WAY_M:
        return None
    ours = ego.state_at(end_ns)
    moved = [complex(ours.x - begun.x, ours.y - begun.y)]
    before = [m for m in measurements[:at] if isinstance(m, Fix) and m.stamp_ns > start_ns - ALIGNED_S * 1e9]
    for turn in (np.exp(1j * (begun.yaw - start.yaw)), aligned(before, ego, reckoned)):
        moved.append(turn * (end.place - start.place))
    truth = fixes[-1] - fixes[0]  # the fixes' common offset cancels
    filtered, own_yaw, yaw_of_fixes = (float(abs(truth - way) / (end.way - start.way)) for way in moved)
    return filtered, own_yaw, yaw_of_fixes


def aligned(fixes: list[Fix], ego: VehicleStateFilter, reckoned: Reckoned) -> complex:
    """Return the least-squares rotation from the reckoned path to the fixes, a complex number of length 1."""
    told = np.array([complex(*place_of(fix, ego)) for fix in fixes])
    ours = np.array([reckoned.at(fix.stamp_ns).place for fix in fixes])
    turn = np.vdot(ours - ours.mean(), told - told.mean())
    return turn / abs(turn)


class Moment(NamedTuple):
    """Position as a complex number, m; yaw, rad; distance driven, m."""

    place: complex
    yaw: float
    way: float


class Reckoned(NamedTuple):
    """The path from wheel speed and gyro, from the origin: (N,) each, stamps in ns."""

    stamps_ns: np.ndarray
    place: np.ndarray
    yaw: np.ndarray
    way: np.ndarray

    def at(self, stamp_ns: float) -> Moment:
        """Return the moment at a time between two measurements."""
        return Moment(*(np.interp(stamp_ns, self.stamps_ns, values) for values in self[1:]))


def reckon(measurements: list[Measurement]) -> Reckoned:
    """Compute dead reckoning over a whole recording."""
    place, yaw, way, speed, rate = 0j, 0.0, 0.0, 0.0, 0.0
    rows = []
    for measurement, following in pairwise(sorted(measurements, key=lambda m: m.stamp_ns)):
        rows.append((measurement.stamp_ns, place, yaw, way))
        if isinstance(measurement, Twist):
            speed = measurement.speed
        elif isinstance(measurement, Imu):
            rate = measurement.yaw_rate
        dt = (following.stamp_ns - measurement.stamp_ns) * 1e-9
        place += speed * dt * np.exp(1j * (yaw + rate * dt / 2))
        yaw, way = yaw + rate * dt, way + abs(speed) * dt
    stamps, places, yaws, ways = zip(*rows, strict=True)
    return Reckoned(np.array(stamps, float), np.array(places), np.array(yaws), np.array(ways))
