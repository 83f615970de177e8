"""The field of view that a tracker learns, and what coasts in it."""

from __future__ import annotations

import numpy as np
import pytest

from perception_rt.stage.tracking.presets import config_3d
from perception_rt.stage.tracking.tracker import Tracker3D
from perception_rt.stage.tracking.view import OBJECTS, FieldOfView, bearings
from perception_rt.types import Detections3D

TURNED = np.array([[0.0, -1, 0, 40], [1, 0, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]])  # odom from sensor


def cars(*places: tuple[float, float]) -> np.ndarray:
    return np.array([(x, y, 0, 4.0, 1.8, 1.5, 0.0) for x, y in places]).reshape(-1, 7)


def around(middle: float, width: float, count: int = 20, distance: float = 20.0) -> np.ndarray:
    angles = middle + np.linspace(-width / 2, width / 2, count)
    return cars(*zip(distance * np.cos(angles), distance * np.sin(angles), strict=True))


@pytest.mark.parametrize("middle", [0.0, 1.0, np.pi, -2.5])
def test_an_arc_is_learned_wherever_it_points(middle):
    view = FieldOfView()
    view.widen(around(middle, 1.4), np.arange(20))
    inside, outside = middle + np.array([-0.6, 0.0, 0.6]), middle + np.array([-1.2, 1.2, np.pi])
    for angles, seen in ((inside, True), (outside, False)):
        boxes = cars(*zip(30 * np.cos(angles), 30 * np.sin(angles), strict=True))
        assert view.holds(boxes).tolist() == [seen] * 3


def test_a_sensor_that_finds_things_all_around_has_no_edge():
    view = FieldOfView()
    view.widen(around(0.0, 5.0, 60), np.arange(60))
    assert view.holds(around(np.pi, 0.5)).all()


def test_few_objects_prove_no_edge():
    view = FieldOfView()
    view.widen(around(0.0, 0.2, OBJECTS - 1), np.arange(OBJECTS - 1))
    assert view.holds(around(np.pi, 0.5)).all()
    view.widen(around(0.0, 0.2, 1), np.array([OBJECTS]))
    assert not view.holds(around(np.pi, 0.5)).any()


def test_a_car_that_is_cut_by_the_edge_does_not_widen_the_view():
    """One beside the sensor reaches far out; only what of it is nearest to the middle was surely seen."""
    view = FieldOfView()
    view.widen(around(0.0, 1.2), np.arange(20))
    view.widen(cars((2.0, 3.0)), np.array([20]))  # its centre at 56 deg, its nearest corner at 28 deg
    assert not view.holds(cars((10.0, 15.0))).any()


@pytest.mark.parametrize("pose", [None, TURNED])
def test_what_leaves_the_view_does_not_coast_and_what_is_hidden_in_it_does(pose):
    track = Tracker3D(config_3d(("car",), odometry=pose is not None))
    lane = [(20.0 + 6 * n, 0.0) for n in range(5)]
    for step in range(30):
        places = [*lane, (12.0, -0.35 * step)]
        found = cars(*places).astype(np.float32)
        scores = np.full(len(found), 0.99, np.float32)
        tracks = track.update(step * 10**8, Detections3D(found, scores, np.zeros(len(found), np.int64)), pose)
    assert len(tracks) == 6
    kept = cars(*lane[1:]).astype(np.float32)  # the nearest is hidden, the one that drove outward is out
    found = Detections3D(kept, scores[:4], np.zeros(4, np.int64))
    coasting = [track.update((30 + step) * 10**8, found, pose) for step in range(8)]
    left = np.linalg.inv(np.eye(4) if pose is None else pose)[1]  # of the sensor
    beyond = [(tracks.xyzlwh_yaw[:, :3] @ left[:3] + left[3]).min() < -5 for tracks in coasting]
    assert [len(tracks) - out for tracks, out in zip(coasting, beyond, strict=True)] == [5] * 5 + [4] * 3
    assert sum(beyond) <= 2  # while a corner of it is in view


@pytest.mark.parametrize("yaw", [0.0, 0.5, -1.1])
def test_bearings_are_those_of_the_outermost_corners(yaw):
    corners = 10 + 4j + np.array([2 + 1j, 2 - 1j, -2 + 1j, -2 - 1j]) * np.exp(1j * yaw)
    low, high = bearings(np.array([[10.0, 4, 0, 4, 2, 1.5, yaw]]))
    assert low == pytest.approx(np.angle(corners).min())
    assert high == pytest.approx(np.angle(corners).max())


def test_the_edge_itself_is_in_view():
    view, point = FieldOfView(), np.array([[10.0, 0, 0, 0, 0, 0, 0]])
    view.widen(point.repeat(OBJECTS, 0), np.arange(OBJECTS))
    assert view.holds(point).all()
