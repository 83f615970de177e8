"""KITTI's tracking sequences: boxes by REP 103, detections of others, and what does not count."""

from __future__ import annotations

import numpy as np
import pytest

from bench.kitti import ignored_in_image, read_detections
from perception_rt.replay.kitti import read_tracking_labels
from perception_rt.replay.kitti_tracking import in_front, truth
from perception_rt.types import BagError

BOX = "100 100 200 180 1.5 1.7 4.0 2.0 1.7 20.0 -1.5707963"
DETECTION = "{frame},2,100,100,200,180,{score},1.5,1.7,4.0,2.0,1.7,20.0,-1.5707963,0.1"


@pytest.fixture
def write(tmp_path):
    def write(*lines: str):
        path = tmp_path / "file.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_boxes_stand_by_rep_103():
    """2 m right, 20 m ahead, 1.7 m below the camera; the car looks ahead (ry -90 deg), then to the right."""
    ahead, right = in_front(np.array([[1.5, 1.7, 4, 2, 1.7, 20, -np.pi / 2], [1.5, 1.7, 4, 2, 1.7, 20, 0]]))
    np.testing.assert_allclose(ahead, [20, -2, -0.95, 4, 1.7, 1.5, 0], atol=1e-12)
    assert right[6] == pytest.approx(-np.pi / 2)


def test_detections_are_read_by_frame_with_probabilities(write):
    path = write(DETECTION.format(frame=3, score=2.0), DETECTION.format(frame=3, score=-1.0))
    path.write_text(path.read_text() + DETECTION.format(frame=5, score=0.0))
    found = read_detections(path, label=1)
    assert list(found) == [3, 5]
    detections, xyxy = found[3]
    np.testing.assert_allclose(detections.scores, [0.880797, 0.268941], rtol=1e-5)
    np.testing.assert_allclose(detections.xyzlwh_yaw[0], [20, -2, -0.95, 4, 1.7, 1.5, 0], atol=1e-5)
    assert detections.labels.tolist() == [1, 1]
    assert xyxy.tolist() == [[100, 100, 200, 180]] * 2


@pytest.mark.parametrize("line", ["1,2,3", "a,b", DETECTION.format(frame=0, score="nan")])
def test_what_are_no_detections_is_refused(write, line):
    path = write(line)
    with pytest.raises(BagError, match=r"file\.txt"):
        read_detections(path, 0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BagError, match="none"):
        read_detections(tmp_path / "none", 0)


def test_truths_of_the_class_and_its_neighbours_with_what_does_not_count(write):
    kinds = (("Car", 0, 0), ("Car", 1, 0), ("Car", 0, 2), ("Car", 0, 3), ("Van", 0, 0), ("Cyclist", 0, 0))
    path = write(*(f"4 {i} {kind} {cut} {hidden} 0 {BOX}" for i, (kind, cut, hidden) in enumerate(kinds)))
    cars = truth(read_tracking_labels(path), "Car")
    assert cars.ids.tolist() == [0, 1, 2, 3, 4]  # a cyclist is neither a car nor like one
    assert cars.frames.tolist() == [4] * 5
    assert cars.ignored.tolist() == [False, True, False, True, True]  # cut off; hidden unknown; a van
    np.testing.assert_allclose(cars.xyzlwh_yaw[0], [20, -2, -0.95, 4, 1.7, 1.5, 0], atol=1e-6)
    people = truth(read_tracking_labels(path), "Pedestrian")
    assert len(people) == 0


def test_low_boxes_and_those_in_regions_without_labels_are_no_error(write):
    path = write(f"0 -1 DontCare -1 -1 -10 0 0 100 100 {'-1 ' * 7}".strip(), f"0 0 Car 0 0 0 {BOX}")
    labels = read_tracking_labels(path)[0]
    boxes = np.array(
        [
            [300, 100, 340, 125],  # 25 px high: not judged
            [300, 100, 340, 126],
            [51, 0, 151, 100],  # 49 % in the region
            [49, 0, 149, 100],  # 51 %
            [120, 120, 180, 170],  # on the labelled car
        ],
        np.float32,
    )
    assert ignored_in_image(boxes, labels).tolist() == [True, False, False, True, False]
    assert ignored_in_image(boxes, None).tolist() == [True, False, False, False, False]
    assert ignored_in_image(boxes[:0], labels).tolist() == []
