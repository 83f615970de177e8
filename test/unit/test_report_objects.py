"""The life of an object, and two runs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_rt.codec import Detection3DEncoder, DetectionEncoder
from perception_rt.codec.cdr import CdrWriter
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.report.lives import MOST, life_sections, read_lives
from perception_rt.replay.report.page import tracked_lives
from perception_rt.replay.report.side_by_side import chosen, differing
from perception_rt.types import Detections2D, Detections3D

START, STEP = 1_700_000_000_000_000_000, 100_000_000
ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
TRACKS, AHEAD, FUSED = "/object_tracker/tracks", "/object_tracker/predictions", "/fusion/detections"
METRICS = {
    "outputs": {
        "/lidar_detector/detections": {"type": ARRAY_3D, "node": "/lidar_detector"},
        TRACKS: {"type": ARRAY_3D, "node": "/object_tracker"},
        AHEAD: {"type": ARRAY_3D, "node": "/object_tracker"},
        FUSED: {"type": ARRAY_3D, "node": "/fusion"},
    },
    "streams": {
        "a": {"node": "/object_tracker", "topic": FUSED},
        "b": {"node": "/fusion", "topic": "/lidar_detector/detections"},
    },
}
TF = "tf2_msgs/msg/TFMessage"
ENCODER = Detection3DEncoder(("car", "truck"))


def boxes(places, labels=None) -> Detections3D:
    rows = np.array([(x, y, 0, 4, 2, 1.5, 0) for x, y in places], np.float32).reshape(-1, 7)
    labels = np.zeros(len(rows), np.int64) if labels is None else np.array(labels)
    return Detections3D(rows, np.full(len(rows), 0.9, np.float32), labels)


def write(path: Path, messages) -> Path:
    with BagWriter(path) as writer:
        for topic, kind, at_ns, data in sorted(messages, key=lambda one: one[2]):
            writer.write(topic, kind, at_ns, data)
    return path


def driving(ids=("7",), steps=range(40), speed=10.0, start=START):
    """One car at `speed` m/s along x; its prediction is .5 m too far a second ahead."""
    for k in steps:
        stamp = start + k * STEP
        x = speed * k * STEP / 1e9
        yield TRACKS, ARRAY_3D, stamp + 1, ENCODER.encode(boxes([(x, 0)]), stamp, "odom", list(ids))
        moments = [stamp + 500_000_000, stamp + 1_000_000_000]
        way = boxes([(x + speed / 2, 0), (x + speed + 0.5, 0)])
        ahead = ENCODER.encode(way, stamp, "odom", [*ids] * 2, stamps_ns=moments)
        yield AHEAD, ARRAY_3D, stamp + 2, ahead


def mounted(stamp: int) -> bytes:
    """The lidar is 2 m ahead of odom's origin."""
    writer = CdrWriter()
    writer.scalars("I", 1)
    writer.header(stamp, "odom")
    writer.string("lidar")
    writer.scalars("d", 2, 0, 0, 0, 0, 0, 1)
    return writer.bytes()


@pytest.fixture
def recording(tmp_path):
    with Bag(write(tmp_path / "in", [("/tf_static", TF, START, mounted(START))])) as bag:
        yield bag


def lives_of(tmp_path, recording, messages):
    with Bag(write(tmp_path / "out", messages)) as outputs:
        return read_lives(recording, outputs, METRICS)


def test_speed_and_error_of_the_prediction_are_those_of_the_drive(tmp_path, recording):
    (life,) = lives_of(tmp_path, recording, driving())
    assert (life.id, life.name, life.frame_id, len(life.stamps_ns)) == ("7", "car", "odom", 40)
    speeds = life.speeds()
    assert np.isnan(speeds[0])
    np.testing.assert_allclose(speeds[5:], 10.0, rtol=1e-3)
    errors = life.errors_m(1.0)
    assert len(errors) == 30, "the last second of predictions was not lived to see"
    np.testing.assert_allclose(errors, 0.5, atol=1e-3)
    assert len(life.errors_m(3.0)) == 0, "none so far ahead"


def test_a_track_is_seen_by_the_sensors_of_the_fused_object_at_its_place(tmp_path, recording):
    def fused(k, source, x):
        stamp = START + k * STEP
        # Published after the tracks of the same stamp, and in the lidar's frame.
        data = ENCODER.encode(boxes([(x - 2.0, 0.1)]), stamp, "lidar", [source])
        return FUSED, ARRAY_3D, stamp + 50_000_000, data

    said = [fused(k, "camera+lidar" if k < 30 else "lidar", float(k)) for k in range(35)]
    said += [fused(k, "camera", 100.0) for k in range(35, 40)]
    (life,) = lives_of(tmp_path, recording, [*driving(), *said])
    assert life.sources == ["camera+lidar"] * 30 + ["lidar"] * 5 + [""] * 5


def test_lives_follow_the_clock_of_the_replay(tmp_path):
    late = 1000 * 10**9  # the machine that recorded /tf had another clock
    moving = [("/tf", TF, START + k * STEP + late, mounted(START + k * STEP)) for k in range(41)]
    said = []
    for k in range(40):
        stamp = START + k * STEP
        data = ENCODER.encode(boxes([(k - 2.0, 0)]), stamp, "lidar", ["camera"])
        said.append((FUSED, ARRAY_3D, stamp, data))
    write(tmp_path / "run" / "bag", [*driving(), *said])
    metrics = METRICS | {"bag": {"clock": {"behind_ns": {"/tf": late}}}}
    (life,) = tracked_lives(tmp_path / "run", write(tmp_path / "in", moving), metrics)
    assert life.sources == ["camera"] * 40


def test_a_track_may_continue_one_that_ended_before_where_it_would_be(tmp_path, recording):
    first = driving(("7",), range(15))
    again = driving(("9",), range(20, 40))
    elsewhere = []
    for k in range(20, 40):
        stamp = START + k * STEP
        elsewhere.append(
            (TRACKS, ARRAY_3D, stamp + 3, ENCODER.encode(boxes([(50, 30)]), stamp, "odom", ["4"]))
        )
    found = {life.id: life for life in lives_of(tmp_path, recording, [*first, *again, *elsewhere])}
    assert found["9"].continues == "7"
    assert found["7"].continues == found["4"].continues == ""


def test_the_page_shows_the_longest_lives_with_anchors_of_their_own(tmp_path, recording):
    many = []
    for k in range(MOST + 10):
        ids = [f'<"{number}">' for number in range(k, MOST + 10)]
        stamp = START + k * STEP
        data = ENCODER.encode(boxes([(3.0 * n, 40) for n in range(len(ids))]), stamp, "odom", ids)
        many.append((TRACKS, ARRAY_3D, stamp, data))
    lives = lives_of(tmp_path, recording, many)
    assert len(lives) == MOST + 10
    shown = life_sections(lives, START)
    assert len(shown) == MOST == len({one["anchor"] for one in shown})
    assert all(str(one["anchor"]).startswith("object-") for one in shown)
    assert {one["id"] for one in shown} == {f'<"{number}">' for number in range(10, MOST + 10)}


def test_a_clock_that_was_set_back_and_an_empty_run_are_no_error(tmp_path, recording):
    (life,) = lives_of(tmp_path, recording, [*driving(), *driving(start=START - 20 * STEP, steps=range(10))])
    assert life.stamps_ns == sorted(set(life.stamps_ns))
    with Bag(write(tmp_path / "none", [driving().__next__()])) as outputs:
        assert len(read_lives(recording, outputs, METRICS)) == 1
        assert read_lives(recording, outputs, {"outputs": {}, "streams": {}}) == []


def flat(*lefts: float) -> Detections2D:
    rows = np.array([(x, 0, x + 10, 10) for x in lefts], np.float32).reshape(-1, 4)
    return Detections2D(rows, np.full(len(rows), 0.5, np.float32), np.zeros(len(rows), np.int64))


def run_of(path: Path, frames) -> Path:
    encoder = DetectionEncoder(("car",))
    stamped = [(START + k * STEP, found) for k, found in frames]
    return write(path, [("/d", ARRAY_2D, at, encoder.encode(found, at, "camera")) for at, found in stamped])


def test_the_moments_that_differ_most_come_first_and_are_apart(tmp_path):
    here = {k: flat(0, 50) for k in range(30)}
    there = dict(here)
    there[3] = flat(0)  # one is lacking
    there[10] = flat(1, 51, 100, 200)  # two are new
    there[11] = flat(0, 50, 100)  # beside a greater difference
    there[25] = flat(0, 80)  # another one instead
    del there[29]
    one, other = run_of(tmp_path / "a", here.items()), run_of(tmp_path / "b", there.items())
    with Bag(one) as new, Bag(other) as golden:
        found = list(differing(new, golden, "/d"))
        assert list(differing(new, new, "/d")) != []
        assert all(each.weight == 0 for each in differing(new, new, "/d"))
    assert len(found) == 30
    by_frame = {(each.stamp_ns - START) // STEP: each for each in found}
    assert (by_frame[3].only_here, by_frame[3].only_there) == (1, 0)
    assert (by_frame[10].only_here, by_frame[10].only_there) == (0, 2)
    assert (by_frame[25].only_here, by_frame[25].only_there) == (1, 1)
    assert (by_frame[29].here, by_frame[29].there) == (2, 0)
    assert [(each.stamp_ns - START) // STEP for each in chosen(found)] == [10, 25, 3]


def test_two_boxes_on_one_have_one_partner(tmp_path):
    one, other = run_of(tmp_path / "a", [(0, flat(0, 1))]), run_of(tmp_path / "b", [(0, flat(0))])
    with Bag(one) as new, Bag(other) as golden:
        (found,) = differing(new, golden, "/d")
    assert (found.only_here, found.only_there) == (1, 0)
