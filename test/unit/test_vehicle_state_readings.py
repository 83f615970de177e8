"""Messages as the ego filter takes them: mountings, quantities that are not used, slipping wheels."""

from __future__ import annotations

from math import cos, sin
from types import SimpleNamespace

import numpy as np
import pytest

from perception_rt.codec.vehicle import ImuReading
from perception_rt.component.vehicle_state import VehicleState
from perception_rt.stage.vehicle_state import UpdateStatus, VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.readings import DefaultVariances, measured_imu, without
from perception_rt.types import ConfigError
from perception_rt.types.state import Fix, Imu, Twist

DEFAULTS = DefaultVariances(0.01, 0.0004, 0.09, 9.0)


def reading(turn, push):
    names = (
        ImuReading.__dataclass_fields__ if hasattr(ImuReading, "__dataclass_fields__") else ImuReading._fields
    )
    given = dict.fromkeys(names)
    given |= {"stamp_ns": 1, "frame_id": "imu", "angular_velocity": np.array(turn)}
    return ImuReading(**given | {"linear_acceleration": np.array(push)})


@pytest.mark.parametrize("ahead_m", [0.0, 1.5, -2.0])
@pytest.mark.parametrize("yaw", [0.0, 0.7, np.pi])
def test_an_imu_off_the_centre_and_turned_tells_the_acceleration_of_the_centre(ahead_m, yaw):
    """Steady turn: at `ahead_m` the centripetal part points back to the centre."""
    rate, forward, left = 0.5, 0.3, 1.1
    felt = np.array([forward - rate**2 * ahead_m, left, 9.81])
    mounting = np.eye(4)
    mounting[:2, :2] = [[cos(yaw), -sin(yaw)], [sin(yaw), cos(yaw)]]
    mounting[0, 3] = ahead_m
    imu = measured_imu(reading((0, 0, rate), mounting[:3, :3].T @ felt), mounting, DEFAULTS)
    assert imu.yaw_rate == pytest.approx(rate)
    assert imu.acceleration == pytest.approx(forward)


def test_quantities_that_are_ignored_leave_the_message():
    twist = Twist(1, 2.0, 0.1, 0.3, 0.01, "odometry")
    kept = without(twist, ["odometry.yaw_rate", "imu.acceleration"])
    assert kept.values == (2.0,)
    assert without(twist, [""]) is twist
    assert without(twist, ["twist.speed"]) is twist
    assert without(Imu(1, 0.1, 0.01, 0.5, 0.1), ["imu.yaw_rate", "imu.acceleration"]).values == ()
    fix = Fix(1, 48.0, 9.0, 300.0, (1.0, 0.0, 1.0))
    assert without(fix, ["odometry.speed"]) is fix


def test_an_unknown_quantity_is_refused_by_name():
    values = {parameter.name: parameter.default for parameter in VehicleState.PARAMETERS}
    component = VehicleState(SimpleNamespace(), values | {"ignored_quantities": ["imu.speed"]})
    with pytest.raises(ConfigError, match=r"imu\.speed.*odometry\.yaw_rate"):
        component.setup()


def test_wheels_that_slip_in_turns_do_not_outvote_the_gyro():
    """A skid-steered robot turns .5 rad/s; its wheels say .75, as surely as the gyro says .5."""
    yaws = {}
    for turns_in_place in (False, True):
        ego = VehicleStateFilter(VehicleStateConfig(start_at_origin=True, turns_in_place=turns_in_place))
        for step in range(1, 200):
            stamp_ns = step * 50_000_000
            assert ego.add(Imu(stamp_ns, 0.5, 1e-4)) is UpdateStatus.ACCEPTED
            ego.add(Twist(stamp_ns + 1, 1.0, 0.01, 0.75, 1e-4, "odometry"))
        yaws[turns_in_place] = abs(ego.state_at(stamp_ns + 1).yaw_rate - 0.5)
    assert yaws[True] < 0.03
    assert yaws[True] < yaws[False]
