"""Detections3D to serialized vision_msgs/Detection3DArray and back, against rosbags' own serializer."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from perception_rt.codec import Detection3DEncoder, decode_detections3d, decode_named_detections3d
from perception_rt.types import CodecError, Detections3D

STORE = get_typestore(Stores.ROS2_KILTED)
for _file in (Path(__file__).parents[2] / "interfaces" / "vision_msgs" / "msg").glob("*.msg"):
    STORE.register(get_types_from_msg(_file.read_text(), f"vision_msgs/msg/{_file.stem}"))
ARRAY = "vision_msgs/msg/Detection3DArray"
STAMP_NS = 1_700_000_000_123_456_789
CLASSES = ("car", "pedestrian", "cyclist", "", "Ampel (rot) \N{VERTICAL TRAFFIC LIGHT}")
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def new(name, *fields):
    return STORE.types[name](*fields)


def header(stamp_ns, frame_id):
    return new("std_msgs/msg/Header", new("builtin_interfaces/msg/Time", *divmod(stamp_ns, 10**9)), frame_id)


def message(detections, frame_id="lidar", ids=None, covariances=None, stamps_ns=None):
    """The message as a node would build it, object by object."""
    halves = detections.xyzlwh_yaw[:, 6].astype(np.float64) / 2
    sines, cosines = np.sin(halves).tolist(), np.cos(halves).tolist()
    array = []
    for i in range(len(detections)):
        x, y, z, length, width, height, _ = detections.xyzlwh_yaw[i].tolist()
        position = new("geometry_msgs/msg/Point", x, y, z)
        pose = new(
            "geometry_msgs/msg/Pose",
            position,
            new("geometry_msgs/msg/Quaternion", 0.0, 0.0, sines[i], cosines[i]),
        )
        name = CLASSES[detections.labels[i]]
        hypothesis = new("vision_msgs/msg/ObjectHypothesis", name, detections.scores[i].item())
        covariance = np.zeros(36) if covariances is None else covariances[i]
        result = new(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis,
            new("geometry_msgs/msg/PoseWithCovariance", pose, covariance),
        )
        size = new("geometry_msgs/msg/Vector3", length, width, height)
        box = new("vision_msgs/msg/BoundingBox3D", pose, size)
        head = header(stamps_ns[i] if stamps_ns else STAMP_NS, frame_id)
        array.append(new("vision_msgs/msg/Detection3D", head, [result], box, ids[i] if ids else ""))
    return new(ARRAY, header(STAMP_NS, frame_id), array)


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, ARRAY, little_endian=little))


def make(count, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        [rng.normal(0, 30, (count, 3)), rng.uniform(0, 5, (count, 3)), rng.uniform(-3.1, 3.1, count)]
    )
    scores = rng.random(count, np.float32)
    return Detections3D(boxes.astype(np.float32), scores, rng.integers(0, classes, count))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.xyzlwh_yaw[:, :6], theirs.xyzlwh_yaw[:, :6])
    np.testing.assert_allclose(ours.xyzlwh_yaw[:, 6], theirs.xyzlwh_yaw[:, 6], atol=3e-7)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


@given(st.integers(0, 12), NAMES, st.lists(NAMES, min_size=12, max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_equal_those_of_message_objects(count, frame_id, ids, data):
    detections = make(count, seed=data.draw(st.integers(0, 99)))
    ids = ids[:count] if data.draw(st.booleans()) else None
    rng = np.random.default_rng(count)
    covariances = rng.normal(size=(count, 36)) if data.draw(st.booleans()) else None
    stamps_ns = (
        [STAMP_NS + 10**8 * (i % 5) - 2 * 10**18 for i in range(count)] if data.draw(st.booleans()) else None
    )
    raw = Detection3DEncoder(CLASSES).encode(
        detections, STAMP_NS, frame_id, ids, covariances=covariances, stamps_ns=stamps_ns
    )
    assert raw == serialized(message(detections, frame_id, ids, covariances, stamps_ns))


def test_orientation_is_the_yaw_about_z():
    detections = replace(make(3), xyzlwh_yaw=np.array([[0] * 6 + [yaw] for yaw in (0, 0.5, -3)], np.float32))
    raw = Detection3DEncoder(CLASSES).encode(detections, STAMP_NS, "lidar")
    msg = STORE.deserialize_cdr(raw, ARRAY)
    for detection, yaw in zip(msg.detections, (0, 0.5, -3), strict=True):
        turn = detection.bbox.center.orientation
        assert (turn.x, turn.y) == (0, 0)
        assert (turn.z, turn.w) == pytest.approx((math.sin(yaw / 2), math.cos(yaw / 2)), abs=1e-15)
        assert detection.results[0].pose.pose.orientation == turn


@given(
    st.integers(0, 12), NAMES, st.sampled_from(["object", "little", "big"]), st.booleans(), st.integers(0, 99)
)
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_same_detections(count, frame_id, form, with_ids, seed):
    detections = make(count, seed=seed)
    ids = [f"track {i}" for i in range(count)] if with_ids else None
    msg = message(detections, frame_id, ids)
    source = msg if form == "object" else serialized(msg, form == "little")
    stamp_ns, frame, decoded, read_ids = decode_detections3d(source, CLASSES)
    assert (stamp_ns, frame, read_ids) == (STAMP_NS, frame_id, ids or [""] * count)
    assert_same(decoded, detections)
    named = decode_named_detections3d(source)
    assert (named.stamp_ns, named.frame_id, named.ids) == (STAMP_NS, frame_id, read_ids)
    assert named.classes == tuple(dict.fromkeys(CLASSES[label] for label in detections.labels))
    labels = np.array([CLASSES.index(named.classes[label]) for label in named.detections.labels], np.int64)
    assert_same(replace(named.detections, labels=labels), detections)


def test_covariances_of_the_plane_and_stamps_are_read():
    covariances = np.random.default_rng(0).normal(size=(4, 36))
    stamps = [STAMP_NS + k for k in range(4)]
    raw = Detection3DEncoder(CLASSES).encode(
        make(4), STAMP_NS, "map", list("abcd"), covariances=covariances, stamps_ns=stamps
    )
    for source in (raw, STORE.deserialize_cdr(raw, ARRAY)):
        named = decode_named_detections3d(source)
        plane = covariances.reshape(4, 6, 6)[:, [0, 1, 5]][:, :, [0, 1, 5]]
        np.testing.assert_array_equal(named.covariance, plane)
        assert named.stamps_ns == stamps


@pytest.mark.parametrize(("roll", "pitch"), [(0.004, 0.004), (-0.004, 0.004), (0.0, -0.008)])
def test_the_yaw_of_a_slightly_tilted_box_is_that_of_its_axes(roll, pitch):
    turn = Rotation.from_euler("ZYX", [2.5, pitch, roll])
    msg = message(make(1))
    orientation = msg.detections[0].bbox.center.orientation
    orientation.x, orientation.y, orientation.z, orientation.w = turn.as_quat()
    _, _, found, _ = decode_detections3d(msg, CLASSES)
    assert found.xyzlwh_yaw[0, 6] == pytest.approx(2.5, abs=1e-6)


@given(st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_bytes_are_an_error(little, data):
    raw = serialized(message(make(3), ids=["7", "", "a long id"]), little)
    with pytest.raises(CodecError):
        decode_detections3d(raw[: data.draw(st.integers(0, len(raw) - 1))], CLASSES)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_never_raise_anything_else(data):
    raw = bytearray(serialized(message(make(2))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_named_detections3d(raw).detections
    except CodecError:
        return
    assert np.isfinite(decoded.xyzlwh_yaw).all()


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("ids", {"ids": ["1"]}),
        ("stamps_ns", {"stamps_ns": [1, 2, 3]}),
        ("stamp_ns", {"stamps_ns": [1, 2**31 * 10**9]}),
        ("covariances", {"covariances": np.zeros((2, 35))}),
        ("covariances", {"covariances": np.zeros((3, 36))}),
        ("covariances", {"covariances": np.zeros((2, 6, 6))}),
    ],
)
def test_what_is_not_one_per_detection_is_refused(field, arguments):
    with pytest.raises(CodecError) as error:
        Detection3DEncoder(CLASSES).encode(make(2), STAMP_NS, "lidar", **arguments)
    assert error.value.field == field


def test_label_without_a_class_is_refused():
    with pytest.raises(CodecError, match="labels="):
        Detection3DEncoder(CLASSES[:2]).encode(replace(make(2), labels=np.array([0, 2])), STAMP_NS, "lidar")


def test_unknown_class_is_refused():
    with pytest.raises(CodecError, match="class_id='car'"):
        decode_detections3d(message(make(1, classes=1)), ["lorry"])


def quaternion(*xyzw):
    return lambda d: setattr(d.bbox.center, "orientation", new("geometry_msgs/msg/Quaternion", *xyzw))


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("results", lambda d: d.results.clear()),
        ("orientation", quaternion(0.1, 0.0, 0.0, 1.0)),
        ("orientation", quaternion(0.0, 0.01, 0.7, 0.7)),
        ("orientation", quaternion(1.0, 0.0, 0.0, 0.0)),
        ("orientation", quaternion(0.0, 0.0, 0.0, 0.0)),
        ("orientation", quaternion(0.0, 0.0, float("nan"), 1.0)),
        ("orientation", quaternion(0.0, 0.0, 0.0, float("inf"))),
        ("size", lambda d: setattr(d.bbox.size, "y", -1.0)),
        ("bbox", lambda d: setattr(d.bbox.size, "x", float("nan"))),
        ("bbox", lambda d: setattr(d.bbox.center.position, "z", 1e300)),
        ("score", lambda d: setattr(d.results[0].hypothesis, "score", float("inf"))),
    ],
)
def test_numbers_that_make_no_box_are_refused(field, spoil):
    msg = message(make(2))
    spoil(msg.detections[1])
    for source in (msg, serialized(msg)):
        with pytest.raises(CodecError) as error:
            decode_detections3d(source, CLASSES)
        assert error.value.field == field


@pytest.mark.parametrize("scale", [1e-200, 0.5, 1.0, -3.0, 1e200])
@pytest.mark.parametrize("yaw", [-math.pi, -3.0, -1.5, 0.0, 0.1, 2.9, math.pi])
def test_quaternion_of_any_length_and_sign_gives_the_yaw(yaw, scale):
    msg = message(make(1))
    z, w = scale * math.sin(yaw / 2), scale * math.cos(yaw / 2)
    quaternion(scale * 1e-6, -scale * 1e-6, z, w)(msg.detections[0])
    decoded = decode_detections3d(msg, CLASSES)[2].xyzlwh_yaw[0, 6]
    assert -math.pi - 1e-6 <= decoded <= math.pi + 1e-6
    assert math.remainder(decoded - yaw, 2 * math.pi) == pytest.approx(0, abs=1e-5)


def test_other_objects_are_refused():
    with pytest.raises(CodecError, match="not a vision_msgs/Detection3DArray"):
        decode_detections3d(new("builtin_interfaces/msg/Time", 0, 0), CLASSES)


def test_message_of_rclpy():
    messages = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    detections = make(5)
    covariances = np.arange(180.0).reshape(5, 36)
    raw = Detection3DEncoder(CLASSES).encode(
        detections, STAMP_NS, "lidar", list("abcde"), covariances=covariances
    )
    msg = serialization.deserialize_message(raw, messages.Detection3DArray)
    assert msg.detections[4].results[0].pose.pose == msg.detections[4].bbox.center
    assert msg.detections[4].results[0].hypothesis.class_id == CLASSES[detections.labels[4]]
    assert msg.detections[3].bbox.size.z == detections.xyzlwh_yaw[3, 5]
    np.testing.assert_array_equal(msg.detections[2].results[0].pose.covariance, covariances[2])
    for source in (msg, serialization.serialize_message(msg)):
        _, _, decoded, ids = decode_detections3d(source, CLASSES)
        assert ids == list("abcde")
        assert_same(decoded, detections)
