"""vehicle_state in a replay: an IMU and an antenna off the centre, by /tf and by parameters."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from math import cos, hypot, pi, sin
from pathlib import Path

import numpy as np
import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.codec.vehicle import encode_odometry, parse_odometry
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import typestore
from perception_rt.stage.vehicle_state.geodesy import geodetic_from_enu
from perception_rt.types.state import EgoState
from test import drives
from test.drives import header, message, serialized, transforms, vector

TOPICS = {
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/imu": "sensor_msgs/msg/Imu",
    "/odom": "nav_msgs/msg/Odometry",
    "/fix": "sensor_msgs/msg/NavSatFix",
}
ORIGIN = np.array([48.1, 11.6, 520.0])
SPEED, RADIUS, SECONDS = -3.0, 12.0, 14.0  # in reverse
ANTENNA, IMU_AT = (1.5, 0.4), (-2.0, 0.3)


def messages(first_fix_s: float, antenna_in_tf: bool) -> Iterator[drives.Logged]:
    """The IMU hangs upside down; the first fix is where the vehicle is at first_fix_s."""
    rows = [(drives.START_NS, "base_link", "imu_link", (*IMU_AT, 0.5), (1.0, 0.0, 0.0, 0.0))]
    if antenna_in_tf:
        rows.append((drives.START_NS, "base_link", "gps", (*ANTENNA, 1.0), 0.0))
    yield drives.START_NS, "/tf_static", transforms(rows)
    rate = SPEED / RADIUS
    for tick in range(round(SECONDS * 50)):
        t = tick / 50
        stamp = drives.START_NS + round(t * 1e9)
        push = np.array([-(rate**2) * IMU_AT[0], SPEED * rate - rate**2 * IMU_AT[1], 9.81]) * (1, -1, -1)
        yield stamp, "/imu", serialized(
            "sensor_msgs/msg/Imu",
            header=header(stamp, "imu_link"),
            orientation=message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
            orientation_covariance=np.array([-1.0, *(0.0,) * 8]),
            angular_velocity=vector((0.0, 0.0, -rate)),
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=vector(push),
            linear_acceleration_covariance=np.zeros(9),
        )  # fmt: skip
        if tick % 5 == 0:
            state = EgoState(stamp, 0.0, 0.0, 0.0, SPEED, rate, 0.0, np.zeros((6, 6)))
            yield stamp, "/odom", encode_odometry(state, "odom", "base_link")
        if tick % 10 == 0 and t >= first_fix_s:
            yield stamp, "/fix", _fix(stamp, *place(t, ANTENNA))


def place(t: float, arm: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    yaw = SPEED / RADIUS * t
    x, y = RADIUS * sin(yaw), RADIUS * (1 - cos(yaw))
    return x + arm[0] * cos(yaw) - arm[1] * sin(yaw), y + arm[0] * sin(yaw) + arm[1] * cos(yaw)


def _fix(stamp_ns: int, east: float, north: float) -> bytes:
    latitude, longitude, altitude = geodetic_from_enu(np.array([east, north, 0.0]), ORIGIN).tolist()
    return serialized(
        "sensor_msgs/msg/NavSatFix",
        header=header(stamp_ns, "gps"),
        status=message("sensor_msgs/msg/NavSatStatus", status=0, service=1),
        latitude=latitude,
        longitude=longitude,
        altitude=altitude,
        position_covariance=(np.eye(3) * 0.04).ravel(),
        position_covariance_type=2,
    )


@pytest.mark.parametrize(
    ("antenna_in_tf", "parameters", "first_fix_s"),
    [
        (True, {}, 0.0),
        (True, {}, 6.0),
        (False, {"fix_lever_arm_m": list(ANTENNA)}, 0.0),
        (True, {"fix_lever_arm_m": list(ANTENNA), "imu_gravity": "included"}, 0.0),
    ],
)
def test_mountings_come_from_tf_or_from_parameters(tmp_path, antenna_in_tf, parameters, first_fix_s):
    bag = drives.write_bag(tmp_path / "drive", TOPICS, messages(first_fix_s, antenna_in_tf))
    out, status = replayed(bag, tmp_path, parameters)
    last = out[-1]
    t = (last.stamp_ns - drives.START_NS) * 1e-9
    east, north = place(first_fix_s, ANTENNA)  # the frame begins at the first fix
    x, y = place(t)
    assert hypot(last.pose[0] - x + east, last.pose[1] - y + north) < 0.4
    assert abs((last.pose[2] - SPEED / RADIUS * t + pi) % (2 * pi) - pi) < 0.05
    assert last.speed == pytest.approx(SPEED, abs=0.05)
    assert status["imu_gravity"] == "included"
    assert ("by /tf" in status.get("antenna", "")) == (not parameters)


def test_an_imu_whose_mount_comes_on_tf_is_used_between_its_transforms(tmp_path):
    """As of a static_transform_publisher of ROS 1, at 10 Hz: the IMU's 50 Hz are ahead of it."""
    stamps = [drives.START_NS + tick * 100_000_000 for tick in range(round(SECONDS * 10))]
    mount = ("base_link", "imu_link", (*IMU_AT, 0.5), (1.0, 0.0, 0.0, 0.0))
    mounts = [(stamp, "/tf", transforms([(stamp, *mount)])) for stamp in stamps]
    others = [one for one in messages(0.0, antenna_in_tf=False) if one[1] != "/tf_static"]
    merged = heapq.merge(mounts, others, key=lambda logged: logged[0])
    bag = drives.write_bag(tmp_path / "drive", {**TOPICS, "/tf": TOPICS["/tf_static"]}, merged)
    _, status = replayed(bag, tmp_path, {})
    assert not status["missing"]
    streams = json.loads((tmp_path / "out/metrics.json").read_text())["streams"].values()
    imu = next(stream for stream in streams if stream["topic"] == "/imu")
    assert imu["states"].get("unsynced", 0) == 0


def test_an_antenna_that_nothing_places_is_said(tmp_path):
    bag = drives.write_bag(tmp_path / "drive", TOPICS, messages(0.0, antenna_in_tf=False))
    _, status = replayed(bag, tmp_path, {})
    assert status["antenna"].startswith("taken to be at the base frame: ")


def replayed(bag: Path, folder: Path, parameters: dict) -> tuple[list, dict[str, str]]:
    """The outputs of vehicle_state, and its last diagnostics."""
    values = {"odometry_topic": "/odom", "imu_topic": "/imu", "fix_topic": "/fix", "frame_id": "map"}
    config, out = folder / "graph.yaml", folder / "out"
    config.write_text(yaml.safe_dump({"vehicle_state": {"ros__parameters": values | parameters}}))
    arguments = ["replay", str(bag), "--config", str(config), "--out", str(out), "--no-report"]
    assert main([*arguments, "--progress", "none"]) == 0
    with Bag(out / "bag") as written:
        states = [parse_odometry(m.data) for m in written.messages(["/vehicle_state/odometry"])]
        told = [
            status
            for m in written.messages(["/diagnostics"])
            for status in typestore().deserialize_cdr(m.data, "diagnostic_msgs/msg/DiagnosticArray").status
            if status.name == "vehicle_state"
        ]
    return states, {pair.key: pair.value for pair in told[-1].values}
