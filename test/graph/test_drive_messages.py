"""The simulator's serialized messages: what message objects give, and not a byte more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")

from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Imu
from tf2_msgs.msg import TFMessage

from perception_rt.node import drive_messages as messages
from perception_rt.node.source import to_time
from perception_rt.sim.camera import Camera
from perception_rt.sim.drive import (
    ACCEL_SIGMA,
    GYRO_SIGMA,
    ODOM_V_SIGMA,
    ODOM_YAW_RATE_SIGMA,
    ImuSample,
)
from perception_rt.sim.path import SimulatedEgo

STAMPS = st.integers(0, (1 << 31) * 10**9 - 1)
NUMBERS = st.floats(width=64, allow_nan=False)
VECTORS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
ANGLES = st.floats(-7.0, 7.0)
POSES = st.tuples(NUMBERS, NUMBERS, ANGLES)


def filled(message, frame: str, stamp_ns: int):
    message.header.frame_id, message.header.stamp = frame, to_time(stamp_ns)
    return message


def assert_same(found: bytes, expected) -> None:
    """Compare all but the padding, which serialize_message leaves undefined."""
    assert len(found) == len(serialize_message(expected))
    assert deserialize_message(found, type(expected)) == expected


def turned(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))


@given(VECTORS, VECTORS, STAMPS)
def test_an_imu_message(turn, push, stamp_ns):
    expected = filled(Imu(), "base_link", stamp_ns)
    for name, values, sigma in (
        ("angular_velocity", turn, GYRO_SIGMA),
        ("linear_acceleration", push, ACCEL_SIGMA),
    ):
        vector = getattr(expected, name)
        vector.x, vector.y, vector.z = values
        setattr(expected, f"{name}_covariance", np.diag([sigma**2] * 3).ravel())
    expected.orientation_covariance[0] = -1.0
    found = messages.imu(ImuSample(np.array(turn), np.array(push)), stamp_ns)
    assert_same(found, expected)


@given(POSES, NUMBERS, NUMBERS, STAMPS)
def test_odometry_its_truth_and_its_transform(pose, v, yaw_rate, stamp_ns):
    for frame in ("odom", "map"):
        expected = filled(Odometry(child_frame_id="base_link"), frame, stamp_ns)
        expected.pose.pose.position.x, expected.pose.pose.position.y = pose[:2]
        expected.pose.pose.orientation = turned(pose[2])
        expected.twist.twist.linear.x, expected.twist.twist.angular.z = v, yaw_rate
        expected.twist.covariance[0] = ODOM_V_SIGMA**2
        expected.twist.covariance[35] = ODOM_YAW_RATE_SIGMA**2
        assert_same(messages.odometry(frame, pose, v, yaw_rate, stamp_ns), expected)
    ego = SimulatedEgo(*pose, v, yaw_rate, 0.5)
    assert_same(messages.true_odometry(ego, stamp_ns), expected)
    moved = filled(TransformStamped(child_frame_id="base_link"), "odom", stamp_ns)
    moved.transform.translation.x, moved.transform.translation.y = pose[:2]
    moved.transform.rotation = turned(pose[2])
    assert_same(messages.base_transform(pose, stamp_ns), TFMessage(transforms=[moved]))


@given(st.integers(64, 8192), st.integers(64, 8192), STAMPS)
def test_a_camera_info(width, height, stamp_ns):
    camera = Camera.of_size((width, height))
    expected = filled(CameraInfo(width=width, height=height), messages.OPTICAL_FRAME, stamp_ns)
    expected.distortion_model, expected.d = "plumb_bob", [0.0] * 5
    expected.k, expected.r = camera.k.ravel(), np.eye(3).ravel()
    expected.p = np.hstack([camera.k, np.zeros((3, 1))]).ravel()
    assert_same(messages.camera_info(camera, stamp_ns), expected)
