"""A short simulated drive as a rosbag2, always the same: the topics of drive_simulator, without ROS."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.codec import Detection3DEncoder, DetectionEncoder, encode_image, encode_points
from perception_rt.codec.vehicle import encode_odometry
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.message_types import typestore
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import ACCEL_SIGMA, GYRO_SIGMA, ODOM_V_SIGMA, ODOM_YAW_RATE_SIGMA, Drive
from perception_rt.sim.lidar import LIDAR_FRAME, LIDAR_POSITION, MIN_POINTS
from perception_rt.types.state import EgoState

IMAGE, CAMERA_INFO, POINTS = "/camera/image_raw", "/camera/camera_info", "/lidar/points"
ODOM, IMU, TF, TF_STATIC = "/odom", "/imu", "/tf", "/tf_static"
TRUTH = "/drive_simulator/ground_truth"
TRUTH_3D = "/drive_simulator/ground_truth_3d"
TRUTH_ODOMETRY = "/drive_simulator/ground_truth_odometry"
TOPICS = {
    TF_STATIC: "tf2_msgs/msg/TFMessage",
    IMU: "sensor_msgs/msg/Imu",
    ODOM: "nav_msgs/msg/Odometry",
    TF: "tf2_msgs/msg/TFMessage",
    TRUTH_ODOMETRY: "nav_msgs/msg/Odometry",
    TRUTH_3D: "vision_msgs/msg/Detection3DArray",
    POINTS: "sensor_msgs/msg/PointCloud2",
    TRUTH: "vision_msgs/msg/Detection2DArray",
    CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
    IMAGE: "sensor_msgs/msg/Image",
}
START_NS = 1_700_000_000_000_000_000
SIZE, AZIMUTH_STEPS = (320, 180), 270
OPTICAL_FRAME = "camera_optical_frame"
LOGGED_AFTER_NS = {IMAGE: 8_000_000, POINTS: 12_000_000}
"""How long after its stamp a message is logged; the others at their stamp, ns."""
IMU_PERIOD_NS = 10_000_000  # every second tick carries odometry and /tf

Logged = tuple[int, str, bytes]  # log time, ns; topic; serialized message


def write_drive(
    folder: Path,
    seconds: float = 2.0,
    seed: int = 1,
    camera_hz: float = 10.0,
    lidar_hz: float = 10.0,
    size: tuple[int, int] = SIZE,
    azimuth_steps: int = AZIMUTH_STEPS,
) -> Path:
    """Write the drive as an mcap bag.

    Args:
        folder: of the bag; must not be there.
        seconds: how long. seed: which world.
        camera_hz, lidar_hz: rates of image and cloud.
        size, azimuth_steps: of image and cloud, as of `Drive`; small by default.

    Returns:
        `folder`.
    """
    drive = Drive(seed, size, azimuth_steps)
    streams = (
        _vehicle(drive, seconds),
        _clouds(drive, _times_ns(seconds, lidar_hz)),
        _images(drive, _times_ns(seconds, camera_hz)),
    )
    messages = itertools.chain(
        [(START_NS, TF_STATIC, _static(drive))], heapq.merge(*streams, key=lambda message: message[0])
    )
    return write_bag(folder, TOPICS, messages)


def write_bag(folder: Path, topics: Mapping[str, str], messages: Iterable[Logged]) -> Path:
    """Write messages, in order of log time, of topics (their types by name) as an mcap bag."""
    with BagWriter(folder) as writer:
        for log_ns, topic, data in messages:
            writer.write(topic, topics[topic], log_ns, data)
    return folder


def _times_ns(seconds: float, rate_hz: float) -> list[int]:
    return [round(number * 1e9 / rate_hz) for number in range(math.ceil(seconds * rate_hz))]


def _images(drive: Drive, times_ns: list[int]) -> Iterator[Logged]:
    encoder = DetectionEncoder(SIM_CLASSES)
    for t_ns in times_ns:
        sample, stamp_ns = drive.sample(t_ns / 1e9), START_NS + t_ns
        ids = [str(number) for number in sample.truth_ids]
        yield stamp_ns, TRUTH, encoder.encode(sample.truth, stamp_ns, OPTICAL_FRAME, ids)
        yield stamp_ns, CAMERA_INFO, _camera_info(drive, stamp_ns)
        image = encode_image(sample.image, "rgb8", stamp_ns, OPTICAL_FRAME)
        yield stamp_ns + LOGGED_AFTER_NS[IMAGE], IMAGE, image


def _clouds(drive: Drive, times_ns: list[int]) -> Iterator[Logged]:
    encoder = Detection3DEncoder(SIM_CLASSES)
    for t_ns in times_ns:
        sample, stamp_ns = drive.lidar(t_ns / 1e9), START_NS + t_ns
        seen = sample.truth_points >= MIN_POINTS
        ids = [str(number) for number in sample.truth_ids[seen]]
        yield stamp_ns, TRUTH_3D, encoder.encode(sample.truth[seen], stamp_ns, LIDAR_FRAME, ids)
        cloud = encode_points(sample.points, stamp_ns, LIDAR_FRAME)
        yield stamp_ns + LOGGED_AFTER_NS[POINTS], POINTS, cloud


def _vehicle(drive: Drive, seconds: float) -> Iterator[Logged]:
    """IMU, wheel odometry (dead reckoned, so it drifts), its transform, and the truth."""
    pose = np.zeros(3)
    for tick in range(math.ceil(seconds * 1e9 / IMU_PERIOD_NS)):
        t_ns = tick * IMU_PERIOD_NS
        t_s, stamp_ns = t_ns / 1e9, START_NS + t_ns
        yield stamp_ns, IMU, _imu(drive, t_s, stamp_ns)
        if tick % 2:
            continue
        measured, true = drive.odometry(t_s), drive.ego(t_s)
        if tick:
            pose = _moved(pose, measured.v, measured.yaw_rate, 2 * IMU_PERIOD_NS / 1e9)
        odometry = _state(stamp_ns, pose, measured.v, measured.yaw_rate)
        yield stamp_ns, ODOM, encode_odometry(odometry, "odom", "base_link")
        truth = _state(stamp_ns, (true.x, true.y, true.yaw), true.v, true.yaw_rate)
        yield stamp_ns, TRUTH_ODOMETRY, encode_odometry(truth, "map", "base_link")
        yield stamp_ns, TF, transforms([(stamp_ns, "odom", "base_link", (pose[0], pose[1], 0), pose[2])])


def _moved(pose: np.ndarray, v: float, yaw_rate: float, step_s: float) -> np.ndarray:
    middle = pose[2] + yaw_rate * step_s / 2
    return pose + np.array([v * math.cos(middle), v * math.sin(middle), yaw_rate]) * step_s


def _state(stamp_ns: int, pose: Any, v: float, yaw_rate: float) -> EgoState:
    covariance = np.diag([0, 0, 0, ODOM_V_SIGMA**2, ODOM_YAW_RATE_SIGMA**2, 0])
    return EgoState(stamp_ns, *(float(value) for value in pose), v, yaw_rate, 0.0, covariance)


def _static(drive: Drive) -> bytes:
    return transforms(
        [
            (START_NS, "base_link", LIDAR_FRAME, LIDAR_POSITION, 0.0),
            (START_NS, "base_link", OPTICAL_FRAME, drive.camera.position, (-0.5, 0.5, -0.5, 0.5)),
        ]
    )


# Messages that the package only reads: filled as objects, serialized by rosbags; tests use them too.


def serialized(kind: str, **fields: Any) -> bytes:
    return bytes(typestore().serialize_cdr(message(kind, **fields), kind))


def message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    time = message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return message("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def vector(values: Any) -> Any:
    x, y, z = (float(value) for value in values)
    return message("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def quaternion(x: float, y: float, z: float, w: float) -> Any:
    return message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transforms(rows: list[tuple[int, str, str, Any, Any]]) -> bytes:
    """A TFMessage of (stamp, parent, child, translation, yaw or quaternion x y z w)."""
    stamped = []
    for stamp_ns, parent, child, translation, turn in rows:
        x, y, z, w = turn if np.ndim(turn) else (0.0, 0.0, math.sin(turn / 2), math.cos(turn / 2))
        move = message(
            "geometry_msgs/msg/Transform", translation=vector(translation), rotation=quaternion(x, y, z, w)
        )
        stamped.append(
            message(
                "geometry_msgs/msg/TransformStamped",
                header=header(stamp_ns, parent),
                child_frame_id=child,
                transform=move,
            )
        )
    return serialized("tf2_msgs/msg/TFMessage", transforms=stamped)


def _camera_info(drive: Drive, stamp_ns: int) -> bytes:
    k = drive.camera.k
    return serialized(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, OPTICAL_FRAME),
        height=drive.size[1],
        width=drive.size[0],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )


def _imu(drive: Drive, t_s: float, stamp_ns: int) -> bytes:
    reading = drive.imu(t_s)
    return serialized(
        "sensor_msgs/msg/Imu",
        header=header(stamp_ns, "base_link"),
        orientation=quaternion(0.0, 0.0, 0.0, 1.0),
        orientation_covariance=np.array([-1.0, *(0.0,) * 8]),  # no orientation (sensor_msgs/Imu)
        angular_velocity=vector(reading.angular_velocity),
        angular_velocity_covariance=np.diag([GYRO_SIGMA**2] * 3).ravel(),
        linear_acceleration=vector(reading.linear_acceleration),
        linear_acceleration_covariance=np.diag([ACCEL_SIGMA**2] * 3).ravel(),
    )
