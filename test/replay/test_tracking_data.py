"""The trackers on recorded drives: every figure that is asked for holds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tracking_accuracy import CLASSES, HELD_OUT, KITTI, TUNED, kitti_detections, tracking_rows
from perception_rt.replay.clear_mot import score_tracks
from perception_rt.replay.kitti import read_tracking_labels
from perception_rt.replay.kitti_tracking import truth
from perception_rt.stage.track import Tracker3D


@pytest.fixture(scope="module")
def rows(shared_data):
    return {entry.name: entry for entry in tracking_rows(shared_data)}


def test_every_target_holds(rows):
    asked = {name: entry for name, entry in rows.items() if entry.target}
    assert len(asked) == 8
    assert {name: entry.value for name, entry in asked.items() if not entry.holds} == {}


@pytest.mark.parametrize(("kind", "samota", "mota"), [("car", 92, 87), ("pedestrian", 68, 65)])
def test_the_half_that_no_parameter_saw_is_no_worse(rows, kind, samota, mota):
    prefix = f"tracking/kitti/{kind}/held_out_half"
    assert rows[f"{prefix}/samota"].value > samota
    assert rows[f"{prefix}/mota"].value > mota
    assert rows[f"{prefix}/id_switches"].value == 0
    assert rows["tracking/tud_campus/held_out_half/mota"].value >= 64


@pytest.mark.parametrize("kind", CLASSES)
def test_the_truth_itself_scores_all(shared_data, kind):
    folder = shared_data / "tracking_kitti" / "label"
    truths = [truth(read_tracking_labels(folder / f"{name}.txt"), kind) for name in (*TUNED, *HELD_OUT)]
    score = score_tracks([(found, found) for found in truths])
    assert (score.best.errors, score.best.mota) == (0, 1.0)
    assert score.best.pairs == sum(len(found) for found in truths)


def test_two_runs_give_the_same_tracks(shared_data):
    frames = kitti_detections(shared_data / "tracking_kitti", "0012", 77)
    runs = []
    for _ in range(2):
        tracker = Tracker3D(KITTI)
        runs.append([tracker.update(step * 10**8, found) for step, (found, _) in enumerate(frames)])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first.ids, second.ids)
        np.testing.assert_array_equal(first.xyzlwh_yaw, second.xyzlwh_yaw)
        np.testing.assert_array_equal(first.covariance, second.covariance)
