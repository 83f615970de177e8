"""Detections2D to serialized vision_msgs/Detection2DArray and back, against rosbags' own serializer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_rt.codec import DetectionEncoder, decode_detections, decode_named_detections
from perception_rt.types import CodecError, Detections2D

STORE = get_typestore(Stores.ROS2_JAZZY)
for _file in (Path(__file__).parents[2] / "interfaces" / "vision_msgs" / "msg").glob("*.msg"):
    STORE.register(get_types_from_msg(_file.read_text(), f"vision_msgs/msg/{_file.stem}"))
ARRAY = "vision_msgs/msg/Detection2DArray"
STAMP_NS = 1_700_000_000_123_456_789
CLASSES = ("car", "pedestrian", "cyclist", "", "Ampel (rot) \N{VERTICAL TRAFFIC LIGHT}")
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def new(name, *fields):
    return STORE.types[name](*fields)


def message(detections, frame_id="camera", ids=None, classes=CLASSES):
    """The message as a node would build it, object by object."""
    stamp = new("builtin_interfaces/msg/Time", *divmod(STAMP_NS, 10**9))
    header = new("std_msgs/msg/Header", stamp, frame_id)
    pose = new(
        "geometry_msgs/msg/PoseWithCovariance",
        new(
            "geometry_msgs/msg/Pose",
            new("geometry_msgs/msg/Point", 0.0, 0.0, 0.0),
            new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0),
        ),
        np.zeros(36),
    )
    array = []
    for i in range(len(detections)):
        x1, y1, x2, y2 = detections.xyxy[i].tolist()
        theta = 0.0 if detections.theta is None else detections.theta[i].item()
        score = detections.scores[i].item()
        hypothesis = new("vision_msgs/msg/ObjectHypothesis", classes[detections.labels[i]], score)
        result = new("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis, pose)
        centre = new("vision_msgs/msg/Point2D", (x1 + x2) / 2, (y1 + y2) / 2)
        box = new(
            "vision_msgs/msg/BoundingBox2D", new("vision_msgs/msg/Pose2D", centre, theta), x2 - x1, y2 - y1
        )
        array.append(new("vision_msgs/msg/Detection2D", header, [result], box, ids[i] if ids else ""))
    return new(ARRAY, header, array)


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, ARRAY, little_endian=little))


def make(count, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 1900, (count, 2))
    xyxy = np.hstack([low, low + rng.uniform(0, 500, (count, 2))]).astype(np.float32)
    return Detections2D(xyxy, rng.random(count, np.float32), rng.integers(0, classes, count))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


@given(
    st.integers(0, 12), NAMES, st.lists(NAMES, min_size=12, max_size=12), st.booleans(), st.integers(0, 99)
)
@settings(max_examples=300, deadline=None)
def test_bytes_equal_those_of_message_objects(count, frame_id, ids, with_ids, seed):
    detections = make(count, seed=seed)
    ids = ids[:count] if with_ids else None
    raw = DetectionEncoder(CLASSES).encode(detections, STAMP_NS, frame_id, ids)
    assert raw == serialized(message(detections, frame_id, ids))


@given(st.integers(0, 12), NAMES, st.sampled_from(["object", "little", "big"]), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_same_detections(count, frame_id, form, seed):
    detections = make(count, seed=seed)
    msg = message(detections, frame_id)
    source = msg if form == "object" else serialized(msg, form == "little")
    stamp_ns, frame, decoded = decode_detections(source, CLASSES)
    assert (stamp_ns, frame) == (STAMP_NS, frame_id)
    assert_same(decoded, detections)


def test_one_encoder_serves_frames_and_sizes_in_turn():
    encoder = DetectionEncoder(CLASSES)
    for count, frame_id in ((300, "front"), (1, "rear_left"), (0, "front"), (2, ""), (300, "front")):
        detections = make(count)
        assert encoder.encode(detections, STAMP_NS, frame_id) == serialized(message(detections, frame_id))


@given(st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_bytes_are_an_error(little, data):
    raw = serialized(message(make(3), ids=["7", "", "a long id"]), little)
    with pytest.raises(CodecError):
        decode_detections(raw[: data.draw(st.integers(0, len(raw) - 1))], CLASSES)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_never_raise_anything_else(data):
    raw = bytearray(serialized(message(make(2))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, _, decoded = decode_detections(raw, CLASSES)
    except CodecError:
        return
    assert np.isfinite(decoded.xyxy).all()


@pytest.mark.parametrize("label", [-1, 5])
def test_label_without_a_class_is_refused(label):
    detections = replace(make(2), labels=np.array([0, label]))
    with pytest.raises(CodecError) as error:
        DetectionEncoder(CLASSES).encode(detections, STAMP_NS, "camera")
    assert error.value.field == "labels"


def test_ids_must_be_one_per_detection():
    with pytest.raises(CodecError, match="ids"):
        DetectionEncoder(CLASSES).encode(make(2), STAMP_NS, "camera", ["1"])


def test_unknown_class_is_refused():
    with pytest.raises(CodecError, match="class_id='car'"):
        decode_detections(message(make(1, classes=1)), ["lorry"])


@given(st.integers(0, 12), st.sampled_from(["object", "little", "big"]), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_classes_not_known_before_come_with_the_detections(count, form, seed):
    detections = make(count, seed=seed)
    ids = [f"{i}" for i in range(count)]
    msg = message(detections, "camera", ids)
    named = decode_named_detections(msg if form == "object" else serialized(msg, form == "little"))
    assert (named.stamp_ns, named.frame_id, named.ids) == (STAMP_NS, "camera", ids)
    assert named.classes == tuple(dict.fromkeys(CLASSES[label] for label in detections.labels))
    labels = np.array([CLASSES.index(named.classes[label]) for label in named.detections.labels], np.int64)
    assert_same(replace(named.detections, labels=labels), detections)


def test_turned_boxes_keep_their_angle_and_are_upright_to_who_does_not_know_the_classes():
    turned = replace(make(3), theta=np.float32([0.0, 0.5, -1.2]))
    raw = DetectionEncoder(CLASSES).encode(turned, STAMP_NS, "camera")
    assert raw == serialized(message(turned))
    decoded = decode_detections(raw, CLASSES)[2]
    assert_same(decoded, turned)
    np.testing.assert_array_equal(decoded.theta, turned.theta)
    found = decode_named_detections(raw).detections
    assert found.theta is None
    np.testing.assert_array_equal(found.xyxy[0], turned.xyxy[0])
    np.testing.assert_allclose(found.xyxy, turned.upright().xyxy)
    width, height = (turned.xyxy[1, 2:] - turned.xyxy[1, :2]).tolist()
    expected = width * np.cos(0.5) + height * np.sin(0.5)
    assert found.xyxy[1, 2] - found.xyxy[1, 0] == pytest.approx(expected, rel=1e-4)


def test_the_best_of_several_hypotheses_counts():
    msg = message(make(3, classes=1))
    first, second = msg.detections[0], msg.detections[1]
    first.results[0].hypothesis.score = 0.25
    second.results[0].hypothesis.score = 0.75
    second.results[0].hypothesis.class_id = "cyclist"
    first.results.extend(second.results)
    for source in (msg, serialized(msg)):
        _, _, decoded = decode_detections(source, CLASSES)
        assert (decoded.labels[0], decoded.scores[0]) == (2, 0.75)


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("results", lambda d: d.results.clear()),
        ("theta", lambda d: setattr(d.bbox.center, "theta", float("nan"))),
        ("size_x, size_y", lambda d: setattr(d.bbox, "size_y", -1.0)),
        ("bbox", lambda d: setattr(d.bbox, "size_x", float("nan"))),
        ("bbox", lambda d: setattr(d.bbox.center.position, "x", 1e300)),
        ("score", lambda d: setattr(d.results[0].hypothesis, "score", float("inf"))),
    ],
)
def test_numbers_that_make_no_detection_are_refused(field, spoil):
    msg = message(make(2))
    spoil(msg.detections[1])
    for source in (msg, serialized(msg)):
        with pytest.raises(CodecError) as error:
            decode_detections(source, CLASSES)
        assert error.value.field == field


def test_other_objects_are_refused():
    with pytest.raises(CodecError, match="not a vision_msgs/Detection2DArray"):
        decode_detections(new("builtin_interfaces/msg/Time", 0, 0), CLASSES)


def test_message_of_rclpy():
    messages = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    detections = make(5)
    raw = DetectionEncoder(CLASSES).encode(detections, STAMP_NS, "camera")
    msg = serialization.deserialize_message(raw, messages.Detection2DArray)
    assert msg.detections[4].results[0].pose.pose.orientation.w == 1.0
    assert msg.detections[4].results[0].hypothesis.class_id == CLASSES[detections.labels[4]]
    assert_same(decode_detections(msg, CLASSES)[2], detections)
    assert_same(decode_detections(serialization.serialize_message(msg), CLASSES)[2], detections)
