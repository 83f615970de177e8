"""Scores of whole drives: simulated ones, whose every score is known or bounded, and recorded ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perception_rt.codec import Detection3DEncoder, DetectionEncoder, encode_image, encode_points
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.replay.bag import Bag
from perception_rt.replay.kitti import boxes_in_velodyne, read_calibration, read_tracking_labels
from perception_rt.replay.mot import read_mot
from perception_rt.replay.score import Places, load_truth, score
from perception_rt.types import Detections2D, Detections3D
from test.answers import AHEAD, FOUND_2D, FOUND_3D, METRICS, PATH, STATE, TRACKS, write_answers
from test.answers import TOPICS as OUT_TOPICS
from test.drives import (
    IMAGE,
    POINTS,
    START_NS,
    TOPICS,
    TRUTH,
    TRUTH_3D,
    TRUTH_ODOMETRY,
    write_bag,
    write_drive,
)

LATENCY_NS = 100_000_000  # one frame
STEP_NS = 100_000_000


def scores_of(drive, out, sources=(TRUTH, TRUTH_3D, TRUTH_ODOMETRY), metrics=METRICS) -> dict:
    with Bag(drive) as bag:
        truths = [truth for source in sources for truth in load_truth(source, bag)]
        return score(out, truths, metrics, Places.of(bag))


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("drive") / "bag", seconds=5.0)


@pytest.fixture(scope="module")
def perfect(drive, tmp_path_factory):
    """The truth as answers, each published a frame late."""
    return write_answers(tmp_path_factory.mktemp("perfect") / "bag", drive, True, LATENCY_NS)


@pytest.fixture(scope="module")
def perfect_scores(drive, perfect):
    return scores_of(drive, perfect)


@pytest.fixture(scope="module")
def real_scores(drive, tmp_path_factory):
    """What the shipped detectors find."""
    return scores_of(drive, write_answers(tmp_path_factory.mktemp("real") / "bag", drive, False, LATENCY_NS))


def test_every_output_has_its_row(perfect_scores):
    kinds = {topic: row["kind"] for topic, row in perfect_scores.items()}
    assert kinds == {
        FOUND_2D: "detections",
        FOUND_3D: "detections",
        TRACKS: "tracks",
        AHEAD: "predictions",
        STATE: "odometry",
        PATH: "predictions",
    }


def test_the_truth_as_an_answer_is_right_when_seen(perfect_scores):
    assert perfect_scores[FOUND_2D]["as_seen"]["ap50_95"] == 1
    assert perfect_scores[FOUND_3D]["as_seen"]["ap70"] == 1
    assert perfect_scores[FOUND_3D]["as_seen"]["unanswered"] == 0
    tracking = perfect_scores[TRACKS]["tracking"]
    assert tracking["misses"] == 0
    assert tracking["mota"] > 0.6  # tracks of what passes out of sight live on
    assert tracking["hota"] > 0.5


@pytest.mark.parametrize("topic", [FOUND_2D, FOUND_3D])
def test_what_comes_a_frame_late_is_less_right_and_streams_as_it_came(perfect_scores, topic):
    row = perfect_scores[topic]
    strict = "ap50_95" if topic == FOUND_2D else "ap70"
    assert row["at_publish"][strict] < 0.8 * row["as_seen"][strict]
    # At a latency of exactly one frame both meet the same pairs, but for the first truth, without an answer.
    assert (row["streaming"]["frames"], row["streaming"]["unanswered"]) == (50, 1)
    assert (row["at_publish"]["frames"], row["at_publish"]["beyond_truth"]) == (49, 1)
    assert row["streaming"]["ap50"] == pytest.approx(row["at_publish"]["ap50"], abs=0.05)


def test_answers_without_latency_are_as_right_as_seen(drive, tmp_path):
    row = scores_of(drive, write_answers(tmp_path / "bag", drive, True, 0))[FOUND_3D]
    assert row["at_publish"]["ap70"] == row["streaming"]["ap70"] == 1


def test_shipped_detectors_score_between_nothing_and_all(real_scores):
    assert 0.3 < real_scores[FOUND_2D]["as_seen"]["ap50"] < 0.95
    assert 0.1 < real_scores[FOUND_3D]["as_seen"]["ap_2m"] < 0.95
    for topic in (FOUND_2D, FOUND_3D):
        assert 0 < real_scores[topic]["calibration"]["ece"] < 0.6
    tracking = real_scores[TRACKS]["tracking"]
    assert 0.05 < tracking["hota"] < 0.9
    assert 0.2 < tracking["mota"] < 0.9


def test_the_vehicle_is_where_it_thinks(real_scores):
    row = real_scores[STATE]
    assert row["aligned"]
    assert row["rmse"]["position_m"] < 0.2
    assert row["drift_percent"] < 1
    assert row["rate_hz"] == 50
    assert row["ellipses"]["within_95"] > 0.9
    path = real_scores[PATH]
    means = [path["horizons"][key]["mean_m"] for key in ("0.5", "1", "2", "3")]
    assert means == sorted(means)
    assert path["ade_m"] < path["fde_m"] < 2


def test_objects_go_about_where_predicted(perfect_scores):
    row = perfect_scores[AHEAD]
    means = [row["horizons"][key]["mean_m"] for key in ("0.5", "1", "2", "3")]
    assert means == sorted(means)
    assert means[0] < 0.3
    assert row["horizons"]["1"]["ellipses"]["within_95"] > 0.9


def test_scores_are_json_and_always_the_same(drive, perfect, perfect_scores):
    text = json.dumps(perfect_scores, allow_nan=False, sort_keys=True)
    assert json.dumps(scores_of(drive, perfect), allow_nan=False, sort_keys=True) == text
    assert str(drive) not in text
    numbers: list[float] = []
    json.loads(text, parse_float=lambda number: numbers.append(float(number)))
    assert numbers == [round(number, 6) for number in numbers]


def test_dropped_frames_are_unanswered(drive, perfect, tmp_path):
    """Every second answer left out: half the truths are missed."""
    with Bag(perfect) as bag:
        kept = [(m.log_ns, m.topic, m.data) for m in list(bag.messages([FOUND_3D]))[::2]]
    out = write_bag(tmp_path / "bag", {FOUND_3D: OUT_TOPICS[FOUND_3D]}, kept)
    row = scores_of(drive, out)[FOUND_3D]
    assert (row["as_seen"]["frames"], row["as_seen"]["unanswered"]) == (50, 25)
    assert row["as_seen"]["per_class"]["car"]["recall50"] == pytest.approx(0.5, abs=0.05)
    assert row["at_publish"]["unanswered"] == 0


def test_a_topic_that_published_nothing_found_nothing(drive, tmp_path):
    out = write_bag(tmp_path / "bag", OUT_TOPICS, [])
    rows = scores_of(drive, out)  # METRICS tells of the topics
    assert rows[FOUND_3D]["as_seen"]["ap50"] == 0
    assert rows[FOUND_3D]["as_seen"]["unanswered"] == 50
    assert rows[STATE]["rmse"] is None


def test_outputs_without_a_truth_have_no_row(drive, perfect):
    rows = scores_of(drive, perfect, sources=(TRUTH_ODOMETRY,))
    assert set(rows) == {STATE, PATH}
    assert scores_of(drive, perfect, sources=()) == {}


# Recorded: labels of KITTI and MOTChallenge, and detections that others made of those recordings.


def sensor_bag(folder, count: int, topic: str) -> object:
    """A recording of a sensor whose content does not matter: a message for each frame."""
    frame = topic.strip("/").replace("/", "_")
    if topic == IMAGE:
        data = [
            encode_image(np.zeros((8, 8, 3), np.uint8), "rgb8", START_NS + k * STEP_NS, frame)
            for k in range(count)
        ]
    else:
        data = [
            encode_points(np.zeros((1, 4), np.float32), START_NS + k * STEP_NS, frame) for k in range(count)
        ]
    messages = [(START_NS + k * STEP_NS, topic, message) for k, message in enumerate(data)]
    return write_bag(folder, {topic: TOPICS[topic]}, messages)


def test_people_of_tud_campus_as_their_own_answer_and_as_detected(shared_data, tmp_path):
    folder = shared_data / "tracking_mot15" / "TUD-Campus"
    truth, found = read_mot(folder / "gt.txt"), read_mot(folder / "det.txt")
    drive = sensor_bag(tmp_path / "in", len(truth), IMAGE)
    encoder = DetectionEncoder(("person",))
    topics = {"/a/tracks": OUT_TOPICS[FOUND_2D], "/b/detections": OUT_TOPICS[FOUND_2D]}
    messages = []
    for number, labelled in truth.items():
        stamp_ns = START_NS + (number - 1) * STEP_NS
        for topic, frame in (("/a/tracks", labelled), ("/b/detections", found[number])):
            count = len(frame.ids)
            scores = np.ones(count) if topic == "/a/tracks" else frame.scores / 100
            boxes = Detections2D(frame.xyxy, scores.astype(np.float32).clip(0, 1), np.zeros(count, np.int64))
            data = encoder.encode(boxes, stamp_ns, "camera_image_raw", [str(i) for i in frame.ids])
            messages.append((stamp_ns, topic, data))
    rows = scores_of(drive, write_bag(tmp_path / "out", topics, messages), [str(folder / "gt.txt")], {})
    own = rows["/a/tracks"]["tracking"]
    assert (own["mota"], own["idf1"], own["hota"], own["truths"]) == (1, 1, 1, 359)
    assert rows["/b/detections"]["as_seen"]["unanswered"] == 0
    assert 0.5 < rows["/b/detections"]["as_seen"]["ap50"] < 0.95
    assert rows["/b/detections"]["truth"]["name"] == f"MOTChallenge gt.txt of {IMAGE}"


def kitti_answers(folder, labels, calibration, count: int):
    """The labels in the lidar's frame as the answer to each cloud, by a detector that takes vans for cars."""
    kinds = ("Car", "Pedestrian", "Cyclist", "Van")
    encoder, messages = Detection3DEncoder((*kinds[:3], "Car")), []
    for number in range(count):
        stamp_ns, found = START_NS + number * STEP_NS, labels.get(number)
        rows = np.isin(found.types, kinds) if found is not None else np.zeros(0, bool)
        boxes = np.zeros((0, 7), np.float32)
        kept, ids = np.zeros(0, np.int64), []
        if rows.any():
            boxes = boxes_in_velodyne(found.hwlxyz_ry[rows], calibration)
            kept = np.array([kinds.index(kind) for kind in found.types[rows]], np.int64)
            ids = [str(number) for number in found.track_ids[rows]]
        answer = Detections3D(boxes, np.full(len(boxes), 0.9, np.float32), kept)
        messages.append((stamp_ns, "/a/tracks", encoder.encode(answer, stamp_ns, "lidar_points", ids)))
    return write_bag(folder, {"/a/tracks": OUT_TOPICS[TRACKS]}, messages)


def test_a_labelled_sequence_of_kitti_as_its_own_answer(shared_data, tmp_path):
    """All that has to be found is; what is hidden, a van or not in the image makes no error."""
    folder, count = shared_data / "tracking_kitti", 154
    labels = read_tracking_labels(folder / "label" / "0000.txt")
    calibration = read_calibration(folder / "calib" / "0000.txt")
    drive = sensor_bag(tmp_path / "in", count, POINTS)
    out = kitti_answers(tmp_path / "out", labels, calibration, count)
    metrics = {"bundles": {"/a": {"classes": ["car", "pedestrian", "cyclist"]}}, "outputs": {}}
    row = scores_of(drive, out, [str(folder / "label" / "0000.txt")], metrics)["/a/tracks"]
    assert row["truth"]["name"] == f"KITTI tracking labels 0000.txt of {POINTS}"
    assert set(row["classes"]) <= {"car", "pedestrian", "cyclist"}
    assert row["as_seen"]["ap70"] == 1
    assert row["tracking"]["mota"] == row["tracking"]["idf1"] == 1
    assert row["tracking"]["truths"] == row["truth"]["boxes"] - vans(labels)
    assert row["tracking"]["truths"] > 300


def vans(labels) -> int:
    """Labels that count as truth, of types that the answers do not name."""
    names = ("Van", "Truck", "Tram", "Misc")
    return sum(
        int((np.isin(f.types, names) & (f.occluded <= 2) & (f.truncated <= 0)).sum()) for f in labels.values()
    )


def test_frames_of_kitti_by_bev_cluster_agree_with_a_count_by_hand(shared_data, tmp_path):
    """Frame 000114: of five cars, those that are answered alone decide what is found."""
    source = shared_data / "frames" / "000114"
    (tmp_path / "label_2").mkdir()
    (tmp_path / "calib").mkdir()
    (tmp_path / "label_2" / "000000.txt").write_text((source / "label.txt").read_text())
    (tmp_path / "calib" / "000000.txt").write_text((source / "calib.txt").read_text())
    drive = sensor_bag(tmp_path / "in", 1, POINTS)
    with Bag(drive) as bag:
        (truth,) = load_truth(str(tmp_path / "label_2"), bag)
        places = Places.of(bag)
    (moment,) = truth.moments
    cars = np.flatnonzero((moment.labels == truth.classes.index("car")) & ~moment.ignored)
    assert len(cars) >= 4
    boxes = np.vstack([moment.boxes[cars[:2]], [[-15, 4, -1, 4, 1.7, 1.5, 0]], [[15, 4, -1, 4, 1.7, 1.5, 0]]])
    answer = Detections3D(
        boxes.astype(np.float32), np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, np.int64)
    )
    data = Detection3DEncoder(("car",)).encode(answer, START_NS, "lidar_points")
    assert len(decode_named_detections3d(data).detections) == 4
    out = write_bag(tmp_path / "out", {FOUND_3D: OUT_TOPICS[FOUND_3D]}, [(START_NS, FOUND_3D, data)])
    metrics = {"bundles": {"/lidar_detector": {"classes": ["car"]}}, "outputs": {}}
    row = score(out, [truth], metrics, places)[FOUND_3D]
    assert row["as_seen"]["per_class"]["car"]["recall50"] == pytest.approx(2 / len(cars), abs=1e-6)
    assert row["calibration"]["detections"] == 3  # two right, one wrong ahead; one behind is not judged
