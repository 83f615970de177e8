"""The simulator node: what it publishes, and that it all tells the same drive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, Imu
from tf2_msgs.msg import TFMessage

from perception_rt.codec.image import parse_image
from perception_rt.node.drive_simulator import OPTICAL_FRAME, DriveSimulator
from perception_rt.sim.drive import Drive

from .conftest import stamp_of, wait_for

SEED, SIZE, HZ, SECONDS = 5, (192, 108), 10.0, 1.0
FRAMES = round(HZ * SECONDS)


@pytest.fixture
def drive(bench):
    """A short drive that was listened to from the start: what came, by topic."""
    heard: dict[str, list] = {}
    best_effort = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    topics = {
        "/camera/image_raw": (Image, 1000),
        "/camera/camera_info": (CameraInfo, 1000),
        "/odom": (Odometry, 1000),
        "/drive_simulator/ground_truth_odometry": (Odometry, 1000),
        "/imu": (Imu, 1000),
        "/tf": (TFMessage, 1000),
        "/tf_static": (TFMessage, latched),
        "/clock": (Clock, best_effort),
    }
    for topic, (kind, qos) in topics.items():
        kept = heard.setdefault(topic, [])
        bench.node.create_subscription(kind, topic, kept.append, qos)
    heard["truth"] = bench.listen("/drive_simulator/ground_truth")
    node = bench.start(
        DriveSimulator,
        seed=SEED,
        width=SIZE[0],
        height=SIZE[1],
        camera_hz=HZ,
        duration_s=SECONDS,
        listeners=[*topics, "/drive_simulator/ground_truth"],
    )
    assert bench.up
    assert wait_for(node.finished.is_set, 30)
    assert wait_for(lambda: len(heard["/camera/image_raw"]) == FRAMES)
    return heard


def seconds(messages: list, start_ns: int) -> list[float]:
    return [(stamp_of(message) - start_ns) / 1e9 for message in messages]


def test_images_and_truth_are_the_drive_of_the_seed(drive):
    images, truths = drive["/camera/image_raw"], drive["truth"]
    assert wait_for(lambda: len(truths) == FRAMES)
    start = stamp_of(images[0])
    assert seconds(images, start) == pytest.approx([k / HZ for k in range(FRAMES)], abs=1e-6)
    assert [stamp_of(message) for message in truths] == [stamp_of(message) for message in images]
    expected = Drive(SEED, SIZE)
    for k in (0, FRAMES - 1):
        sample = expected.sample(k / HZ)
        np.testing.assert_array_equal(parse_image(images[k]).decode().pixels, sample.image)
        assert len(truths[k].detections) == len(sample.truth)
    assert images[0].header.frame_id == OPTICAL_FRAME


def test_camera_info_is_the_camera(drive):
    info = drive["/camera/camera_info"][0]
    assert (info.width, info.height) == SIZE
    np.testing.assert_allclose(info.k, Drive(SEED, SIZE).camera.k.ravel())
    mount: TransformStamped = drive["/tf_static"][0].transforms[0]
    assert (mount.header.frame_id, mount.child_frame_id) == ("base_link", OPTICAL_FRAME)


def test_vehicle_topics_tell_the_motion(drive):
    start = stamp_of(drive["/camera/image_raw"][0])
    expected = Drive(SEED, SIZE)
    imu, odom = drive["/imu"], drive["/odom"]
    assert len(imu) >= 0.9 * 100 * (SECONDS - 1 / HZ)
    assert len(odom) >= 0.9 * 50 * (SECONDS - 1 / HZ)
    for message, t in zip(
        drive["/drive_simulator/ground_truth_odometry"], seconds(odom, start), strict=False
    ):
        ego = expected.ego(max(t, 0.0))
        assert message.pose.pose.position.x == pytest.approx(ego.x, abs=1e-6)
        assert message.twist.twist.linear.x == pytest.approx(ego.v, abs=1e-6)
    for message, t in zip(imu, seconds(imu, start), strict=True):
        reading = expected.imu(max(t, 0.0))
        assert message.angular_velocity.z == pytest.approx(reading.angular_velocity[2], abs=1e-9)
    pose, transform = odom[-1].pose.pose, drive["/tf"][len(odom) - 1].transforms[0]
    assert transform.transform.translation.x == pytest.approx(pose.position.x)
    assert transform.transform.rotation.w == pytest.approx(pose.orientation.w)
    travelled = math.hypot(pose.position.x, pose.position.y)
    assert travelled == pytest.approx(expected.ego(0.5).v * seconds(odom, start)[-1], rel=0.2, abs=0.2)


def test_the_clock_never_goes_back_and_covers_the_drive(drive):
    ticks = [message.clock.sec * 10**9 + message.clock.nanosec for message in drive["/clock"]]
    assert ticks == sorted(ticks)
    assert ticks[-1] - ticks[0] >= 0.8 * (SECONDS - 1 / HZ) * 1e9
