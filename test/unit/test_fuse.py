"""Projection, monocular placement and late fusion: one camera above a lidar, both looking along x."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from perception_rt.codec import CameraModel
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.stage.fusion.fuse import (
    BOTH,
    CAMERA,
    LIDAR,
    CameraView,
    fuse,
    fuse_views,
    iou_2d,
    lidar_alone,
)
from perception_rt.stage.fusion.monocular import place
from perception_rt.stage.fusion.named import FusionStage
from perception_rt.stage.fusion.project import (
    NEAR_M,
    _to_pixels,
    box_corners,
    field_of_view,
    in_field,
    project,
    project_boxes,
    unproject,
    valid_radius,
)
from perception_rt.stage.road_users import canonical, compatible
from perception_rt.stage.transforms import to_matrix
from perception_rt.types import CodecError, Detections2D, Detections3D, TransformError

K = np.array([[700.0, 0, 640], [0, 700, 360], [0, 0, 1]])
GROUND_Z = -1.7
# Optical axes (x right, y down, z forward) in the lidar's (x forward, y left, z up).
CAMERA_FROM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
PLUMB_BOB = (-0.25, 0.08, 0.001, -0.0005, 0.0)
FOLDED = (-0.35, 0.15, 0.001, -0.0005, -0.03)  # from x / z = 1.5 on, farther aside is drawn nearer
RATIONAL = (0.5, -0.02, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0)
FISHEYE = (0.02, -0.01, 0.003, -0.0005)

FIELDS = ("xyxy", "scores", "labels")


def camera(d=(), name="plumb_bob", size=(1280, 720)) -> CameraModel:
    return CameraModel(0, "camera", size[1], size[0], name, np.array(d, np.float64), K)


def box(x, y, length=4.2, width=1.8, height=1.55, yaw=0.0) -> list[float]:
    """Standing on the ground."""
    return [x, y, GROUND_Z + height / 2, length, width, height, yaw]


def lidar(*boxes, scores=None, labels=None) -> Detections3D:
    count = len(boxes)
    return Detections3D(
        np.array(boxes, np.float32).reshape(-1, 7),
        np.full(count, 0.6, np.float32) if scores is None else np.array(scores, np.float32),
        np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64),
    )


def seen(boxes: Detections3D, score=0.5, label=0, model=None) -> Detections2D:
    """What a perfect camera reports of these boxes."""
    projected = project_boxes(boxes.xyzlwh_yaw, model or camera(), CAMERA_FROM_LIDAR)
    count = len(boxes)
    return Detections2D(projected.xyxy, np.full(count, score, np.float32), np.full(count, label, np.int64))


def run(
    camera_detections, lidar_detections, camera_classes=("car", "person"), lidar_classes=("car",), **values
):
    return fuse(
        camera_detections,
        camera_classes,
        lidar_detections,
        lidar_classes,
        camera(),
        CAMERA_FROM_LIDAR,
        **values,
    )


# Projection.


def test_corners_begin_in_front_and_turn_with_the_box():
    corners = box_corners(np.array([[10, 0, 0, 4, 2, 1, np.pi / 2]]))[0]
    np.testing.assert_allclose(corners[0], [9, 2, -0.5], atol=1e-9)  # front left, looking to y
    np.testing.assert_allclose(corners[6], [11, -2, 0.5], atol=1e-9)  # rear right, on top
    assert len(np.unique(corners.round(6), axis=0)) == 8


@pytest.mark.parametrize(
    ("d", "name"),
    [((), ""), (PLUMB_BOB, "plumb_bob"), (RATIONAL, "rational_polynomial"), (FISHEYE, "equidistant")],
)
def test_pixels_go_out_and_come_back(d, name):
    model = camera(d, name)
    pixels = np.random.default_rng(0).uniform((0, 0), (1280, 720), (200, 2))
    rays = unproject(pixels, model)
    back = project(np.concatenate((rays, np.ones((200, 1))), 1) * 7.0, model)
    np.testing.assert_allclose(back, pixels, atol=0.05)


def test_the_lens_is_opencvs_inside_of_the_image():
    points = np.random.default_rng(1).uniform((-5, -3, 10), (5, 3, 30), (100, 3))
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(PLUMB_BOB))[0][:, 0]
    np.testing.assert_allclose(project(points, camera(PLUMB_BOB)), expected, atol=1e-6)


def test_points_far_outside_of_a_lens_do_not_fold_back_into_the_image():
    aside = np.array([[20.0, 0, 10.0]])
    folded = cv2.projectPoints(aside, np.zeros(3), np.zeros(3), K, np.array(FOLDED))[0][0, 0]
    assert 0 < folded[0] < 1280  # what the polynomial says
    assert project(aside, camera(FOLDED))[0, 0] > 1270
    hidden = project_boxes(np.array([box(10, -20)]), camera(FOLDED), CAMERA_FROM_LIDAR)
    assert not hidden.visible[0]


LENSES = {
    "plumb_bob of 4": (PLUMB_BOB[:4], "plumb_bob"),
    "plumb_bob": (FOLDED, "plumb_bob"),
    "rational": (RATIONAL, "rational_polynomial"),
    "rational with prism": ((*RATIONAL, 0.001, 0, 0.001, 0), "rational_polynomial"),
    "rational, tilted": ((*RATIONAL, 0.001, 0, 0.001, 0, 0.01, -0.01), "rational_polynomial"),
    "fisheye": (FISHEYE, "equidistant"),
    "folded fisheye": ((-0.2, 0.0, 0.0, 0.0), "equidistant"),
}


@pytest.mark.parametrize("name", LENSES)
def test_beyond_its_valid_radius_a_lens_shows_nothing(name):
    """Up to there the picture grows with the angle; a little farther it does not, or 90 degrees are near."""
    model = camera(*LENSES[name])
    radius = valid_radius(model)
    angles = np.arange(0.1, np.rad2deg(np.arctan(radius)), 0.1)
    points = np.stack((np.tan(np.deg2rad(angles)), 0 * angles, 0 * angles + 1), 1)
    across = project(points, model)[:, 0]
    assert (np.diff(across) > -0.2).all()  # a tilted sensor moves the fold a little
    assert in_field(points, model).all()
    widest = np.rad2deg(np.arctan(radius))
    further = np.array([[np.tan(np.deg2rad(widest + 0.05)), 0, 1.0]])
    assert not in_field(further, model)[0]
    if widest < 89.8:
        straight = CameraModel(0, "camera", 720, 1280, LENSES[name][1], model.d, K)
        assert np.diff(_to_pixels(np.array([[radius, 0.0], [radius * 1.02, 0]]), straight)[:, 0])[0] < 0.05


def test_a_fisheye_is_right_to_90_degrees():
    """An equidistant lens of 185 degrees: a post aside of the camera is drawn where the angle says."""
    focal = 640 / np.deg2rad(92.5)
    model = CameraModel(
        0, "camera", 720, 1280, "equidistant", np.array([0.001, 0, 0, 0]), np.diag((focal, focal, 1))
    )
    model.k[:2, 2] = 640, 360
    for degrees in (10, 48, 70, 84, 87, 89):
        x, y = 10 * np.cos(np.deg2rad(degrees)), -10 * np.sin(np.deg2rad(degrees))
        found = project_boxes(np.array([[x, y, 0, 0.05, 0.05, 0.05, 0]]), model, CAMERA_FROM_LIDAR)
        assert found.visible[0], degrees
        angle = np.deg2rad(degrees)
        expected = 640 + focal * angle * (1 + 0.001 * angle**2)
        assert found.xyxy[0, [0, 2]].mean() == pytest.approx(expected, abs=3), degrees
        rays = unproject(np.array([[expected, 360.0]]), model)
        assert np.rad2deg(np.arctan(rays[0, 0])) == pytest.approx(degrees, abs=0.01)
    assert np.isnan(unproject(np.array([[1275.0, 360]]), model)).all()  # 91.8 degrees: behind
    assert not project_boxes(np.array([[-3.0, -10, 0, 1, 1, 1, 0]]), model, CAMERA_FROM_LIDAR).visible[0]


@pytest.mark.parametrize("degrees", [0, 48, 65, 78])
@pytest.mark.parametrize("lens", ["fisheye", "wide"])
def test_rectangles_of_a_fisheye_are_those_of_the_surface(lens, degrees):
    focal = 640 / np.deg2rad(92.5) if lens == "fisheye" else 600
    model = CameraModel(0, "camera", 720, 1280, "equidistant", np.array([0.01, -0.002, 0, 0]), K.copy())
    model.k[0, 0] = model.k[1, 1] = focal
    x, y = 8 * np.cos(np.deg2rad(degrees)), -8 * np.sin(np.deg2rad(degrees))
    numbers = np.array([x, y, -0.8, 4.2, 1.8, 1.55, 0.4])
    found = project_boxes(numbers[None], model, CAMERA_FROM_LIDAR)
    along = np.linspace(-0.5, 0.5, 61)
    u, v = (axis.ravel() for axis in np.meshgrid(along, along))
    faces = [np.insert(np.stack((u, v), 1), axis, side, 1) for axis in range(3) for side in (-0.5, 0.5)]
    points = (np.concatenate(faces) * numbers[3:6]) @ Rotation.from_euler("z", 0.4).as_matrix().T + numbers[
        :3
    ]
    points = points @ CAMERA_FROM_LIDAR[:3, :3].T
    points = points[points[:, 2] > NEAR_M]
    pixels = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), model.k, model.d)[0][:, 0]
    pixels = pixels[((pixels >= 0) & (pixels <= (1280, 720))).all(1)]
    assert found.visible[0] == bool(len(pixels))
    if len(pixels):
        exact = np.concatenate((pixels.min(0), pixels.max(0)))[None].astype(np.float32)
        assert iou_2d(found.xyxy, exact)[0, 0] > 0.95


@pytest.mark.parametrize(
    ("d", "name"), [((0.1,) * 5, "equirectangular"), ((0.1, 0.2), "plumb_bob"), ((0.1,) * 3, "equidistant")]
)
def test_an_unknown_lens_is_named(d, name):
    with pytest.raises(CodecError, match=f"distortion_model='{name}'"):
        project(np.ones((1, 3)), camera(d, name))


boxes_anywhere = st.tuples(
    st.floats(-20, 60), st.floats(-30, 30), st.floats(-3, 3), st.floats(0.3, 12), st.floats(0.3, 3),
    st.floats(0.3, 4), st.floats(-4, 4),
)  # fmt: skip
coefficient = st.one_of(st.floats(-2, 2), st.floats(allow_nan=False, allow_infinity=False), st.just(0.0))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([4, 5, 8, 12, 14]).flatmap(lambda n: st.lists(coefficient, min_size=n, max_size=n)),
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]),
    st.lists(boxes_anywhere, max_size=4),
)
def test_any_lens_gives_rectangles_or_says_why_not(d, name, boxes):
    model = camera(d, name)
    try:
        found = project_boxes(np.array(boxes).reshape(-1, 7), model, CAMERA_FROM_LIDAR)
    except CodecError:
        return
    placed = place(found.xyxy, ["car"] * len(boxes), model, CAMERA_FROM_LIDAR, GROUND_Z)
    assert ((found.xyxy >= 0) & (found.xyxy <= (1280, 720, 1280, 720))).all()  # false for NaN too
    assert (found.xyxy[:, :2] <= found.xyxy[:, 2:]).all()
    assert np.isfinite(placed[0]).all()


def test_field_of_view_is_that_of_the_border():
    np.testing.assert_allclose(field_of_view(camera()), [-640 / 700, -360 / 700, 640 / 700, 360 / 700])
    wide = field_of_view(camera(PLUMB_BOB))
    assert wide[2] > 640 / 700  # a barrel shows more


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes_anywhere, max_size=4))
def test_boxes_that_the_image_does_not_cut_get_the_rectangle_of_their_outline(numbers):
    """A trace of skew sends every box the long way, around its convex hull."""
    boxes, model = np.array(numbers).reshape(-1, 7), camera()
    skewed = replace(model, k=K + np.array([[0, 1e-12, 0], [0, 0, 0], [0, 0, 0]]))
    short, long = (project_boxes(boxes, one, CAMERA_FROM_LIDAR) for one in (model, skewed))
    np.testing.assert_array_equal(short.visible, long.visible)
    np.testing.assert_allclose(short.xyxy, long.xyxy, atol=1e-3)  # float32


def test_the_lens_of_a_camera_is_looked_at_again_when_it_changes():
    wide, narrow = (field_of_view(camera(size=size)) for size in ((1280, 720), (640, 360)))
    assert (wide[2:] > narrow[2:]).all()
    wide[:] = 0  # belongs to the caller
    assert field_of_view(camera()).any()
    assert valid_radius(camera(FOLDED)) < valid_radius(camera(RATIONAL, "rational_polynomial"))


@settings(max_examples=100, deadline=None)
@given(boxes_anywhere, st.sampled_from([(), PLUMB_BOB]))
@example((0, 0, 1.84375, 1, 1, 3.75, 0), PLUMB_BOB)  # around the camera
@example((1.5, 0, 0, 2.8, 3, 0.3, 0.3), PLUMB_BOB)  # cut by the near plane
def test_any_box_covers_what_its_faces_cover(numbers, d):
    """Against points sampled on the whole surface: none of them falls outside, and the rectangle is tight."""
    model = camera(d)
    found = project_boxes(np.array([numbers]), model, CAMERA_FROM_LIDAR)
    along = np.linspace(-0.5, 0.5, 41)
    u, v = (axis.ravel() for axis in np.meshgrid(along, along))
    faces = [np.insert(np.stack((u, v), 1), axis, side, 1) for axis in range(3) for side in (-0.5, 0.5)]
    local = np.concatenate(faces) * numbers[3:6]
    points = local @ Rotation.from_euler("z", numbers[6]).as_matrix().T + numbers[:3]
    points = points @ CAMERA_FROM_LIDAR[:3, :3].T
    points = points[points[:, 2] > NEAR_M]
    low, high = field_of_view(model)[:2], field_of_view(model)[2:]
    inside = points[((points[:, :2] / points[:, 2:] > low) & (points[:, :2] / points[:, 2:] < high)).all(1)]
    pixels = project(inside, model)
    inside_image = pixels[((pixels >= 0) & (pixels <= (1280, 720))).all(1)]
    if len(inside_image):
        assert found.visible[0]
        x1, y1, x2, y2 = found.xyxy[0]
        slack = 3.0 if d else 0.1  # edges bend between their ends
        assert (inside_image >= (x1 - slack, y1 - slack)).all()
        assert (inside_image <= (x2 + slack, y2 + slack)).all()
    assert ((found.xyxy >= 0) & (found.xyxy <= (1280, 720, 1280, 720))).all()


def test_what_is_in_view_is_measured():
    whole, half, behind, around = box(20, 0), box(20, -18.3), box(-20, 0), box(0, 0, length=6)
    found = project_boxes(np.array([whole, half, behind, around]), camera(), CAMERA_FROM_LIDAR)
    assert found.visible.tolist() == [True, True, False, True]
    assert found.share[0] == pytest.approx(1)
    assert 0.2 < found.share[1] < 0.8
    assert found.share[3] == 0  # it reaches behind the camera
    np.testing.assert_allclose(found.depth, [20, 20, -20, 0], atol=1e-6)
    rear_height = 700 * 1.55 / (20 - 2.1)
    assert found.xyxy[0, 3] - found.xyxy[0, 1] == pytest.approx(rear_height, rel=0.15)
    assert len(project_boxes(np.zeros((0, 7)), camera(), CAMERA_FROM_LIDAR).xyxy) == 0


# Names.


def test_names_of_the_same_thing():
    assert canonical("Person") == canonical("pedestrian") == "pedestrian"
    assert canonical("Person_sitting") == "pedestrian"
    assert canonical("traffic light") == "traffic light"
    found = compatible(["car", "cyclist", "unknown"], ["van", "bicycle", "pedestrian", "traffic light"])
    assert found.tolist() == [[True, False, False, False], [False, True, False, False], [True] * 4]
    assert compatible([], ["car"]).shape == (0, 1)


# Placement.


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("ground_z", [GROUND_Z, None])
@pytest.mark.parametrize(("x", "y", "name"), [(12, 3, "pedestrian"), (25, -4, "car"), (40, 8, "car")])
def test_an_object_of_usual_size_is_placed_where_it_is(x, y, name, ground_z, mounted):
    sizes = {"car": (4.2, 1.8, 1.55), "pedestrian": (0.6, 0.6, 1.7)}
    truth = np.array([box(x, y, *sizes[name], yaw=np.arctan2(y, x))])
    camera_from_lidar = CAMERA_FROM_LIDAR
    if mounted:  # the lidar looks aside, and the camera is 2 m ahead of it and lower
        move, turn = np.array([-2.0, 0, 0.4]), Rotation.from_euler("z", 0.4)
        camera_from_lidar = CAMERA_FROM_LIDAR @ to_matrix(move, turn.inv().as_quat())
        truth[:, :3] = turn.apply(truth[:, :3] - move)
        truth[:, 6] += 0.4
        ground_z = None if ground_z is None else ground_z - move[2]
    xyxy = project_boxes(truth, camera(), camera_from_lidar).xyxy
    boxes, covariance, known = place(xyxy, [name], camera(), camera_from_lidar, ground_z)
    assert known.all()
    error = (boxes - truth)[0]
    position = covariance[0, :3, :3]
    assert error[:3] @ np.linalg.solve(position, error[:3]) < 9
    assert np.hypot(*error[:2]) < 0.05 * np.hypot(x, y)
    assert np.abs(error[2]) < 0.3
    np.testing.assert_allclose(boxes[0, 3:6], truth[0, 3:6], atol=1e-6)
    assert error[6] == pytest.approx(0, abs=1e-3)  # it looks along the ray
    values, vectors = np.linalg.eigh(position[:2, :2])
    assert abs(vectors[:, 1] @ (np.cos(truth[0, 6]), np.sin(truth[0, 6]))) > 0.99
    assert values[1] > 4 * values[0]


def test_the_ground_and_the_height_together_are_surer_than_the_height_alone():
    xyxy = seen(lidar(box(15, 0))).xyxy
    along = [place(xyxy, ["car"], camera(), CAMERA_FROM_LIDAR, z)[1][0, 0, 0] for z in (GROUND_Z, None)]
    assert along[0] < along[1]


def test_what_the_image_cuts_off_below_is_near_and_unsure():
    near = seen(lidar(box(4.5, 0, 0.6, 0.6, 1.7))).xyxy
    assert near[0, 3] == 720 or near[0, 3] > 600
    cut = np.array([[600.0, 400, 700, 720]])
    boxes, covariance, _ = place(cut, ["pedestrian"], camera(), CAMERA_FROM_LIDAR, GROUND_Z)
    assert boxes[0, 0] < 4  # the ground at the lower border is 3.3 m away
    assert covariance[0, 0, 0] > 1.5**2


@pytest.mark.parametrize("d", [(), PLUMB_BOB])
@pytest.mark.parametrize("ground_z", [GROUND_Z, None])
def test_each_object_is_placed_as_if_it_were_alone(d, ground_z):
    rng = np.random.default_rng(0)
    low = rng.uniform((-5, -5), (1200, 700), (60, 2))
    xyxy = np.clip(np.hstack((low, low + rng.uniform(0, 300, (60, 2)))), 0, (1280, 720, 1280, 720))
    names = ["car", "pedestrian", "traffic light", "bus"] * 15
    together = place(xyxy, names, camera(d), CAMERA_FROM_LIDAR, ground_z)
    assert 20 < together[2].sum() < 50
    for row, name in enumerate(names):
        alone = place(xyxy[row : row + 1], [name], camera(d), CAMERA_FROM_LIDAR, ground_z)
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_[row], rtol=1e-6, atol=1e-12)


def test_what_has_no_usual_size_or_no_height_is_not_placed():
    xyxy = np.array([[0.0, 0, 50, 50], [10, 10, 30, 10.5]])
    known = place(xyxy, ["traffic light", "car"], camera(), CAMERA_FROM_LIDAR, None)[2]
    assert not known.any()


# Fusion.


def test_the_same_object_of_both_is_one_surer_object_at_the_lidars_place():
    there = lidar(box(20, 2))
    fused = run(seen(there, 0.5), there)
    assert fused.sources == (BOTH,)
    assert fused.detections.scores[0] == pytest.approx(1 - 0.4 * 0.5)
    np.testing.assert_array_equal(fused.detections.xyzlwh_yaw, there.xyzlwh_yaw)
    np.testing.assert_array_equal(fused.partners, [[0, 0]])
    assert np.sqrt(fused.covariance[0, 0, 0]) < 0.5


def test_neighbours_are_matched_so_that_the_overlaps_are_greatest_not_one_by_one():
    """The first lidar box fits the second camera box best, but the second one fits nothing else."""
    boxes = lidar(box(20, 0.0), box(20, -1.0))
    cars = Detections2D(
        project_boxes(np.array([box(20, 0.9), box(20, -0.4)]), camera(), CAMERA_FROM_LIDAR).xyxy,
        np.array([0.5, 0.5], np.float32),
        np.zeros(2, np.int64),
    )
    iou = iou_2d(project_boxes(boxes.xyzlwh_yaw, camera(), CAMERA_FROM_LIDAR).xyxy, cars.xyxy)
    assert iou[0, 1] > iou[0, 0]
    fused = run(cars, boxes)
    assert fused.sources == (BOTH, BOTH)
    assert {tuple(pair) for pair in fused.partners.tolist()} == {(0, 0), (1, 1)}


def test_classes_that_cannot_be_the_same_are_not_matched():
    there = lidar(box(20, 2))
    fused = run(seen(there, label=1), there)
    assert sorted(fused.sources) == [CAMERA, LIDAR]
    # The camera has something there: it did not miss the car.
    assert fused.detections.scores[fused.sources.index(LIDAR)] == pytest.approx(0.6)


def test_a_match_that_overlaps_little_is_no_miss():
    there = lidar(box(20, 0))
    aside = seen(lidar(box(20, 1.4)))
    fused = run(aside, there, iou_threshold=0.02)
    assert fused.sources == (BOTH,)
    assert fused.detections.scores[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("camera_name", "camera_score", "lidar_name", "expected"),
    [
        ("truck", 0.9, "car", "truck"),
        ("truck", 0.3, "car", "car"),
        ("person", 0.3, "pedestrian", "pedestrian"),
        ("bicycle", 0.9, "cyclist", "cyclist"),
        ("motorcycle", 0.9, "bicycle", "motorcycle"),
        ("van", 0.1, "unknown", "van"),
    ],
)
def test_the_surer_one_names_the_class(camera_name, camera_score, lidar_name, expected):
    there = lidar(box(20, 2))
    fused = run(seen(there, camera_score), there, (camera_name,), (lidar_name,))
    assert fused.sources == (BOTH,)
    assert fused.classes[fused.detections.labels[0]] == expected


def test_one_object_under_two_names_of_the_camera_is_one():
    there = lidar(box(20, 2))
    car, truck = seen(there, 0.5, 0), seen(there, 0.4, 1)
    both = Detections2D(*(np.concatenate((getattr(car, f), getattr(truck, f))) for f in FIELDS))
    fused = run(both, there, ("car", "truck"))
    assert fused.sources == (BOTH,)
    assert fused.partners.tolist() == [[0, 0]]


def test_what_only_the_camera_sees_is_placed_and_marked():
    person = lidar(box(15, 1, 0.6, 0.6, 1.7))
    fused = run(seen(person, 0.7, 1), lidar(box(20, -5)), camera_recall=0.0, ground_z=GROUND_Z)
    assert fused.sources == (CAMERA, LIDAR)
    assert fused.partners.tolist() == [[-1, 0], [0, -1]]
    assert fused.classes[fused.detections.labels[0]] == "pedestrian"
    np.testing.assert_allclose(fused.detections.xyzlwh_yaw[0, :2], [15, 1], atol=0.8)
    assert fused.covariance[0, 0, 0] > 4 * fused.covariance[1, 0, 0]
    assert len(fused.unplaced) == 0


@pytest.mark.parametrize(("distance", "sources"), [(14, [BOTH]), (40, [CAMERA, BOTH])])
def test_the_rider_of_a_cyclist_is_no_object_but_who_walks_far_behind_is(distance, sources):
    cyclist = lidar(box(14, 0, 1.8, 0.6, 1.75))
    bicycle = seen(cyclist, 0.5, 0)
    person = seen(lidar(box(distance, 0, 0.4, 0.4, 1.65)), 0.6, 1)
    assert (person.xyxy[0, :2] >= bicycle.xyxy[0, :2]).all()  # inside of the cyclist's box
    assert (person.xyxy[0, 2:] <= bicycle.xyxy[0, 2:]).all()
    both = Detections2D(*(np.concatenate((getattr(bicycle, f), getattr(person, f))) for f in FIELDS))
    fused = run(both, cyclist, ("bicycle", "person"), ("cyclist",))
    assert sorted(fused.sources) == sorted(sources)


def test_what_only_the_camera_sees_and_has_no_usual_size_is_told():
    light = Detections2D(
        np.array([[600, 100, 620, 150]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    fused = run(light, lidar(), ("traffic light",))
    assert len(fused) == 0
    assert fused.unplaced.tolist() == [0]


def test_what_the_camera_should_have_seen_is_less_likely_but_stays():
    fused = run(Detections2D.empty(), lidar(box(15, 0), scores=[0.6]))
    assert fused.sources == (LIDAR,)
    assert fused.detections.scores[0] == pytest.approx(0.3 / 0.7)  # odds 1.5, halved
    assert run(Detections2D.empty(), lidar(box(15, 0), scores=[0.6]), camera_recall=0.0).detections.scores[
        0
    ] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("boxes", "why"),
    [
        ([box(70, 0)], "too small in the image"),
        ([box(-15, 0)], "behind"),
        ([box(10, -10)], "half outside"),
    ],
)
def test_what_the_camera_could_not_see_keeps_its_score(boxes, why):
    fused = run(Detections2D.empty(), lidar(*boxes))
    assert fused.detections.scores[0] == pytest.approx(0.6), why


def test_what_stands_behind_another_object_keeps_its_score():
    front, rear = box(12, 0, 2, 2.5, 3.0), box(20, 0)
    fused = run(seen(lidar(front)), lidar(front, rear))
    assert fused.detections.scores.tolist() == pytest.approx([0.8, 0.6])


def test_what_stands_behind_something_that_no_camera_names_keeps_its_score():
    front, rear = box(12, 0, 2, 2.5, 3.0), box(20, 0)
    obstacle = lidar(front, rear, scores=[0.7, 0.6], labels=[1, 0])
    fused = run(Detections2D.empty(), obstacle, lidar_classes=("car", "unknown"))
    assert fused.detections.scores.tolist() == pytest.approx([0.7, 0.6])
    behind = run(Detections2D.empty(), lidar(rear), lidar_classes=("car", "unknown"))
    assert behind.detections.scores[0] < 0.5


def test_a_class_that_the_camera_does_not_know_keeps_its_score():
    fused = run(Detections2D.empty(), lidar(box(15, 0)), camera_classes=("person",))
    assert fused.detections.scores[0] == pytest.approx(0.6)


def test_the_ground_is_taken_from_the_lidars_boxes():
    """Three boxes tell it, two do not; seen in how sure the camera's object is placed."""
    person = seen(lidar(box(10, 1, 0.6, 0.6, 1.7)), 0.7, 1)
    others = [box(30, y) for y in (-9, 0, 9)]
    along = []
    for count in (2, 3):
        fused = run(person, lidar(*others[:count]))
        along.append(fused.covariance[fused.sources.index(CAMERA), 0, 0])
    assert along[1] < along[0]


def test_the_lidar_alone_keeps_everything():
    there = lidar(box(20, 2), box(10, -3), scores=[0.3, 0.7], labels=[0, 1])
    fused = lidar_alone(there, ("Car", "Person"))
    assert fused.sources == (LIDAR, LIDAR)
    assert [fused.classes[label] for label in fused.detections.labels] == ["pedestrian", "car"]
    assert fused.partners.tolist() == [[1, -1], [0, -1]]
    np.testing.assert_array_equal(fused.detections.scores, np.array([0.7, 0.3], np.float32))
    assert len(lidar_alone(Detections3D.empty(), ())) == 0


def test_nothing_and_nothing_is_nothing():
    fused = run(Detections2D.empty(), Detections3D.empty(), (), ())
    assert (len(fused), len(fused.detections), fused.covariance.shape) == (0, 0, (0, 6, 6))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(boxes_anywhere, st.integers(0, 2), st.floats(0, 1)), max_size=8),
    st.lists(st.tuples(*(st.floats(0, 1280),) * 4, st.integers(0, 3), st.floats(0, 1)), max_size=8),
)
def test_any_detections_keep_every_object_once(in_space, in_image):
    found = lidar(
        *(b for b, _, _ in in_space), scores=[s for *_, s in in_space], labels=[c for _, c, _ in in_space]
    )
    corners = np.array([row[:4] for row in in_image], np.float32).reshape(-1, 4)
    xyxy = np.concatenate(
        (np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])), 1
    )
    shown = Detections2D(
        xyxy,
        np.array([row[5] for row in in_image], np.float32),
        np.array([row[4] for row in in_image], np.int64),
    )
    fused = run(shown, found, ("car", "truck", "person", "kite"), ("car", "pedestrian", "unknown"))
    rows, columns = fused.partners.T
    assert sorted(rows[rows >= 0]) == list(range(len(found)))  # the lidar's objects, all and once
    assert len(set(columns[columns >= 0])) == (columns >= 0).sum()
    for source, (row, column) in zip(fused.sources, fused.partners, strict=True):
        assert (
            source == {(True, True): BOTH, (True, False): LIDAR, (False, True): CAMERA}[row >= 0, column >= 0]
        )
    assert np.isfinite(fused.detections.xyzlwh_yaw).all()
    assert ((fused.detections.scores >= 0) & (fused.detections.scores <= 1)).all()
    assert (np.diff(fused.detections.scores) <= 0).all()
    assert (np.linalg.eigvalsh(fused.covariance) > 0).all()


# With what messages say besides.


def named(found, frame, classes, stamp_ns=0) -> NamedDetections:
    return NamedDetections(stamp_ns, frame, found, [""] * len(found), classes)


def stage_of(lookup=lambda target, source, stamp_ns: CAMERA_FROM_LIDAR) -> FusionStage:
    stage = FusionStage(lookup)
    stage.cameras[0].model = camera()
    return stage


def test_what_the_camera_found_before_it_can_find_now():
    """An empty message names no class; that a car was missed is known from the messages before."""
    stage, there = stage_of(), lidar(box(15, 0))
    clouds, nothing = named(there, "lidar", ("car",)), named(Detections2D.empty(), "camera", ())
    assert stage.fuse(clouds, [nothing]).fused.detections.scores[0] == pytest.approx(0.6)
    stage.fuse(clouds, [named(seen(there), "camera", ("car",))])
    assert stage.fuse(clouds, [nothing]).fused.detections.scores[0] == pytest.approx(0.3 / 0.7)


def test_what_is_not_known_is_told_and_the_lidar_goes_on_alone():
    def unknown(target, source, stamp_ns):
        raise TransformError(target, source, "no frame")

    there = lidar(box(15, 0))
    message = named(there, "lidar", ("car",)), [named(seen(there), "camera", ("car",))]
    for model, lookup, reason in (
        (None, unknown, "no CameraInfo yet"),
        (camera((0.1,) * 3), stage_of()._lookup, "distortion_model"),
        (camera(), unknown, "transform camera <- lidar: no frame"),
    ):
        stage = stage_of(lookup)
        stage.cameras[0].model = model
        answer = stage.fuse(*message)
        assert reason in answer.reason
        assert answer.reason == stage.missing
        assert answer.fused.sources == (LIDAR,)
        assert answer.views == (None,)
    good = stage_of()
    assert good.fuse(*message).reason == good.missing == ""


def test_transforms_are_looked_up_at_each_sensors_time():
    asked = []

    def lookup(target, source, stamp_ns):
        asked.append((target, source, stamp_ns))
        return CAMERA_FROM_LIDAR if target == "camera" else np.eye(4)

    stage, there = stage_of(lookup), lidar(box(15, 0))
    message = named(there, "lidar", ("car",), 20), [named(seen(there), "camera", ("car",), 10)]
    stage.fuse(*message)
    stage.fixed_frame = "odom"
    answer = stage.fuse(*message)
    assert asked == [("camera", "lidar", 20), ("camera", "odom", 10), ("odom", "lidar", 20)]
    np.testing.assert_array_equal(answer.views[0].camera_from_lidar, CAMERA_FROM_LIDAR)


@pytest.mark.parametrize(
    ("info", "detections", "reason"),
    [
        ("camera", "/camera", ""),
        ("", "camera", ""),
        ("camera", "", ""),
        ("camera", "rear", "not the same camera"),
    ],
)
def test_frames_with_a_slash_or_without_a_name_are_taken(info, detections, reason):
    stage, there = stage_of(), lidar(box(15, 0))
    stage.cameras[0].model = replace(camera(), frame_id=info)
    answer = stage.fuse(named(there, "lidar", ("car",)), [named(seen(there), detections, ("car",))])
    assert reason in answer.reason
    assert bool(answer.reason) == bool(reason)


@pytest.mark.parametrize(
    ("size", "reason"),
    [((1280, 720), ""), ((640, 360), "reach to 9"), ((720, 1280), "the image is 1280 x 720, turned")],
)
def test_the_camera_info_of_an_image_of_another_size_is_refused(size, reason):
    stage, there = stage_of(), lidar(box(15, -5))
    stage.cameras[0].model = camera(size=size)
    if "image is" in reason:
        stage.cameras[0].image_size = 720, 1280
    nothing = named(Detections2D.empty(), "camera", ())
    for message in (named(seen(there), "camera", ("car",)), nothing):  # it stays so
        answer = stage.fuse(named(there, "lidar", ("car",)), [message])
        assert reason in answer.reason
        assert bool(answer.reason) == bool(reason)


# Several cameras and lidars.


def turned(degrees):
    """(4, 4) to a camera that looks to this side, 0.5 m ahead of the lidar's axis."""
    turn = Rotation.from_euler("z", -degrees, degrees=True)
    return (
        CAMERA_FROM_LIDAR
        @ to_matrix(np.array([-0.5, 0, 0]), np.array([0, 0, 0, 1.0]))
        @ to_matrix(np.zeros(3), turn.as_quat())
    )


def view(boxes, degrees, score=0.5, label=0, classes=("car", "person")):
    found = project_boxes(boxes.xyzlwh_yaw, camera(), turned(degrees))
    rows = np.flatnonzero(found.visible & (found.share > 0.3))
    labels = np.full(len(rows), label, np.int64)
    detections = Detections2D(found.xyxy[rows], np.full(len(rows), score, np.float32), labels)
    return CameraView(detections, classes, camera(), turned(degrees))


def ring(distance=16):
    """A car every 30 degrees around the lidar, across the line of sight."""
    angles = np.deg2rad(np.arange(0, 360, 30))
    return [box(distance * np.cos(a), distance * np.sin(a), yaw=a + np.pi / 2) for a in angles]


SIDES = (0, 60, 120, 180, -120, -60)  # each sees 85 degrees: neighbours share 25


def test_six_cameras_match_each_box_wherever_it_is_seen():
    there = lidar(*ring())
    fused = fuse_views([view(there, side) for side in SIDES], there, ("car",))
    assert fused.sources == (BOTH,) * 12
    assert fused.partners.shape == (12, 7)
    seen_by = (fused.partners[:, 1:] >= 0).sum(1)
    assert seen_by.min() >= 1
    assert seen_by.max() == 2
    np.testing.assert_allclose(fused.detections.scores, 0.8, atol=1e-6)  # two cameras count once


def test_what_only_cameras_see_is_one_object_where_their_images_overlap():
    there = lidar(*ring())
    views = [view(there, side, 0.5 + index / 100) for index, side in enumerate(SIDES)]
    fused = fuse_views(views, lidar(), (), ground_z=GROUND_Z)
    assert sum(len(one.detections) for one in views) > 12
    assert fused.sources == (CAMERA,) * 12
    found = fused.detections.xyzlwh_yaw[:, :2]
    away = np.linalg.norm(found[:, None] - there.xyzlwh_yaw[None, :, :2], axis=2)
    assert sorted(away.argmin(1).tolist()) == list(range(12))
    assert away.min(1).max() < 2.5


def test_neighbours_of_one_camera_stay_two_where_another_sees_both():
    there = lidar(box(16 * np.cos(0.52), 16 * np.sin(0.52), 0.6, 0.6, 1.7), box(16, 8.0, 0.6, 0.6, 1.7))
    views = [view(there, side, label=1) for side in (0, 60)]
    assert [len(one.detections) for one in views] == [2, 2]
    assert len(fuse_views(views, lidar(), (), ground_z=GROUND_Z)) == 2


def test_an_object_that_one_camera_matches_is_no_miss_of_another():
    there = lidar(box(14, 7.5))
    empty = CameraView(Detections2D.empty(), ("car",), camera(), turned(0))
    fused = fuse_views([empty, view(there, 60)], there, ("car",))
    assert fused.detections.scores[0] == pytest.approx(0.8)
    missed = fuse_views(
        [empty, CameraView(Detections2D.empty(), ("car",), camera(), turned(60))], there, ("car",)
    )
    assert missed.detections.scores[0] == pytest.approx(0.3 / 0.7)


def test_unplaced_rows_count_through_all_cameras():
    lamp = Detections2D(
        np.array([[600.0, 100, 620, 150]], np.float32), np.ones(1, np.float32), np.zeros(1, int)
    )
    views = [CameraView(lamp, ("traffic light",), camera(), turned(side)) for side in (0, 180)]
    fused = fuse_views(views, lidar(), ())
    assert (len(fused), fused.unplaced.tolist()) == (0, [0, 1])


def test_the_boxes_of_two_lidars_become_one_list_in_the_base_frame():
    """The rear lidar is turned by 180 degrees and 4 m behind."""
    places = {"lidar": to_matrix(np.array([1.0, 0, 2]), np.array([0, 0, 0, 1.0])),
              "rear": to_matrix(np.array([-3.0, 0, 2]), np.array([0, 0, 1.0, 0]))}  # fmt: skip

    def lookup(target, source, stamp_ns):
        if target == "camera":
            return CAMERA_FROM_LIDAR @ np.linalg.inv(places["lidar"])
        assert target == "base_link"
        if source not in places:
            raise TransformError(target, source, "no frame")
        return places[source]

    stage = stage_of(lookup)
    stage.base_frame = "base_link"
    ahead, left = box(15, 0), box(2, 6, yaw=0.3)
    front = named(lidar(ahead, left, scores=[0.5, 0.6]), "lidar", ("car",))
    again = [-4 - left[0], -left[1], *left[2:6], left[6] + np.pi]  # the left one as the rear lidar sees it
    behind = box(10, 0)
    rear = named(lidar(again, behind, scores=[0.4, 0.7]), "rear", ("Car",))
    image = named(seen(lidar(ahead)), "camera", ("car",))
    answer = stage.fuse(front, [image], [rear])
    assert (answer.frame_id, answer.reason, answer.lidar_reasons) == ("base_link", "", ("",))
    assert sorted(answer.fused.sources) == [BOTH, LIDAR, LIDAR]
    expected = {(16.0, 0.0), (3.0, 6.0), (-13.0, 0.0)}
    found = {tuple(xy) for xy in answer.fused.detections.xyzlwh_yaw[:, :2].round(3).tolist()}
    assert found == expected
    row = answer.fused.detections.xyzlwh_yaw[:, 1].argmax()
    assert answer.fused.detections.xyzlwh_yaw[row, 6] == pytest.approx(0.3, abs=1e-5)
    lost = stage.fuse(front, [image], [named(rear.detections, "roof", ("car",))])
    assert "no frame" in lost.lidar_reasons[0]
    assert len(lost.fused) == 2


def test_objects_stay_in_the_lidars_frame_while_the_base_frame_is_unknown():
    def unknown(target, source, stamp_ns):
        raise TransformError(target, source, "no frame")

    stage, there = stage_of(unknown), lidar(box(15, 0))
    stage.base_frame = "base_link"
    answer = stage.fuse(named(there, "lidar", ("car",)), [named(seen(there), "camera", ("car",))])
    assert (answer.frame_id, answer.fused.sources) == ("lidar", (LIDAR,))
    assert "base_link <- lidar" in answer.reason
    assert "base_link <- lidar" in stage.missing
