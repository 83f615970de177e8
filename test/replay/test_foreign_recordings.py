"""Recordings of other people's robots, each made small: what their drivers and recorders do otherwise."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin

from perception_rt.cli.main import main
from perception_rt.codec import Detection3DEncoder, DetectionEncoder, encode_compressed
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.vehicle import parse_odometry
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.types import Detections2D, Detections3D
from test.drives import Logged, header, message, quaternion, serialized, transforms, vector, write_bag
from test.mcap_forms import write_mcap

from . import test_bags as bags

S, MS = 10**9, 10**6
START = 1_700_000_000 * S
TYPES = {
    "/odom": "nav_msgs/msg/Odometry",
    "/imu": "sensor_msgs/msg/Imu",
    "/fix": "sensor_msgs/msg/NavSatFix",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/lidar": "vision_msgs/msg/Detection3DArray",
    **{f"/{side}/found": "vision_msgs/msg/Detection2DArray" for side in ("left", "right")},
    **{f"/{side}/info": "sensor_msgs/msg/CameraInfo" for side in ("left", "right")},
}
CAR = (20.0, 0.0, -0.9, 4.2, 1.8, 1.55, 0.0)
SIZE = (640, 360)
K = np.array([[320.0, 0, 320], [0, 320, 180], [0, 0, 1]])
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # z of the camera ahead
IMAGE, COMPRESSED, CLOUD = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "PointCloud2"))


def replayed(folder: Path, bag: Path, *more: str, **nodes: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Exit code and metrics of a replay, into `folder`/out, through nodes of these parameters."""
    config = folder / "graph.yaml"
    config.write_text(yaml.safe_dump({node: {"ros__parameters": values} for node, values in nodes.items()}))
    options = ("--config", config, "--out", folder / "out", "--inference", "fixed:5", "--no-report", *more)
    code = main([str(one) for one in ("replay", bag, *options)])
    path = folder / "out" / "metrics.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


def states(metrics: dict[str, Any], topic: str) -> dict[str, int]:
    (stream,) = (one for one in metrics["streams"].values() if one["topic"] == topic)
    return {state: count for state, count in stream["states"].items() if count}


def outputs(folder: Path, topic: str) -> list[bytes]:
    with Bag(folder / "out" / "bag") as bag:
        return [one.data for one in bag.messages([topic])]


def ticks(rate_hz: float, seconds: float = 2.0) -> range:
    return range(START, START + round(seconds * S), round(S / rate_hz))


# The vehicle.


def odometry(
    stamp_ns: int, speed: float = 5.0, yaw_rate: float = 0.0, child: str = "base_link", frame: str = "odom"
) -> bytes:
    pose = message("geometry_msgs/msg/Pose", position=point(), orientation=quaternion(0.0, 0.0, 0.0, 1.0))
    twist = message("geometry_msgs/msg/Twist", linear=vector((speed, 0, 0)), angular=vector((0, 0, yaw_rate)))
    spread = np.diag([0.01, 0.01, 0.01, 1e-4, 1e-4, 1e-4]).ravel()
    return serialized(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, frame),
        child_frame_id=child,
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=spread),
        twist=message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=spread),
    )


def point() -> Any:
    return message("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)


def imu(stamp_ns: int, yaw_rate: float) -> bytes:
    return serialized(
        "sensor_msgs/msg/Imu",
        header=header(stamp_ns, "base_link"),
        orientation=quaternion(0.0, 0.0, 0.0, 1.0),
        orientation_covariance=np.zeros(9),
        angular_velocity=vector((0, 0, yaw_rate)),
        angular_velocity_covariance=np.eye(3).ravel() * 1e-4,
        linear_acceleration=vector((0, 0, 9.81)),
        linear_acceleration_covariance=np.eye(3).ravel() * 0.01,
    )


def fix(stamp_ns: int, east_m: float, status: int = 0) -> bytes:
    return serialized(
        "sensor_msgs/msg/NavSatFix",
        header=header(stamp_ns, "gps"),
        status=message("sensor_msgs/msg/NavSatStatus", status=status, service=1),
        latitude=0.0,
        longitude=math.degrees(east_m / 6_378_137),
        altitude=0.0,
        position_covariance=np.eye(3).ravel() * 0.01,
        position_covariance_type=2,
    )


def ego(folder: Path, logged: Iterable[Logged], **values: Any) -> tuple[dict[str, Any], Any]:
    """Metrics, and the state at the last of these messages, of vehicle_state; it uses the odometry alone."""
    logged = list(logged)
    bag = write_bag(folder / "bag", TYPES, logged)
    values = {"odometry_topic": "/odom", "imu_topic": "", **values}
    code, metrics = replayed(folder, bag, vehicle_state=values)
    assert code == 0
    found = map(parse_odometry, outputs(folder, "/vehicle_state/odometry"))
    return metrics, [state for state in found if state.stamp_ns <= logged[-1][0]][-1]


DOWN = (1.0, 0.0, 0.0, 0.0)  # half a turn about x: z of the child is down, y is right


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_twist_in_a_frame_of_z_down_turns_the_way_that_the_vehicle_does(tmp_path, slash):
    mounting = [(START, "/tf_static", transforms([(0, "base_link", "base_link_frd", (0, 0, 0), DOWN)]))]
    logged = [(t, "/odom", odometry(t, 5.0, -0.2, f"{slash}base_link_frd", "odom_ned")) for t in ticks(20)]
    _, state = ego(tmp_path, mounting + logged)
    assert (state.speed, state.yaw_rate) == pytest.approx((5.0, 0.2), abs=0.02)


def test_a_twist_of_a_sensor_off_the_centre_is_moved_to_the_base_frame(tmp_path):
    # 1 m to the left of the axle's middle, in a left turn of 0.5 rad/s: slower than the vehicle by 0.5 m/s.
    mounting = [(START, "/tf_static", transforms([(0, "base_link", "wheel", (0, 1, 0), 0.0)]))]
    _, state = ego(tmp_path, mounting + [(t, "/odom", odometry(t, 4.5, 0.5, "wheel")) for t in ticks(20)])
    assert (state.speed, state.yaw_rate) == pytest.approx((5.0, 0.5), abs=0.02)


@pytest.mark.parametrize(("child", "frame"), [("", "odom"), ("base", "odom"), ("odom", "odom"), ("", "")])
def test_a_twist_of_no_known_frame_counts_as_that_of_the_vehicle(tmp_path, child, frame):
    moving = [(t, "/tf", transforms([(t, "odom", "base_link", (0, 0, 0), 2.0)])) for t in ticks(20)]
    logged = [(t, "/odom", odometry(t, 5.0, 0.2, child, frame)) for t in ticks(20)]
    metrics, state = ego(tmp_path, sorted(moving + logged))
    assert states(metrics, "/odom") == {"published": 40}
    assert (state.speed, state.yaw_rate) == pytest.approx((5.0, 0.2), abs=0.02)


def test_an_imu_of_1_khz_and_odometry_of_doubled_stamps(tmp_path):
    logged = [(t, "/imu", imu(t, 0.2)) for t in ticks(1000, 1.0)]
    doubled = [(t, "/odom", odometry(t, 5.0, 0.2)) for t in ticks(20, 1.0) for _ in range(2)]
    metrics, state = ego(tmp_path, sorted(logged + doubled), imu_topic="/imu")
    assert states(metrics, "/imu") == {"published": 1000}
    assert set(states(metrics, "/odom")) <= {"published", "superseded"}
    assert (state.speed, state.pose[2]) == pytest.approx((5.0, 0.2), abs=0.02)


def test_fixes_that_are_none_cost_no_other(tmp_path):
    bad = {5: fix(START, 1e6, status=-1), 9: fix(START, math.nan), 13: fix(START, math.inf)}
    logged = [
        (t, "/fix", at(bad[n], t) if n in bad else fix(t, 5.0 * (t - START) / S))
        for n, t in enumerate(ticks(5, 8.0))
    ]
    logged += [(t, "/odom", odometry(t)) for t in ticks(20, 8.0)]
    metrics, state = ego(tmp_path, sorted(logged), fix_topic="/fix", frame_id="map")
    assert states(metrics, "/fix") == {"published": 37, "rejected": 1, "decode_error": 2}
    assert state.pose[0] == pytest.approx(40.0, abs=0.5)


def at(data: bytes, stamp_ns: int) -> bytes:
    """The message with another stamp."""
    stamp = b"".join(part.to_bytes(4, "little") for part in divmod(stamp_ns, S))
    return data[:4] + stamp + data[12:]


# Frames and cameras.


def info(stamp_ns: int, frame: str) -> bytes:
    roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    return serialized(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, frame),
        height=SIZE[1],
        width=SIZE[0],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=message("sensor_msgs/msg/RegionOfInterest", **roi),
    )


def objects(rate_hz: float = 10.0, sides: tuple[str, ...] = ("left",)) -> Iterator[Logged]:
    """A car 20 m ahead, as lidar and cameras find it."""
    car = Detections3D(np.array([CAR], np.float32), np.full(1, 0.6, np.float32), np.zeros(1, np.int64))
    seen = np.array([[300, 180, 340, 208]], np.float32)
    flat = Detections2D(seen, np.full(1, 0.6, np.float32), np.zeros(1, np.int64))
    for t in ticks(rate_hz):
        for side in sides:
            yield t + 20 * MS, f"/{side}/found", DetectionEncoder(["car"]).encode(flat, t, side)
        yield t + 30 * MS, "/lidar", Detection3DEncoder(["car"]).encode(car, t, "lidar")


def mounts(*rows: tuple[int, str, str, Any]) -> bytes:
    return transforms([(t, parent, child, (0, 0, 0), turn) for t, parent, child, turn in rows])


def fused(folder: Path, logged: Iterable[Logged], sides: tuple[str, ...] = ("left",), *more: str) -> tuple:
    """Exit code, metrics, and the sensors of the object in each answer of fusion."""
    bag = write_bag(folder / "bag", {**TYPES, **RENAMED}, sorted(logged))
    values = {
        "detections_2d_topics": [f"/{side}/found" for side in sides],
        "camera_info_topics": [f"/{side}/info" for side in sides],
        "detections_3d_topic": "/lidar",
    }
    code, metrics = replayed(folder, bag, *more, fusion=values)
    answers = [decode_named_detections3d(data) for data in outputs(folder, "/fusion/detections")]
    return code, metrics, [answer.ids[0] for answer in answers]


RENAMED = {f"/fleet/robot_1{topic}": "tf2_msgs/msg/TFMessage" for topic in ("/tf", "/tf_static")}
STATIC = (START, "/tf_static", mounts((0, "lidar", "left", OPTICAL), (0, "lidar", "right", OPTICAL)))


def test_camera_info_that_comes_after_the_first_images_is_used_from_then_on(tmp_path):
    late = [(t + S // 2, "/left/info", info(t + S // 2, "left")) for t in ticks(1)]
    code, metrics, ids = fused(tmp_path, [STATIC, *late, *objects()])
    assert code == 0
    assert ids[0] == "lidar"
    assert ids[6:] == ["camera+lidar"] * 14
    assert "no CameraInfo on /left/info" in json.dumps(metrics["streams"])


def test_each_camera_keeps_its_info_whatever_the_rate(tmp_path):
    infos = [(t, "/left/info", info(t, "left")) for t in ticks(30)]
    once = [(START, "/right/info", info(0, "right"))]  # latched, stamped 0
    sides = ("left", "right")
    code, metrics, ids = fused(tmp_path, [STATIC, *infos, *once, *objects(sides=sides)], sides)
    assert (code, ids) == (0, ["camera+lidar"] * 20)
    assert all(states(metrics, f"/{side}/found") == {"published": 20} for side in sides)


def test_a_mounting_that_is_sent_on_tf_alone_is_used(tmp_path):
    moving = [(t, "/tf", mounts((t, "lidar", "left", OPTICAL))) for t in ticks(20, 2.2)]
    logged = [(START, "/left/info", info(START, "left")), *moving, *objects()]
    code, _, ids = fused(tmp_path, logged)
    assert (code, ids) == (0, ["camera+lidar"] * 20)


@pytest.mark.parametrize("bad", [(math.nan,) * 4, (0.0,) * 4])
def test_one_transform_that_is_none_costs_no_other_of_its_message(tmp_path, bad, capsys):
    """robot_state_publisher sends the wheels' joints with all others, NaN without their encoders."""
    rows = [(0, "lidar", "left", OPTICAL)]
    rows.insert(0, (0, "lidar", "wheel", bad))
    logged = [(START, "/left/info", info(START, "left")), *objects()]
    code, metrics, ids = fused(tmp_path, [(START, "/tf_static", mounts(*rows)), *logged])
    assert (code, ids) == (0, ["camera+lidar"] * 20)
    (reason,) = metrics["bag"]["faults"]
    assert "'wheel'" in reason
    assert "wheel" in " ".join(capsys.readouterr().out.split())


def test_transforms_in_namespaces_are_heard_by_the_remapping_that_init_tells(tmp_path, capsys):
    static = (START, "/fleet/robot_1/tf_static", STATIC[2])
    logged = [static, (START, "/left/info", info(START, "left")), *objects()]
    remap = ("-r", "/tf_static:=/fleet/robot_1/tf_static")
    code, _, ids = fused(tmp_path, logged, ("left",), *remap)
    assert (code, ids) == (0, ["camera+lidar"] * 20)
    assert main(["init", str(tmp_path / "bag"), "--out", str(tmp_path / "car.yaml")]) == 0
    assert " ".join(remap) in (tmp_path / "car.yaml").read_text()


# Sensor data.

PICTURE = np.zeros((120, 160, 3), np.uint8)
PICTURE[20:60, 30:90] = (255, 0, 0)  # what sim_camera finds


def image(stamp_ns: int, encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> bytes:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return serialized(
        IMAGE,
        header=header(stamp_ns, "camera"),
        height=len(pixels),
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=big,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def pictures(stamp_ns: int) -> Iterator[tuple[str, str, bytes, int]]:
    """Topic, type, message, and how many objects are found; -1: refused."""
    grey = np.full((120, 160), 30_000, np.uint16)
    yield "/padded/image_raw", IMAGE, image(stamp_ns, "rgb8", PICTURE, 37), 1
    yield "/fleet/robot_1/camera/image_raw", IMAGE, image(stamp_ns, "bgr8", PICTURE[..., ::-1]), 1
    yield "/fleet/robot_2/camera/image_raw", IMAGE, image(stamp_ns, "8UC3", PICTURE[..., ::-1], 1), 1
    yield "/wide/image_raw", IMAGE, image(stamp_ns, "mono16", grey, 6), 0
    yield "/wide_big/image_raw", IMAGE, image(stamp_ns, "mono16", grey.byteswap(), 0, True), 0
    yield "/depth_map/image_raw", IMAGE, image(stamp_ns, "32FC1", np.ones((120, 160), np.float32)), -1
    coded = {kind: cv2.imencode(kind, PICTURE[..., ::-1])[1].tobytes() for kind in (".jpg", ".png")}
    for number, (kind, named) in enumerate(
        [
            (".jpg", "png"),
            (".png", "jpeg"),
            (".jpg", "jpg"),
            (".jpg", ""),
            (".png", "rgb8; png compressed bgr8"),
        ]
    ):
        data = encode_compressed(coded[kind], named, stamp_ns, "camera")
        yield f"/coded_{number}/image_raw/compressed", COMPRESSED, data, 1


def test_pictures_of_every_form_are_found_the_same_in(tmp_path):
    cases = {topic: (kind, count) for topic, kind, _, count in pictures(0)}
    logged = [
        (t + number, topic, data)
        for t in ticks(5, 1.0)
        for number, (topic, _, data, _) in enumerate(pictures(t))
    ]
    bag = write_bag(tmp_path / "bag", {topic: kind for topic, (kind, _) in cases.items()}, logged)
    values = {"image_topics": list(cases), "bundle": "sim_camera", "rate_hz": 100.0}
    _, metrics = replayed(tmp_path, bag, camera_detector=values)
    for topic, (_, count) in cases.items():
        wanted = {"decode_error": 5} if count < 0 else {"published": 5}
        assert states(metrics, topic) == wanted, topic
    assert "32FC1" in json.dumps(metrics["streams"])


def cloud(stamp_ns: int, points: np.ndarray, kind: int, names: str, big: bool = False, gap: int = 0) -> bytes:
    """Points (N, 4) in fields of these names; `gap` bytes before the first field and behind the last."""
    dtype = np.dtype({7: "f4", 8: "f8"}[kind]).newbyteorder(">" if big else "<")
    order = ["xyzi".index(name) for name in names]
    rows = np.ascontiguousarray(points[:, order].astype(dtype)).view(np.uint8).reshape(len(points), -1)
    rows = np.pad(rows, ((0, 0), (gap, gap)), constant_values=77)
    fields = [
        message(
            "sensor_msgs/msg/PointField",
            name="intensity" if name == "i" else name,
            offset=gap + place * dtype.itemsize,
            datatype=kind,
            count=1,
        )
        for place, name in enumerate(names)
    ]
    return serialized(
        CLOUD,
        header=header(stamp_ns, "lidar"),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=big,
        point_step=rows.shape[1],
        row_step=rows.size,
        data=rows.ravel(),
        is_dense=not np.isnan(points).any(),
    )


def clouds(stamp_ns: int) -> Iterator[tuple[str, bytes]]:
    """One scene, a box on the ground, in every layout."""
    rng = np.random.default_rng(5)
    ground = np.column_stack([rng.uniform(-30, 30, (9000, 2)), np.full(9000, -1.73)])
    sides = rng.uniform((8, -0.9, -1.6), (12.2, 0.9, -0.2), (900, 3))
    sides[::2, 0], sides[1::2, 1] = 8, -0.9
    points = np.vstack([ground, sides])
    points = np.column_stack([points, np.full(len(points), 0.5)]).astype(np.float32).astype(np.float64)
    broken = np.insert(points, 500, np.nan, axis=0)
    yield "/plain", cloud(stamp_ns, points, 7, "xyzi")
    yield "/double", cloud(stamp_ns, points, 8, "xyz")
    yield "/turned", cloud(stamp_ns, points, 7, "izxy", gap=3)
    yield "/big", cloud(stamp_ns, points, 7, "xyzi", big=True)
    yield "/big_double", cloud(stamp_ns, points, 8, "iyxz", big=True, gap=5)
    yield "/not_dense", cloud(stamp_ns, broken, 7, "xyzi")


def test_clouds_of_every_layout_give_the_same_boxes(tmp_path):
    topics = [topic for topic, _ in clouds(0)]
    logged = [(t + n, topic, data) for t in ticks(2) for n, (topic, data) in enumerate(clouds(t))]
    bag = write_bag(tmp_path / "bag", dict.fromkeys(topics, CLOUD), logged)
    values = {"points_topics": topics, "bundle": "bev_cluster", "rate_hz": 100.0}
    code, metrics = replayed(tmp_path, bag, lidar_detector=values)
    assert code == 0
    found = {topic: outputs(tmp_path, f"/lidar_detector{topic}/detections") for topic in topics}
    wanted = decode_named_detections3d(found["/plain"][0]).detections.xyzlwh_yaw
    assert len(wanted) == 1
    for topic in topics:
        assert states(metrics, topic) == {"published": 4}, topic
        boxes = decode_named_detections3d(found[topic][0]).detections.xyzlwh_yaw
        np.testing.assert_allclose(boxes, wanted, atol=1e-4, err_msg=topic)


# What holds the messages.


def drive(count: int = 60) -> list[BagMessage]:
    return [BagMessage("/odom", TYPES["/odom"], t, odometry(t)) for t in ticks(20, count / 20)]


def test_messages_of_types_that_nobody_knows_are_left_alone(tmp_path, capsys):
    odd = [BagMessage("/their/state", "their_msgs/msg/State", one.log_ns, b"\0\1\0\0ab") for one in drive()]
    bag = write_mcap(tmp_path / "drive.mcap", sorted(drive() + odd, key=lambda one: one.log_ns))
    config = tmp_path / "car.yaml"
    assert main(["init", str(bag), "--out", str(config)]) == 0
    assert "types that no node accepts: their_msgs/msg/State" in config.read_text()
    options = ("--config", config, "--out", tmp_path / "out", "--inference", "fixed:5", "--no-report")
    assert main([str(one) for one in ("replay", bag, *options)]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert states(metrics, "/odom") == {"published": 60}


FORMS: dict[str, Callable[[Path, list[BagMessage]], Path]] = {
    **{
        name: lambda folder, logged, make=make: make(folder / "drive", logged)
        for name, make in bags.FORMS.items()
    },
    **{
        f"mcap, chunks of {kind or 'nothing'}": lambda folder, logged, kind=kind: write_mcap(
            folder / "drive.mcap", logged, compression=kind
        )
        for kind in ("", "lz4", "zstd")
    },
    "sqlite3 in several files": lambda folder, logged: bags.split(
        folder / "drive", logged, StoragePlugin.SQLITE3
    ),
    "sqlite3 in several files, no metadata": lambda folder, logged: without_metadata(
        bags.split(folder / "drive", logged, StoragePlugin.SQLITE3)
    ),
}


def without_metadata(folder: Path) -> Path:
    (folder / "metadata.yaml").unlink()
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_recording_is_replayed_whole(tmp_path, monkeypatch, form):
    monkeypatch.setattr(bags, "TYPES", {"/odom": TYPES["/odom"]})
    code, metrics = replayed(tmp_path, FORMS[form](tmp_path, drive()), vehicle_state=ODOMETRY_ALONE)
    assert (code, states(metrics, "/odom")) == (0, {"published": 60})


ODOMETRY_ALONE = {"odometry_topic": "/odom", "imu_topic": ""}


def test_a_recording_that_is_still_being_written_is_read_as_far_as_it_is(tmp_path, capsys):
    """mcap: no footer, no metadata.yaml, and the last record is cut; sqlite: rows in the log beside it."""
    whole = write_mcap(tmp_path / "whole.mcap", drive(), in_chunk=0)
    folder = tmp_path / "growing"
    folder.mkdir()
    (folder / "growing_0.mcap").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    code, metrics = replayed(tmp_path, folder, vehicle_state=ODOMETRY_ALONE)
    assert code == 3
    assert 30 < states(metrics, "/odom")["published"] < 60
    assert "cut off" in " ".join(capsys.readouterr().out.split())


def test_a_database_that_is_still_being_written_is_read_as_far_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(bags, "TYPES", {"/odom": TYPES["/odom"]})
    logged = drive()
    folder = without_metadata(bags.write(tmp_path / "growing", logged[:20], StoragePlugin.SQLITE3))
    (path,) = folder.iterdir()
    with closing(sqlite3.connect(path)) as recorder:
        recorder.execute("PRAGMA journal_mode = WAL")
        rows = [(one.log_ns, one.data) for one in logged[20:]]
        recorder.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)", rows)
        recorder.commit()
        before = sorted(one.name for one in folder.iterdir())
        code, metrics = replayed(tmp_path, folder, vehicle_state=ODOMETRY_ALONE)
        assert sorted(one.name for one in folder.iterdir()) == before
    assert (code, states(metrics, "/odom")) == (0, {"published": 60})
