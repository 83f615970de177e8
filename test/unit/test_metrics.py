"""Average precision against cases that can be counted by hand."""

import math

import numpy as np
import pytest

from perception_rt.replay.metrics import average_precision
from perception_rt.types import Detections2D

CLASSES = ("car", "pedestrian", "cyclist")
BOX = (10.0, 20.0, 50.0, 60.0)
ELSEWHERE = (100.0, 100.0, 140.0, 140.0)


def frame(*rows):
    """One image from rows of (box, score, label)."""
    return Detections2D(
        np.array([r[0] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[1] for r in rows], np.float32),
        np.array([r[2] for r in rows], np.int64),
    )


def test_every_truth_found_scores_one():
    frames = [frame((BOX, 1, 0), (ELSEWHERE, 1, 1)), frame((BOX, 1, 2))]
    score = average_precision(frames, frames, CLASSES)
    assert score["ap50"] == pytest.approx(1.0)
    assert score["ap50_95"] == pytest.approx(1.0)
    assert {name: row["truths"] for name, row in score["per_class"].items()} == dict.fromkeys(CLASSES, 1)


def test_half_the_truths_found_scores_51_of_101_recalls():
    score = average_precision([frame((BOX, 1, 0), (ELSEWHERE, 1, 0))], [frame((BOX, 0.9, 0))], CLASSES)
    assert score["ap50"] == pytest.approx(51 / 101)


def test_a_false_box_above_the_true_one_halves_the_precision():
    found = [frame((ELSEWHERE, 0.9, 0), (BOX, 0.8, 0))]
    assert average_precision([frame((BOX, 1, 0))], found, CLASSES)["ap50"] == pytest.approx(0.5)


def test_a_false_box_below_the_true_one_costs_nothing():
    found = [frame((ELSEWHERE, 0.7, 0), (BOX, 0.8, 0))]
    assert average_precision([frame((BOX, 1, 0))], found, CLASSES)["ap50"] == pytest.approx(1.0)


def test_a_second_box_on_one_truth_is_false():
    truths = [frame((BOX, 1, 0), (ELSEWHERE, 1, 0))]
    found = [frame((BOX, 0.9, 0), (BOX, 0.8, 0), (ELSEWHERE, 0.7, 0))]  # precision 1 to recall 0.5, then 2/3
    assert average_precision(truths, found, CLASSES)["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_iou_decides_which_thresholds_count():
    shifted = (10.0, 20.0, 50.0, 50.0)  # 30 of 40 rows: IoU 0.75, so 0.50 to 0.75 count: 6 of 10 thresholds
    score = average_precision([frame((BOX, 1, 0))], [frame((shifted, 0.9, 0))], CLASSES)
    assert score["ap50"] == pytest.approx(1.0)
    assert score["ap50_95"] == pytest.approx(0.6)


def test_the_right_box_with_the_wrong_class_is_not_found():
    assert average_precision([frame((BOX, 1, 0))], [frame((BOX, 0.9, 1))], CLASSES)["ap50"] == 0.0


def test_boxes_match_only_within_their_image():
    score = average_precision([frame((BOX, 1, 0)), frame()], [frame(), frame((BOX, 0.9, 0))], CLASSES)
    assert score["ap50"] == 0.0


def test_a_class_without_truth_is_absent_from_the_mean():
    score = average_precision([frame((BOX, 1, 0))], [frame((BOX, 0.9, 0), (ELSEWHERE, 0.9, 2))], CLASSES)
    assert score["ap50"] == pytest.approx(1.0)
    assert list(score["per_class"]) == ["car"]


def test_nothing_detected_scores_zero():
    score = average_precision([frame((BOX, 1, 0))], [Detections2D.empty()], CLASSES)
    assert score["ap50"] == score["ap50_95"] == 0.0


@pytest.mark.parametrize("frames", [[], [Detections2D.empty()]])
def test_without_any_truth_there_is_no_score(frames):
    score = average_precision(frames, frames, CLASSES)
    assert math.isnan(score["ap50"])
    assert score["per_class"] == {}


def test_nothing_is_printed(capsys):
    average_precision([frame((BOX, 1, 0))], [frame((BOX, 0.9, 0))], CLASSES)
    assert capsys.readouterr() == ("", "")


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 truths and 0 detections"):
        average_precision([frame()], [], CLASSES)


def test_a_label_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"detections hold labels \[3\]"):
        average_precision([frame()], [frame((BOX, 0.5, 3))], CLASSES)
