"""Create the messages of the simulated drive."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, TransformStamped

from perception_rt.codec.cdr import CdrWriter, stamp_bytes
from perception_rt.node.source import to_time
from perception_rt.sim.camera import Camera
from perception_rt.sim.drive import ACCEL_SIGMA, GYRO_SIGMA, ODOM_V_SIGMA, ODOM_YAW_RATE_SIGMA, ImuSample
from perception_rt.sim.lidar import LIDAR_FRAME, LIDAR_POSITION
from perception_rt.sim.path import SimulatedEgo

OPTICAL_FRAME = "camera_optical_frame"

# Messages are joined from parts that are serialized once: message objects take several times as long.
_STAMP_AT, _STAMP_SIZE = 4, 8  # the header's, where a message begins with one
_3_DOUBLES, _6_DOUBLES, _7_DOUBLES = (struct.Struct(f"<{count}d").pack for count in (3, 6, 7))


def camera_info(camera: Camera, stamp_ns: int) -> bytes:
    """Return the serialized CameraInfo of an ideal pinhole camera."""
    start, rest = _camera(camera)
    return start + stamp_bytes(stamp_ns) + rest


@lru_cache(maxsize=8)
def _camera(camera: Camera) -> tuple[bytes, bytes]:
    writer = CdrWriter()
    writer.header(0, OPTICAL_FRAME)
    writer.scalars("I", camera.size[1], camera.size[0])
    writer.string("plumb_bob")
    writer.scalars("I", 5)  # coefficients
    writer.scalars("d", *[0.0] * 5)
    for matrix in (camera.k, np.eye(3), np.hstack([camera.k, np.zeros((3, 1))])):
        writer.scalars("d", *matrix.ravel().tolist())
    writer.scalars("I", *[0] * 6)  # not binned, no region of interest
    writer.scalars("B", 0)
    return _around_stamp(writer.bytes())


def imu(reading: ImuSample, stamp_ns: int) -> bytes:
    """Return a serialized Imu in base_link, without orientation."""
    start, rest = _IMU
    turn, push = _3_DOUBLES(*reading.angular_velocity), _3_DOUBLES(*reading.linear_acceleration)
    return b"".join((start, stamp_bytes(stamp_ns), rest, turn, _GYRO_COVARIANCE, push, _ACCEL_COVARIANCE))


def odometry(frame: str, pose: Sequence[float], v: float, yaw_rate: float, stamp_ns: int) -> bytes:
    """Return a serialized Odometry: pose (x y yaw) of base_link in `frame` and its twist, in m, rad and s."""
    start, rest = _of_base(frame)
    twist = _6_DOUBLES(v, 0.0, 0.0, 0.0, 0.0, yaw_rate)
    stamp = stamp_bytes(stamp_ns)
    return b"".join((start, stamp, rest, _pose(pose), _POSE_COVARIANCE, twist, _TWIST_COVARIANCE))


def true_odometry(ego: SimulatedEgo, stamp_ns: int) -> bytes:
    """Return the true state as a serialized Odometry in the frame map."""
    return odometry("map", (ego.x, ego.y, ego.yaw), ego.v, ego.yaw_rate, stamp_ns)


def base_transform(pose: Sequence[float], stamp_ns: int) -> bytes:
    """Return a serialized TFMessage: from odom to base_link at a pose (x y yaw), m and rad."""
    start, rest = _TRANSFORM
    return b"".join((start, stamp_bytes(stamp_ns), rest, _pose(pose)))


def _pose(pose: Sequence[float]) -> bytes:
    x, y, yaw = pose
    return _7_DOUBLES(x, y, 0.0, 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))


def _around_stamp(message: bytes, at: int = _STAMP_AT) -> tuple[bytes, bytes]:
    return message[:at], message[at + _STAMP_SIZE :]


@lru_cache(maxsize=8)
def _of_base(frame: str) -> tuple[bytes, bytes]:
    writer = CdrWriter()
    writer.header(0, frame)
    writer.string("base_link")
    writer.align(8)
    return _around_stamp(writer.bytes())


def _transform_of_base() -> tuple[bytes, bytes]:
    writer = CdrWriter()
    writer.scalars("I", 1)  # transforms
    writer.header(0, "odom")
    writer.string("base_link")
    writer.align(8)
    return _around_stamp(writer.bytes(), _STAMP_AT + 4)


def _imu_of_base() -> tuple[bytes, bytes]:
    writer = CdrWriter()
    writer.header(0, "base_link")
    writer.scalars("d", 0.0, 0.0, 0.0, 1.0)
    writer.scalars("d", -1.0, *[0.0] * 8)  # no orientation (sensor_msgs/Imu)
    return _around_stamp(writer.bytes())


def _variances(*values: float) -> bytes:
    return np.diag(values).astype("<f8").tobytes()


_IMU, _TRANSFORM = _imu_of_base(), _transform_of_base()
_GYRO_COVARIANCE, _ACCEL_COVARIANCE = _variances(*[GYRO_SIGMA**2] * 3), _variances(*[ACCEL_SIGMA**2] * 3)
_POSE_COVARIANCE = _variances(*[0.0] * 6)
_TWIST_COVARIANCE = _variances(ODOM_V_SIGMA**2, 0.0, 0.0, 0.0, 0.0, ODOM_YAW_RATE_SIGMA**2)


def camera_mount(camera: Camera, stamp_ns: int) -> TransformStamped:
    """Return the transform from base_link to the camera's optical frame."""
    transform = _transform("base_link", OPTICAL_FRAME, camera.position, stamp_ns)
    # z forward, x right, y down (REP 103), seen from x forward, y left, z up.
    transform.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    return transform


def lidar_mount(stamp_ns: int) -> TransformStamped:
    """Return the transform from base_link to the lidar."""
    return _transform("base_link", LIDAR_FRAME, LIDAR_POSITION, stamp_ns)


def _transform(parent: str, child: str, translation: Any, stamp_ns: int) -> TransformStamped:
    transform = TransformStamped(child_frame_id=child)
    transform.header.stamp, transform.header.frame_id = to_time(stamp_ns), parent
    _fill(transform.transform.translation, translation)
    return transform


def _fill(vector: Any, values: Any) -> None:
    vector.x, vector.y, vector.z = (float(value) for value in values)
