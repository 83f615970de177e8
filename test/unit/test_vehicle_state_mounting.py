"""Sensors off the centre and turned: the state is that of sensors in the middle of the vehicle."""

from __future__ import annotations

from dataclasses import replace
from math import cos, hypot, sin
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.codec.vehicle import FixReading, ImuReading
from perception_rt.component.vehicle_state import VehicleState
from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.config import without_gravity
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic, geodetic_from_enu
from perception_rt.stage.vehicle_state.motion import YAW, YAW_RATE, slide
from perception_rt.stage.vehicle_state.readings import (
    GRAVITY_READINGS,
    AngularAcceleration,
    DefaultVariances,
    Gravity,
    measured_fix,
    measured_imu,
)
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoState, Imu, Twist

DEFAULTS = DefaultVariances(0.01, 0.0004, 0.09, 9.0)
ORIGIN = np.array([48.1, 11.6, 520.0])
SECOND = 10**9
GRAVITY = np.array([0.0, 0.0, 9.80665])
CENTRED = np.eye(4)
UPSIDE_DOWN = np.diag([1.0, -1.0, -1.0])


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sin(angle) * k + (1 - cos(angle)) * k @ k


def mounted(turned: np.ndarray, arm: tuple[float, float, float]) -> np.ndarray:
    mounting = np.eye(4)
    mounting[:3, :3], mounting[:3, 3] = turned, arm
    return mounting


def imu_reading(stamp_ns: int, turn: np.ndarray, spin: np.ndarray, push: np.ndarray, mounting: np.ndarray):
    """What an IMU feels that is mounted so, of a rigid body that turns, turns faster, and is pushed."""
    arm, turned = mounting[:3, 3], mounting[:3, :3].T
    felt = push + np.cross(spin, arm) + np.cross(turn, np.cross(turn, arm))
    return ImuReading(stamp_ns, "imu", turned @ turn, np.eye(3) * 1e-5, turned @ felt, np.eye(3) * 1e-2)


def driven(mounting: np.ndarray, gravity: np.ndarray = GRAVITY, sense: float = 1.0) -> EgoState:
    """8 s from rest: faster, slower, in a slalom; forward, or in reverse with `sense` of -1."""
    ego, spinning = VehicleStateFilter(VehicleStateConfig(start_at_origin=True)), AngularAcceleration()
    for tick in range(800):
        stamp, t = tick * SECOND // 100, tick / 100
        speed, acceleration = sense * 4 * (1 - cos(t / 2)), sense * 2 * sin(t / 2)
        yaw_rate, faster = 0.4 * sin(t), 0.4 * cos(t)
        turn, spin = np.array([0, 0, yaw_rate]), np.array([0, 0, faster])
        push = np.array([acceleration, speed * yaw_rate, 0.0]) + gravity
        reading = imu_reading(stamp, turn, spin, push, mounting)
        told = spinning.add(stamp, reading.angular_velocity)
        ego.add(measured_imu(reading, mounting, DEFAULTS, told))
        if tick % 5 == 0:
            ego.add(Twist(stamp, speed, 0.05**2))
    return ego.state_at(stamp)


def values(state: EgoState) -> np.ndarray:
    return np.array([state.x, state.y, state.yaw, state.speed, state.yaw_rate, state.acceleration])


@settings(max_examples=8, deadline=None)
@given(
    axis=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)).filter(lambda a: hypot(*a) > 0.1),
    angle=st.floats(-np.pi, np.pi),
    arm=st.tuples(st.floats(-3, 3), st.floats(-0.8, 0.8), st.floats(-1, 2)),
    sense=st.sampled_from([1.0, -1.0]),
)
def test_an_imu_mounted_in_any_way_gives_the_state_of_one_in_the_centre(axis, angle, arm, sense):
    expected = values(driven(CENTRED, sense=sense))
    found = values(driven(mounted(rotation(np.array(axis), angle), arm), sense=sense))
    assert (np.abs(found - expected) < [0.15, 0.1, 0.01, 0.05, 0.01, 0.15]).all(), found - expected


@pytest.mark.parametrize("turned", [UPSIDE_DOWN, rotation(np.array([0, 0, 1.0]), np.pi / 2)])
def test_a_mounting_that_is_left_out_is_seen(turned):
    """The test above can fail: with the mounting taken for none the state is another."""
    reading = imu_reading(
        0, np.array([0, 0, 0.4]), np.zeros(3), np.array([2.0, 0, 0]), mounted(turned, (0, 0, 0))
    )
    wrong = measured_imu(reading, CENTRED, DEFAULTS)
    assert abs(wrong.yaw_rate - 0.4) + abs(wrong.acceleration - 2.0) > 0.7


# Gravity


@pytest.mark.parametrize(("gravity", "included"), [(GRAVITY, True), (0 * GRAVITY, False)])
@pytest.mark.parametrize("turned", [np.eye(3), UPSIDE_DOWN, rotation(np.array([1.0, 2.0, 3.0]), 1.0)])
def test_whether_gravity_is_in_the_acceleration_is_found_in_the_data(gravity, included, turned):
    found, rng = Gravity(), np.random.default_rng(0)
    for count in range(GRAVITY_READINGS):
        assert found.included is None
        found.add(turned.T @ (gravity + rng.normal(0, 1.5, 3)), mounted(turned, (0, 0, 0)))
        if count == 5:
            found.add(np.array([np.nan, 0, 0]), CENTRED)  # counts for nothing
    assert found.included is included
    assert not found.fault


@pytest.mark.parametrize("felt", [(0.0, 9.8, 0.0), (0.0, 0.0, -9.8), (7.0, 0.0, 7.0)])
def test_gravity_from_the_side_tells_a_wrong_mounting(felt):
    found = Gravity()
    for _ in range(GRAVITY_READINGS):
        found.add(np.array(felt), CENTRED)
    assert found.included
    assert "not along z" in found.fault


def test_without_gravity_the_accelerometer_s_bias_is_small():
    config = VehicleStateConfig()
    assert without_gravity(config).acceleration_bias_walk < config.acceleration_bias_walk / 2
    filter_ = VehicleStateFilter(config)
    filter_.add(Twist(0, 1.0, 0.01))
    filter_.reconfigure(without_gravity(config))
    before = filter_.estimate.covariance[7, 7]
    filter_.add(Twist(SECOND, 1.0, 0.01))
    assert filter_.estimate.covariance[7, 7] - before < 0.02**2 * 1.1


# The antenna


@pytest.mark.parametrize("antenna", [(2.0, 0.0), (-1.0, 0.6), (0.0, 0.0)])
@pytest.mark.parametrize("first_s", [0.0, 30.0])
@pytest.mark.parametrize("speed", [3.0, -3.0])
def test_an_antenna_off_the_centre_whenever_its_fixes_begin(antenna, first_s, speed):
    """Forward or in reverse on a circle; the start has no heading, and may have no fixes for 30 s."""
    ego, rng, radius = VehicleStateFilter(), np.random.default_rng(1), 15.0
    for tick in range(round((first_s + 20) * 20)):
        stamp, t = tick * SECOND // 20, tick / 20
        yaw = 2.0 + speed / radius * t
        x, y = radius * (sin(yaw) - sin(2.0)), -radius * (cos(yaw) - cos(2.0))
        turn = np.array([0, 0, speed / radius + rng.normal(0, 0.003)])
        push = np.array([0, speed**2 / radius, 9.81])
        ego.add(measured_imu(imu_reading(stamp, turn, np.zeros(3), push, CENTRED), CENTRED, DEFAULTS))
        ego.add(Twist(stamp, speed, 0.05**2))
        if tick % 8 == 0 and t >= first_s:
            place = np.array(
                [
                    x + antenna[0] * cos(yaw) - antenna[1] * sin(yaw),
                    y + antenna[0] * sin(yaw) + antenna[1] * cos(yaw),
                    0.0,
                ]
            )
            place[:2] += rng.normal(0, 0.1, 2)
            where = geodetic_from_enu(place, ORIGIN).tolist()
            reading = FixReading(stamp, "gps", True, *where, np.eye(3) * 0.04)
            ego.add(measured_fix(reading, DEFAULTS, antenna))
    state = ego.state_at(stamp)
    east, north, _ = enu_from_geodetic(ORIGIN, np.array(ego.estimate.place.origin))
    assert hypot(state.x - x - east, state.y - y - north) < 0.6
    assert abs(np.angle(np.exp(1j * (state.yaw - yaw)))) < 0.08
    assert state.speed == pytest.approx(speed, abs=0.1)


def test_fixes_that_are_stamped_30_s_late_are_refused_and_move_nothing():
    ego = VehicleStateFilter(VehicleStateConfig())
    reading = FixReading(0, "gps", True, *ORIGIN.tolist(), np.eye(3) * 0.04)
    for tick in range(800):
        stamp = tick * SECOND // 20
        ego.add(Twist(stamp, 1.0, 0.01))
        if stamp >= 30 * SECOND:
            before = ego.estimate
            assert (
                ego.add(measured_fix(replace(reading, stamp_ns=stamp - 30 * SECOND), DEFAULTS)) == "too_late"
            )
            assert ego.estimate is before
    assert "before the newest" in ego.reasons["fix"]
    assert ego.restarts == 0


def test_an_antenna_that_is_not_finite_is_refused():
    reading = FixReading(0, "gps", True, *ORIGIN.tolist(), np.eye(3))
    assert VehicleStateFilter().add(measured_fix(reading, DEFAULTS, (np.nan, 0.0))) == "invalid"


def test_a_word_for_gravity_that_is_not_known_is_refused():
    values = {parameter.name: parameter.default for parameter in VehicleState.PARAMETERS}
    component = VehicleState(SimpleNamespace(), values | {"imu_gravity": "maybe"})
    with pytest.raises(ConfigError, match=r"imu_gravity='maybe'.*removed"):
        component.setup()


# Sideways


def slid(omnidirectional: bool, fixes: bool, sideways: float = 0.8) -> tuple[EgoState, tuple[float, float]]:
    """12 s of a robot with mecanum wheels that drives, slides to the left and turns; where it really is."""
    config = VehicleStateConfig(start_at_origin=not fixes, non_holonomic=not omnidirectional)
    ego, rng, x, y, yaw = VehicleStateFilter(config), np.random.default_rng(0), 0.0, 0.0, 0.0
    for tick in range(1200):
        stamp, rate = tick * SECOND // 100, 0.3
        push = np.array([-rate * sideways, rate * 1.0, 9.81])
        reading = imu_reading(stamp, np.array([0, 0, rate]), np.zeros(3), push, CENTRED)
        ego.add(measured_imu(reading, CENTRED, DEFAULTS))
        if tick % 4 == 0:
            speeds = np.array([1.0, sideways if omnidirectional else 0.0]) + rng.normal(0, 0.02, 2)
            ego.add(Twist(stamp, speeds[0], 4e-4, rate, 1e-3, "odometry", speeds[1], 4e-4))
        if fixes and tick % 20 == 0:
            where = geodetic_from_enu(np.array([x, y, 0.0]), ORIGIN).tolist()
            ego.add(measured_fix(FixReading(stamp, "gps", True, *where, np.eye(3) * 0.04), DEFAULTS))
        x += (1.0 * cos(yaw) - sideways * sin(yaw)) / 100
        y += (1.0 * sin(yaw) + sideways * cos(yaw)) / 100
        yaw += rate / 100
    return ego.state_at(stamp), (x, y)


@pytest.mark.parametrize("fixes", [False, True])
def test_a_vehicle_with_omnidirectional_wheels_is_followed_sideways(fixes):
    state, (x, y) = slid(omnidirectional=True, fixes=fixes)
    assert hypot(state.x - x, state.y - y) < 0.4
    assert state.sideways == pytest.approx(0.8, abs=0.05)
    ahead = predict_path(state, horizon_s=1.0)
    travelled = np.diff(ahead.states[:, :2], axis=0)
    assert np.hypot(*travelled.T).sum() == pytest.approx(hypot(1.0, 0.8), abs=0.05)


def test_the_constraint_holds_a_vehicle_that_cannot_slide():
    """The same drive with the constraint: its sideways way is lost, so the parameter matters."""
    state, (x, y) = slid(omnidirectional=False, fixes=False)
    assert state.sideways == 0.0
    assert hypot(state.x - x, state.y - y) > 1.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), speed=st.floats(-3, 3), sideways=st.floats(-3, 3))
def test_the_covariance_of_a_sliding_vehicle_stays_positive_definite(seed, speed, sideways):
    rng = np.random.default_rng(seed)
    ego = VehicleStateFilter(VehicleStateConfig(non_holonomic=False))
    for step in range(150):
        stamp = round(step * 1e8)
        noise = 10 ** rng.uniform(-6, 2)
        ego.add(Twist(stamp, speed, noise, rng.normal(0, 1), noise, "odometry", sideways, noise))
        ego.add(Imu(stamp, rng.normal(0, 1), 10 ** rng.uniform(-8, 1), rng.normal(0, 3), noise))
        if step % 5 == 0:
            place = geodetic_from_enu(np.array([*rng.normal(0, 3, 2), 0.0]), ORIGIN).tolist()
            ego.add(measured_fix(FixReading(stamp, "gps", True, *place, np.eye(3) * noise), DEFAULTS))
        covariance = ego.estimate.covariance
        sd = np.sqrt(np.diag(covariance))
        assert covariance.shape == (12, 12)
        assert np.linalg.eigvalsh(covariance / np.outer(sd, sd))[0] > -1e-9
    assert ego.failures == 0


@pytest.mark.parametrize("state", [(1.0, 2.0, 0.7, 3.0, 0.4, 0.5)])
def test_a_slide_s_jacobian_is_its_derivative(state):
    transition, h = np.zeros((7, 7)), 1e-6
    slide(state, 0.8, 0.1, transition)
    for column in (YAW, YAW_RATE):
        ends = []
        for sign in (1, -1):
            moved = list(state)
            moved[column] += sign * h
            ends.append(np.array(slide(moved, 0.8, 0.1)))
        np.testing.assert_allclose(transition[:2, column], (ends[0] - ends[1]) / (2 * h), atol=1e-6)
    np.testing.assert_allclose(transition[:2, -1], np.array(slide(state, 1.0, 0.1)), atol=1e-12)
