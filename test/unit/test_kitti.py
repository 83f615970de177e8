"""KITTI's files: what is read, where the boxes lie in the lidar's frame, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from bench.kitti import read_velodyne_sequence
from perception_rt.replay.kitti import (
    Calibration,
    boxes_in_velodyne,
    read_calibration,
    read_object_labels,
    read_tracking_labels,
    read_velodyne,
)
from perception_rt.types import BagError

CAR = "Car 0.25 1 -1.59 589 187 668 253 1.5 1.7 4.0 2.0 1.7 20.0 -1.5707963"
DONT_CARE = "DontCare -1 -1 -10 555.4 164.6 601.3 188.6 -1 -1 -1 -1000 -1000 -1000 -10"
CALIBRATION = """\
P2: 700 0 600 45 0 700 180 0 0 0 1 0
{rect} 1 0 0 0 1 0 0 0 1
{velo} 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""
# Axes of the two frames swapped, and the lidar 0.08 m above and 0.27 m behind the camera.
CAMERA_FROM_VELODYNE = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1.0]])


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "file.txt"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("rect", "velo"), [("R0_rect:", "Tr_velo_to_cam:"), ("R_rect", "Tr_velo_cam")], ids=["object", "tracking"]
)
def test_calibration_of_both_benchmarks(write, rect, velo):
    calibration = read_calibration(write(CALIBRATION.format(rect=rect, velo=velo)))
    np.testing.assert_allclose(calibration.camera_from_velodyne, CAMERA_FROM_VELODYNE)
    pixel, depth = calibration.project(np.array([[10.27, -1.0, -0.08], [-5.0, 0.0, 0.0]]))
    np.testing.assert_allclose(pixel[0], [600 + (700 * 1 + 45) / 10, 180])
    np.testing.assert_allclose(depth, [10, -5.27])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("P2: 1 2 3", "no R0_rect"),
        (CALIBRATION.format(rect="R0_rect:", velo="other:"), "no Tr_velo_to_cam"),
        (CALIBRATION.format(rect="R0_rect: 7", velo="Tr_velo_to_cam:"), "R0_rect=.*must be 9"),
        (CALIBRATION.format(rect="R0_rect:", velo="Tr_velo_to_cam:").replace("700", "x"), "P2=.*not numbers"),
        (CALIBRATION.format(rect="R0_rect:", velo="Tr_velo_to_cam:").replace("700", "nan"), "P2=.*finite"),
    ],
)
def test_a_wrong_calibration_is_refused(write, text, complaint):
    with pytest.raises(BagError, match=complaint):
        read_calibration(write(text))


def test_object_labels(write):
    labels = read_object_labels(write(f"{CAR}\n\n{DONT_CARE}\n"))
    assert labels.types.tolist() == ["Car", "DontCare"]
    assert labels.track_ids.tolist() == [-1, -1]
    assert labels.truncated.tolist() == [0.25, -1]
    assert labels.occluded.tolist() == [1, -1]
    assert labels.xyxy[0].tolist() == [589, 187, 668, 253]
    np.testing.assert_allclose(labels.hwlxyz_ry[0], [1.5, 1.7, 4, 2, 1.7, 20, -np.pi / 2], atol=1e-6)
    assert labels[labels.types == "Car"].types.tolist() == ["Car"]


def test_a_byte_order_mark_is_no_part_of_the_first_type(write):
    assert read_object_labels(write(f"\ufeff{CAR}\n")).types.tolist() == ["Car"]


def test_tracking_labels_by_frame(write):
    labels = read_tracking_labels(write(f"7 3 {CAR}\n2 4 {CAR}\n2 -1 {DONT_CARE}\n"))
    assert list(labels) == [2, 7]
    assert labels[2].types.tolist() == ["Car", "DontCare"]
    assert labels[2].track_ids.tolist() == [4, -1]
    np.testing.assert_allclose(labels[7].hwlxyz_ry[0, 3:6], [2, 1.7, 20])


def test_an_empty_label_file_is_a_frame_without_objects(write):
    assert len(read_object_labels(write(""))) == 0
    assert read_object_labels(write("")).hwlxyz_ry.shape == (0, 7)


@pytest.mark.parametrize(
    "text", [f"{CAR} 0.5 3", "Car 1 2", CAR.replace("1.7", "wide"), CAR.replace("20.0", "inf")]
)
def test_a_wrong_label_names_its_line(write, text):
    with pytest.raises(BagError, match="line 2="):
        read_object_labels(write(f"{CAR}\n{text}\n"))


@pytest.mark.parametrize("read", [read_calibration, read_object_labels, read_tracking_labels])
def test_a_missing_text_is_a_typed_error(tmp_path, read):
    with pytest.raises(BagError, match=r"nothing\.txt"):
        read(tmp_path / "nothing.txt")


def test_boxes_in_the_velodyne_frame():
    """By hand: ahead in z is ahead in x, right is -y, the bottom centre is half a height below the centre."""
    calibration = Calibration(np.zeros((3, 4)), CAMERA_FROM_VELODYNE)
    ahead, left = [1.5, 1.7, 4, 2, 1.7, 20, -np.pi / 2], [1.5, 1.7, 4, 2, 1.7, 20, np.pi]
    boxes = boxes_in_velodyne(np.array([ahead, left]), calibration)
    centre = [20.27, -2, -1.7 + 0.75 - 0.08]
    np.testing.assert_allclose(boxes[0], [*centre, 4, 1.7, 1.5, 0], atol=1e-5)
    np.testing.assert_allclose(boxes[1, :6], [*centre, 4, 1.7, 1.5], atol=1e-5)
    assert boxes[1, 6] == pytest.approx(np.pi / 2)  # ry = pi looks along -x of the camera: to the left
    assert boxes.dtype == np.float32


def test_clouds(tmp_path):
    cloud = np.arange(12, dtype=np.float32).reshape(3, 4)
    cloud.tofile(tmp_path / "cloud.bin")
    np.testing.assert_array_equal(read_velodyne(tmp_path / "cloud.bin"), cloud)
    (tmp_path / "cloud.bin").write_bytes(b"\0" * 17)
    with pytest.raises(BagError, match="17 bytes"):
        read_velodyne(tmp_path / "cloud.bin")
    with pytest.raises(BagError, match="none"):
        read_velodyne(tmp_path / "none.bin")


def test_a_sequence_of_clouds(tmp_path):
    path = tmp_path / "clouds.npz"
    columns = {name: np.arange(3, dtype=np.int32) * 1000 for name in ("x_mm", "y_mm", "z_mm")}
    columns["intensity_pct"] = np.array([0, 50, 100], np.uint8)
    np.savez(path, counts=np.array([1, 0, 2]), **columns)
    clouds = read_velodyne_sequence(path)
    assert [len(cloud) for cloud in clouds] == [1, 0, 2]
    np.testing.assert_allclose(clouds[2], [[1, 1, 1, 0.5], [2, 2, 2, 1]])
    np.savez(path, counts=np.array([5]), **columns)
    with pytest.raises(BagError, match="x_mm has shape"):
        read_velodyne_sequence(path)
    np.savez(path, counts=np.array([5]))
    with pytest.raises(BagError, match="x_mm"):
        read_velodyne_sequence(path)
    path.write_bytes(b"no archive")
    with pytest.raises(BagError, match="cannot be read"):
        read_velodyne_sequence(path)


def test_real_labels_hold_their_points(shared_data):
    """The box of a near Car holds lidar points, and its middle is seen inside its 2D box."""
    folder = shared_data / "frames" / "000114"
    labels, calibration = read_object_labels(folder / "label.txt"), read_calibration(folder / "calib.txt")
    cars = labels[(labels.types == "Car") & (labels.hwlxyz_ry[:, 5] < 40)]
    assert len(cars) == 6
    points = read_velodyne(folder / "velodyne.bin")[:, :3]
    for box, xyxy in zip(boxes_in_velodyne(cars.hwlxyz_ry, calibration), cars.xyxy, strict=True):
        cos, sin = np.cos(box[6]), np.sin(box[6])
        local = (points - box[:3]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        assert (np.abs(local) <= box[3:6] / 2).all(1).sum() >= 10
        (pixel,), _ = calibration.project(box[None, :3].astype(np.float64))
        assert (xyxy[:2] <= pixel).all()
        assert (pixel <= xyxy[2:]).all()
