"""Node drive_simulator: a seeded drive as sensor topics with ground truth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, Imu
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray

from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.encode import encode_image
from perception_rt.node.parameters import Parameter
from perception_rt.node.run import run
from perception_rt.node.source import SOURCE_PARAMETERS, Event, SourceNode, to_time
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import (
    ACCEL_SIGMA,
    GYRO_SIGMA,
    ODOM_V_SIGMA,
    ODOM_YAW_RATE_SIGMA,
    Drive,
    DriveSample,
)
from perception_rt.sim.path import EgoState

OPTICAL_FRAME = "camera_optical_frame"
IMU_PERIOD_NS = 10_000_000  # 100 Hz; every second tick carries odometry and /tf


class DriveSimulator(SourceNode):
    """Renders one frame ahead on a thread of its own, so that a stamp is the time of publishing."""

    PARAMETERS = (
        Parameter("seed", 1, "Which world.", (0, 2**31 - 1)),
        Parameter("width", 960, "Image width, px.", (64, 8192)),
        Parameter("height", 540, "Image height, px.", (64, 8192)),
        Parameter("camera_hz", 30.0, "Camera rate.", (0.1, 240.0)),
        Parameter("duration_s", 0.0, "Length of the drive; 0: without end.", (0.0, 1e6)),
        *SOURCE_PARAMETERS,
    )

    def __init__(self, node_name: str = "drive_simulator", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._renderer: ThreadPoolExecutor | None = None

    def setup(self) -> None:
        """Build the world and the publishers."""
        self._drive = Drive(self.values["seed"], (self.values["width"], self.values["height"]))
        self._renderer = ThreadPoolExecutor(1, "render")
        self._encoder = DetectionEncoder(SIM_CLASSES)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._image = self.create_publisher(Image, "camera/image_raw", 5)
        self._info = self.create_publisher(CameraInfo, "camera/camera_info", 5)
        self._truth = self.create_publisher(Detection2DArray, "~/ground_truth", 50)
        self._odometry = self.create_publisher(Odometry, "odom", 10)
        self._true_odometry = self.create_publisher(Odometry, "~/ground_truth_odometry", 10)
        self._imu = self.create_publisher(Imu, "imu", 10)
        self._tf = self.create_publisher(TFMessage, "/tf", 100)
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", latched)
        self._tf_static.publish(TFMessage(transforms=[self._camera_mount()]))

    def teardown(self) -> None:
        """End the renderer; publishers go with the node or are made anew."""
        if self._renderer is None:
            return
        self._renderer.shutdown(cancel_futures=True)
        self._renderer = None
        for publisher in (self._image, self._info, self._truth, self._odometry, self._true_odometry):
            self.destroy_publisher(publisher)
        for publisher in (self._imu, self._tf, self._tf_static):
            self.destroy_publisher(publisher)

    def listened(self) -> list[Publisher]:
        """The camera."""
        return [self._image]

    def events(self) -> Iterator[Event]:
        """Camera frames, and IMU, odometry and /tf between them, stamped from now on."""
        frames = round(self.values["duration_s"] * self.values["camera_hz"]) or math.inf
        pose, tick, frame = np.zeros(3), 0, 0
        rendering = self._render(0)
        rendering.result()
        epoch_ns = time.time_ns()
        while frame < frames:
            frame_ns = self._frame_ns(frame)
            while tick * IMU_PERIOD_NS <= frame_ns:
                t_ns, tick = tick * IMU_PERIOD_NS, tick + 1
                if tick % 2:
                    pose = self._dead_reckon(pose, t_ns)
                now, where = epoch_ns + t_ns, pose
                yield now, lambda t_ns=t_ns, now=now, where=where: self._emit_vehicle(t_ns, now, where)
            sample, rendering = rendering.result(), self._render(frame + 1)
            stamp = epoch_ns + frame_ns
            yield stamp, lambda sample=sample, stamp=stamp: self._emit_camera(sample, stamp)
            frame += 1

    def _frame_ns(self, frame: int) -> int:
        return round(frame * 1e9 / self.values["camera_hz"])

    def _render(self, frame: int) -> Any:
        return self._renderer.submit(self._drive.sample, self._frame_ns(frame) / 1e9)

    def _emit_camera(self, sample: DriveSample, stamp_ns: int) -> None:
        # The image last: who answers it at once finds the rest there.
        self._truth.publish(self._encoder.encode(sample.truth, stamp_ns, OPTICAL_FRAME))
        k = sample.camera.k
        info = CameraInfo(width=sample.camera.size[0], height=sample.camera.size[1])
        info.header.stamp, info.header.frame_id = to_time(stamp_ns), OPTICAL_FRAME
        info.distortion_model, info.d = "plumb_bob", [0.0] * 5
        info.k = k.ravel()
        info.r = np.eye(3).ravel()
        info.p = np.hstack([k, np.zeros((3, 1))]).ravel()
        self._info.publish(info)
        self._image.publish(encode_image(sample.image, "rgb8", stamp_ns, OPTICAL_FRAME))

    def _dead_reckon(self, pose: np.ndarray, t_ns: int) -> np.ndarray:
        """Wheel odometry: the measured twist, integrated; it drifts, as real ones do."""
        measured = self._drive.odometry(t_ns / 1e9)
        step = 2 * IMU_PERIOD_NS / 1e9 if t_ns else 0.0
        x, y, yaw = pose
        middle = yaw + measured.yaw_rate * step / 2
        travelled = measured.v * step
        yaw += measured.yaw_rate * step
        return np.array([x + travelled * math.cos(middle), y + travelled * math.sin(middle), yaw])

    def _emit_vehicle(self, t_ns: int, stamp_ns: int, pose: np.ndarray) -> None:
        reading = self._drive.imu(t_ns / 1e9)
        imu = Imu()
        imu.header.stamp, imu.header.frame_id = to_time(stamp_ns), "base_link"
        _fill(imu.angular_velocity, reading.angular_velocity)
        _fill(imu.linear_acceleration, reading.linear_acceleration)
        imu.orientation_covariance[0] = -1.0  # no orientation (sensor_msgs/Imu)
        imu.angular_velocity_covariance = np.diag([GYRO_SIGMA**2] * 3).ravel()
        imu.linear_acceleration_covariance = np.diag([ACCEL_SIGMA**2] * 3).ravel()
        self._imu.publish(imu)
        if t_ns // IMU_PERIOD_NS % 2:
            return
        measured, true = self._drive.odometry(t_ns / 1e9), self._drive.ego(t_ns / 1e9)
        self._odometry.publish(_odometry("odom", pose, measured.v, measured.yaw_rate, stamp_ns))
        self._true_odometry.publish(_true_odometry(true, stamp_ns))
        transform = TransformStamped(child_frame_id="base_link")
        transform.header.stamp, transform.header.frame_id = to_time(stamp_ns), "odom"
        _fill(transform.transform.translation, (pose[0], pose[1], 0.0))
        transform.transform.rotation = _yaw_quaternion(pose[2])
        self._tf.publish(TFMessage(transforms=[transform]))

    def _camera_mount(self) -> TransformStamped:
        mount = self._drive.camera.base_from_optical
        transform = TransformStamped(child_frame_id=OPTICAL_FRAME)
        transform.header.stamp, transform.header.frame_id = self.get_clock().now().to_msg(), "base_link"
        _fill(transform.transform.translation, mount[:3, 3])
        # z forward, x right, y down (REP 103), seen from x forward, y left, z up.
        transform.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
        return transform


def _fill(vector: Any, values: Any) -> None:
    vector.x, vector.y, vector.z = (float(value) for value in values)


def _yaw_quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))


def _odometry(frame: str, pose: Any, v: float, yaw_rate: float, stamp_ns: int) -> Odometry:
    message = Odometry(child_frame_id="base_link")
    message.header.stamp, message.header.frame_id = to_time(stamp_ns), frame
    _fill(message.pose.pose.position, (pose[0], pose[1], 0.0))
    message.pose.pose.orientation = _yaw_quaternion(pose[2])
    message.twist.twist.linear.x, message.twist.twist.angular.z = v, yaw_rate
    message.twist.covariance[0] = ODOM_V_SIGMA**2
    message.twist.covariance[35] = ODOM_YAW_RATE_SIGMA**2
    return message


def _true_odometry(ego: EgoState, stamp_ns: int) -> Odometry:
    return _odometry("map", (ego.x, ego.y, ego.yaw), ego.v, ego.yaw_rate, stamp_ns)


def main(args: list[str] | None = None) -> int:
    """Run the node until the drive ends."""
    return run([DriveSimulator], args)
