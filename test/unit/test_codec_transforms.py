"""tf2_msgs/TFMessage to transforms, from rosbags' serializer and from a recording."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import parse_transforms
from perception_rt.types import CodecError

STORE = get_typestore(Stores.ROS2_KILTED)
TF = "tf2_msgs/msg/TFMessage"
STAMP_NS = 1_700_000_000_123_456_789
NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=12)
NUMBERS = st.floats(-1e6, 1e6)
ROTATION = (0.5, -0.5, 0.5, 0.5)


def new(name, *fields):
    return STORE.types[name](*fields)


def message(*rows):
    """Of (stamp_ns, parent, child, translation, rotation)."""
    return new(
        TF,
        [
            new(
                "geometry_msgs/msg/TransformStamped",
                new("std_msgs/msg/Header", new("builtin_interfaces/msg/Time", *divmod(stamp, 10**9)), parent),
                child,
                new(
                    "geometry_msgs/msg/Transform",
                    new("geometry_msgs/msg/Vector3", *translation),
                    new("geometry_msgs/msg/Quaternion", *rotation),
                ),
            )
            for stamp, parent, child, translation, rotation in rows
        ],
    )


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, TF, little_endian=little))


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**31 * 10**9 - 1), NAMES, NAMES, st.tuples(*[NUMBERS] * 3), st.just(ROTATION)
    ).filter(lambda row: row[1] != row[2]),
    max_size=4,
)


@given(ROWS, st.sampled_from(["object", "little", "big"]))
@settings(max_examples=200, deadline=None)
def test_transforms_in_their_order(rows, form):
    msg = message(*rows)
    transforms = parse_transforms(msg if form == "object" else serialized(msg, form == "little"))
    assert len(transforms) == len(rows)
    for transform, (stamp_ns, parent, child, translation, rotation) in zip(transforms, rows, strict=True):
        assert (transform.stamp_ns, transform.parent, transform.child) == (stamp_ns, parent, child)
        assert transform.translation.dtype == transform.quaternion.dtype == np.float64
        np.testing.assert_array_equal(transform.translation, translation)
        np.testing.assert_allclose(transform.quaternion, rotation, rtol=1e-15)


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(any), st.sampled_from([1e-160, 0.3, 1.0, 1e200]))
def test_quaternion_has_length_1_and_keeps_its_direction(rotation, scale):
    scaled = [number * scale for number in rotation]
    if not any(scaled):
        return
    (transform,) = parse_transforms(message((0, "map", "base", (0.0,) * 3, scaled)))
    assert np.linalg.norm(transform.quaternion) == pytest.approx(1, abs=1e-15)
    largest = np.abs(rotation).argmax()
    np.testing.assert_allclose(
        transform.quaternion / transform.quaternion[largest],
        np.array(rotation) / rotation[largest],
        atol=1e-12,
    )


def test_leading_slash_is_dropped():
    (transform,) = parse_transforms(message((0, "/map", "/base", (0.0,) * 3, ROTATION)))
    assert (transform.parent, transform.child) == ("map", "base")


@given(st.booleans(), st.data())
def test_truncated_bytes_are_an_error(little, data):
    raw = serialized(message(*[(1, "map", "base", (1.0, 2.0, 3.0), ROTATION)] * 2), little)
    with pytest.raises(CodecError):
        parse_transforms(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_never_raise_anything_else(data):
    raw = bytearray(serialized(message(*[(1, "map", "base", (1.0, 2.0, 3.0), ROTATION)] * 2)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        transforms = parse_transforms(raw)
    except CodecError:
        return
    for transform in transforms:
        assert np.isfinite(transform.translation).all()
        assert np.linalg.norm(transform.quaternion) == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("translation", (0, "map", "base", (0.0, math.nan, 0.0), ROTATION)),
        ("translation", (0, "map", "base", (0.0, 0.0, -math.inf), ROTATION)),
        ("rotation", (0, "map", "base", (0.0,) * 3, (0.0,) * 4)),
        ("rotation", (0, "map", "base", (0.0,) * 3, (0.0, math.nan, 0.0, 1.0))),
        ("rotation", (0, "map", "base", (0.0,) * 3, (0.0, 0.0, 0.0, math.inf))),
        ("frame_id", (0, "", "base", (0.0,) * 3, ROTATION)),
        ("child_frame_id", (0, "map", "/", (0.0,) * 3, ROTATION)),
        ("child_frame_id", (0, "map", "/map", (0.0,) * 3, ROTATION)),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_is_no_transform_names_the_field(field, row, as_bytes):
    msg = message((0, "map", "odom", (0.0,) * 3, ROTATION), row)
    with pytest.raises(CodecError) as error:
        parse_transforms(serialized(msg) if as_bytes else msg)
    assert error.value.field == field
    refused = []
    (kept,) = parse_transforms(serialized(msg) if as_bytes else msg, refused.append)
    assert (kept.child, [one.field for one in refused]) == ("odom", [field])


@pytest.mark.parametrize("source", [None, "text", object()])
def test_other_objects_are_refused(source):
    with pytest.raises(CodecError, match="not a tf2_msgs/TFMessage"):
        parse_transforms(source)


def test_recorded_static_transform(shared_data):
    """KITTI's camera looks forward, a hand's breadth off the place that the car's drawing gives."""
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    with rosbag2.Reader(shared_data / "bags" / "kitti_city") as bag:
        connections = [c for c in bag.connections if c.topic == "/tf_static"]
        raw = [raw for _, _, raw in bag.messages(connections)]
    (transform,) = parse_transforms(raw[0])
    assert (transform.parent, transform.child) == ("velodyne", "camera_front")
    x, y, z, w = transform.quaternion
    optical_axis = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
    np.testing.assert_allclose(optical_axis, [1, 0, 0], atol=0.03)  # the camera looks forward
    np.testing.assert_allclose(transform.translation, [0.27, 0.06, -0.07], atol=0.08)
