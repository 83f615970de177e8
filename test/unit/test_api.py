"""The public API: lazy, complete, and usable with plain arrays."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import perception_rt
from perception_rt.sim.drive import Drive

HEAVY = {"torch", "cv2", "scipy", "rclpy", "numpy"}


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_importing_the_package_imports_nothing_heavy():
    loaded = python("import sys, perception_rt; print(*sys.modules)").split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    "name",
    ["Tracker2D", "Tracker3D", "ObjectPredictor", "VehicleStateFilter", "predict_path", "fuse", "Bag"],
)
def test_what_runs_no_network_never_imports_torch(name):
    loaded = python(f"import sys, perception_rt; perception_rt.{name}; print(*sys.modules)").split()
    assert "torch" not in loaded


def test_each_public_name_can_be_loaded_and_is_listed():
    for name in perception_rt.__all__:
        assert getattr(perception_rt, name) is not None
        assert name in dir(perception_rt)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = perception_rt.no_such_name


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse(Path(perception_rt.__file__).read_text())
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname or alias.name: f"{part.module}:{alias.name}"
        for part in block.body
        for alias in part.names
    }
    sources = perception_rt._SOURCES
    assert set(seen) == set(sources) == set(perception_rt.__all__)
    for name, where in seen.items():
        module, _, attribute = sources[name].partition(":")
        assert where == f"{module}:{attribute or name}"


@pytest.fixture(scope="module")
def drive():
    return Drive(seed=3)


@pytest.fixture(scope="module")
def camera():
    return perception_rt.open_bundle("sim_camera", device="cpu")


def test_an_array_gives_the_boxes_of_its_frame(camera, drive):
    rgb = np.ascontiguousarray(drive.sample(2.0).image[..., ::-1])
    found = perception_rt.detect2d(camera, rgb)
    assert len(found)
    swapped = perception_rt.detect2d(camera, np.ascontiguousarray(rgb[..., ::-1]), bgr=True)
    np.testing.assert_allclose(found.xyxy, swapped.xyxy, atol=1e-3)
    frame = perception_rt.CameraFrame(rgb, False, 5, "camera")
    np.testing.assert_array_equal(found.xyxy, perception_rt.detect2d(camera, frame).xyxy)
    best = perception_rt.detect2d(camera, rgb, score_threshold=float(found.scores[0]) - 1e-6)
    assert 1 <= len(best) <= len(found)


def test_points_of_three_columns_and_holes_are_taken():
    lidar = perception_rt.open_bundle("bev_cluster", device="cpu")
    rng = np.random.default_rng(0)
    side = np.column_stack((rng.uniform(8, 12, 600), rng.normal(3, 0.01, 600), rng.uniform(-1.6, -0.2, 600)))
    end = np.column_stack((rng.normal(8, 0.01, 300), rng.uniform(3, 4.8, 300), rng.uniform(-1.6, -0.2, 300)))
    ground = np.column_stack((rng.uniform(-20, 20, (4000, 2)), rng.normal(-1.73, 0.01, 4000)))
    cloud = np.vstack((side, end, ground))
    found = perception_rt.detect3d(lidar, cloud)
    assert np.abs(found.xyzlwh_yaw[:, :2] - (10, 3.9)).max(1).min() < 1
    holes = np.vstack((cloud, np.full((3, 3), np.nan)))
    np.testing.assert_array_equal(found.xyzlwh_yaw, perception_rt.detect3d(lidar, holes).xyzlwh_yaw)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), [[1, 2], [3, 4]]]
)
def test_what_is_no_image_is_refused(camera, image):
    with pytest.raises(perception_rt.ConfigError, match="image: "):
        perception_rt.detect2d(camera, image)


@pytest.mark.parametrize("points", [np.zeros(4), np.zeros((4, 5)), np.full((2, 3), "x")])
def test_what_is_no_cloud_is_refused(points):
    lidar = perception_rt.open_bundle("bev_cluster", device="cpu")
    with pytest.raises(perception_rt.ConfigError, match="points: "):
        perception_rt.detect3d(lidar, points)


def test_a_bundle_of_another_task_is_refused(camera):
    with pytest.raises(perception_rt.ConfigError, match="task detect2d, not detect3d"):
        perception_rt.detect3d(camera, np.zeros((3, 4)))
