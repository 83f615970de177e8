"""Lidars that are not level: the cloud is turned upright by /tf, or the lean of its ground is told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from perception_rt.component.lidar_detector import LidarDetector
from perception_rt.model.runtime import Runtime
from perception_rt.sim.drive import Drive
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.levelling import ground_tilt, levelled, tilt
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import LidarFrame

HEIGHT = 1.8


def turned(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array({"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}[axis])


MOUNTINGS = {  # base from sensor
    "pitch 10": turned("y", 10),
    "pitch 20": turned("y", 20),
    "roll -15": turned("x", -15),
    "optical axes": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "upside down": turned("x", 180),
}


@pytest.fixture(scope="module")
def cloud():
    """A simulated drive's cloud of a level lidar."""
    return Drive(1).lidar(3.0).points


@pytest.fixture(scope="module")
def runtime():
    return Runtime.open("bev_cluster", device="cpu", engine="reference")


def mounted(points, rotation):
    """The cloud as a lidar with this rotation to the vehicle's axes gives it."""
    seen = points.copy()
    seen[:, :3] = points[:, :3] @ rotation
    return LidarFrame(seen.astype(np.float32), 0, 10**9, "lidar")


def detector(runtime, rotation=None, **values):
    """The component on a tree of transforms, without a node."""
    tree = TransformBuffer()
    if rotation is not None:
        quaternion = Rotation.from_matrix(rotation).as_quat()
        tree.add("base_link", "lidar", 0, (1.0, 0.5, HEIGHT), quaternion, static=True)
    given = {parameter.name: parameter.default for parameter in LidarDetector.PARAMETERS} | values
    host = SimpleNamespace(transforms=lambda: tree, create_publisher=lambda *_: None)
    component = LidarDetector(host, given)
    component.runtime = runtime
    component.open_outputs(["lidar"])
    return component


@pytest.mark.parametrize("name", MOUNTINGS)
def test_a_tilted_lidar_finds_what_a_level_one_finds(cloud, runtime, name):
    level = detect3d(runtime, LidarFrame(cloud, 0, 10**9, "lidar"))
    (placed,) = detector(runtime, MOUNTINGS[name]).infer([mounted(cloud, MOUNTINGS[name])])
    assert placed.frame_id == "base_link"
    assert len(level) >= 3
    assert len(placed.detections) == len(level)
    moved = level.xyzlwh_yaw[:, :3] + (1.0, 0.5, HEIGHT)
    away = np.linalg.norm(placed.detections.xyzlwh_yaw[:, None, :3] - moved[None], axis=2)
    assert away.min(1).max() < 0.1


def test_a_level_lidar_stays_in_its_own_frame_unless_asked(cloud, runtime):
    frame, turn = mounted(cloud, np.eye(3)), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    (own,) = detector(runtime, turn).infer([frame])
    assert own.frame_id == "lidar"
    (base,) = detector(runtime, turn, output_frame="base").infer([frame])
    assert base.frame_id == "base_link"
    assert len(base.detections) == pytest.approx(len(own.detections), abs=1)


@pytest.mark.parametrize("name", MOUNTINGS)
def test_the_lean_of_the_ground_is_told_where_no_transform_says_so(cloud, runtime, name):
    rotation = MOUNTINGS[name]
    frame = mounted(cloud, rotation)
    assert_allclose(ground_tilt(frame.points), tilt(rotation), atol=0.06)
    component = detector(runtime)
    (placed,) = component.infer([frame])
    assert placed.frame_id == "lidar"
    (told,) = component.leaning.values()
    assert "lidar" in told
    assert "/tf_static" in told


def test_a_level_ground_says_nothing(cloud, runtime):
    component = detector(runtime)
    component.infer([mounted(cloud, np.eye(3))])
    assert component.leaning == {}
    assert ground_tilt(np.zeros((0, 4), np.float32)) is None
    assert ground_tilt(np.random.default_rng(0).normal(0, 10, (5000, 4)).astype(np.float32)) is None


def test_levelling_keeps_the_sensor_at_zero(cloud):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = MOUNTINGS["pitch 20"], (5, 5, 5)
    frame = mounted(cloud, MOUNTINGS["pitch 20"])
    assert_allclose(levelled(frame, matrix).points, cloud, atol=1e-3)
    assert frame.points is not levelled(frame, matrix).points
