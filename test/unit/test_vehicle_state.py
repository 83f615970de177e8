"""The ego filter: whatever comes, in whatever order, the state is right, or says how wrong it may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import cos, hypot, inf, nan, pi, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.stage.vehicle_state import (
    MotionNoise,
    UpdateStatus,
    VehicleStateConfig,
    VehicleStateFilter,
)
from perception_rt.stage.vehicle_state.estimator import Estimator
from perception_rt.stage.vehicle_state.geodesy import (
    ecef_from_geodetic,
    enu_from_geodetic,
    geodetic_from_ecef,
    geodetic_from_enu,
)
from perception_rt.stage.vehicle_state.kalman import correct, sight
from perception_rt.stage.vehicle_state.motion import advance
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoState, Fix, Imu, Measurement, Pose, Steering, Twist

ORIGIN = np.array([48.1, 11.6, 520.0])
SECOND = 10**9
Truth = Callable[[float], tuple[float, float, float, float, float]]  # t -> x, y, yaw, speed, yaw rate


def circle(speed: float, radius: float, yaw: float = 0.0) -> Truth:
    """Round and round, to the left, forward or in reverse; it begins at the origin."""
    turn = speed / radius

    def at(t: float) -> tuple[float, float, float, float, float]:
        now = yaw + turn * t
        return radius * (sin(now) - sin(yaw)), -radius * (cos(now) - cos(yaw)), now, speed, turn

    return at


def fix_at(stamp_ns: int, east: float, north: float, sigma: float = 0.3) -> Fix:
    place = geodetic_from_enu(np.array([east, north, 0.0]), ORIGIN).tolist()
    return Fix(stamp_ns, *place, (sigma**2, 0.0, sigma**2))


def sensed(
    truth: Truth, seconds: float, seed: int = 0, gyro_bias: float = 0.0, start_s: float = 0.0
) -> list[Measurement]:
    """IMU at 50 Hz, wheel speed at 25 Hz, fixes at 5 Hz, with noise of the stated size."""
    rng = np.random.default_rng(seed)
    found: list[Measurement] = []
    for tick in range(round(start_s * 50), round((start_s + seconds) * 50)):
        stamp = tick * SECOND // 50
        x, y, _, speed, turn = truth(tick / 50)
        found.append(
            Imu(stamp, turn + gyro_bias + rng.normal(0, 0.003), 0.003**2, rng.normal(0, 0.1), 0.1**2)
        )
        if tick % 2 == 0:
            found.append(Twist(stamp, speed + rng.normal(0, 0.05), 0.05**2))
        if tick % 10 == 0:
            found.append(fix_at(stamp, x + rng.normal(0, 0.13), y + rng.normal(0, 0.13)))
    return found


def fed(measurements: list[Measurement], config: VehicleStateConfig | None = None) -> VehicleStateFilter:
    ego = VehicleStateFilter(config)
    for measurement in measurements:
        ego.add(measurement)
    return ego


def off(state: EgoState, truth: Truth) -> float:
    """Distance from the truth, m."""
    x, y, *_ = truth(state.stamp_ns / SECOND)
    return hypot(state.x - x, state.y - y)


def refused(ego: VehicleStateFilter, sensor: str) -> int:
    return sum(count for outcome, count in ego.counters[sensor].items() if not outcome.used)


def same(a: VehicleStateFilter, b: VehicleStateFilter) -> bool:
    one, two = a.estimate, b.estimate
    return (
        one.stamp_ns == two.stamp_ns
        and np.array_equal(one.x, two.x)
        and np.array_equal(one.covariance, two.covariance)
        and one.place == two.place
        and {name: +counts for name, counts in a.counters.items()}
        == {name: +counts for name, counts in b.counters.items()}
    )


def stopped(bias: float, turn_after: float, seconds: float = 10.0) -> tuple[VehicleStateFilter, float]:
    """A robot that stands, then turns on the spot for 2 s; returns the filter and the error of its yaw."""
    rng, ego = (
        np.random.default_rng(0),
        VehicleStateFilter(VehicleStateConfig(start_at_origin=True, turns_in_place=True)),
    )
    turned = 0.0
    for tick in range(round((seconds + 2) * 30)):
        stamp, turn = tick * SECOND // 30, turn_after * min(max(tick / 15 - 2 * seconds, 0), 1)
        turned += turn / 30
        ego.add(Imu(stamp, turn + bias + rng.normal(0, 0.003), 0.02**2, None, None))
        if tick % 3 == 0:
            ego.add(Twist(stamp + SECOND // 60, rng.normal(0, 1e-3), 0.03**2, turn, 0.03))
    return ego, ego.estimate.x[2] - turned


@pytest.mark.parametrize("bias", [0.004, -0.012])
def test_a_stop_tells_the_bias_of_the_gyro(bias):
    ego, _ = stopped(bias, 0.0)
    assert ego.estimate.x[6] == pytest.approx(bias, abs=6e-4)
    assert ego.estimate.covariance[6, 6] < 6e-4**2


@pytest.mark.parametrize("turn", [0.05, 0.5, -1.2])
def test_a_turn_after_a_stop_is_no_bias(turn):
    ego, error = stopped(0.004, turn)
    assert ego.estimate.x[6] == pytest.approx(0.004, abs=1e-3)
    assert abs(error) < 0.06


# Geodesy


def test_the_ellipsoid_where_it_is_known_by_heart():
    equator, pole = np.array([0.0, 90.0, 10.0]), np.array([90.0, 0.0, 0.0])
    found = ecef_from_geodetic(np.stack([equator, pole]))
    np.testing.assert_allclose(found[0], [0, 6378147.0, 0], atol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0, 6356752.3142], atol=1e-4)


def test_a_degree_of_latitude_is_a_meridian_s_length_to_the_north():
    east, north, up = enu_from_geodetic(np.array([45.001, 7.0, 0.0]), np.array([45.0, 7.0, 0.0]))
    assert north == pytest.approx(111.132, abs=0.01)  # m, a thousandth of a degree at 45 N
    assert (east, up) == pytest.approx((0.0, -0.00097), abs=1e-4)


@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(-1000, 20000),
    st.floats(-89, 89),
    st.floats(-180, 180),
)
def test_there_and_back(latitude, longitude, altitude, origin_latitude, origin_longitude):
    there = ecef_from_geodetic(np.array([latitude, longitude, altitude]))
    np.testing.assert_allclose(ecef_from_geodetic(geodetic_from_ecef(there)), there, atol=1e-5)
    origin = np.array([origin_latitude, origin_longitude, 0.0])
    near = np.array([latitude * 100, longitude * 100, altitude])
    np.testing.assert_allclose(enu_from_geodetic(geodetic_from_enu(near, origin), origin), near, atol=1e-5)


# Motion and correction

MOTIONS = st.tuples(
    st.floats(-50, 50),
    st.floats(-50, 50),
    st.floats(-4, 4),
    st.floats(-8, 40),
    st.floats(-1, 1),
    st.floats(-9, 9),
)


@given(MOTIONS, st.floats(0.001, 0.1))
def test_a_step_s_jacobian_is_its_derivative(state, dt):
    noise, jacobian = MotionNoise(), np.eye(6)
    advance(state, dt, noise, jacobian, np.zeros((6, 6)))
    for column, h in enumerate((1e-4, 1e-4, 1e-6, 1e-4, 1e-5, 1e-4)):
        ends = []
        for sign in (1, -1):
            moved = list(state)
            moved[column] += sign * h
            ends.append(np.array(advance(moved, dt, noise, np.eye(6), np.zeros((6, 6)))))
        np.testing.assert_allclose(jacobian[:, column], (ends[0] - ends[1]) / (2 * h), atol=1e-5)


@given(MOTIONS)
def test_a_step_is_the_integral_of_the_motion(state):
    keeping = MotionNoise(acceleration_time_s=1e6, yaw_rate_time_s=1e6)
    x, y, yaw, speed, turn, push = state
    middles = (np.arange(2000) + 0.5) / 2000 * 0.1
    v, angle = speed + push * middles, yaw + turn * middles
    moved = advance(state, 0.1, keeping, np.eye(6), np.zeros((6, 6)))
    assert moved[0] - x == pytest.approx((v * np.cos(angle)).mean() * 0.1, abs=2e-5)
    assert moved[1] - y == pytest.approx((v * np.sin(angle)).mean() * 0.1, abs=2e-5)
    assert moved[3] == pytest.approx(speed + 0.1 * push, abs=1e-4)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_correction_is_the_textbook_s(m):
    rng = np.random.default_rng(m)
    root, noise_root = rng.normal(size=(5, 5)), rng.normal(size=(m, m))
    prior, noise = root @ root.T, noise_root @ noise_root.T + 0.1 * np.eye(m)
    x, h, residual = rng.normal(size=5), rng.normal(size=(m, 5)), rng.normal(size=m)
    spread = h @ prior @ h.T + noise
    gain = prior @ h.T @ np.linalg.inv(spread)
    distance = residual @ np.linalg.solve(spread, residual)
    mean, covariance = correct(x, prior, residual.tolist(), h, noise.tolist(), distance * 1.001)
    np.testing.assert_allclose(mean, x + gain @ residual, atol=1e-12)
    np.testing.assert_allclose(covariance, prior - gain @ spread @ gain.T, atol=1e-12)
    assert np.array_equal(covariance, covariance.T)
    assert correct(x, prior, residual.tolist(), h, noise.tolist(), distance * 0.999) is None


# Order


def test_order_does_not_matter_within_the_horizon():
    """A wild fix among them: gates decide again when the order does."""
    measurements = sensed(circle(8.0, 30.0), 4.0)
    measurements.append(fix_at(3 * SECOND + 1, 60.0, 60.0))
    expected = fed(sorted(measurements, key=lambda m: (m.stamp_ns, m.sensor)))
    assert expected.counters["fix"][UpdateStatus.GATED] == 1

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.floats(0.01, 0.999))
    def check(seed, worst_s):
        delay = np.random.default_rng(seed).uniform(0, worst_s * SECOND, len(measurements))
        stamps = np.array([measurement.stamp_ns for measurement in measurements])
        order = np.argsort(stamps + delay, kind="stable")
        assert same(fed([measurements[i] for i in order]), expected)

    check()


@settings(max_examples=30, deadline=None)
@given(st.permutations(sensed(circle(8.0, 30.0), 0.6)))
def test_the_first_second_in_any_order(shuffled):
    """Origin and start too are those of the earliest stamps, not of what came first."""
    assert same(fed(shuffled), fed(sensed(circle(8.0, 30.0), 0.6)))


def test_a_late_measurement_counts_where_it_belongs():
    measurements = sensed(circle(8.0, 30.0), 4.0)
    late = next(m for m in measurements if isinstance(m, Fix) and m.stamp_ns > 3.2 * SECOND)
    ego = fed([m for m in measurements if m is not late])
    without = ego.estimate.x.copy()
    assert ego.add(late) is UpdateStatus.ACCEPTED
    assert not np.array_equal(ego.estimate.x, without)
    assert same(ego, fed(measurements))


def test_what_is_older_than_the_horizon_is_refused_and_counted():
    ego = fed(sensed(circle(8.0, 30.0), 4.0))
    before, newest = ego.estimate.x.copy(), ego.estimate.stamp_ns
    assert ego.add(Twist(newest - SECOND - 1, 3.0, 0.01)) is UpdateStatus.TOO_LATE
    assert np.array_equal(ego.estimate.x, before)
    assert ego.counters["twist"][UpdateStatus.TOO_LATE] == 1
    assert "1.000 s before" in ego.reasons["twist"]
    assert ego.add(Twist(newest - SECOND, 8.0, 0.01)) is UpdateStatus.ACCEPTED


def test_the_same_message_twice_counts_once():
    measurements = sensed(circle(8.0, 30.0), 2.0)
    ego = fed(measurements)
    before = ego.estimate.x.copy()
    assert ego.add(measurements[-3]) is UpdateStatus.DUPLICATE
    assert np.array_equal(ego.estimate.x, before)


def test_latency_is_taken_off_the_stamp():
    measurements = sensed(circle(8.0, 30.0), 3.0)
    late = [
        dataclasses.replace(m, stamp_ns=m.stamp_ns + SECOND // 5) if isinstance(m, Fix) else m
        for m in measurements
    ]
    late.sort(key=lambda m: m.stamp_ns)
    assert same(fed(late, VehicleStateConfig(latency_s={"fix": 0.2})), fed(measurements))
    assert not same(fed(late), fed(measurements))


def test_history_is_bounded():
    ego = fed(sensed(circle(8.0, 30.0), 30.0))
    assert len(ego._entries) < 250  # 80 a second, a second of them, and what is pruned at once


# Bad input

GOOD = {
    Twist: Twist(SECOND, 8.0, 0.01, 0.1, 0.01, sideways=0.1, sideways_variance=0.01),
    Imu: Imu(SECOND, 0.1, 0.01, 0.0, 0.1),
    Fix: dataclasses.replace(fix_at(SECOND, 0.0, 0.0), antenna=(1.0, 0.0)),
    Pose: Pose(SECOND, 0.0, 0.0, 0.0, (1.0, 0.0, 0.0, 1.0, 0.0, 1.0)),
    Steering: Steering(SECOND, 0.1, 0.01),
}


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, entry.name)
        for kind in GOOD
        for entry in dataclasses.fields(kind)
        if entry.name not in ("stamp_ns", "sensor")
    ],
)
def test_what_is_not_finite_is_refused_with_a_reason(kind, name, value):
    if name == "altitude" and np.isnan(value):
        pytest.skip("a receiver without altitude says NaN")
    good = getattr(GOOD[kind], name)
    bad = (value, *good[1:]) if isinstance(good, tuple) else value
    ego = VehicleStateFilter()
    measurement = dataclasses.replace(GOOD[kind], **{name: bad})
    assert ego.add(measurement) is UpdateStatus.INVALID
    assert ego.counters[measurement.sensor] == {UpdateStatus.INVALID: 1}
    assert str(value) in ego.reasons[measurement.sensor]
    assert ego.estimate.stamp_ns is None


@pytest.mark.parametrize(
    "measurement",
    [
        Twist(0, 1.0, 0.0),
        Twist(0, 1.0, -0.1),
        Twist(0, 1.0, 0.1, 0.1),
        Imu(0, 0.1, 0.01, 1.0),
        Fix(0, 91.0, 0.0, 0.0, (1.0, 0.0, 1.0)),
        Fix(0, 48.0, 11.0, 0.0, (1.0, 2.0, 1.0)),
        Pose(0, 0.0, 0.0, 0.0, (1.0, 0.0, 0.0, 1.0, 2.0, 1.0)),
        Steering(0, 1.6, 0.01),
    ],
)
def test_what_cannot_be_is_refused(measurement):
    assert VehicleStateFilter().add(measurement) is UpdateStatus.INVALID


def test_a_fix_without_altitude_is_a_fix():
    truth = circle(8.0, 30.0)
    flat = [dataclasses.replace(m, altitude=nan) if isinstance(m, Fix) else m for m in sensed(truth, 4.0)]
    ego = fed(flat)
    assert refused(ego, "fix") == 0
    assert off(ego.state_at(ego.estimate.stamp_ns), truth) < 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon_s": nan},
        {"gate_probability": 1.0},
        {"fix_correlated_share": 1.0},
        {"latency_s": {"fix": 2.0}},
        {"motion": MotionNoise(jerk=0.0)},
        {"fix_lever_arm_m": (nan, 0.0)},
        {"restart_after": 0},
    ],
)
def test_a_parameter_that_cannot_be_is_named(changes):
    with pytest.raises(ConfigError, match=r"jerk|" + next(iter(changes))):
        VehicleStateConfig(**changes)


# Gates


def test_a_jump_is_rejected_and_a_lasting_one_believed():
    truth = circle(8.0, 30.0)
    ego = fed(sensed(truth, 6.0))
    rest = sensed(truth, 16.0, start_s=6.0)
    shifted = [
        dataclasses.replace(m, latitude=m.latitude + 0.0005) if isinstance(m, Fix) else m for m in rest
    ]
    added = [(m, ego.add(m)) for m in shifted]
    outcomes = [(m.stamp_ns, outcome) for m, outcome in added if isinstance(m, Fix)]
    while_rejected = [stamp for stamp, outcome in outcomes if outcome is UpdateStatus.GATED]
    recovered = [stamp for stamp, outcome in outcomes if outcome is UpdateStatus.RECOVERED]
    assert len(recovered) == 1
    assert len(while_rejected) >= 59
    # Longer than a receiver that sees reflections for some seconds is off.
    assert recovered[0] == pytest.approx(18 * SECOND, abs=SECOND // 2)
    state = ego.state_at(22 * SECOND)
    x, y, *_ = truth(22.0)
    assert hypot(state.x - x, state.y - y - 55.6) < 1.5  # 0.0005 degrees of latitude


def test_a_jump_does_not_move_the_state():
    truth = circle(8.0, 30.0)
    ego = fed(sensed(truth, 6.0))
    before = ego.state_at(6 * SECOND)
    assert ego.add(fix_at(6 * SECOND - 1, 100.0, 100.0)) is UpdateStatus.GATED
    assert "Fix" in ego.reasons["fix"]
    after = ego.state_at(6 * SECOND)
    assert (after.x, after.y, after.yaw) == pytest.approx((before.x, before.y, before.yaw), abs=1e-9)


def test_full_braking_is_followed_not_rejected():
    """From 20 m/s with 9 m/s^2, reached at once."""

    def truth(t: float) -> tuple[float, float, float, float, float]:
        braking = min(max(t - 5.0, 0.0), 20 / 9)
        way = 20 * min(t, 5.0) + 20 * braking - 4.5 * braking**2
        return way, 0.0, 0.0, 20 - 9 * braking, 0.0

    rng = np.random.default_rng(0)
    ego = fed(sensed(truth, 5.0))
    worst = 0.0
    for tick in range(250, 360):
        stamp, (x, y, _, speed, _) = tick * SECOND // 50, truth(tick / 50)
        push = -9.0 if speed > 0 else 0.0
        ego.add(Imu(stamp, rng.normal(0, 0.003), 0.003**2, push + rng.normal(0, 0.1), 0.1**2))
        ego.add(Twist(stamp, speed + rng.normal(0, 0.05), 0.05**2))
        if tick % 10 == 0:
            ego.add(fix_at(stamp, x, y))
        worst = max(worst, abs(ego.state_at(stamp).speed - speed))
    assert worst < 1.0
    assert ego.counters["twist"][UpdateStatus.GATED] + ego.counters["imu"][UpdateStatus.GATED] < 15


# Start, and what a vehicle does


@pytest.mark.parametrize(("speed", "yaw"), [(8.0, 0.5), (8.0, 3.0), (-3.0, -2.0), (-3.0, 0.1)])
def test_position_and_yaw_are_found_forward_and_in_reverse(speed, yaw):
    truth = circle(speed, 40.0, yaw)
    ego = fed(sensed(truth, 12.0, gyro_bias=0.01))
    state = ego.state_at(12 * SECOND)
    assert off(state, truth) < 0.5
    assert abs(wrapped(state.yaw - truth(12.0)[2])) < 0.05
    assert state.speed == pytest.approx(speed, abs=0.1)
    assert ego.estimate.x[6] == pytest.approx(0.01, abs=0.004)


def test_yaw_wraps_and_stays_in_its_range():
    truth = circle(8.0, 10.0)  # more than three rounds
    ego = VehicleStateFilter()
    for measurement in sensed(truth, 30.0):
        ego.add(measurement)
        state = ego.state_at(measurement.stamp_ns)
        if state is not None:
            assert -pi <= state.yaw < pi
            if measurement.stamp_ns > 5 * SECOND:
                assert abs(wrapped(state.yaw - truth(measurement.stamp_ns / SECOND)[2])) < 0.1
    assert ego.counters["fix"][UpdateStatus.GATED] <= 2


def test_standing_teaches_the_gyro_s_bias_and_turns_nothing():
    driving = circle(8.0, 1e6)
    ego = fed(sensed(driving, 5.0, gyro_bias=0.01))
    yaw = ego.state_at(5 * SECOND).yaw
    rng = np.random.default_rng(1)
    for tick in range(250, 250 + 60 * 50):
        stamp = tick * SECOND // 50
        ego.add(Imu(stamp, 0.01 + rng.normal(0, 0.003), 0.003**2))
        ego.add(Twist(stamp, 0.0, 0.05**2))
    state = ego.state_at(65 * SECOND)
    assert ego.estimate.x[6] == pytest.approx(0.01, abs=0.001)
    assert abs(wrapped(state.yaw - yaw)) < 0.05
    assert abs(state.speed) < 0.02
    assert hypot(state.x - 40.0, state.y) < 4.0  # it had to brake from 8 m/s first, unseen


def test_a_wrong_first_fix_is_got_over():
    truth = circle(8.0, 30.0)
    measurements = sensed(truth, 15.0)
    first = next(i for i, m in enumerate(measurements) if isinstance(m, Fix))
    good = measurements[first]
    measurements[first] = dataclasses.replace(good, latitude=good.latitude + 0.001)
    ego = fed(measurements)
    state = ego.state_at(15 * SECOND)
    x, y, *_ = truth(15.0)
    east, north, _ = enu_from_geodetic(ORIGIN, np.array(ego.estimate.place.origin))
    assert hypot(state.x - x - east, state.y - y - north) < 1.0


def test_fixes_alone_are_enough():
    truth = circle(8.0, 200.0, 1.0)
    ego = fed([m for m in sensed(truth, 20.0) if isinstance(m, Fix)])
    state = ego.state_at(20 * SECOND)
    assert off(state, truth) < 1.0
    assert state.speed == pytest.approx(8.0, abs=0.5)
    assert abs(wrapped(state.yaw - truth(20.0)[2])) < 0.15


def test_without_fixes_the_frame_begins_at_the_vehicle():
    truth = circle(8.0, 30.0)
    config = VehicleStateConfig(start_at_origin=True)
    ego = fed([m for m in sensed(truth, 10.0) if not isinstance(m, Fix)], config)
    assert off(ego.state_at(10 * SECOND), truth) < 1.5
    assert ego.add(fix_at(10 * SECOND, 0, 0)) is UpdateStatus.UNUSED


def test_poses_place_and_correct():
    truth = circle(8.0, 30.0, 2.0)
    ego = VehicleStateFilter()
    for tick in range(100):
        x, y, yaw, _, _ = truth(tick / 10)
        ego.add(Pose(tick * SECOND // 10, x, y, wrapped(yaw), (0.01, 0, 0, 0.01, 0, 1e-4)))
    state = ego.state_at(99 * SECOND // 10)
    assert off(state, truth) < 0.1
    assert (state.speed, state.yaw_rate) == pytest.approx((8.0, 8 / 30), abs=0.2)


def test_steering_stands_in_for_a_gyro():
    """20 s without fixes: the yaw comes from the wheels' angle."""
    truth = circle(8.0, 30.0)
    measurements = [m for m in sensed(truth, 20.0) if not isinstance(m, Imu)]
    measurements = [m for m in measurements if isinstance(m, Twist) or m.stamp_ns < 8 * SECOND]
    angle = np.arctan(2.7 / 30)
    measurements += [Steering(tick * SECOND // 50, angle, 0.005**2) for tick in range(1000)]
    measurements.sort(key=lambda m: m.stamp_ns)
    state = fed(measurements).state_at(20 * SECOND)
    assert off(state, truth) < 3.0
    assert state.yaw_rate == pytest.approx(8 / 30, abs=0.01)


def test_a_lever_arm_is_taken_off():
    truth, arm = circle(8.0, 15.0), 3.0
    moved = []
    for measurement in sensed(truth, 10.0):
        if isinstance(measurement, Fix):
            x, y, yaw, _, _ = truth(measurement.stamp_ns / SECOND)
            measurement = fix_at(measurement.stamp_ns, x + arm * cos(yaw), y + arm * sin(yaw))
        moved.append(measurement)
    config = VehicleStateConfig(fix_lever_arm_m=(arm, 0.0))
    ego = fed(moved, config)
    state, (x, y, *_) = ego.state_at(10 * SECOND), truth(10.0)
    east, north, _ = enu_from_geodetic(ORIGIN, np.array(ego.estimate.place.origin))
    assert hypot(state.x - x - east, state.y - y - north) < 0.5


def test_a_cut_out_is_survived_and_its_doubt_is_honest():
    truth = circle(8.0, 60.0)
    measurements = [
        m
        for m in sensed(truth, 40.0, gyro_bias=0.005)
        if not (isinstance(m, Fix) and 15 < m.stamp_ns / SECOND < 35)
    ]
    ego = VehicleStateFilter()
    sigma, error = {}, {}
    for measurement in measurements:
        ego.add(measurement)
        if isinstance(measurement, Imu) and measurement.stamp_ns % (5 * SECOND) == 0 and measurement.stamp_ns:
            state, second = ego.state_at(measurement.stamp_ns), measurement.stamp_ns // SECOND
            sigma[second], error[second] = np.sqrt(np.trace(state.covariance[:2, :2])), off(state, truth)
            assert error[second] < 3 * sigma[second]
    assert 2 * sigma[15] < sigma[30]
    assert sigma[15] < sigma[20] < sigma[25] < sigma[30]
    assert error[30] < 2.0  # of 120 m
    assert refused(ego, "fix") == 0


# Time


def test_the_state_at_any_moment():
    truth = circle(8.0, 30.0)
    ego = fed(sensed(truth, 10.0))
    newest = ego.estimate.stamp_ns
    for ahead_ns in (-SECOND // 2, 0, SECOND // 10, SECOND):
        state = ego.state_at(newest + ahead_ns)
        assert state.stamp_ns == newest + ahead_ns
        assert off(state, truth) < 0.6
    assert np.trace(ego.state_at(newest + SECOND).covariance) > np.trace(ego.state_at(newest).covariance)
    assert ego.state_at(newest - 10 * SECOND) is None
    assert ego.state_at(newest + 11 * SECOND) is None
    assert VehicleStateFilter().state_at(0) is None


def test_a_clock_that_was_set_restarts_the_filter():
    truth = circle(8.0, 30.0)
    ego = fed(sensed(truth, 5.0))
    again = sensed(truth, 5.0)  # the recording plays from its start
    outcomes = [ego.add(m) for m in again]
    assert outcomes[0] is UpdateStatus.TOO_LATE
    assert ego.restarts == 1
    assert off(ego.state_at(ego.estimate.stamp_ns), truth) < 5.0
    assert ego.add(Twist(10**18, 8.0, 0.01)) is UpdateStatus.STAMP_JUMP
    assert "ahead" in ego.reasons["twist"]
    assert ego.restarts == 1


def test_the_covariance_stays_positive_definite():
    """Sure sensors, unsure ones, gaps, standstill, spins: looked at in every hundredth of 60 000 steps."""
    rng = np.random.default_rng(3)
    estimator = Estimator(VehicleStateConfig())
    estimate, stamp = estimator.first(), 0
    for step in range(60_000):
        stamp += int(rng.choice([0, 10**5, 5 * 10**6, 2 * 10**8], p=[0.1, 0.1, 0.79, 0.01]))
        tiny = 10.0 ** rng.uniform(-10, 2)
        kind = step % 4
        if kind == 0:
            measurement = Twist(stamp, float(rng.choice([0.0, 10.0, -2.0])), tiny)
        elif kind == 1:
            measurement = Imu(stamp, rng.normal(0, 0.3), tiny, rng.normal(0, 3), tiny)
        elif kind == 2:
            measurement = Steering(stamp, rng.normal(0, 0.2), tiny)
        else:
            measurement = fix_at(stamp, 10 * rng.normal(), 10 * rng.normal(), tiny)
        estimate, _ = estimator.step(estimate, measurement, stamp)
        if step % 100 == 0:
            scale = np.sqrt(np.diag(estimate.covariance))
            assert np.all(np.isfinite(estimate.x))
            assert np.array_equal(estimate.covariance, estimate.covariance.T)
            assert np.linalg.eigvalsh(estimate.covariance / np.outer(scale, scale))[0] > 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    speed=st.floats(0.0, 30.0),
    fix_hz=st.sampled_from([0.2, 1.0, 5.0, 10.0]),
    fix_sigma=st.floats(1e-3, 30.0),
    others=st.sets(st.sampled_from(["twist", "imu", "pose"])),
    lies=st.booleans(),
)
def test_the_covariance_stays_positive_definite_for_any_rates_speeds_and_covariances(
    seed, speed, fix_hz, fix_sigma, others, lies
):
    rng = np.random.default_rng(seed)
    ego = VehicleStateFilter(VehicleStateConfig())
    scale = fix_sigma / 6.4e6 * 180 / np.pi
    for step in range(300):
        stamp = round(step * 1e8)
        lie = rng.normal(0, 100) if lies and rng.random() < 0.05 else 0.0
        if "twist" in others:
            ego.add(Twist(stamp, speed + lie, 10 ** rng.uniform(-6, 2), 0.0, 10 ** rng.uniform(-8, 1)))
        if "imu" in others:
            ego.add(Imu(stamp, lie, 10 ** rng.uniform(-8, 1), lie, 10 ** rng.uniform(-6, 2)))
        if "pose" in others and step % 7 == 0:
            ego.add(Pose(stamp, speed * step / 10, lie, 0.0, (1e-4, 0.0, 0.0, 1e-4, 0.0, 1e-6)))
        if step % round(10 / fix_hz) == 0:
            place = speed * step / 10 / 6.4e6 * 180 / np.pi + rng.normal(0, scale)
            ego.add(Fix(stamp, place, rng.normal(0, scale), 0.0, (fix_sigma**2, 0.0, fix_sigma**2)))
        covariance = ego.estimate.covariance
        sd = np.sqrt(np.diag(covariance))
        assert np.isfinite(sd).all()
        assert np.linalg.eigvalsh(covariance / np.outer(sd, sd))[0] > -1e-9
    assert ego.failures == 0


def test_a_bad_acceleration_does_not_cost_the_gyro():
    ego, yaw_rate = VehicleStateFilter(VehicleStateConfig(start_at_origin=True)), 0.2
    rng = np.random.default_rng(0)
    for step in range(600):
        stamp = step * SECOND // 50
        ego.add(Twist(stamp, 5.0, 0.01))
        ego.add(Imu(stamp, yaw_rate, 1e-4, 40 * rng.normal(), 1e-2))
    assert ego.quantity_counters["imu.yaw_rate"][UpdateStatus.ACCEPTED] == 600
    assert ego.estimate.excess["imu.acceleration"] > 100
    assert ego.estimate.excess["imu.yaw_rate"] < 2
    assert abs(ego.state_at(stamp).yaw_rate - yaw_rate) < 0.02
    assert abs(ego.state_at(stamp).speed - 5.0) < 0.3


def test_a_yaw_rate_that_is_never_filled_in_does_not_cost_the_speed():
    ego = VehicleStateFilter(VehicleStateConfig(start_at_origin=True))
    for step in range(500):
        stamp = step * SECOND // 50
        ego.add(Imu(stamp, 0.3, 1e-4))
        ego.add(Twist(stamp, 5.0, 0.01, 0.0, 1e-4, sensor="odometry"))
    assert ego.quantity_counters["odometry.speed"][UpdateStatus.ACCEPTED] == 500


def test_numbers_that_fail_restart_the_filter_and_say_why(monkeypatch):
    ego = VehicleStateFilter(VehicleStateConfig(start_at_origin=True))
    ego.add(Twist(0, 5.0, 0.01))

    def fail(*_):
        raise ValueError("math domain error")

    with monkeypatch.context() as patched:
        patched.setattr(type(ego._estimator), "step", fail)
        assert ego.add(Twist(SECOND, 5.0, 0.01)) is UpdateStatus.FAILED
    assert (ego.failures, ego.restarts) == (1, 1)
    assert "math domain error" in ego.reasons["twist"]
    assert ego.add(Twist(2 * SECOND, 5.0, 0.01)) is UpdateStatus.ACCEPTED
    assert ego.state_at(2 * SECOND) is not None


def test_the_wheels_straight_ahead_tell_the_gyro_s_bias_where_fixes_mislead():
    """A skid-steered robot whose odometry declares 0.17 rad/s and is good to 0.01, with fixes that wander."""
    ego, rng = VehicleStateFilter(VehicleStateConfig(turns_in_place=True)), np.random.default_rng(0)
    for step in range(2400):
        stamp, way = step * SECOND // 40, step / 40
        ego.add(Imu(stamp, 0.002 + rng.normal(0, 0.007), 0.02**2))
        if step % 4 == 0:
            ego.add(Twist(stamp, 1.0, 1e-3, rng.normal(0, 0.01), 0.03, sensor="odometry"))
        if step % 16 == 0:
            walked = 4 * sin(way / 10)
            ego.add(fix_at(stamp, way, walked + rng.normal(0, 0.1), 0.9))
    assert ego.estimate.excess["odometry.yaw_rate"] < 0.01
    assert ego.estimate.excess["imu.yaw_rate"] < 0.3
    assert ego.estimate.x[6] == pytest.approx(0.002, abs=0.001)


def test_the_correction_by_one_value_is_that_of_the_matrices():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(11, 11))
    x, covariance, jacobian = rng.normal(size=11), root @ root.T, rng.normal(size=(1, 11))
    found = correct(x, covariance, [0.3], jacobian, [[0.2]], inf)
    assert found is not None
    cross = jacobian @ covariance
    gain = cross / np.sqrt(cross @ jacobian.T + 0.2)
    np.testing.assert_allclose(found[1], covariance - gain.T @ gain, rtol=1e-12, atol=1e-12)
    shift = cross[0] * 0.3 / (cross @ jacobian.T + 0.2)[0, 0]
    np.testing.assert_allclose(found[0], x + shift, rtol=1e-12, atol=1e-12)
    again = correct(x, covariance, [0.3], jacobian, [[0.2]], inf, sight(covariance, jacobian))
    np.testing.assert_array_equal(again[1], found[1])
