"""Motion within a sweep: the times of points in every form that drivers use, and the clouds that it bends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_rt.codec.points import Field, RawCloud, parse_points
from perception_rt.stage.deskew import PlanarTwist, deskewed, twist_between
from perception_rt.types import LidarFrame

STAMP_NS = 1_700_000_000_250_000_000
TYPES = {"u4": 6, "f4": 7, "f8": 8}
OFFSETS_S = np.linspace(0.0, 0.1, 1001)


def timed_cloud(name: str, dtype: str, values: np.ndarray) -> LidarFrame:
    """A cloud of points with a time field."""
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), (name, f"<{dtype}")])
    points = np.zeros(len(values), layout)
    points["x"], points[name] = np.arange(len(values)), values
    codes = {**dict.fromkeys(("x", "y", "z", "intensity"), 7), name: TYPES[dtype]}
    fields = tuple(Field(key, layout.fields[key][1], code, 1) for key, code in codes.items())
    data, step = np.frombuffer(points.tobytes(), np.uint8), layout.itemsize
    raw = RawCloud(STAMP_NS, "lidar", 1, len(values), fields, False, step, step * len(values), data, True)
    return raw.decode()


@pytest.mark.parametrize(
    ("name", "dtype", "values", "expected"),
    [
        ("t", "u4", OFFSETS_S * 1e9, OFFSETS_S),  # Ouster
        ("time", "f4", OFFSETS_S - 0.1, OFFSETS_S - 0.1),  # Velodyne: before the stamp
        ("timestamp", "f8", STAMP_NS / 1e9 + OFFSETS_S, OFFSETS_S),  # Hesai, RoboSense
        ("timestamp", "f8", STAMP_NS + OFFSETS_S * 1e9, OFFSETS_S),
        ("offset_time", "u4", OFFSETS_S * 1e9, OFFSETS_S),  # Livox
        ("time_offset", "f4", OFFSETS_S * 1e6, OFFSETS_S),  # microseconds
        ("time", "f4", OFFSETS_S * 1e3, OFFSETS_S),  # milliseconds
        ("timestamp", "f8", 5000.0 + OFFSETS_S, OFFSETS_S),  # of another clock
        ("timestamp", "f8", 5e12 + OFFSETS_S * 1e9, OFFSETS_S),
    ],
)
def test_the_unit_and_the_origin_of_times_are_recognised(name, dtype, values, expected):
    assert timed_cloud(name, dtype, values).times_s == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("values", [np.zeros(5), np.full(5, np.nan), np.array([0.0, 1e20]), np.zeros(0)])
def test_times_that_tell_nothing_are_left_out(values):
    assert timed_cloud("time", "f4", values).times_s is None


def test_points_that_are_left_out_take_their_times_with_them():
    cloud = timed_cloud("t", "u4", OFFSETS_S * 1e9)
    assert cloud.times_s is not None
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("t", "<u4")])
    points = np.zeros(4, layout)
    points["x"], points["t"] = [0, np.nan, 2, 3], [0, 10**7, 2 * 10**7, 3 * 10**7]
    fields = tuple(Field(name, layout.fields[name][1], 6 if name == "t" else 7, 1) for name in layout.names)
    raw = RawCloud(
        STAMP_NS, "lidar", 1, 4, fields, False, 16, 64, np.frombuffer(points.tobytes(), np.uint8), True
    )
    frame = raw.decode()
    assert frame.points[:, 0].tolist() == [0, 2, 3]
    assert frame.times_s == pytest.approx([0, 0.02, 0.03])


@pytest.mark.parametrize("missing", [0.0, np.nan])
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_missing_returns_of_the_time_0_cost_no_times(missing, scale):
    """Those without coordinates go; those at the sensor count as measured first."""
    stamps = STAMP_NS / 1e9 + OFFSETS_S
    layout = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("timestamp", "<f8")])
    points = np.zeros(len(stamps) + 2, layout)
    points["x"], points["timestamp"] = [missing, *OFFSETS_S, missing], [0, *stamps * scale, 0]
    fields = tuple(
        Field(name, layout.fields[name][1], 8 if name == "timestamp" else 7, 1) for name in points.dtype.names
    )
    data, step = np.frombuffer(points.tobytes(), np.uint8), layout.itemsize
    frame = RawCloud(
        STAMP_NS, "lidar", 1, len(points), fields, False, step, step * len(points), data, True
    ).decode()
    expected = OFFSETS_S if np.isnan(missing) else [0.0, *OFFSETS_S, 0.0]
    assert frame.times_s == pytest.approx(expected, abs=2e-6)


def test_times_are_read_where_they_are_asked_for_only(encoded_cloud):
    assert parse_points(encoded_cloud).decode().times_s is None
    assert parse_points(encoded_cloud, timed=True).decode().times_s is None  # it has none


@pytest.fixture
def encoded_cloud() -> bytes:
    from perception_rt.codec import encode_points

    return encode_points(np.ones((3, 4), np.float32), STAMP_NS, "lidar")


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    """(4, 4) from a plane pose."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


def driven(twist: PlanarTwist, seconds: float) -> np.ndarray:
    """(4, 4) where a constant twist leads, in many small steps."""
    at = np.eye(4)
    for _ in range(2000):
        step = seconds / 2000
        at = at @ pose(twist.vx * step, twist.vy * step, twist.yaw_rate * step)
    return at


MOUNTING = pose(1.2, 0.3, 0.4) @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1.0]])
TWISTS = [PlanarTwist(15, 0, 0), PlanarTwist(8, 0, 0.6), PlanarTwist(0, 0, -1.2), PlanarTwist(-3, 0.5, 0.2)]


@pytest.mark.parametrize("twist", TWISTS)
def test_a_wall_seen_from_a_moving_vehicle_is_where_it_was_at_the_stamp(twist):
    """Points of a standing world, each measured from where the vehicle was at its time."""
    world = np.random.default_rng(3).uniform(-40, 40, (300, 3))
    times = np.linspace(-0.1, 0.1, 300)
    seen = []
    for point, time_s in zip(world, times, strict=True):
        lidar = (
            driven(twist, time_s) @ MOUNTING
        )  # from the lidar's frame at that time to the base at the stamp
        seen.append(np.linalg.inv(lidar) @ [*point, 1])
    points = np.column_stack((np.array(seen)[:, :3], np.ones(300))).astype(np.float32)
    frame = LidarFrame(points, 0, STAMP_NS, "lidar", times)
    at_stamp = np.column_stack((world, np.ones(300))) @ np.linalg.inv(MOUNTING).T
    error = np.linalg.norm(deskewed(frame, twist, MOUNTING).points[:, :3] - at_stamp[:, :3], axis=1)
    without = np.linalg.norm(points[:, :3] - at_stamp[:, :3], axis=1)
    assert error.max() < 0.05  # half a millisecond of motion at 40 m
    assert error.max() < 0.1 * without.max()
    assert deskewed(frame, twist, MOUNTING).points[:, 3].tolist() == [1] * 300


@given(st.floats(-30, 30), st.floats(-2, 2), st.floats(-2, 2), st.floats(0.02, 0.5))
def test_the_twist_between_two_poses_leads_from_one_to_the_other(vx, vy, yaw_rate, seconds):
    start = pose(100, -50, 2.0)
    found = twist_between(start, start @ driven(PlanarTwist(vx, vy, yaw_rate), seconds), seconds)
    assert found == pytest.approx((vx, vy, yaw_rate), abs=0.05)


def test_without_times_or_points_the_cloud_stays():
    frame = LidarFrame(np.ones((3, 4), np.float32), 0, STAMP_NS, "lidar")
    assert deskewed(frame, TWISTS[0], MOUNTING) is frame
    empty = LidarFrame(np.zeros((0, 4), np.float32), 0, STAMP_NS, "lidar", np.zeros(0))
    assert deskewed(empty, TWISTS[0], MOUNTING) is empty
