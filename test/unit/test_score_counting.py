"""Scenes of truth and outputs, and what is counted in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.codec.transforms import Transform
from perception_rt.replay.kitti import Calibration
from perception_rt.replay.metrics import average_precision
from perception_rt.replay.metrics3d import average_precision_bev
from perception_rt.replay.score import Places
from perception_rt.replay.score.confidence import BINS, calibration
from perception_rt.replay.score.counting import precision_of
from perception_rt.replay.score.detection import as_seen, streaming
from perception_rt.replay.score.scene import unlabelled
from perception_rt.replay.score.truth import View
from perception_rt.types import Detections2D, Detections3D
from test.scenes import BOX, CAR, FAR, STEP, image_truth, moment, output, outputs, scored, space_truth


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_scenes_score_as_the_plain_counting_has_it(flat, seed):
    """Detections of truths that move, by the way of messages and stamps or without it."""
    rng, kind = np.random.default_rng(seed), Detections2D if flat else Detections3D
    plain_truths, plain_found, moments, arrays = [], [], [], []
    for frame in range(20):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 60, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(5, 15, (n, 2))])
        if not flat:
            boxes = np.hstack(
                [corner, np.zeros((n, 1)), rng.uniform(2, 6, (n, 3)), rng.uniform(-3, 3, (n, 1))]
            )
        labels = rng.integers(0, 2, n)
        keep = rng.random(n) < 0.8
        found = boxes[keep] + rng.normal(0, 0.3, boxes[keep].shape) * (boxes[keep] > 0)
        scores = rng.random(len(found)).astype(np.float32)
        moments.append(moment(frame * STEP, boxes, labels))
        arrays.append(output(frame * STEP, found, labels[keep], scores))
        plain_truths.append(kind(boxes.astype(np.float32), np.ones(n, np.float32), labels))
        plain_found.append(kind(found.astype(np.float32), scores, labels[keep]))
    classes = ("car", "pedestrian")
    truth = (image_truth if flat else space_truth)(*moments, classes=classes)
    row = scored(truth, outputs(*arrays, classes=classes))["as_seen"]
    if flat:
        expected = average_precision(plain_truths, plain_found, classes)
        assert (row["ap50"], row["ap50_95"]) == pytest.approx((expected["ap50"], expected["ap50_95"]))
    else:
        for key, threshold in (("ap50", 0.5), ("ap70", 0.7)):
            expected = average_precision_bev(plain_truths, plain_found, classes, threshold)
            assert row[key] == pytest.approx(expected["map"])
    assert 0.3 < row["ap50"] < 1
    assert {len(curve) for curve in row["curves"].values()} == {101}
    assert np.mean(row["curves"]["car"]) == pytest.approx(row["per_class"]["car"]["ap50"])


def test_an_unanswered_truth_is_one_where_nothing_was_found():
    truth = image_truth(moment(0, [BOX]), moment(STEP, [BOX]))
    row = scored(truth, outputs(output(0, [BOX])))["as_seen"]
    assert (row["frames"], row["unanswered"]) == (2, 1)
    assert row["ap50"] == pytest.approx(51 / 101)


def test_an_output_is_scored_where_the_truth_was_when_it_came():
    """At 20 px a frame, what was right when seen is 10 px off half a frame later, and 20 px in a stream."""
    truth = image_truth(*(moment(k * STEP, [(20 * k, 0, 20 * k + 40, 40)]) for k in range(5)))
    answers = [output(k * STEP, [(20 * k, 0, 20 * k + 40, 40)], latency=STEP // 2) for k in range(5)]
    row = scored(truth, outputs(*answers))
    assert row["as_seen"]["ap50"] == pytest.approx(1)
    assert row["at_publish"]["ap50"] == pytest.approx(1)  # 10 of 40 px off: IoU 0.6
    assert row["at_publish"]["ap50_95"] == pytest.approx(0.3)  # 0.50, 0.55 and 0.60 of ten
    assert (row["at_publish"]["frames"], row["at_publish"]["beyond_truth"]) == (4, 1)
    assert row["at_publish"]["mean_latency_ms"] == 50
    assert row["streaming"]["ap50"] == 0  # every truth meets the answer of the frame before, 20 px off
    assert row["streaming"]["unanswered"] == 1


def test_a_stream_takes_the_latest_output_that_was_there():
    truth = image_truth(*(moment(k * STEP, [BOX]) for k in range(3)))
    found = outputs(output(0, [BOX], latency=STEP), output(STEP, [FAR], latency=STEP // 2))
    assert [pair[1] for pair in streaming(truth, found)] == [None, found.arrays[0], found.arrays[1]]
    late = outputs(output(0, [BOX], latency=STEP + 1))
    assert [pair[1] for pair in streaming(truth, late)] == [None, None, late.arrays[0]]


def test_outputs_belong_to_the_truth_within_a_millisecond():
    truth = image_truth(moment(0, [BOX]), moment(STEP, [BOX]))
    near, far = output(900_000, [BOX]), output(STEP + 1_100_000, [BOX])
    assert [pair[1] for pair in as_seen(truth, outputs(near, far))] == [near, None]


def test_own_motion_is_no_error_at_publish_but_that_of_others_is():
    """The vehicle drives 1 m a frame past a car that stands."""
    places = Places()
    for k in range(4):
        places.add(Transform(k * STEP, "odom", "f", np.array([k, 0, 0.0]), np.array([0, 0, 0, 1.0])), False)
    stands = [moment(k * STEP, [(20 - k, *CAR[1:])]) for k in range(4)]
    answers = [output(k * STEP, [(20 - k, *CAR[1:])], latency=STEP) for k in range(4)]
    row = scored(space_truth(*stands), outputs(*answers), places=places)
    assert row["at_publish"]["ap70"] == pytest.approx(1)
    assert row["streaming"]["ap70"] == pytest.approx(76 / 101)  # the first truth has no answer
    # One that leads at the same distance is 1 of its 4 m further in a frame: IoU 0.6.
    leads = [moment(k * STEP, [CAR]) for k in range(4)]
    answers = [output(k * STEP, [CAR], latency=STEP) for k in range(4)]
    row = scored(space_truth(*leads), outputs(*answers), places=places)
    assert (row["as_seen"]["ap70"], row["at_publish"]["ap70"]) == (pytest.approx(1), 0)
    assert row["at_publish"]["ap50"] == pytest.approx(1)
    assert row["at_publish"]["ap_2m"] == pytest.approx(1)


def test_what_cannot_be_placed_is_counted_and_left_out():
    truth = space_truth(moment(0, [CAR]), moment(STEP, [CAR]))
    row = scored(truth, outputs(output(0, [CAR], frame="elsewhere"), output(STEP, [CAR])))["as_seen"]
    assert (row["frames"], row["unplaced"], row["ap50"]) == (1, 1, pytest.approx(1))


def test_classes_that_the_model_does_not_know_are_not_asked_for():
    classes = ("car", "van", "pedestrian")
    truth = image_truth(moment(0, [BOX, FAR, (0, 100, 30, 180)], labels=[0, 1, 2]), classes=classes)
    found = outputs(output(0, [BOX, FAR], labels=[0, 0], scores=[0.5, 0.9]), classes=("car",))
    row = scored(truth, found, known=["Car"])
    assert row["classes"] == ["car"]
    assert row["as_seen"]["per_class"]["car"] == {
        "ap50": pytest.approx(1),
        "ap50_95": pytest.approx(1),
        "truths": 1,
    }
    assert row["calibration"]["detections"] == 1  # who calls a van a car is neither right nor wrong
    both = scored(truth, outputs(output(0, [BOX], labels=[0]), classes=("car", "van")), known=["car", "van"])
    assert both["as_seen"]["per_class"]["van"]["ap50"] == 0


@pytest.mark.parametrize(("ignored", "regions"), [([False, True], ()), ([False, False], [FAR])])
def test_what_need_not_be_found_is_no_error_in_the_image(ignored, regions):
    boxes = [BOX, FAR] if any(ignored) else [BOX, (400, 0, 440, 40)]
    truth = image_truth(moment(0, boxes, ignored=ignored, regions=regions))
    found = output(0, [BOX, FAR, (400, 0, 440, 40)], scores=[0.5, 0.9, 0.4])
    row = scored(truth, outputs(found))["as_seen"]
    assert row["ap50"] == pytest.approx(1)
    wrong = scored(image_truth(moment(0, [BOX])), outputs(output(0, [BOX, FAR], scores=[0.5, 0.9])))[
        "as_seen"
    ]
    assert wrong["ap50"] == pytest.approx(0.5)


def test_boxes_lower_than_is_judged_do_not_count():
    truth = image_truth(moment(0, [BOX]), least_height=25.0)
    found = outputs(output(0, [BOX, (200, 10, 250, 35)], scores=[0.5, 0.9]))
    assert scored(truth, found)["as_seen"]["ap50"] == pytest.approx(1)
    assert scored(image_truth(moment(0, [BOX])), found)["as_seen"]["ap50"] == pytest.approx(0.5)


def test_what_the_camera_does_not_see_is_unlabelled():
    camera = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    view = View(
        Calibration(np.array([[700, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0.0]]), camera), (1200, 360)
    )
    boxes = np.array([(20, y, 0, 4, 2, 1.5, 0) for y in (0.0, 30.0)] + [(-20, 0, 0, 4, 2, 1.5, 0)])
    assert unlabelled(boxes, view, np.zeros((0, 4))).tolist() == [False, True, True]
    assert unlabelled(boxes[:1], view, np.array([[500, 100, 700, 300.0]])).tolist() == [True]
    truth = space_truth(moment(0, [(20, 8, 0, 4, 2, 1.5, 0)]), view=view)
    found = outputs(output(0, [(20, 8, 0, 4, 2, 1.5, 0), (-20, 0, 0, 4, 2, 1.5, 0)], scores=[0.5, 0.9]))
    assert scored(truth, found)["as_seen"]["ap50"] == pytest.approx(1)


def test_without_a_truth_that_counts_there_is_no_score():
    for truth in (image_truth(), image_truth(moment(0, [])), image_truth(moment(0, [BOX], ignored=[True]))):
        row = scored(truth, outputs(output(0, [BOX])))
        assert (row["as_seen"]["ap50"], row["calibration"]) == (None, None)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_as_its_definition_has_it(made):
    confidences, hits = (np.array(column) for column in zip(*made, strict=True))
    row = calibration(confidences, hits)
    ece = 0.0
    for k in range(BINS):
        mine = [(c, h) for c, h in made if k / BINS <= c < (k + 1) / BINS or (k == BINS - 1 and c == 1)]
        if mine:
            ece += len(mine) / len(made) * abs(np.mean([c for c, _ in mine]) - np.mean([h for _, h in mine]))
    assert row["ece"] == pytest.approx(ece, abs=1e-9)
    assert sum(b["count"] for b in row["bins"]) == len(made)


def test_precision_of_nothing_at_all():
    assert precision_of([], ["car"], flat=True).figures["ap50"] is None
    assert precision_of([], ["car"], flat=False).figures["ap50"] is None
