"""Readers of what trackers are scored on: MOTChallenge files, KITTI's tracking sequences."""

from __future__ import annotations

import numpy as np
import pytest

from perception_rt.replay.kitti import Labels
from perception_rt.replay.kitti_tracking import ignored_in_image, in_front, read_detections, truth
from perception_rt.replay.mot import read_mot
from perception_rt.types import BagError


def labels(*rows) -> Labels:
    """Rows of (type, track id, truncated, occluded, xyxy)."""
    return Labels(
        types=np.array([row[0] for row in rows], np.str_),
        track_ids=np.array([row[1] for row in rows], np.int64),
        truncated=np.array([row[2] for row in rows], np.float32),
        occluded=np.array([row[3] for row in rows], np.int64),
        xyxy=np.array([row[4] for row in rows], np.float32),
        hwlxyz_ry=np.tile([1.5, 1.8, 4.0, 2.0, 1.6, 20.0, -np.pi / 2], (len(rows), 1)),
    )


def test_a_box_ahead_is_ahead_with_the_axes_of_rep_103():
    # 2 m to the right, on the ground 1.6 m below the camera, 20 m ahead, facing away from the camera.
    (box,) = in_front(np.array([[1.5, 1.8, 4.0, 2.0, 1.6, 20.0, -np.pi / 2]]))
    assert box == pytest.approx([20, -2, -0.85, 4.0, 1.8, 1.5, 0.0])


def test_the_hidden_the_cut_off_and_the_neighbours_do_not_count():
    box = (0, 0, 50, 50)
    found = truth(
        {
            3: labels(("Car", 1, 0, 2, box), ("Car", 2, 0, 3, box), ("Pedestrian", 9, 0, 0, box)),
            4: labels(("Car", 1, 1, 0, box), ("Van", 3, 0, 0, box), ("DontCare", -1, -1, -1, box)),
        },
        "Car",
    )
    assert found.frames.tolist() == [3, 3, 4, 4]
    assert found.ids.tolist() == [1, 2, 1, 3]
    assert found.ignored.tolist() == [False, True, True, True]


def test_low_boxes_and_those_in_a_region_of_dont_care_are_no_error():
    seen = np.array([[0, 0, 40, 25], [0, 0, 40, 26], [100, 0, 140, 40], [100, 0, 160, 40]], np.float32)
    region = labels(("DontCare", -1, -1, -1, (100, 0, 125, 100)), ("Car", 1, 0, 0, (0, 0, 40, 40)))
    assert ignored_in_image(seen, region).tolist() == [True, False, True, False]
    assert ignored_in_image(seen, None).tolist() == [True, False, False, False]


def test_detections_come_frame_by_frame_with_scores_as_probabilities(tmp_path):
    path = tmp_path / "0001.txt"
    path.write_text(
        "2,2,1,2,30,40,0.0,1.5,1.8,4,2,1.6,20,-1.5,0\n"
        "2,2,1,2,30,40,3.0,1.5,1.8,4,2,1.6,20,-1.5,0\n"
        "5,2,1,2,30,40,-3.0,1.5,1.8,4,2,1.6,20,-1.5,0\n"
    )
    found = read_detections(path, 1)
    assert list(found) == [2, 5]
    detections, xyxy = found[2]
    assert detections.scores == pytest.approx([0.5, 0.9526], abs=1e-4)
    assert detections.labels.tolist() == [1, 1]
    assert xyxy[0].tolist() == [1, 2, 30, 40]
    path.write_text("")
    assert read_detections(path, 1) == {}


@pytest.mark.parametrize("text", ["1,2,3\n", "a,b\n", "1,2,1,2,30,40,nan,1.5,1.8,4,2,1.6,20,-1.5,0\n"])
def test_detections_that_cannot_be_read_are_named(tmp_path, text):
    path = tmp_path / "0001.txt"
    path.write_text(text)
    with pytest.raises(BagError, match=r"0001\.txt"):
        read_detections(path, 0)


def test_mot_files_come_frame_by_frame_without_gaps(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,4,10,20,30,40,1,-1,-1,-1\n3,4,11,20,30,40,0.5,-1,-1,-1\n3,5,0,0,9,9,0,-1,-1,-1\n")
    frames = read_mot(path)
    assert list(frames) == [1, 2, 3]
    assert frames[1].xyxy.tolist() == [[10, 20, 40, 60]]
    assert [frame.ids.tolist() for frame in frames.values()] == [[4], [], [4]]
    assert frames[3].scores.tolist() == [0.5]


@pytest.mark.parametrize("text", ["1,2,3\n", "0,1,1,1,1,1,1\n", "1,1,1,1,x,1,1\n", "1,1,1,1,inf,1,1\n"])
def test_mot_rows_that_cannot_be_read_are_named(tmp_path, text):
    path = tmp_path / "det.txt"
    path.write_text("1,1,1,1,1,1,1\n" + text)
    with pytest.raises(BagError, match="line 2"):
        read_mot(path)
    with pytest.raises(BagError, match="cannot be read"):
        read_mot(tmp_path / "absent.txt")
