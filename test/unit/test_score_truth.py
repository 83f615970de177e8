"""Truth at any moment, between frames, and from topics and files."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception_rt.codec import Detection3DEncoder, DetectionEncoder
from perception_rt.codec.estimates import parse_estimates
from perception_rt.codec.transforms import Transform
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import typestore
from perception_rt.replay.score import BoxTruth, EgoTruth, Places, load_truth
from perception_rt.replay.score.places import moved
from perception_rt.replay.score.truth import Moment, latest
from perception_rt.types import BagError, ConfigError, Detections2D, Detections3D, TransformError
from test.drives import (
    IMAGE,
    ODOM,
    POINTS,
    START_NS,
    TOPICS,
    TRUTH,
    TRUTH_3D,
    TRUTH_ODOMETRY,
    write_bag,
    write_drive,
)

S = 1_000_000_000
ARRAY_3D = "vision_msgs/msg/Detection3DArray"
LABEL = "Car 0.00 0 0.0 100.0 150.0 200.0 250.0 1.5 1.8 4.2 2.0 1.6 20.0 -1.57"
CALIBRATION = """P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


def moment(stamp_ns: int, *rows) -> Moment:
    """Rows of (box, id)."""
    boxes = np.array([row[0] for row in rows], np.float64).reshape(len(rows), -1 if rows else 7)
    ids, labels = np.array([row[1] for row in rows], np.int64), np.zeros(len(rows), np.int64)
    return Moment(stamp_ns, boxes, labels, ids, np.zeros(len(rows), bool))


def box(x: float, yaw: float = 0.0) -> tuple[float, ...]:
    return (x, 0, 0, 4, 2, 1.5, yaw)


def truth_of(*moments: Moment) -> BoxTruth:
    return BoxTruth("t", "lidar", ("car",), moments, flat=False)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("drive") / "bag", seconds=0.5)


def test_a_box_moves_linearly_and_turns_the_short_way_round():
    truth = truth_of(moment(0, (box(0, 3.0), 1)), moment(S // 10, (box(1, -3.0), 1)))
    between = truth.at(S // 40)
    assert between.boxes[0, 0] == pytest.approx(0.25)
    assert between.boxes[0, 6] == pytest.approx(3.0 + 0.25 * (2 * math.pi - 6))
    assert truth.at(3 * S // 40).boxes[0, 6] == pytest.approx(-3.0 - 0.25 * (2 * math.pi - 6))
    assert truth.at(0) is truth.moments[0]


def test_what_has_no_id_or_no_partner_is_as_in_the_nearer_truth():
    truth = truth_of(moment(0, (box(0), -1), (box(5), 7)), moment(S // 10, (box(1), -1)))
    early, late = truth.at(S // 25), truth.at(3 * S // 50)
    assert early.boxes[:, 0].tolist() == [0, 5]
    assert late.boxes[:, 0].tolist() == [1]
    assert truth.at(S // 20).boxes[:, 0].tolist() == [0, 5]  # halfway: the earlier


def test_nothing_is_said_beyond_the_ends_and_in_long_gaps():
    truth = truth_of(moment(S, (box(0), 1)), moment(2 * S, (box(1), 1)))
    assert truth.at(S - 1) is None
    assert truth.at(2 * S + 1) is None
    assert truth.at(3 * S // 2) is None  # a second between truths
    assert truth.at(2 * S) is truth.moments[1]
    assert truth.nearest(S + 900, 1000) is truth.moments[0]
    assert truth.nearest(S + 1100, 1000) is None
    assert truth_of().at(0) is None


def test_the_latest_before_a_moment():
    assert [latest([10, 20, 20, 30], at) for at in (9, 10, 20, 29, 99)] == [-1, 0, 2, 2, 3]


def test_ego_between_truths_and_nan_beyond():
    poses = np.array([[0, 0, 3.0], [1, 2, 3.3], [9, 9, 3.3]])
    stamps = START_NS + np.array([0, S // 10, 3 * S])
    truth = EgoTruth("t", "map", stamps, poses, np.array([1.0, 2.0, 2.0]))
    at, speeds = truth.at(START_NS + np.array([-1, 0, S // 20, S // 10, S, 3 * S, 3 * S + 1]))
    np.testing.assert_allclose(at[2], [0.5, 1.0, 3.15], atol=1e-9)
    assert np.isnan(at[:, 0]).tolist() == [True, False, False, False, True, False, True]
    assert speeds[2] == pytest.approx(1.5)


def test_a_moving_frame_takes_truth_of_another_moment_to_where_it_is_seen():
    """A vehicle drives 1 m along x and turns by 90 degrees: what stood ahead of it is to its right then."""
    places = Places()
    turned = (0, 0, math.sin(math.pi / 4), math.cos(math.pi / 4))
    for stamp_ns, x, turn in ((0, 0, (0, 0, 0, 1)), (S, 1, turned)):
        places.add(Transform(stamp_ns, "odom", "base", np.array([x, 0, 0.0]), np.array(turn)), False)
    places.add(Transform(0, "base", "lidar", np.array([0, 0, 2.0]), np.array([0, 0, 0, 1.0])), True)
    matrix = places.between("lidar", S, "lidar", 0)
    (ahead,) = moved(matrix, np.array([[11.0, 0, 0, 4, 2, 1.5, 0.1]]))
    np.testing.assert_allclose(ahead, [0, -10, 0, 4, 2, 1.5, 0.1 - math.pi / 2], atol=1e-9)
    np.testing.assert_allclose(places.between("odom", S, "lidar", S)[:3, 3], [1, 0, 2], atol=1e-9)
    np.testing.assert_allclose(places.between("elsewhere", 5, "elsewhere", 9), np.eye(4))
    with pytest.raises(TransformError, match="not in one tree"):
        places.between("elsewhere", 0, "lidar", 0)
    with pytest.raises(TransformError, match="after the newest"):
        places.between("odom", 3 * S, "lidar", 3 * S)


def test_truth_of_topics(drive):
    with Bag(drive) as bag:
        (flat,), (solid,), (ego,) = (load_truth(topic, bag) for topic in (TRUTH, TRUTH_3D, TRUTH_ODOMETRY))
        assert Places.of(bag).refused == 0
    assert (flat.frame_id, flat.flat, len(flat.moments)) == ("camera_optical_frame", True, 5)
    assert (solid.frame_id, solid.flat, len(solid.moments)) == ("lidar", False, 5)
    assert solid.has_ids
    assert [m.stamp_ns - START_NS for m in solid.moments] == [k * S // 10 for k in range(5)]
    assert set(solid.classes) <= {"car", "pedestrian", "cyclist"}
    assert len(ego.stamps_ns) == 25
    assert np.abs(np.diff(ego.poses[:, 2])).max() < 0.1


def test_sources_that_cannot_be_used_say_why(drive, tmp_path):
    with Bag(drive) as bag:
        with pytest.raises(ConfigError, match=r"neither a path nor a topic.*ground_truth_3d"):
            load_truth("/nothing", bag)
        with pytest.raises(
            ConfigError, match=r"/camera/image_raw: sensor_msgs/msg/Image cannot be ground truth"
        ):
            load_truth(IMAGE, bag)
        with pytest.raises(BagError, match="no label files"):
            load_truth(str(tmp_path), bag)
        (tmp_path / "gt.txt").write_text("1,1,10,20,30,40,1\n6,1,10,20,30,40,1\n")
        with pytest.raises(BagError, match="labels frame 6, but /camera/image_raw has 5 messages"):
            load_truth(str(tmp_path / "gt.txt"), bag)
        with pytest.raises(ConfigError, match=r"/odom has no images"):
            load_truth(f"{ODOM}={tmp_path / 'gt.txt'}", bag)


def test_an_id_twice_in_one_array_is_refused(tmp_path):
    two = Detections2D(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int64))
    data = DetectionEncoder(("car",)).encode(two, START_NS, "camera", ["3", "3"])
    folder = write_bag(tmp_path / "bag", {TRUTH: TOPICS[TRUTH]}, [(START_NS, TRUTH, data)])
    with Bag(folder) as bag, pytest.raises(BagError, match="duplicate id"):
        load_truth(TRUTH, bag)


def test_a_truth_with_a_box_that_is_none_is_refused_not_scored_without_it(tmp_path):
    rows = np.array([[*box(5.0)], [*box(9.0)]], np.float32)
    two = Detections3D(rows, np.ones(2, np.float32), np.zeros(2, np.int64))
    message = Detection3DEncoder(("car",)).encode(two, START_NS, "lidar")
    array = typestore().deserialize_cdr(message, ARRAY_3D)
    array.detections[1].bbox.size.x = -4.0
    data = bytes(typestore().serialize_cdr(array, ARRAY_3D))
    folder = write_bag(tmp_path / "bag", {TRUTH_3D: TOPICS[TRUTH_3D]}, [(START_NS, TRUTH_3D, data)])
    said = rf"{TRUTH_3D} at {START_NS} ns: 1 of 2 boxes are no truth: detections\[1\]: .*negative"
    with Bag(folder) as bag, pytest.raises(BagError, match=said):
        load_truth(TRUTH_3D, bag)


def test_people_of_motchallenge(drive, tmp_path):
    (tmp_path / "gt.txt").write_text("1,4,10,20,30,40,1\n3,4,20,20,30,40,1\n3,5,1,1,5,5,0\n")
    with Bag(drive) as bag:
        (truth,) = load_truth(str(tmp_path / "gt.txt"), bag)
    assert (truth.classes, truth.frame_id) == (("pedestrian",), "camera_optical_frame")
    assert [len(m) for m in truth.moments] == [1, 0, 1]
    assert truth.moments[2].stamp_ns == START_NS + S // 5
    np.testing.assert_allclose(truth.moments[2].boxes, [[20, 20, 50, 60]])


@pytest.fixture
def kitti(tmp_path):
    """Folders of both benchmarks."""
    for folder in ("label_2", "label", "calib"):
        (tmp_path / folder).mkdir()
    hidden, cut, low = (
        LABEL.replace("0.00 0 0.0", "0.00 3 0.0"),
        LABEL.replace("0.00 0 0.0", "0.60 0 0.0"),
        LABEL.replace("150.0 200.0 250.0", "150.0 200.0 170.0"),
    )
    sitting = LABEL.replace("Car", "Person_sitting")
    region = "DontCare -1 -1 -10 500.0 100.0 600.0 200.0 -1 -1 -1 -1000 -1000 -1000 -10"
    (tmp_path / "label_2" / "000002.txt").write_text("\n".join((LABEL, hidden, cut, low, sitting, region)))
    (tmp_path / "calib" / "000002.txt").write_text(CALIBRATION)
    (tmp_path / "label" / "0000.txt").write_text(f"0 3 {LABEL}\n2 3 {LABEL}\n")
    (tmp_path / "calib" / "0000.txt").write_text(CALIBRATION)
    return tmp_path


def test_objects_of_kitti_in_image_and_space(drive, kitti):
    with Bag(drive) as bag:
        image, space = load_truth(str(kitti / "label_2"), bag)
        (only,) = load_truth(f"{POINTS}={kitti / 'label_2'}", bag)
    (found,) = image.moments
    assert found.stamp_ns == START_NS + S // 5  # 000002: the third message
    assert image.classes == ("car", "pedestrian")
    assert found.ignored.tolist() == [False, True, True, True, True]
    assert found.regions.tolist() == [[500, 100, 600, 200]]
    assert not image.has_ids
    (placed,) = space.moments
    assert placed.ignored.tolist() == [False, True, True, False, True]  # a low box matters in the image only
    np.testing.assert_allclose(placed.boxes[0], [20, -2, -0.85, 4.2, 1.8, 1.5, 0], atol=1e-3)
    assert only.frame_id == space.frame_id == "lidar"


def test_a_tracking_file_of_kitti_labels_every_frame(drive, kitti):
    with Bag(drive) as bag:
        image, space = load_truth(str(kitti / "label" / "0000.txt"), bag)
    assert [len(m) for m in image.moments] == [1, 0, 1, 0, 0]
    assert [len(m) for m in space.moments] == [1, 0, 1, 0, 0]
    assert image.moments[0].ids.tolist() == [3]
    assert image.has_ids


def test_kitti_without_calibration_is_said(drive, kitti):
    (kitti / "calib" / "0000.txt").unlink()
    with Bag(drive) as bag:
        with pytest.raises(BagError, match="no calibration, which"):
            load_truth(str(kitti / "label" / "0000.txt"), bag)
        (image,) = load_truth(f"{IMAGE}={kitti / 'label' / '0000.txt'}", bag)  # needs none
    assert image.flat


def test_stamps_and_covariances_of_predictions_are_read_back():
    boxes = Detections3D(np.ones((2, 7), np.float32), np.ones(2, np.float32), np.zeros(2, np.int64))
    covariances = np.arange(72, dtype=np.float64).reshape(2, 36)
    data = Detection3DEncoder(("car",)).encode(
        boxes, 5, "odom", ["1", "22"], covariances=covariances, stamps_ns=[7, START_NS]
    )
    found = parse_estimates(data)
    assert found.stamps_ns.tolist() == [7, START_NS]
    np.testing.assert_array_equal(found.covariance[0], [[0, 1, 5], [6, 7, 11], [30, 31, 35]])
    np.testing.assert_array_equal(found.covariance[1], found.covariance[0] + 36)
    assert parse_estimates(
        Detection3DEncoder(("car",)).encode(Detections3D.empty(), 5, "odom")
    ).stamps_ns.shape == (0,)


def test_the_same_drive_has_the_same_messages(drive, tmp_path):
    def messages(folder) -> list:
        with Bag(folder) as bag:
            return [(m.topic, m.log_ns, m.data) for m in bag.messages()]

    first = messages(drive)
    assert first == messages(write_drive(tmp_path / "again", seconds=0.5))
    assert first != messages(write_drive(tmp_path / "other", seconds=0.5, seed=2))
    assert {topic for topic, _, _ in first} == set(TOPICS)
    assert [m[1] for m in first] == sorted(m[1] for m in first)
