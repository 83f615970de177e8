"""The path ahead: stamped with its future, standing when it stands, and less sure the farther it goes."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.vehicle_state import MotionNoise
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoState

KEEPING = MotionNoise(acceleration_time_s=1e6, yaw_rate_time_s=1e6)
STATES = st.tuples(
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.floats(-pi, pi, exclude_max=True),
    st.floats(-10, 40),
    st.floats(-1, 1),
    st.floats(-9, 5),
)


def at(*values: float, stamp_ns: int = 5_000_000_123) -> EgoState:
    return EgoState(stamp_ns, *values, np.diag([0.1, 0.1, 0.01, 0.04, 0.01, 0.1]))


@settings(deadline=None)
@given(STATES)
def test_every_row_has_its_stamp_its_state_and_a_growing_doubt(values):
    path = predict_path(at(*values))
    assert path.stamps_ns.tolist() == [5_000_000_123 + k * 100_000_000 for k in range(31)]
    assert path.states[0].tolist() == list(values)
    assert np.all(np.isfinite(path.states))
    assert np.all(path.states[:, 2] >= -pi)
    assert np.all(path.states[:, 2] < pi)
    for covariance in path.covariance:
        assert np.array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance)[0] > 0
    sizes = np.linalg.det(path.covariance[:, :2, :2])
    assert np.all(np.diff(sizes) > 0)


def test_a_circle_is_a_circle_across_the_wrap():
    yaw, speed, turn = 3.0, 10.0, 0.5
    path = predict_path(at(0.0, 0.0, yaw, speed, turn, 0.0), KEEPING)
    for k in (1, 10, 30):
        now = yaw + turn * 0.1 * k
        expected = [speed / turn * (sin(now) - sin(yaw)), -speed / turn * (cos(now) - cos(yaw))]
        np.testing.assert_allclose(path.states[k, :2], expected, atol=1e-3)
        assert path.states[k, 2] == pytest.approx((now + pi) % (2 * pi) - pi, abs=1e-4)


def test_a_standing_vehicle_stays():
    path = predict_path(at(3.0, 4.0, 1.0, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(path.states, np.tile([3.0, 4.0, 1.0, 0.0, 0.0, 0.0], (31, 1)))
    assert path.covariance[30, 0, 0] > path.covariance[0, 0, 0]


def test_reverse_goes_backward():
    path = predict_path(at(0.0, 0.0, 0.0, -2.0, 0.0, 0.0))
    np.testing.assert_allclose(path.states[30, :3], [-6.0, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("direction", [1, -1])
def test_braking_ends_at_rest_not_in_the_other_direction(direction):
    path = predict_path(at(0.0, 0.0, 0.0, direction * 6.0, 0.2, direction * -5.0), KEEPING)
    speed = direction * path.states[:, 3]
    assert np.all(speed >= 0)
    assert np.all(speed[13:] == 0)
    assert direction * path.states[30, 0] == pytest.approx(36 / 10, abs=0.2)  # v^2 / 2a
    np.testing.assert_array_equal(path.states[13:, :2], np.tile(path.states[13, :2], (18, 1)))


def test_setting_off_is_not_braking():
    path = predict_path(at(0.0, 0.0, 0.0, 0.0, 0.0, 2.0), KEEPING)
    assert path.states[30, 0] == pytest.approx(9.0, abs=0.02)


def test_the_acceleration_fades_as_a_driver_s():
    path = predict_path(at(0.0, 0.0, 0.0, 10.0, 0.0, 2.0), MotionNoise(acceleration_time_s=1.0))
    assert path.states[30, 3] == pytest.approx(10 + 2 * (1 - np.exp(-3.0)), abs=1e-6)


def test_steps_longer_than_the_model_s_are_divided():
    coarse = predict_path(at(0.0, 0.0, 0.3, 10.0, 0.5, 1.0), KEEPING, horizon_s=3.0, step_s=1.0)
    fine = predict_path(at(0.0, 0.0, 0.3, 10.0, 0.5, 1.0), KEEPING)
    np.testing.assert_allclose(coarse.states, fine.states[::10], atol=1e-9)
    np.testing.assert_allclose(coarse.covariance, fine.covariance[::10], rtol=1e-9)
    assert len(coarse) == 4


@pytest.mark.parametrize(
    ("horizon_s", "step_s"), [(3.0, 0.0), (3.0, -0.1), (0.05, 0.1), (float("nan"), 0.1), (3.0, 0.001)]
)
def test_a_horizon_that_cannot_be_is_named(horizon_s, step_s):
    with pytest.raises(ConfigError, match="horizon_s"):
        predict_path(at(0.0, 0.0, 0.0, 1.0, 0.0, 0.0), None, horizon_s, step_s)


@pytest.mark.parametrize("sideways", [0.0, 0.7])
def test_without_covariance_the_path_is_the_same(sideways):
    now = EgoState(5, 1.0, 2.0, 0.3, 9.0, 0.2, -4.0, np.eye(6), sideways)
    full, quick = predict_path(now), predict_path(now, with_covariance=False)
    np.testing.assert_array_equal(quick.states, full.states)
    np.testing.assert_array_equal(quick.stamps_ns, full.stamps_ns)
    assert np.isnan(quick.covariance).all()
