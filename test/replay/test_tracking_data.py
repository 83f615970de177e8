"""The trackers on recordings: KITTI in space, TUD-Campus in the image, at the scores that are published."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.tracking_accuracy import HELD_OUT, KITTI, TUNED, kitti_detections, kitti_rows, tud_rows
from perception_rt.replay.clear_mot import score_tracks
from perception_rt.replay.kitti import read_tracking_labels
from perception_rt.replay.kitti_tracking import truth
from perception_rt.stage.tracking.tracker import Tracker3D
from perception_rt.types import Detections3D


def test_kitti_is_tracked_better_than_ab3dmot_does_on_both_halves(shared_data):
    rows = kitti_rows(shared_data / "tracking_kitti")
    held = {row.name: row.holds for row in rows if row.target}
    assert len(held) == 2 * 3 * 3  # classes, parts, figures
    assert [name for name, holds in held.items() if not holds] == []


def test_people_in_the_image_are_tracked(shared_data):
    rows = tud_rows(shared_data / "tracking_mot15" / "TUD-Campus")
    value = {row.name.removeprefix("tracking/tud_campus/"): row.value for row in rows}
    assert value["all/mota"] >= 64
    assert value["all/id_switches"] <= 4
    assert value["tuned_half/mota"] >= 60
    assert value["held_out_half/mota"] >= 60


@pytest.mark.parametrize(("kind", "count"), [("Car", 4784), ("Pedestrian", 3044)])
def test_the_truth_that_counts_is_what_kittis_development_kit_counts(shared_data, kind, count):
    folder = shared_data / "tracking_kitti" / "label"
    truths = [truth(read_tracking_labels(folder / f"{name}.txt"), kind) for name in (*TUNED, *HELD_OUT)]
    score = score_tracks([(found, found) for found in truths])
    assert score.best.truths == count
    assert score.best.errors == 0


def _driven(length: int) -> list[np.ndarray]:
    """Where a sensor is that drives on a circle of 50 m radius at 5 m/s, looking ahead; 10 Hz."""
    poses = []
    for step in range(length):
        angle = 0.01 * step
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[:2, 3] = 50 * np.sin(angle), 50 * (1 - np.cos(angle))
        poses.append(pose)
    return poses


def test_odometry_makes_no_difference_to_what_is_seen(shared_data):
    """Real detections as a sensor on a circle would have them: with its odometry, the tracks are the same.

    Without coasting, which depends on the sensor's field of view.
    """
    config = replace(KITTI, lives=tuple(replace(life, coast_s=0.0) for life in KITTI.lives))
    frames = [found for found, _ in kitti_detections(shared_data / "tracking_kitti", "0012", 77)]
    still, moving = Tracker3D(config), Tracker3D(config)
    counts = 0
    for step, (found, pose) in enumerate(zip(frames, _driven(len(frames)), strict=True)):
        boxes = found.xyzlwh_yaw.astype(np.float64)
        boxes[:, :3] = (boxes[:, :3] - pose[:3, 3]) @ pose[:3, :3]
        boxes[:, 6] -= 0.01 * step
        seen: Detections3D = replace(found, xyzlwh_yaw=boxes.astype(np.float32))
        a, b = still.update(step * 10**8, found, np.eye(4)), moving.update(step * 10**8, seen, pose)
        assert a.ids.tolist() == b.ids.tolist()
        np.testing.assert_allclose(a.xyzlwh_yaw[:, :6], b.xyzlwh_yaw[:, :6], atol=1e-2)
        np.testing.assert_allclose(a.velocity, b.velocity, atol=1e-2)
        counts += len(a)
    assert counts > 50
