"""The simulator node: what it publishes, and that it all tells the same drive."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from perception_rt.codec.detections3d import decode_detections3d
from perception_rt.codec.image import parse_image
from perception_rt.codec.points import parse_points
from perception_rt.node import drive_simulator
from perception_rt.node.drive_messages import OPTICAL_FRAME
from perception_rt.node.drive_simulator import DriveSimulatorNode
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import LIDAR_FRAME, LIDAR_POSITION, MIN_POINTS
from perception_rt.sim.recording import Course, create, finish, render

from .conftest import stamp_of, wait_for

SEED, SIZE, HZ, LIDAR_HZ, SECONDS = 5, (192, 108), 10.0, 5.0, 1.0
FRAMES, CLOUDS = round(HZ * SECONDS), round(LIDAR_HZ * SECONDS)


@pytest.fixture
def drive(bench, monkeypatch):
    """A short drive that was listened to from the start: what came, by topic, and "sent" in order."""
    heard: dict[str, list] = {}
    best_effort = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    topics = {
        "/camera/image_raw": (Image, 1000),
        "/camera/camera_info": (CameraInfo, 1000),
        "/lidar/points": (PointCloud2, 1000),
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
    heard["truth_3d"] = bench.listen("/drive_simulator/ground_truth_3d", Detection3DArray)
    record(monkeypatch, heard.setdefault("sent", []))
    node = bench.start(
        DriveSimulatorNode,
        seed=SEED,
        width=SIZE[0],
        height=SIZE[1],
        camera_hz=HZ,
        lidar_hz=LIDAR_HZ,
        duration_s=SECONDS,
        listeners=[*topics, "/drive_simulator/ground_truth", "/drive_simulator/ground_truth_3d"],
    )
    assert bench.up
    assert wait_for(node.finished.is_set, 30)
    assert wait_for(lambda: len(heard["/camera/image_raw"]) == FRAMES)
    assert wait_for(lambda: len(heard["/lidar/points"]) == CLOUDS)
    return heard


def record(monkeypatch, sent: list[tuple[str, int]]) -> None:
    """Write down what is encoded to be sent: (function, stamp)."""
    for name, place in (("encode_image", 2), ("encode_points", 1)):
        real = getattr(drive_simulator, name)

        def encode(*args, real=real, name=name, place=place) -> bytes:
            sent.append((name, args[place]))
            return real(*args)

        monkeypatch.setattr(drive_simulator, name, encode)


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


def test_a_recording_is_played_as_it_was_drawn(bench, tmp_path):
    course = Course(SEED, *SIZE, HZ, LIDAR_HZ, SECONDS)
    (tmp_path / "one").mkdir()
    parts = create(tmp_path / "one", course)
    made = {camera: [s for p in parts if p.camera is camera for s in render(p)] for camera in (True, False)}
    finish(tmp_path / "one", course, made[True], made[False])
    images, clouds = [], []
    bench.node.create_subscription(Image, "/camera/image_raw", images.append, 1000)
    bench.node.create_subscription(PointCloud2, "/lidar/points", clouds.append, 1000)
    given = dict(course._asdict(), recording=str(tmp_path / "one"))
    node = bench.start(DriveSimulatorNode, **given, listeners=["/camera/image_raw", "/lidar/points"])
    assert bench.up
    assert wait_for(node.finished.is_set, 30)
    assert wait_for(lambda: len(images) == FRAMES)
    assert wait_for(lambda: len(clouds) == CLOUDS)
    expected = Drive(SEED, SIZE)
    np.testing.assert_array_equal(parse_image(images[3]).decode().pixels, expected.sample(3 / HZ).image)
    points = parse_points(clouds[2]).decode().points
    np.testing.assert_array_equal(points, expected.lidar(2 / LIDAR_HZ).points)


def test_a_recording_of_another_drive_is_refused(bench, tmp_path):
    course = Course(SEED, *SIZE, 1.0, 0.0, 1.0)
    finish(tmp_path, course, [s for part in create(tmp_path, course) for s in render(part)], [])
    bench.start(DriveSimulatorNode, **dict(course._asdict(), seed=SEED + 1, recording=str(tmp_path)))
    assert not bench.up
    assert bench.said("seed=", "recording")


def test_camera_info_is_the_camera(drive):
    info = drive["/camera/camera_info"][0]
    assert (info.width, info.height) == SIZE
    np.testing.assert_allclose(info.k, Drive(SEED, SIZE).camera.k.ravel())


def test_the_sensors_are_mounted_where_they_see_from(drive):
    mounts: dict[str, TransformStamped] = {m.child_frame_id: m for m in drive["/tf_static"][0].transforms}
    assert set(mounts) == {OPTICAL_FRAME, LIDAR_FRAME}
    assert all(mount.header.frame_id == "base_link" for mount in mounts.values())
    for frame, position in (
        (OPTICAL_FRAME, Drive(SEED, SIZE).camera.position),
        (LIDAR_FRAME, LIDAR_POSITION),
    ):
        at = mounts[frame].transform.translation
        assert (at.x, at.y, at.z) == pytest.approx(position)
    turn = mounts[LIDAR_FRAME].transform.rotation
    assert (turn.x, turn.y, turn.z, turn.w) == (0, 0, 0, 1)


def test_clouds_and_truth_are_the_drive_of_the_seed(drive):
    clouds, truths = drive["/lidar/points"], drive["truth_3d"]
    assert wait_for(lambda: len(truths) == CLOUDS)
    start = stamp_of(clouds[0])
    assert seconds(clouds, start) == pytest.approx([k / LIDAR_HZ for k in range(CLOUDS)], abs=1e-6)
    assert [stamp_of(message) for message in truths] == [stamp_of(message) for message in clouds]
    expected = Drive(SEED, SIZE)
    for k in (0, CLOUDS - 1):
        sample = expected.lidar(k / LIDAR_HZ)
        frame = parse_points(clouds[k]).decode()
        np.testing.assert_array_equal(frame.points, sample.points)
        assert (frame.frame_id, frame.dropped) == (LIDAR_FRAME, 0)
        stamp, frame_id, boxes, ids = decode_detections3d(truths[k], SIM_CLASSES)
        seen = sample.truth_points >= MIN_POINTS
        np.testing.assert_allclose(boxes.xyzlwh_yaw, sample.truth.xyzlwh_yaw[seen], atol=1e-5)
        np.testing.assert_array_equal(boxes.labels, sample.truth.labels[seen])
        assert ids == [str(number) for number in sample.truth_ids[seen]]
        assert (stamp, frame_id) == (stamp_of(clouds[k]), LIDAR_FRAME)


def test_a_cloud_has_the_stamp_of_an_image_and_goes_out_before_it(drive):
    sent = drive["sent"]
    stamps = [stamp for _, stamp in sent]
    assert stamps == sorted(stamps)
    clouds = [i for i, (name, _) in enumerate(sent) if name == "encode_points"]
    assert len(clouds) == CLOUDS
    assert all(sent[i + 1] == ("encode_image", sent[i][1]) for i in clouds)


@pytest.mark.parametrize(("here", "gone"), [("lidar", "camera"), ("camera", "lidar")])
def test_either_sensor_may_be_left_out(bench, here, gone):
    topic, kind = {"lidar": ("/lidar/points", PointCloud2), "camera": ("/camera/image_raw", Image)}[here]
    frames, readings = bench.listen(topic, kind), bench.listen("/imu", Imu)
    rates = {f"{here}_hz": 10.0, f"{gone}_hz": 0.0}
    node = bench.start(
        DriveSimulatorNode, seed=SEED, width=192, height=108, duration_s=0.45, listeners=["/imu"], **rates
    )
    assert bench.up
    assert wait_for(node.finished.is_set, 30)
    assert wait_for(lambda: len(frames) == 5)
    assert wait_for(lambda: len(readings) == 45)
    topics = dict(bench.node.get_topic_names_and_types())
    assert not any(topic.startswith("/" + gone) for topic in topics)
    assert ("/drive_simulator/ground_truth_3d" in topics) == (here == "lidar")
    assert ("/drive_simulator/ground_truth" in topics) == (here == "camera")


def test_a_vehicle_without_sensors_is_refused(bench):
    bench.start(DriveSimulatorNode, camera_hz=0.0, lidar_hz=0.0)
    assert not bench.up
    assert bench.said("camera_hz", "lidar_hz")


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


def test_what_is_made_ahead_is_what_would_be_made_in_time(bench):
    """Made before the start, the same clouds come with the same spacing."""
    clouds = []
    bench.node.create_subscription(PointCloud2, "/lidar/points", clouds.append, 50)
    values = {"camera_hz": 0.0, "lidar_hz": 5.0, "duration_s": 1.0, "ahead_s": 30.0, "seed": 4}
    simulator = bench.start(DriveSimulatorNode, **values)
    assert wait_for(simulator.finished.is_set, 30.0)
    assert wait_for(lambda: len(clouds) == 5)
    stamps = [stamp_of(cloud) for cloud in clouds]
    assert [stamp - stamps[0] for stamp in stamps] == [k * 200_000_000 for k in range(5)]
    drive = Drive(4)
    for k, cloud in enumerate(clouds):
        np.testing.assert_array_equal(parse_points(cloud).decode().points, drive.lidar(k / 5).points)


def test_it_can_be_stopped_while_it_makes_what_is_ahead(bench):
    simulator = bench.start(DriveSimulatorNode, ahead_s=60.0, wait_for_listener=False)
    assert bench.up
    began = time.monotonic()
    bench.graph.end()
    bench.graph = None
    assert time.monotonic() - began < 3.0
    assert not simulator.finished.is_set()
    assert not bench.said("playing ended")
