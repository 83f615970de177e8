"""Pictures: what is drawn lies where it should, and nothing else changes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.codec import CameraModel
from perception_rt.stage import draw as draw_module
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.types import Detections2D, Detections3D
from perception_rt.types.palette import class_colour

K = np.array([[400.0, 0, 320], [0, 400, 180], [0, 0, 1]])
CAMERA_FROM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
CLASSES = ("car", "person")
CAR = class_colour("car")


def camera(d=()) -> CameraModel:
    return CameraModel(0, "camera", 360, 640, "plumb_bob", np.array(d, np.float64), K)


def boxes(*rows, labels=None) -> Detections3D:
    count = len(rows)
    return Detections3D(
        np.array(rows, np.float32).reshape(-1, 7),
        np.linspace(0.4, 0.9, count).astype(np.float32),
        np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64),
    )


def grey() -> np.ndarray:
    return np.full((360, 640, 3), 90, np.uint8)


def changed(picture: np.ndarray, before: np.ndarray) -> tuple[int, int, int, int]:
    """The rectangle of what differs: x1, y1, x2, y2."""
    rows, columns = np.nonzero((picture != before).any(2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def is_near(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    """Whether the colour is drawn within 2 px."""
    x, y = round(x), round(y)
    patch = picture[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].astype(int)
    return bool((np.abs(patch - colour).max(2) < 40).any())


def test_wireframes_lie_on_the_projected_box():
    found = boxes([15, 2, 0, 4, 2, 1.5, 0.3])
    picture = draw_boxes3d(grey(), found, CLASSES, camera(), CAMERA_FROM_LIDAR)
    box = project_boxes(found.xyzlwh_yaw, camera(), CAMERA_FROM_LIDAR).xyxy[0]
    x1, _, x2, y2 = changed(picture, grey())  # the text stands on top
    assert abs(x1 - box[0]) <= 4
    assert x2 >= box[2] - 3
    assert abs(y2 - box[3]) <= 4
    assert is_near(picture, (box[0] + box[2]) / 2, box[3], CAR)


def test_the_front_face_is_tinted_and_the_rear_is_not():
    """A box aside, seen from behind: its front is the smaller one of the two faces."""
    found = boxes([10, 0, 0, 6, 2, 2, np.pi])  # looks at the camera
    away = boxes([10, 0, 0, 6, 2, 2, 0])
    centre = (180, 320)
    assert (draw_boxes3d(grey(), found, CLASSES, camera(), CAMERA_FROM_LIDAR)[centre] != 90).any()
    seen = draw_boxes3d(grey(), found, CLASSES, camera(), CAMERA_FROM_LIDAR)
    hidden = draw_boxes3d(grey(), away, CLASSES, camera(), CAMERA_FROM_LIDAR)
    near_face = (180, 320 - 400 // 7 + 15)  # inside of the near face, outside of the far one
    assert (seen[near_face] != 90).any()
    assert (hidden[near_face] == 90).all()


def test_nothing_is_drawn_of_what_is_behind_or_beside():
    found = boxes([-15, 0, 0, 4, 2, 1.5, 0], [5, 60, 0, 4, 2, 1.5, 0])
    np.testing.assert_array_equal(draw_boxes3d(grey(), found, CLASSES, camera(), CAMERA_FROM_LIDAR), grey())


def test_a_box_around_the_camera_is_drawn_where_it_is_in_front():
    picture = draw_boxes3d(grey(), boxes([0, 0, 0, 20, 4, 3, 0]), CLASSES, camera(), CAMERA_FROM_LIDAR)
    # The far face, 10 m ahead, is 4 m wide.
    assert is_near(picture, 320 - 80, 180, CAR)
    assert is_near(picture, 320 + 80, 180, CAR)


def test_colours_follow_the_order_of_channels():
    found = boxes([15, 2, 0, 4, 2, 1.5, 0.3])
    flat = Detections2D(np.array([[50, 60, 200, 250]], np.float32), found.scores, found.labels)
    for bgr in (False, True):
        colour = CAR[::-1] if bgr else CAR
        x, y = project_boxes(found.xyzlwh_yaw, camera(), CAMERA_FROM_LIDAR).xyxy[0, [0, 3]]
        assert is_near(
            draw_boxes3d(grey(), found, CLASSES, camera(), CAMERA_FROM_LIDAR, bgr), x + 3, y - 3, colour
        )
        assert (draw_detections(grey(), flat, CLASSES, bgr)[250, 120] == colour).all()


def test_a_turned_box_is_drawn_turned():
    """90 degrees turn a box of 150 by 50 px about (200, 200) into one of 50 by 150."""
    one = np.ones(1, np.float32)
    found = Detections2D(
        np.float32([[125, 175, 275, 225]]), one, np.zeros(1, np.int64), np.float32([np.pi / 2])
    )
    picture = draw_detections(grey(), found, CLASSES)
    for x, y in ((175, 200), (225, 200), (200, 125), (200, 275)):
        assert is_near(picture, x, y, CAR)
    assert (picture[195:205, 120:130] == 90).all()
    np.testing.assert_allclose(found.upright().xyxy, [[175, 125, 225, 275]], atol=1e-3)
    half = Detections2D(found.xyxy, one, found.labels, np.float32([np.pi / 4]))
    np.testing.assert_allclose(
        np.diff(half.upright().xyxy.reshape(2, 2), axis=0), [[200 / 2**0.5] * 2], rtol=1e-5
    )


def test_keypoints_are_drawn_where_they_are_seen_and_joined_for_a_person():
    points = np.zeros((1, 17, 3), np.float32)
    points[0, 5], points[0, 6] = (100, 100, 0.9), (160, 100, 0.8)  # shoulders
    points[0, 11] = (100, 200, 0.4)  # a hip that is not seen
    box, one, label = np.float32([[80, 80, 180, 260]]), np.ones(1, np.float32), np.zeros(1, np.int64)
    picture = draw_detections(grey(), Detections2D(box, one, label, None, points), CLASSES)
    assert (picture[100, [100, 160]] > 200).all()
    assert is_near(picture, 130, 100, CAR)
    assert (picture[150:205, 95:105] == 90).all()
    few = draw_detections(grey(), Detections2D(box, one, label, None, points[:, 5:7]), CLASSES)
    assert (few[100, [100, 160]] > 200).all()
    assert (few[95:105, 120:140] == 90).all()


def test_the_picture_given_is_not_drawn_on():
    pixels = grey()
    pixels.flags.writeable = False
    found = boxes([15, 2, 0, 4, 2, 1.5, 0.3])
    draw_boxes3d(pixels[:, ::-1], found, CLASSES, camera(), CAMERA_FROM_LIDAR)
    assert (pixels == 90).all()


# From above.

NOTHING = np.zeros((0, 4), np.float32)
RANGE = {"x_range": (-10.0, 50.0), "y_range": (-20.0, 20.0), "px_per_m": 10.0}


def test_x_is_up_and_y_to_the_left():
    empty = draw_bev(NOTHING, boxes(), CLASSES, **RANGE)
    assert empty.shape == (600, 400, 3)
    assert empty.dtype == np.uint8
    assert (empty[490:510, 195:205] > 200).any()  # the sensor: 10 m above the lower edge, in the middle
    points = np.array([[30.05, 10.05, 3.0, 0], [5.05, -15.05, 3.0, 0], [500, 0, 0, 0]], np.float32)
    picture = draw_bev(points, boxes(), CLASSES, **RANGE)
    rows, columns = np.nonzero((picture != empty).any(2))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(199, 99), (449, 350)]


def test_higher_points_are_brighter_and_on_top():
    ground = np.stack(np.meshgrid(np.arange(10, 40, 0.1), np.arange(-10, 10, 0.1)), 2).reshape(-1, 2)
    cloud = np.concatenate((ground, np.full((len(ground), 1), -1.7)), 1)
    cloud = np.concatenate((cloud, [[25.05, 3.05, 0.5], [25.05, 3.05, -1.7]]))
    picture = draw_bev(cloud.astype(np.float32), boxes(), CLASSES, **RANGE)
    assert picture[249, 169].sum() > picture[249, 150].sum() + 100


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_boxes_have_their_corners_and_a_line_to_their_front(yaw):
    found = boxes([25, 5, 0, 8, 3, 2, yaw])
    empty = draw_bev(NOTHING, boxes(), CLASSES, **RANGE)
    picture = draw_bev(NOTHING, found, CLASSES, **RANGE)

    def at(along: float, aside: float) -> tuple[float, float]:
        x = 25 + along * np.cos(yaw) - aside * np.sin(yaw)
        y = 5 + along * np.sin(yaw) + aside * np.cos(yaw)
        return (20 - y) * 10, (50 - x) * 10

    assert all(is_near(picture, *at(a, b), CAR) for a in (4, -4) for b in (1.5, -1.5))
    assert is_near(picture, *at(2, 0), CAR)
    assert not is_near(picture, *at(-2, 0), CAR)
    assert (picture == empty).all(2).mean() > 0.97


def test_a_place_that_is_uncertain_has_its_ellipse():
    found = boxes([20, 0, 0, 1, 1, 2, 0])
    covariance = np.zeros((1, 6, 6))
    covariance[0, :2, :2] = np.diag([16.0, 0.25])
    plain = draw_bev(NOTHING, found, CLASSES, **RANGE)
    picture = draw_bev(NOTHING, found, CLASSES, covariance=covariance, **RANGE)
    x1, y1, x2, y2 = changed(picture, plain)
    np.testing.assert_allclose((x1, y1, x2, y2), (190, 220, 210, 380), atol=2)  # 2 sigma: 8 m and 1 m


def test_notes_are_written():
    found = boxes([20, 0, 0, 4, 2, 2, 0])
    plain = draw_bev(NOTHING, found, CLASSES, **RANGE)
    assert (draw_bev(NOTHING, found, CLASSES, notes=["C+L"], **RANGE) != plain).any()
    with pytest.raises(ValueError, match="zip"):
        draw_bev(NOTHING, found, CLASSES, notes=[], **RANGE)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match=r"x_range=\(5.0, 5.0\)"):
        draw_bev(NOTHING, boxes(), CLASSES, x_range=(5.0, 5.0))


huge = st.floats(-1e5, 1e5)


@settings(max_examples=50, deadline=None)
@given(st.tuples(huge, huge, huge, *(st.floats(0.01, 100),) * 3, st.floats(-9, 9)), st.booleans())
def test_any_box_can_be_drawn(row, bent):
    model = camera((-0.25, 0.08, 0.0, 0.0, 0.0) if bent else ())
    found = boxes(row)
    assert draw_boxes3d(grey(), found, CLASSES, model, CAMERA_FROM_LIDAR).shape == (360, 640, 3)
    points = np.array([[*row[:3], 0]], np.float32)
    assert draw_bev(points, found, CLASSES, covariance=np.eye(6)[None] * 1e12, **RANGE).shape == (600, 400, 3)


def test_a_class_has_one_colour_by_its_name_whatever_its_label_is():
    one = Detections2D(
        np.array([[100, 100, 300, 200]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    )
    other = Detections2D(one.xyxy, one.scores, np.ones(1, np.int64))
    first = draw_detections(grey(), one, ("car", "person"))
    np.testing.assert_array_equal(first, draw_detections(grey(), other, ("person", "car")))
    assert (first != draw_detections(grey(), other, ("car", "person"))).any()


def test_road_users_of_coco_have_colours_that_differ():
    names = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light")
    colours = np.array([class_colour(name) for name in names], int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(len(names), dtype=int)
    assert apart.min() > 60
    assert class_colour("Pedestrian") == class_colour("person")


@given(st.text(max_size=40))
def test_any_name_has_a_colour_that_can_be_seen_on_dark_and_bright(name):
    colour = class_colour(name)
    assert colour == class_colour(name)
    assert all(0 <= part <= 255 for part in colour)
    assert max(colour) > 60
    assert min(colour) < 200


@pytest.mark.parametrize(
    "box",
    [
        (100, 100, 300, 200),  # room above
        (0, 0, 300, 200),  # below
        (5, 2, 200, 358),  # right
        (440, 2, 638, 358),  # left
        (600, 100, 640, 200),  # the text is wider than the box
    ],
)
def test_a_label_never_covers_its_box(box):
    found = Detections2D(np.array([box], np.float32), np.full(1, 0.5, np.float32), np.zeros(1, np.int64))
    before = grey()
    picture = draw_detections(before, found, CLASSES)
    x1, y1, x2, y2 = box
    inside = slice(y1 + 4, y2 - 4), slice(x1 + 4, x2 - 4)
    np.testing.assert_array_equal(picture[inside], before[inside])
    filled = (np.abs(picture.astype(int) - CAR).max(2) < 10).sum()
    assert filled > 2 * 2 * (x2 - x1 + y2 - y1) * 0.5 + 300  # the edge, and the label's patch whole


def written(draw) -> list[tuple[int, int, int, int]]:
    """Run a drawing; return the xyxy of the texts that it writes."""
    found = []
    patch, size_of = draw_module._patch, draw_module._patch_size

    def watch(picture, text, at, ink, fill, scale):
        found.append((*at, *np.add(at, size_of(text, scale)).tolist()))
        patch(picture, text, at, ink, fill, scale)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(draw_module, "_patch", watch)
        draw()
    return found


def overlap(first, second) -> bool:
    return max(first[0], second[0]) < min(first[2], second[2]) and max(first[1], second[1]) < min(
        first[3], second[3]
    )


places = st.lists(st.tuples(st.integers(-50, 600), st.integers(-50, 340)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(places, st.integers(1, 300), st.integers(1, 200))
def test_no_label_covers_another(corners, width, height):
    """In the image and from above; a label lies in the picture, and the first choice is always written."""
    xyxy = np.array([(x, y, x + width, y + height) for x, y in corners], np.float32)
    scores = np.linspace(0.2, 0.9, len(xyxy)).astype(np.float32)
    flat = Detections2D(xyxy, scores, np.zeros(len(xyxy), np.int64))
    solid = boxes(*[(x / 10, y / 20 - 10, 0, width / 60, height / 60, 1.5, 0.3) for x, y in corners])
    for draw, high, wide in (
        (lambda: draw_detections(grey(), flat, CLASSES), 360, 640),
        (lambda: draw_bev(NOTHING, solid, CLASSES, **RANGE), 600, 400),
    ):
        texts = written(draw)
        assert not any(overlap(*pair) for pair in combinations(texts, 2))
        assert all(x1 >= 0 and y1 >= 0 and x2 <= wide and y2 <= high for x1, y1, x2, y2 in texts)
    assert written(lambda: draw_detections(grey(), flat[:1], CLASSES))


def test_a_row_of_far_cars_has_all_its_labels_and_boxes():
    """They stand closer than their labels are wide."""
    xyxy = np.array([(200 + 22 * n, 170, 218 + 22 * n, 186) for n in range(10)], np.float32)
    flat = Detections2D(xyxy, np.linspace(0.5, 0.9, 10).astype(np.float32), np.zeros(10, np.int64))
    texts = written(lambda: draw_detections(grey(), flat, CLASSES))
    assert len(texts) == 10
    assert not any(overlap(text, box) for text in texts for box in xyxy.tolist())


def test_lines_are_as_wide_as_the_image_asks_for():
    found = Detections2D(
        np.array([[100, 100, 300, 200]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    )
    shares = []
    for zoom in (2, 6):
        image = np.full((360 * zoom, 640 * zoom, 3), 90, np.uint8)
        scaled = Detections2D(found.xyxy * zoom, found.scores, found.labels)
        column = draw_detections(image, scaled, CLASSES)[150 * zoom, 90 * zoom : 110 * zoom]
        shares.append((column != 90).any(1).mean())
    assert 0.5 * shares[0] < shares[1] < 1.4 * shares[0]
