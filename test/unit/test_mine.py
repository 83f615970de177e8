"""replay --mine: the moments where two sides disagree, with pictures and labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from perception_rt.codec import Detection3DEncoder, DetectionEncoder, encode_image
from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.kitti import read_object_labels
from perception_rt.replay.mine import (
    CAMERA_LIDAR,
    DETECTOR_TRACKER,
    HEALTH,
    MinedMoment,
    check_count,
    choose_moments,
    mine,
)
from perception_rt.train.dataset.labels import Problems
from perception_rt.train.dataset.read import read_dataset
from perception_rt.types import ConfigError, Detections2D, Detections3D
from perception_rt.types.status import Level, Status

from .test_export_formats import ARRAY_2D, ARRAY_3D, BOX, IMAGE, MS, S, camera_info, transform

CAMERA, LIDAR, TRACKS = "/camera_detector/detections", "/lidar_detector/detections", "/object_tracker/tracks"
CLOUD = "sensor_msgs/msg/PointCloud2"
SEEN = np.array([[50, 40, 92, 68]], np.float32)  # about where BOX is in the image
METRICS = {
    "bag": {"topics": {"/image_raw": {"type": IMAGE}, "/points": {"type": CLOUD}}},
    "streams": {
        "a": {"node": "/camera_detector", "topic": "/image_raw"},
        "b": {"node": "/lidar_detector", "topic": "/points"},
        "c": {"node": "/object_tracker", "topic": LIDAR},
    },
    "outputs": {
        CAMERA: {"type": ARRAY_2D, "node": "/camera_detector"},
        LIDAR: {"type": ARRAY_3D, "node": "/lidar_detector"},
        TRACKS: {"type": ARRAY_3D, "node": "/object_tracker"},
    },
}


@pytest.fixture
def run(tmp_path) -> tuple[Path, Path]:
    """Four moments a second apart: all agree but the camera in the second, and the tracker in the third."""
    recording, folder = tmp_path / "recording", tmp_path / "run"
    flat, space = DetectionEncoder(("car",)), Detection3DEncoder(("car",))
    folder.mkdir()
    with BagWriter(recording) as bag, BagWriter(folder / "bag") as out:
        bag.write("/tf_static", "tf2_msgs/msg/TFMessage", S, transform())
        bag.write("/camera_info", "sensor_msgs/msg/CameraInfo", S, camera_info())
        for number in range(4):
            stamp = (number + 1) * S
            pixels = np.full((120, 160, 3), 50 + number, np.uint8)
            bag.write("/image_raw", IMAGE, stamp, encode_image(pixels, "rgb8", stamp, "camera"))
            one, first = np.ones(1, np.float32) * 0.9, np.zeros(1, np.int64)
            found = Detections2D.empty() if number == 1 else Detections2D(SEEN, one, first)
            out.write(CAMERA, ARRAY_2D, stamp, flat.encode(found, stamp, "camera"))
            boxes = Detections3D(BOX, one, first)
            out.write(LIDAR, ARRAY_3D, stamp, space.encode(boxes, stamp + 10 * MS, "lidar"))
            away = np.array([[20 if number == 2 else 0, 0, 0, 0, 0, 0, 0]], np.float32)
            moved = Detections3D(BOX + away, one, first)
            out.write(TRACKS, ARRAY_3D, stamp, space.encode(moved, stamp + 10 * MS, "lidar", ["3"]))
            level, text = (Level.ERROR, "frozen") if number == 3 else (Level.OK, "well")
            told = [Status("sensor_health: /image_raw", level, text, "", {})]
            told.append(Status("other: /image_raw", Level.ERROR, "broken", "", {}))
            data = encode_diagnostics(told, stamp)
            out.write("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", stamp, data)
    return folder, recording


def test_the_moments_of_disagreement_are_found_drawn_and_labelled(run):
    folder, recording = run
    moments = mine(folder, recording, METRICS, 5)
    assert [(one.kind, one.stamp_ns // S) for one in moments] == [
        (CAMERA_LIDAR, 2),
        (DETECTOR_TRACKER, 3),
        (HEALTH, 4),
    ]
    assert moments[0].score == pytest.approx(0.9)
    assert moments[0].detail == f"only {LIDAR}: car 0.90"
    assert moments[1].detail == f"only {LIDAR}: car 0.90; only {TRACKS}: car 0.90"
    assert moments[2].detail == "sensor_health: /image_raw: frozen"
    out = folder / "mined"
    listed = json.loads((out / "moments.json").read_text())
    assert [one["stamp_ns"] for one in listed] == [2 * S, 3 * S + 10 * MS, 4 * S]
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 3
    drawn = cv2.imread(str(pictures[0]))
    assert drawn.shape == (2 * (120 + 28), 160, 3)
    assert (drawn[30:148] == 51).mean() > 0.95  # the camera saw nothing
    assert (drawn[178:] != 51).mean() > 0.05  # the lidar's box is drawn
    labels = COCO(str(out / "coco" / "camera_detector_detections.json"))
    assert sorted(labels.imgs) == [2, 3, 4]
    assert [len(labels.getAnnIds(imgIds=[number])) for number in (2, 3, 4)] == [0, 1, 1]
    assert (cv2.imread(str(out / "coco" / "images" / labels.imgs[2]["file_name"])) == 51).all()
    kitti = out / "kitti" / "lidar_detector_detections"
    (label,) = kitti.glob("label_2/*/000001.txt")
    (image,) = kitti.glob("image_2/*/000001.png")
    assert label.parent.name == image.parent.name
    np.testing.assert_allclose(read_object_labels(label).hwlxyz_ry[0, :3], [1.5, 2.0, 4.0], atol=1e-3)


def test_fewer_are_the_strongest_and_a_second_call_replaces_the_first(run):
    folder, recording = run
    assert len(mine(folder, recording, METRICS, 3)) == 3
    (only,) = mine(folder, recording, METRICS, 1)
    assert only.kind == HEALTH
    assert len(list((folder / "mined" / "pictures").iterdir())) == 1


def test_a_leading_slash_of_the_cameras_frame_hides_no_disagreement(run):
    folder, recording = run
    slashed, flat = folder.with_name("slashed"), DetectionEncoder(("car",))
    with BagWriter(slashed / "bag") as bag, Bag(folder / "bag") as old:
        for message in old.messages():
            data = message.data
            if message.topic == CAMERA:
                data = flat.encode(Detections2D.empty(), message.log_ns, "/camera")
            bag.write(message.topic, message.message_type, message.log_ns, data)
    assert CAMERA_LIDAR in {one.kind for one in mine(slashed, recording, METRICS, 5)}


def test_an_image_that_cannot_be_decoded_gives_way_to_its_neighbour(run):
    folder, recording = run
    damaged = recording.with_name("damaged")
    with BagWriter(damaged) as bag, Bag(recording) as old:
        for message in old.messages():
            broken = message.topic == "/image_raw" and message.log_ns in (S, 2 * S)
            data = message.data[:80] if broken else message.data
            bag.write(message.topic, message.message_type, message.log_ns, data)
    moments = mine(folder, damaged, METRICS, 5)
    assert [one.kind for one in moments] == [CAMERA_LIDAR, DETECTOR_TRACKER, HEALTH]
    drawn = cv2.imread(str(min((folder / "mined" / "pictures").iterdir())))
    assert (drawn[30:148] == 52).mean() > 0.95  # the third image
    assert sorted(COCO(str(folder / "mined" / "coco" / "camera_detector_detections.json")).imgs) == [3, 4]


def test_a_fault_of_a_graph_without_cameras_has_a_plain_picture(run):
    folder, recording = run
    lidar = folder.with_name("lidar_only")
    with BagWriter(lidar / "bag") as bag, Bag(folder / "bag") as old:
        for message in old.messages([LIDAR, "/diagnostics"]):
            bag.write(message.topic, message.message_type, message.log_ns, message.data)
    blind = recording.with_name("no_camera")
    with BagWriter(blind) as bag:
        bag.write("/tf_static", "tf2_msgs/msg/TFMessage", S, transform())
    (only,) = mine(lidar, blind, {**METRICS, "outputs": {LIDAR: METRICS["outputs"][LIDAR]}}, 5)
    assert only.kind == HEALTH
    (picture,) = (lidar / "mined" / "pictures").iterdir()
    assert cv2.imread(str(picture)).shape == (28 + 64, 640, 3)


@given(
    st.lists(
        st.builds(
            MinedMoment,
            st.sampled_from([CAMERA_LIDAR, DETECTOR_TRACKER, HEALTH]),
            st.integers(0, 10 * S),
            st.floats(0, 9),
            st.just(""),
        )
    ),
    st.integers(1, 9),
)
def test_moments_of_a_kind_are_apart_and_the_strongest_is_there(found, count):
    chosen = choose_moments(found, count)
    assert len(chosen) <= count
    assert [one.stamp_ns for one in chosen] == sorted(one.stamp_ns for one in chosen)
    for one in chosen:
        assert one.score > 0
        assert all(
            abs(one.stamp_ns - other.stamp_ns) >= S // 2
            for other in chosen
            if other is not one and other.kind == one.kind
        )
    kinds = {one.kind for one in found if one.score > 0}
    for kind in kinds if count >= len(kinds) else ():
        best = max(one.score for one in found if one.kind == kind)
        assert best in {one.score for one in chosen if one.kind == kind}


@pytest.mark.parametrize("count", [0, 1001, -3])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ConfigError, match=f"--mine={count}: must be from 1 to 1000"):
        check_count(count)
    check_count(None)


def test_boxes_of_the_recording_are_labels_too_and_training_reads_them(run):
    folder, recording = run
    truth, flat = "/simulator/truth", DetectionEncoder(("cyclist",))
    labelled = recording.with_name("labelled")
    with BagWriter(labelled) as bag, Bag(recording) as old:
        for message in old.messages():
            bag.write(message.topic, message.message_type, message.log_ns, message.data)
        for number in range(4):
            stamp, shift = (number + 1) * S, np.float32([[number, 0, number, 0]])
            found = Detections2D(SEEN + shift, np.ones(1, np.float32), np.zeros(1, np.int64))
            bag.write(truth, ARRAY_2D, stamp, flat.encode(found, stamp, "camera"))
    mine(folder, labelled, METRICS, 5)
    mined = folder / "mined"
    dataset = read_dataset(mined / "coco" / "simulator_truth.json", problems := Problems(mined))
    assert [frame.names for frame in dataset.frames] == [("cyclist",)] * 3
    assert [frame.xyxy[0, 0] for frame in dataset.frames] == [51, 52, 53]
    dataset = read_dataset(mined / "kitti" / "simulator_truth", problems)
    assert [frame.names for frame in dataset.frames] == [("cyclist",)] * 3
    assert not problems.count
    with pytest.raises(ConfigError, match=r"files of labels: give one of .*simulator_truth\.json"):
        read_dataset(mined, problems)
