"""Create the messages of the simulated drive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Imu

from perception_rt.node.source import to_time
from perception_rt.sim.camera import Camera
from perception_rt.sim.drive import ACCEL_SIGMA, GYRO_SIGMA, ODOM_V_SIGMA, ODOM_YAW_RATE_SIGMA, ImuSample
from perception_rt.sim.lidar import LIDAR_FRAME, LIDAR_POSITION
from perception_rt.sim.path import SimulatedEgo

OPTICAL_FRAME = "camera_optical_frame"


def camera_info(camera: Camera, stamp_ns: int) -> CameraInfo:
    """Return the CameraInfo of an ideal pinhole camera."""
    info = CameraInfo(width=camera.size[0], height=camera.size[1])
    info.header.stamp, info.header.frame_id = to_time(stamp_ns), OPTICAL_FRAME
    info.distortion_model, info.d = "plumb_bob", [0.0] * 5
    info.k = camera.k.ravel()
    info.r = np.eye(3).ravel()
    info.p = np.hstack([camera.k, np.zeros((3, 1))]).ravel()
    return info


def imu(reading: ImuSample, stamp_ns: int) -> Imu:
    """Return an Imu message in base_link, without orientation."""
    message = Imu()
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), "base_link"
    _fill(message.angular_velocity, reading.angular_velocity)
    _fill(message.linear_acceleration, reading.linear_acceleration)
    message.orientation_covariance[0] = -1.0  # no orientation (sensor_msgs/Imu)
    message.angular_velocity_covariance = np.diag([GYRO_SIGMA**2] * 3).ravel()
    message.linear_acceleration_covariance = np.diag([ACCEL_SIGMA**2] * 3).ravel()
    return message


def odometry(frame: str, pose: Any, v: float, yaw_rate: float, stamp_ns: int) -> Odometry:
    """Return an Odometry message: pose (x y yaw) of base_link in `frame` and its twist, in m, rad and s."""
    message = Odometry(child_frame_id="base_link")
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), frame
    _fill(message.pose.pose.position, (pose[0], pose[1], 0.0))
    message.pose.pose.orientation = _yaw_quaternion(pose[2])
    message.twist.twist.linear.x, message.twist.twist.angular.z = v, yaw_rate
    message.twist.covariance[0] = ODOM_V_SIGMA**2
    message.twist.covariance[35] = ODOM_YAW_RATE_SIGMA**2
    return message


def true_odometry(ego: SimulatedEgo, stamp_ns: int) -> Odometry:
    """Return the true state as Odometry in the frame map."""
    return odometry("map", (ego.x, ego.y, ego.yaw), ego.v, ego.yaw_rate, stamp_ns)


def base_transform(pose: Any, stamp_ns: int) -> TransformStamped:
    """Return the transform from odom to base_link at a pose (x y yaw), m and rad."""
    transform = _transform("odom", "base_link", (pose[0], pose[1], 0.0), stamp_ns)
    transform.transform.rotation = _yaw_quaternion(pose[2])
    return transform


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


def _yaw_quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))
