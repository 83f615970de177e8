"""Vehicle messages, compared with rosbags' serialization."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec.vehicle import (
    encode_odometry,
    encode_path,
    parse_fix,
    parse_imu,
    parse_odometry,
    parse_twist,
    pose_covariance,
)
from perception_rt.types import CodecError
from perception_rt.types.state import EgoPath, EgoState

STORE = get_typestore(Stores.ROS2_KILTED)
STAMP = 12_345_678_901_234_567


def make(name: str, *values):
    return STORE.types[name](*values)


def header(frame: str = "somewhere"):
    time = make("builtin_interfaces/msg/Time", STAMP // 10**9, STAMP % 10**9)
    return make("std_msgs/msg/Header", time, frame)


def vector(*xyz):
    return make("geometry_msgs/msg/Vector3", *map(float, xyz))


def turned(yaw: float):
    return make("geometry_msgs/msg/Quaternion", 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))


def twist(speed: float, yaw_rate: float, covariance: np.ndarray):
    inner = make("geometry_msgs/msg/Twist", vector(speed, 0.1, 0), vector(0, 0, yaw_rate))
    return make("geometry_msgs/msg/TwistWithCovariance", inner, covariance)


def cdr(message) -> bytes:
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def imu(turning: np.ndarray, pushing: np.ndarray) -> bytes:
    values = turned(1.0), np.zeros(9), vector(1, 2, 3), turning, vector(4, 5, 6), pushing
    return cdr(make("sensor_msgs/msg/Imu", header("imu_link"), *values))


def fix(status: int, kind: int) -> bytes:
    state = make("sensor_msgs/msg/NavSatStatus", status, 1)
    values = state, 48.1, 11.5, 520.0, np.arange(9.0), kind
    return cdr(make("sensor_msgs/msg/NavSatFix", header("gps"), *values))


def odometry(quaternion=None) -> bytes:
    point = make("geometry_msgs/msg/Point", 1.0, 2.0, 3.0)
    pose = make("geometry_msgs/msg/Pose", point, quaternion or turned(-2.5))
    pose = make("geometry_msgs/msg/PoseWithCovariance", pose, np.arange(36.0))
    values = "base_link", pose, twist(7.0, -0.2, np.arange(36.0))
    return cdr(make("nav_msgs/msg/Odometry", header("odom"), *values))


def test_imu():
    found = parse_imu(imu(np.eye(3).ravel() * 0.1, np.eye(3).ravel() * 0.2))
    assert (found.stamp_ns, found.frame_id) == (STAMP, "imu_link")
    assert (found.angular_velocity.tolist(), found.linear_acceleration.tolist()) == ([1, 2, 3], [4, 5, 6])
    np.testing.assert_array_equal(found.angular_covariance, np.eye(3) * 0.1)
    np.testing.assert_array_equal(found.linear_covariance, np.eye(3) * 0.2)


def test_an_imu_that_does_not_know_says_so():
    absent = np.zeros(9)
    absent[0] = -1
    found = parse_imu(imu(np.zeros(9), absent))
    assert found.angular_covariance is None
    assert found.linear_covariance is None


def test_fix():
    found = parse_fix(fix(0, 2))
    assert (found.latitude, found.longitude, found.altitude) == (48.1, 11.5, 520.0)
    assert found.has_fix
    np.testing.assert_array_equal(found.covariance, np.arange(9.0).reshape(3, 3))
    assert not parse_fix(fix(-1, 2)).has_fix
    assert parse_fix(fix(2, 0)).covariance is None


def test_odometry_and_twist():
    found = parse_odometry(odometry())
    assert (found.frame_id, found.child_frame_id) == ("odom", "base_link")
    assert found.pose == pytest.approx((1, 2, -2.5))
    np.testing.assert_array_equal(found.pose_covariance, [[0, 1, 5], [6, 7, 11], [30, 31, 35]])
    assert (found.speed, found.yaw_rate, found.twist_variance) == (7.0, -0.2, (0.0, 35.0))
    message = make(
        "geometry_msgs/msg/TwistWithCovarianceStamped", header("base_link"), twist(3, 0.5, np.ones(36))
    )
    found = parse_twist(cdr(message))
    assert (found.speed, found.yaw_rate, found.twist_variance) == (3.0, 0.5, (1.0, 1.0))
    assert (found.child_frame_id, found.pose) == ("base_link", None)


def test_an_orientation_that_is_no_rotation_costs_the_pose_alone():
    found = parse_odometry(odometry(make("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 0.0)))
    assert found.pose is None
    assert found.speed == parse_odometry(odometry()).speed


def test_an_orientation_about_any_axis_is_a_pose():
    upside_down = make("geometry_msgs/msg/Quaternion", 0.0, 1.0, 0.0, 0.0)
    assert parse_odometry(odometry(upside_down)).pose == pytest.approx((1.0, 2.0, math.pi))


@pytest.mark.parametrize("bad", [0, 1])
def test_an_imu_that_says_minus_one_has_no_such_measurement(bad):
    covariances = [np.ones(9), np.ones(9)]
    covariances[bad][0] = -1
    found = parse_imu(imu(*covariances))
    values = found.angular_velocity, found.linear_acceleration
    assert values[bad] is None
    assert values[1 - bad] is not None


MESSAGES = {parse_imu: imu(np.ones(9), np.ones(9)), parse_fix: fix(0, 2), parse_odometry: odometry()}


@given(st.sampled_from(list(MESSAGES)), st.data())
def test_what_ends_early_is_refused(parse, data):
    whole = MESSAGES[parse]
    with pytest.raises(CodecError):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_the_state_as_odometry():
    rng = np.random.default_rng(0)
    covariance = rng.normal(size=(6, 6))
    state = EgoState(STAMP, 1.0, 2.0, 3.0, -4.0, 0.5, 0.6, covariance @ covariance.T)
    data = encode_odometry(state, "map", "base_link")
    found = parse_odometry(data)
    assert (found.stamp_ns, found.frame_id, found.child_frame_id) == (STAMP, "map", "base_link")
    assert (*found.pose, found.speed, found.yaw_rate) == pytest.approx((1, 2, 3, -4, 0.5))
    np.testing.assert_allclose(found.pose_covariance, state.covariance[:3, :3])
    assert found.twist_variance == pytest.approx((state.covariance[3, 3], state.covariance[4, 4]))
    message = STORE.deserialize_cdr(data, "nav_msgs/msg/Odometry")
    assert bytes(STORE.serialize_cdr(message, "nav_msgs/msg/Odometry")) == data


def test_the_path_has_the_stamps_that_its_poses_are_for():
    stamps = STAMP + np.arange(4) * 100_000_000
    states = np.arange(24.0).reshape(4, 6) / 10
    data = encode_path(EgoPath(stamps, states, np.zeros((4, 6, 6))), "odom")
    message = STORE.deserialize_cdr(data, "nav_msgs/msg/Path")
    assert bytes(STORE.serialize_cdr(message, "nav_msgs/msg/Path")) == data
    assert message.header.frame_id == "odom"
    for pose, stamp, state in zip(message.poses, stamps, states, strict=True):
        assert pose.header.stamp.sec * 10**9 + pose.header.stamp.nanosec == stamp
        assert (pose.pose.position.x, pose.pose.position.y) == tuple(state[:2])
        assert 2 * math.atan2(pose.pose.orientation.z, pose.pose.orientation.w) == pytest.approx(state[2])


@pytest.mark.parametrize("length", range(9))
def test_a_path_is_padded_after_frames_of_any_length(length):
    frame, path = "f" * length, EgoPath(STAMP + np.arange(3), np.ones((3, 6)), np.zeros((3, 6, 6)))
    data = encode_path(path, frame)
    message = STORE.deserialize_cdr(data, "nav_msgs/msg/Path")
    assert bytes(STORE.serialize_cdr(message, "nav_msgs/msg/Path")) == data
    assert [pose.header.frame_id for pose in message.poses] == [frame] * 3
    assert [pose.pose.position.y for pose in message.poses] == [1.0] * 3


def test_a_covariance_of_the_plane_lies_in_space():
    plane = np.arange(18.0).reshape(2, 3, 3)
    space = pose_covariance(plane).reshape(2, 6, 6)
    assert space.shape == (2, 6, 6)
    np.testing.assert_array_equal(space[:, [0, 1, 5]][:, :, [0, 1, 5]], plane)
    assert np.count_nonzero(space) == np.count_nonzero(plane)


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_a_twist_moves_to_another_frame_of_the_vehicle_with_its_covariance(variance):
    """A sensor 2 m ahead of the axle that looks to the left: its x is the vehicle's y."""
    base_from_child = np.eye(4)
    base_from_child[:2, :2], base_from_child[:3, 3] = [[0, -1], [1, 0]], (2, 0, 0)
    covariance = np.diag([variance, 2 * variance, 1, 1, 1, 0.5 * variance]) + 0.01
    inner = make("geometry_msgs/msg/Twist", vector(0.6, -5, 0), vector(0, 0, 0.3))
    stated = make("geometry_msgs/msg/TwistWithCovariance", inner, covariance.ravel())
    message = make("geometry_msgs/msg/TwistWithCovarianceStamped", header("sensor"), stated)
    found = parse_twist(cdr(message))
    assert found.sideways == (-5, 2 * variance + 0.01)
    moved = found.moved_to(base_from_child)
    assert (moved.speed, moved.yaw_rate) == pytest.approx((5, 0.3))
    assert moved.sideways == pytest.approx((0.6 - 0.3 * 2, variance + 0.01))
    assert moved.twist_variance == pytest.approx((2 * variance + 0.01, 0.5 * variance + 0.01))
    assert found.twist[1] == pytest.approx(covariance)  # its own stays


def test_a_speed_of_a_negative_variance_is_none_in_another_frame_too():
    covariance = np.diag([-0.5, 1, 1, 1, 1, 0.09]).ravel()
    message = "geometry_msgs/msg/TwistWithCovarianceStamped", header("sensor"), twist(3, 0.5, covariance)
    moved = parse_twist(cdr(make(*message))).moved_to(np.eye(4))
    assert (moved.speed, moved.yaw_rate) == (None, 0.5)
