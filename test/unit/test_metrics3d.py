"""3D average precision, compared with pycocotools for upright footprints, and with cases counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.replay.metrics import average_precision
from perception_rt.replay.metrics3d import average_precision_bev, match_greedy
from perception_rt.types import Detections2D, Detections3D

CLASSES = ("car", "pedestrian", "cyclist")
CAR = (10.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.3)
OTHER = (30.0, -5.0, 0.0, 4.0, 2.0, 1.5, 2.0)


def frame(*rows):
    """One frame from rows of (box, score, label)."""
    return Detections3D(
        np.array([r[0] for r in rows], np.float32).reshape(-1, 7),
        np.array([r[1] for r in rows], np.float32),
        np.array([r[2] for r in rows], np.int64),
    )


def test_the_best_score_chooses_first_and_each_truth_is_matched_once():
    iou = np.array([[0.9, 0.6, 0.0], [0.0, 0.55, 0.4]])
    assert match_greedy(iou, np.array([0.5, 0.9, 0.8]), 0.5).tolist() == [-1, 0, -1]
    assert match_greedy(iou, np.array([0.9, 0.5, 0.8]), 0.5).tolist() == [0, 1, -1]
    assert match_greedy(iou, np.array([0.9, 0.5, 0.8]), 0.3).tolist() == [0, -1, 1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_matches_nothing(shape):
    assert match_greedy(np.zeros(shape), np.zeros(shape[1]), 0.5).tolist() == [-1] * shape[1]


def test_an_overlap_table_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"iou must be \(T, 2\), got \(2, 3\)"):
        match_greedy(np.zeros((2, 3)), np.zeros(2), 0.5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 8), st.randoms(use_true_random=False), st.floats(0.1, 0.9))
def test_a_matching_is_one_to_one_overlaps_enough_and_leaves_no_free_pair(truths, found, random, threshold):
    iou = np.array([[random.random() for _ in range(found)] for _ in range(truths)]).reshape(truths, found)
    matched = match_greedy(iou, np.array([random.random() for _ in range(found)]), threshold)
    taken = matched[matched >= 0]
    assert len(set(taken.tolist())) == len(taken)
    assert (iou[taken, np.flatnonzero(matched >= 0)] >= threshold).all()
    free = np.setdiff1d(np.arange(truths), taken)
    assert not (iou[free][:, matched < 0] >= threshold).any()


def _scene(rng, frames):
    """Upright boxes as 3D and 2D; found ones are truths that were shifted, doubled, or invented."""
    made = []
    for _ in range(frames):
        n = int(rng.integers(0, 9))
        corner, size = rng.uniform(0, 60, (n, 2)), rng.uniform(2, 10, (n, 2))
        labels = rng.integers(0, 3, n)
        pick = rng.integers(0, n, int(rng.integers(0, 2 * n + 1))) if n else np.zeros(0, np.int64)
        shifted = corner[pick] + rng.normal(0, 0.8, (len(pick), 2))
        made.append(
            (
                _both(corner, size, np.ones(n), labels),
                _both(shifted, size[pick], rng.uniform(0, 1, len(pick)), labels[pick]),
            )
        )
    return made


def _both(corner, size, scores, labels):
    scores, labels = scores.astype(np.float32), labels.astype(np.int64)
    flat = np.zeros((len(scores), 1))
    box = np.hstack((corner + size / 2, flat, size, flat + 1.5, flat)).astype(np.float32)
    xyxy = np.hstack((corner, corner + size)).astype(np.float32)
    return Detections3D(box, scores, labels), Detections2D(xyxy, scores, labels)


@pytest.mark.parametrize("seed", range(5))
def test_upright_boxes_score_as_pycocotools_has_it(seed):
    made = _scene(np.random.default_rng(seed), 30)
    ours = average_precision_bev([t[0] for t, _ in made], [d[0] for _, d in made], CLASSES)
    theirs = average_precision([t[1] for t, _ in made], [d[1] for _, d in made], CLASSES)
    assert 0.2 < ours["map"] < 0.95
    assert ours["map"] == pytest.approx(theirs["ap50"], abs=1e-6)
    for name, row in theirs["per_class"].items():
        assert ours["per_class"][name]["ap"] == pytest.approx(row["ap50"], abs=1e-6)
        assert ours["per_class"][name]["truths"] == row["truths"]


def test_a_turned_box_is_found_only_where_its_footprint_is():
    turned = (*CAR[:6], CAR[6] + math.pi / 2)  # 4 x 2 across 4 x 2: overlap 4 of 12
    truth = [frame((CAR, 1, 0))]
    assert average_precision_bev(truth, [frame((turned, 0.9, 0))], CLASSES)["map"] == 0.0
    assert average_precision_bev(truth, [frame((turned, 0.9, 0))], CLASSES, 0.33)["map"] == pytest.approx(1.0)
    around = (*CAR[:6], CAR[6] + math.pi)
    assert average_precision_bev(truth, [frame((around, 0.9, 0))], CLASSES)["map"] == pytest.approx(1.0)


def test_half_the_truths_found_scores_51_of_101_recalls():
    score = average_precision_bev([frame((CAR, 1, 0), (OTHER, 1, 0))], [frame((CAR, 0.9, 0))], CLASSES)
    assert score["map"] == pytest.approx(51 / 101)
    assert score["per_class"] == {"car": {"ap": pytest.approx(51 / 101), "truths": 2, "recall": 0.5}}


def test_what_matches_an_ignored_truth_counts_neither_way():
    truths = [frame((CAR, 1, 0), (OTHER, 1, 0))]
    ignore = [np.array([False, True])]
    found = [frame((OTHER, 0.9, 0), (CAR, 0.8, 0))]
    score = average_precision_bev(truths, found, CLASSES, ignore=ignore)
    assert score["map"] == pytest.approx(1.0)
    assert score["per_class"]["car"]["truths"] == 1
    missed = average_precision_bev(truths, [frame((CAR, 0.8, 0))], CLASSES, ignore=ignore)
    assert missed["map"] == pytest.approx(1.0)
    doubled = [frame((OTHER, 0.95, 0), (OTHER, 0.9, 0), (CAR, 0.8, 0))]  # pardons one box, not two
    assert average_precision_bev(truths, doubled, CLASSES, ignore=ignore)["map"] == pytest.approx(0.5)


def test_truths_that_count_are_matched_before_ignored_ones():
    truths = [frame((CAR, 1, 0), (CAR, 1, 0))]
    score = average_precision_bev(truths, [frame((CAR, 0.9, 0))], CLASSES, ignore=[np.array([True, False])])
    assert score["per_class"]["car"]["recall"] == 1.0


def test_an_excused_detection_is_no_error_but_may_still_be_right():
    truths, found = [frame((CAR, 1, 0))], [frame((OTHER, 0.9, 0), (CAR, 0.8, 0))]
    assert average_precision_bev(truths, found, CLASSES)["map"] == pytest.approx(0.5)
    for mask in ([True, False], [True, True]):
        score = average_precision_bev(truths, found, CLASSES, ignore_detections=[np.array(mask)])
        assert score["map"] == pytest.approx(1.0)


def test_boxes_match_only_within_their_frame_and_class():
    assert (
        average_precision_bev([frame((CAR, 1, 0)), frame()], [frame(), frame((CAR, 0.9, 0))], CLASSES)["map"]
        == 0
    )
    assert average_precision_bev([frame((CAR, 1, 0))], [frame((CAR, 0.9, 1))], CLASSES)["map"] == 0


@pytest.mark.parametrize("frames", [[], [Detections3D.empty()]])
def test_without_any_truth_there_is_no_score(frames):
    score = average_precision_bev(frames, frames, CLASSES)
    assert math.isnan(score["map"])
    assert score["per_class"] == {}


def test_a_class_with_ignored_truths_only_is_absent():
    score = average_precision_bev([frame((CAR, 1, 0))], [frame()], CLASSES, ignore=[np.array([True])])
    assert score["per_class"] == {}


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="1 truths and 0 detections"):
        average_precision_bev([frame()], [], CLASSES)
    with pytest.raises(ValueError, match=r"detections hold labels \[3\]"):
        average_precision_bev([frame()], [frame((CAR, 0.5, 3))], CLASSES)
    with pytest.raises(ValueError, match="ignore must hold one bool per box"):
        average_precision_bev([frame((CAR, 1, 0))], [frame()], CLASSES, ignore=[np.zeros(2, bool)])
