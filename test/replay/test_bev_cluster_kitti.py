"""The shipped `bev_cluster` on real clouds: what it must find, and how much else it may say."""

from __future__ import annotations

import numpy as np
import pytest

from bench.lidar_accuracy import labelled_frames, labelled_sequence, outcome, score_rows
from perception_rt.model.runtime import Runtime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.kitti import boxes_in_velodyne
from perception_rt.replay.score.labels import IMAGE_SIZE
from perception_rt.replay.score.scene import unlabelled
from perception_rt.replay.score.truth import View
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import Detections3D, LidarFrame


@pytest.fixture(scope="module")
def runtime():
    return Runtime.open("bev_cluster", device="cpu", threads=1)


def found_in(runtime, scenes):
    return [detect3d(runtime, LidarFrame(scene.points, 0, 0, "velodyne")) for scene in scenes]


@pytest.mark.parametrize(
    ("load", "recall", "precision"),
    [(labelled_frames, 0.8, 0.5), (lambda: labelled_sequence()[::4], 0.9, 0.6)],
    ids=["frames", "sequence"],
)
def test_recall_and_precision(shared_data, runtime, load, recall, precision):
    scenes = load()
    rows = score_rows("x", scenes, found_in(runtime, scenes), runtime.manifest.classes)
    value = {row.name: row.value for row in rows}
    assert value["x/recall_iou30"] >= recall
    assert value["x/precision_iou30"] >= precision
    assert value["x/recall_iou50"] >= recall - 0.05


def test_boxes_stand_on_the_ground_and_are_as_high_as_the_labels(shared_data, runtime):
    (scene,) = (scene for scene in labelled_frames() if len(scene.labels) > 10)
    (found,) = found_in(runtime, [scene])
    truth = boxes_in_velodyne(scene.labels.hwlxyz_ry[scene.labels.types == "Car"], scene.calibration)
    away = np.hypot(*(truth[:, None, :2] - found.xyzlwh_yaw[None, :, :2]).transpose(2, 0, 1))
    t, d = np.where(away < 1)
    assert len(t) >= 4
    bottom = [boxes[:, 2] - boxes[:, 5] / 2 for boxes in (truth[t], found.xyzlwh_yaw[d])]
    np.testing.assert_allclose(bottom[1], bottom[0], atol=0.25)


def test_cars_ahead_in_the_recorded_drive(shared_data, runtime):
    ahead = []
    with Bag(shared_data / "bags" / "kitti_city") as bag:
        for message in bag.messages(["/lidar/points"]):
            found = detect3d(runtime, frame_of(message))
            x, y = found.xyzlwh_yaw[:, 0], found.xyzlwh_yaw[:, 1]
            ahead.append(int(((found.labels == 0) & (x > 0) & (x < 40) & (np.abs(y) < 6)).sum()))
    assert len(ahead) == 24
    assert min(ahead) >= 3  # the queue at the red light


def test_the_score_asks_for_every_car_and_blames_every_guess(shared_data):
    """By hand on 000114: an empty answer finds nothing; a guess ahead is an error, one behind is not."""
    (scene,) = (scene for scene in labelled_frames() if len(scene.labels) > 10)
    nothing = outcome(scene, Detections3D.empty(), ["car"], 0.3)
    assert len(nothing.asked) == 5
    assert not nothing.found.any()
    assert len(nothing.claimed) == 0
    guesses = np.array([[15, 4, -1, 4, 1.7, 1.5, 0], [-15, 4, -1, 4, 1.7, 1.5, 0]], np.float32)
    blamed = outcome(
        scene, Detections3D(guesses, np.ones(2, np.float32), np.zeros(2, np.int64)), ["car"], 0.3
    )
    np.testing.assert_allclose(blamed.claimed, [np.hypot(15, 4)], rtol=1e-5)
    assert not blamed.right.any()
    truth = boxes_in_velodyne(scene.labels.hwlxyz_ry[:1], scene.calibration)
    perfect = outcome(scene, Detections3D(truth, np.ones(1, np.float32), np.zeros(1, np.int64)), ["car"], 0.3)
    assert perfect.found.sum() == perfect.right.sum() == 1
    everywhere = np.array([[0, 0, 1242, 375]], np.float32)
    guess, view = guesses[:1].astype(np.float64), View(scene.calibration, IMAGE_SIZE)
    assert not unlabelled(guess, view, everywhere[:0]).any()
    assert unlabelled(guess, view, everywhere).all()
