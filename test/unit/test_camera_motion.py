"""The camera's motion from two images, and tracks that are moved by it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_rt.stage.tracking.boxes2d import BoxFilters2D
from perception_rt.stage.tracking.camera_motion import CameraMotion
from perception_rt.stage.tracking.config import Motion2D
from perception_rt.stage.tracking.presets import config_2d
from perception_rt.stage.tracking.tracker import Tracker2D
from perception_rt.types import Detections2D, TrackingError

NOTHING = np.zeros((0, 4), np.float32)
STEP = 10**8


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks and noise, blurred, with corners everywhere."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    return cv2.GaussianBlur(blocks.repeat(16, 0).repeat(16, 1)[:height, :width], (5, 5), 0)


def affine(turn: float, scale: float, x: float, y: float, centre: tuple[float, float]) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D(centre, np.degrees(turn), scale)
    matrix[:, 2] += x, y
    return matrix


def moved(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("shape", [(240, 320), (720, 1280), (1083, 1927)])
@pytest.mark.parametrize("motion", [(0, 1, 12.5, -4), (0.03, 1, 0, 6), (0, 1.04, -8, 0), (0, 1, 90, -30)])
def test_the_motion_of_a_picture_is_found(shape, motion):
    height, width = shape
    matrix = affine(*motion, (width / 2, height / 2))
    before = texture(*shape)
    camera = CameraMotion()
    assert camera.update(before, NOTHING) is None
    found = camera.update(moved(before, matrix), NOTHING)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    assert found is not None
    assert np.abs(corners @ (found - matrix).T).max() < max(1.0, width / 640)


def test_what_moves_in_boxes_is_left_out():
    before, boxes = texture(240, 320), np.array([[20, 20, 300, 200]], np.float32)
    after = moved(before, affine(0, 1, 3, 0, (160, 120)))
    after[20:200, 20:300] = texture(240, 320)[20:200, 32:312]  # most of the picture goes the other way
    camera = CameraMotion()
    camera.update(before, boxes)
    found = camera.update(after, boxes)
    assert found == pytest.approx(np.array([[1, 0, 3], [0, 1, 0]]), abs=0.3)
    camera = CameraMotion()
    camera.update(before, NOTHING)
    found = camera.update(after, NOTHING)
    assert found is None or found[0, 2] < -5


def test_where_nothing_can_be_followed_the_motion_is_unknown():
    sight, flat = texture(240, 320), np.full((240, 320, 3), 90, np.uint8)
    everything = np.array([[-50, -50, 900, 900]], np.float32)
    for before, after, boxes in (
        (flat, flat, NOTHING),
        (sight, flat, NOTHING),
        (sight, texture(240, 320, seed=1), NOTHING),
        (sight, texture(240, 322), NOTHING),
        (sight, sight, everything),
        (sight[:1, :1], sight[:1, :1], NOTHING),
        (sight[:3], texture(240, 320, seed=1)[:3], NOTHING),
    ):
        camera = CameraMotion()
        camera.update(before, boxes)
        assert camera.update(after, boxes) is None
    camera = CameraMotion()
    camera.update(sight, NOTHING)
    assert (
        camera.update(sight[..., 1], NOTHING) is not None
    )  # grey, and the order of colours, are no hindrance
    camera.forget()
    assert camera.update(sight, NOTHING, bgr=True) is None


@pytest.mark.parametrize(
    ("pixels", "boxes", "name"),
    [
        (np.zeros((4, 4, 3), np.float32), NOTHING, "pixels"),
        (np.zeros((4, 4, 4), np.uint8), NOTHING, "pixels"),
        (np.zeros((4, 4, 3), np.uint8), np.array([[0, 0, np.nan, 5]]), "xyxy"),
    ],
)
def test_what_is_no_picture_is_refused(pixels, boxes, name):
    with pytest.raises(TrackingError, match=name):
        CameraMotion().update(pixels, boxes)


def boxes(*rows) -> Detections2D:
    array = np.array(rows, np.float32).reshape(-1, 4)
    return Detections2D(array, np.full(len(array), 0.9, np.float32), np.zeros(len(array), np.int64))


@pytest.mark.parametrize("shift", [(45, 0), (-30, 25)])
def test_ids_and_speeds_outlive_a_pan_that_the_tracker_is_told(shift):
    reported = {}
    for told in (True, False):
        tracker, offset, reported[told] = Tracker2D(config_2d(("car",))), np.array((300.0, 200.0)), []
        for step in range(24):
            sign = -1 if step % 6 < 3 else 1  # the camera swings to and fro
            motion = np.array([[1, 0, sign * shift[0]], [0, 1, sign * shift[1]]], float)
            offset = offset + motion[:, 2]
            rows = np.array([[0, 0, 40, 30], [90, 90, 130, 120]]) + np.tile(offset, 2)
            tracks = tracker.update(step * STEP, boxes(*rows), motion if told else None)
            reported[told] += tracks.ids.tolist()
        if told:
            assert np.abs(tracks.velocity).max() < 5  # px/s: they stand
    assert set(reported[True]) == {0, 1}
    assert len(reported[True]) > 40 > len(reported[False])


def test_a_map_that_is_none_changes_nothing():
    tracker = Tracker2D(config_2d(("car",)))
    for step in range(5):
        tracks = tracker.update(step * STEP, boxes((10, 10, 50, 40)))
    for bad in (np.eye(3), np.full((2, 3), np.nan), np.zeros((2, 3))):
        with pytest.raises(TrackingError, match="camera_motion"):
            tracker.update(9 * STEP, boxes((10, 10, 50, 40)), bad)
    after = tracker.update(5 * STEP, boxes((10, 10, 50, 40)), np.eye(3)[:2])
    assert after.ids.tolist() == tracks.ids.tolist()
    assert after.age_s[0] == pytest.approx(0.5)


@given(turn=st.floats(-0.5, 0.5), scale=st.floats(0.7, 1.4), x=st.floats(-200, 200), y=st.floats(-200, 200))
def test_a_motion_and_its_inverse_leave_tracks_where_they_were(turn, scale, x, y):
    filters, labels = BoxFilters2D((Motion2D(),)), np.zeros(3, np.int64)
    filters.append(np.random.default_rng(0).uniform(20, 300, (3, 4)), labels)
    filters.predict(0.1, labels)
    filters.rate[:] = np.random.default_rng(1).normal(0, 50, (3, 4))
    value, rate = filters.value.copy(), filters.rate.copy()
    matrix = affine(turn, scale, x, y, (160, 120))
    filters.warp(matrix)
    assert (np.linalg.eigvalsh(filters.covariance(np.arange(3)).astype(float)) > 0).all()
    filters.warp(cv2.invertAffineTransform(matrix))
    assert filters.value == pytest.approx(value, abs=1e-6)
    assert filters.rate == pytest.approx(rate, abs=1e-6)


def test_of_pictures_too_small_to_look_far_the_motion_is_unknown():
    camera = CameraMotion()
    assert camera.update(texture(7, 600), NOTHING) is None
    assert camera.update(np.zeros((7, 600, 3), np.uint8), NOTHING) is None
