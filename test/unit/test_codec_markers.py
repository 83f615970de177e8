"""Boxes and paths to visualization_msgs/MarkerArray, read back and written again by rosbags."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import Marker, box_markers, encode_markers, path_markers
from perception_rt.types import CodecError, Detections3D
from perception_rt.types.palette import class_colour

STORE = get_typestore(Stores.ROS2_KILTED)
ARRAY = "visualization_msgs/msg/MarkerArray"
KIND = STORE.types["visualization_msgs/msg/Marker"]
STAMP_NS = 1_700_000_000_123_456_789
CLASSES = ("car", "pedestrian")
COLOURS = [
    class_colour(name)
    for name in ("car", "pedestrian", "cyclist", "truck", "bus", "motorcycle", "traffic light")
]
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
BOXES = np.array([[1, 2, 0.5, 4, 2, 1.5, 0.5], [10, -3, 1, 0.6, 0, 1.8, -3]], np.float32)
DETECTIONS = Detections3D(BOXES, np.array([0.875, 0.5], np.float32), np.array([0, 1]))


def read(raw):
    """The markers behind the first, which deletes all; rosbags must write the same bytes from them."""
    array = STORE.deserialize_cdr(raw, ARRAY)
    assert bytes(STORE.serialize_cdr(array, ARRAY)) == raw
    first, *markers = array.markers
    assert (first.action, first.id, first.ns) == (KIND.DELETEALL, 0, "")
    for marker in markers:
        assert marker.action == KIND.ADD
        assert (marker.lifetime.sec, marker.lifetime.nanosec, marker.frame_locked) == (0, 0, False)
    for marker in array.markers:
        assert (marker.texture.format, marker.texture_resource) == ("", "")
        stamp = marker.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == STAMP_NS
    return markers


def xyz(point):
    return point.x, point.y, point.z


def rgba(marker):
    colour = marker.color
    return colour.r, colour.g, colour.b, colour.a


MARKERS = st.builds(
    Marker,
    NAMES,
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([KIND.CUBE, KIND.LINE_STRIP, KIND.TEXT_VIEW_FACING]),
    st.tuples(*[st.floats(0, 9)] * 3),
    st.tuples(*[st.floats(0, 1, width=32)] * 4),
    st.tuples(*[st.floats(-9, 9)] * 7),
    st.lists(st.tuples(*[st.floats(-9, 9)] * 3), max_size=3),
    NAMES,
)


@given(st.lists(MARKERS, max_size=4), NAMES)
@settings(max_examples=300, deadline=None)
def test_every_field_arrives(markers, frame_id):
    for theirs, ours in zip(read(encode_markers(markers, STAMP_NS, frame_id)), markers, strict=True):
        assert (theirs.header.frame_id, theirs.ns, theirs.id) == (frame_id, ours.namespace, ours.id)
        assert (theirs.type, theirs.text, xyz(theirs.scale)) == (ours.type, ours.text, ours.scale)
        turn = theirs.pose.orientation
        assert (*xyz(theirs.pose.position), turn.x, turn.y, turn.z, turn.w) == ours.pose
        assert rgba(theirs) == ours.rgba
        assert [xyz(point) for point in theirs.points] == ours.points
        assert not theirs.colors
        assert not theirs.uv_coordinates
        assert not theirs.texture_resource + theirs.mesh_resource + theirs.mesh_file.filename


def test_nothing_seen_still_deletes_what_was_shown():
    assert read(encode_markers(box_markers(Detections3D.empty(), CLASSES), STAMP_NS, "lidar")) == []


def test_a_box_and_a_text_for_each_detection():
    markers = read(encode_markers(box_markers(DETECTIONS, CLASSES), STAMP_NS, "lidar"))
    cubes, texts = markers[::2], markers[1::2]
    assert len(cubes) == len(texts) == 2
    for i, (cube, text) in enumerate(zip(cubes, texts, strict=True)):
        x, y, z, length, width, height, yaw = BOXES[i].tolist()
        assert (cube.type, text.type) == (KIND.CUBE, KIND.TEXT_VIEW_FACING)
        assert xyz(cube.pose.position) == (x, y, z)
        assert 2 * math.atan2(cube.pose.orientation.z, cube.pose.orientation.w) == pytest.approx(yaw)
        assert xyz(cube.scale) == (length, width or 0.01, height)
        red, green, blue = (value / 255 for value in class_colour(CLASSES[i]))
        assert rgba(cube)[:3] == rgba(text)[:3] == pytest.approx((red, green, blue))
        assert 0 < cube.color.a < 1 == text.color.a
        assert xyz(text.pose.position)[:2] == (x, y)
        assert z + height / 2 < text.pose.position.z < z + height / 2 + 1
        assert text.scale.z > 0
    assert [text.text for text in texts] == ["car 0.88", "pedestrian 0.50"]
    assert len({(marker.ns, marker.id) for marker in markers}) == 4


def test_ids_are_in_the_text():
    markers = box_markers(DETECTIONS, CLASSES, ["17", "4"])
    assert [marker.text for marker in markers[1::2]] == ["car 17 0.88", "pedestrian 4 0.50"]


@pytest.mark.parametrize("columns", [2, 3])
def test_a_line_for_each_path(columns):
    paths = np.random.default_rng(0).normal(0, 9, (2, 31, columns))
    colours = [(255, 0, 51), (0, 102, 255)]
    markers = read(encode_markers(path_markers(paths, colours, width_m=0.5, alpha=0.25), STAMP_NS, "map"))
    assert [marker.type for marker in markers] == [KIND.LINE_STRIP] * 2
    assert {(*xyz(marker.pose.position), marker.pose.orientation.w) for marker in markers} == {(0, 0, 0, 1)}
    for marker, path, colour in zip(markers, paths, colours, strict=True):
        points = np.array([xyz(point) for point in marker.points])
        np.testing.assert_array_equal(points[:, :columns], path)
        assert columns == 3 or not points[:, 2].any()
        assert marker.scale.x == 0.5
        assert marker.pose.orientation.w == 1
        assert rgba(marker) == pytest.approx((*(value / 255 for value in colour), 0.25))
    assert len({(marker.ns, marker.id) for marker in markers}) == 2


def test_a_line_is_thin_by_default():
    (line,) = path_markers(np.zeros((1, 2, 2)), [(255, 0, 0)])
    assert 0.05 <= line.scale[0] <= 0.3


def test_boxes_and_paths_share_one_array():
    markers = box_markers(DETECTIONS, CLASSES) + path_markers(np.zeros((3, 2, 2)), COLOURS[:3])
    assert len({(m.ns, m.id) for m in read(encode_markers(markers, STAMP_NS, "map"))}) == 7


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("labels", lambda: box_markers(DETECTIONS, CLASSES[:1])),
        ("labels", lambda: box_markers(replace(DETECTIONS, labels=np.array([0, -1])), CLASSES)),
        ("ids", lambda: box_markers(DETECTIONS, CLASSES, ["1"])),
        ("paths", lambda: path_markers(np.zeros((2, 5)), COLOURS[:2])),
        ("paths", lambda: path_markers(np.zeros((2, 5, 4)), COLOURS[:2])),
        ("paths", lambda: path_markers(np.zeros((2, 1, 2)), COLOURS[:2])),
        ("paths", lambda: path_markers(np.full((2, 5, 2), np.nan), COLOURS[:2])),
        ("colours", lambda: path_markers(np.zeros((2, 5, 2)), COLOURS)),
    ],
)
def test_what_cannot_be_shown_names_the_field(field, make):
    with pytest.raises(CodecError) as error:
        make()
    assert error.value.field == field


def test_rclpy_reads_it():
    messages = pytest.importorskip("visualization_msgs.msg", reason="visualization_msgs is not installed")
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    markers = box_markers(DETECTIONS, CLASSES) + path_markers(np.ones((1, 4, 3)), COLOURS[:1])
    raw = encode_markers(markers, STAMP_NS, "lidar")
    msg = serialization.deserialize_message(raw, messages.MarkerArray)
    assert [marker.type for marker in msg.markers] == [0, 1, 9, 1, 9, 4]
    assert msg.markers[2].text == "car 0.88"
    assert len(msg.markers[5].points) == 4
