"""How a filter that knows nothing yet finds position and yaw.

Speed, turn rate and the sensors' errors are estimated from the first measurement on, and the way is reckoned
from an arbitrary pose. Two fixes far enough apart then tell by how much that way has to be turned. An
unknown yaw would break the filter's linearisation; this needs none, and holds in reverse and in turns.
"""

from __future__ import annotations

from math import atan2, hypot, sqrt

import numpy as np

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.estimate import Anchor, Estimate, Place
from perception_rt.stage.vehicle_state.motion import SPEED, YAW, X, Y
from perception_rt.stage.vehicle_state.observation import (
    EAST_OFFSET,
    NORTH_OFFSET,
    SIZE,
    MeasurementModel,
    wrapped,
)
from perception_rt.types.state import Fix, Pose

SPEED_SIGMA, YAW_RATE_SIGMA, ACCELERATION_SIGMA = 15.0, 0.3, 2.0  # of a vehicle of which nothing is known
SIDEWAYS_SIGMA = 2.0
LEAST_BASELINE_M = 4.0
BASELINE_SIGMAS = 10.0  # a baseline this many white sigmas long tells the yaw to 0.14 rad
LONGEST_BASELINES = 2.0  # reckoned this many baselines without a fix as far away: the anchor was wrong
AGREEMENT = (0.6, 1.6)  # of the ways between fixes and reckoned
REFERENCE_SIGMA = 1e-3  # m and rad: a frame that begins at the vehicle is known


def start(config: VehicleStateConfig) -> Estimate:
    """Before any measurement."""
    sigma = np.full(SIZE + (not config.non_holonomic), SIDEWAYS_SIGMA)
    sigma[: SPEED + 3] = *[REFERENCE_SIGMA] * 3, SPEED_SIGMA, YAW_RATE_SIGMA, ACCELERATION_SIGMA
    sigma[6:EAST_OFFSET] = config.gyro_bias_sigma, config.acceleration_bias_sigma, config.speed_scale_sigma
    sigma[EAST_OFFSET:SIZE] = REFERENCE_SIGMA
    place = Place(config.start_at_origin, None, None, REFERENCE_SIGMA**2)
    return Estimate(None, np.zeros(len(sigma)), np.diag(sigma * sigma), place, {}, {}, {})


def place_by_pose(now: Estimate, pose: Pose) -> Estimate:
    """Stand where a pose says."""
    x, covariance = now.x.copy(), _forget(now.covariance, [X, Y, YAW])
    x[[X, Y, YAW]] = pose.x, pose.y, wrapped(pose.yaw)
    covariance[: YAW + 1, : YAW + 1] = pose.noise
    return now._replace(x=x, covariance=covariance, place=now.place._replace(placed=True))


def place_by_fix(now: Estimate, east: float, north: float, fix: Fix, observer: MeasurementModel) -> Estimate:
    """Take the fix at (east, north) as the anchor, wait for one farther away, or stand where it says."""
    assert now.stamp_ns is not None  # a prediction's
    here = Anchor(now.stamp_ns, east, north)
    anchor = now.place.anchor
    if anchor is None:
        return _anchored(now, here)
    white = observer.white(fix)
    sigma = sqrt((white[0][0] + white[1][1]) / 2)
    baseline = max(LEAST_BASELINE_M, BASELINE_SIGMAS * sigma)
    arm, arm_at_anchor = observer.lever_arm(fix, now.x[YAW]), observer.lever_arm(fix, 0.0)
    dx, dy = now.x[X] + arm[0] - arm_at_anchor[0], now.x[Y] + arm[1] - arm_at_anchor[1]
    way, reckoned = hypot(east - anchor.east, north - anchor.north), hypot(dx, dy)
    seconds = (here.stamp_ns - anchor.stamp_ns) * 1e-9
    blind = sqrt(now.covariance[SPEED, SPEED]) * seconds > way / 2  # no sensor has told the speed
    if way < baseline:
        lost = not blind and reckoned > LONGEST_BASELINES * baseline
        return _anchored(now, here) if lost else now
    if not blind and not AGREEMENT[0] * reckoned < way < AGREEMENT[1] * reckoned:
        return _anchored(now, here)
    turn = atan2(north - anchor.north, east - anchor.east) - (0.0 if blind else atan2(dy, dx))
    placed = _placed(now, east, north, fix, observer, turn, sigma / way)
    if blind:
        # The cross terms belong to the speed that was guessed before: left in place beside a smaller variance
        # they would make the covariance indefinite.
        placed = placed._replace(covariance=_forget(placed.covariance, [SPEED]))
        placed.x[SPEED] = way / seconds
        placed.covariance[SPEED, SPEED] = 2 * (sigma / seconds) ** 2 + (way / seconds / 4) ** 2
    return placed


def _anchored(now: Estimate, anchor: Anchor) -> Estimate:
    x, covariance = now.x.copy(), _forget(now.covariance, [X, Y, YAW])
    x[[X, Y, YAW]] = 0.0
    covariance[[X, Y, YAW], [X, Y, YAW]] = REFERENCE_SIGMA**2
    return now._replace(x=x, covariance=covariance, place=now.place._replace(anchor=anchor))


def _placed(
    now: Estimate,
    east: float,
    north: float,
    fix: Fix,
    observer: MeasurementModel,
    turn: float,
    yaw_sigma: float,
) -> Estimate:
    """Turned by `turn`, the antenna at (east, north); the fix's error is in position and offset alike."""
    x = now.x.copy()
    yaw_variance = now.covariance[YAW, YAW] + 2 * yaw_sigma**2
    covariance = _forget(now.covariance, [X, Y, YAW, EAST_OFFSET, NORTH_OFFSET])
    x[YAW] = wrapped(x[YAW] + turn)
    arm = observer.lever_arm(fix, x[YAW])
    x[[X, Y]], x[[EAST_OFFSET, NORTH_OFFSET]] = (east - arm[0], north - arm[1]), 0.0
    offset = observer.offset_variance(fix)
    covariance[: Y + 1, : Y + 1] = observer.white(fix)
    for position, shift in ((X, EAST_OFFSET), (Y, NORTH_OFFSET)):
        covariance[position, position] += offset
        covariance[shift, shift] = offset
        covariance[position, shift] = covariance[shift, position] = -offset
    covariance[YAW, YAW] = yaw_variance
    # What is left of rounding between the two: a covariance that stays positive definite.
    covariance[[EAST_OFFSET, NORTH_OFFSET], [EAST_OFFSET, NORTH_OFFSET]] += REFERENCE_SIGMA**2
    place = now.place._replace(placed=True, anchor=None, offset_variance=offset)
    return now._replace(x=x, covariance=covariance, place=place)


def _forget(covariance: np.ndarray, indices: list[int]) -> np.ndarray:
    """A copy in which these states are known exactly and have nothing to do with the others."""
    covariance = covariance.copy()
    covariance[indices, :] = covariance[:, indices] = 0.0
    return covariance
