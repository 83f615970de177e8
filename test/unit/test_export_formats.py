"""perception-rt export: what is written is read by the formats' own readers, and says the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from perception_rt.cli.main import main
from perception_rt.codec import Detection3DEncoder, DetectionEncoder, encode_image
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.export import kitti_box
from perception_rt.replay.kitti import (
    Calibration,
    boxes_in_velodyne,
    read_object_labels,
    read_tracking_labels,
)
from perception_rt.replay.message_types import typestore
from perception_rt.replay.mot import read_mot
from perception_rt.types import Detections2D, Detections3D

S, MS = 10**9, 10**6
IMAGE, ARRAY_2D, ARRAY_3D = (
    "sensor_msgs/msg/Image",
    "vision_msgs/msg/Detection2DArray",
    "vision_msgs/msg/Detection3DArray",
)
AXES = np.array([[0, -1, 0, 0.1], [0, 0, -1, 0.2], [1, 0, 0, 0.3], [0, 0, 0, 1.0]])
"""From the lidar's frame (x ahead) to the camera's (z ahead)."""
CLASSES = ("car", "traffic light")


def camera_info(r: np.ndarray | None = None, p: np.ndarray | None = None) -> bytes:
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](1, 0)
    header = types["std_msgs/msg/Header"](time, "camera")
    k = np.array([100, 0, 80, 0, 100, 60, 0, 0, 1.0])
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    matrices = k, (np.eye(3) if r is None else r).ravel(), (np.zeros((3, 4)) if p is None else p).ravel()
    info = types["sensor_msgs/msg/CameraInfo"](
        header, 120, 160, "plumb_bob", np.zeros(5), *matrices, 0, 0, roi
    )
    return bytes(typestore().serialize_cdr(info, "sensor_msgs/msg/CameraInfo"))


def transform() -> bytes:
    return transform_of("camera", "lidar", S, tuple(AXES[:3, 3].tolist()), (0.5, -0.5, 0.5, 0.5))


def transform_of(
    parent: str,
    child: str,
    stamp_ns: int,
    place: tuple[float, ...],
    quaternion: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0),
) -> bytes:
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, S))
    move = types["geometry_msgs/msg/Vector3"](*place)
    turn = types["geometry_msgs/msg/Quaternion"](*quaternion)
    pose = types["geometry_msgs/msg/Transform"](move, turn)
    stamped = types["geometry_msgs/msg/TransformStamped"](
        types["std_msgs/msg/Header"](time, parent), child, pose
    )
    message = types["tf2_msgs/msg/TFMessage"]([stamped])
    return bytes(typestore().serialize_cdr(message, "tf2_msgs/msg/TFMessage"))


BOX = np.array([[10.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.3]], np.float32)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Three images at 10 Hz; boxes of the last two, tracks in space, and predictions."""
    folder = tmp_path_factory.mktemp("export") / "bag"
    encoder, space = DetectionEncoder(CLASSES), Detection3DEncoder(CLASSES)
    with BagWriter(folder) as bag:
        bag.write("/tf_static", "tf2_msgs/msg/TFMessage", S, transform())
        bag.write("/camera_info", "sensor_msgs/msg/CameraInfo", S, camera_info())
        for number in range(3):
            stamp = S + number * 100 * MS
            pixels = np.full((120, 160, 3), 80 * number, np.uint8)
            bag.write("/image_raw", IMAGE, stamp, encode_image(pixels, "rgb8", stamp, "camera"))
            if number == 0:
                continue
            xyxy = np.array([[10, 20, 50, 60], [100.5, 30, 140, 70 + number]], np.float32)
            scores = np.array([0.9, 0.5], np.float32)
            found = Detections2D(xyxy, scores, np.array([0, 1]))
            bag.write("/detections", ARRAY_2D, stamp, encoder.encode(found, stamp, "camera"))
            box = Detections3D(BOX, np.array([0.8], np.float32), np.array([0]))
            data = space.encode(box, stamp + 20 * MS, "lidar", ["7"])
            bag.write("/tracks", ARRAY_3D, stamp + 20 * MS, data)
            data = space.encode(box, stamp, "lidar", ["7"], stamps_ns=[stamp + S])
            bag.write("/predictions", ARRAY_3D, stamp + 20 * MS, data)
    return folder


def written(recording: Path, out: Path, how: str, *more: str) -> Path:
    assert main(["export", str(recording), "--format", how, "--out", str(out), *more]) == 0
    return out


def test_coco_is_read_by_pycocotools_and_names_the_pictures(recording, tmp_path, capsys):
    out = written(recording, tmp_path / "out", "coco", "--images")
    found = COCO(str(out / "detections.json"))
    assert sorted(found.imgs) == [2, 3]
    assert {one["name"] for one in found.loadCats(found.getCatIds())} == set(CLASSES)
    boxes = found.loadAnns(found.getAnnIds(imgIds=[3]))
    assert [box["bbox"] for box in boxes] == [[10, 20, 40, 40], [100.5, 30, 39.5, 42]]
    assert [box["score"] for box in boxes] == pytest.approx([0.9, 0.5], abs=1e-6)
    assert found.loadRes(boxes).anns
    picture = cv2.imread(str(out / "images" / found.imgs[3]["file_name"]))
    assert (picture == 160).all()
    assert (found.imgs[3]["width"], found.imgs[3]["height"]) == (160, 120)
    # Boxes in space are those of the nearest picture.
    space = COCO(str(out / "tracks.json"))
    (box,) = space.loadAnns(space.getAnnIds(imgIds=[2]))
    assert box["track_id"] == "7"
    x, y, width, height = box["bbox"]
    centre = AXES @ np.array([10, 1, 0.5, 1])
    u, v = 100 * centre[:2] / centre[2] + [80, 60]
    assert x < u < x + width
    assert y < v < y + height
    assert "/predictions: left out: predictions are of later times" in capsys.readouterr().out


def test_kitti_labels_are_read_back_as_the_same_boxes(recording, tmp_path):
    out = written(recording, tmp_path / "out", "kitti")
    flat = read_object_labels(out / "detections" / "000001.txt")
    assert list(flat.types) == ["car", "traffic_light"]
    np.testing.assert_allclose(flat.xyxy, [[10, 20, 50, 60], [100.5, 30, 140, 71]], atol=0.01)
    space = read_object_labels(out / "tracks" / "000000.txt")
    calibration = Calibration(np.zeros((3, 4)), AXES)
    np.testing.assert_allclose(boxes_in_velodyne(space.hwlxyz_ry, calibration), BOX, atol=2e-3)
    tracks = read_tracking_labels(out / "tracks_tracking.txt")
    assert [list(labels.track_ids) for labels in tracks.values()] == [[7], [7]]


def test_boxes_in_a_fixed_frame_are_seen_from_where_the_vehicle_is_then(tmp_path, capsys):
    folder, space = tmp_path / "bag", Detection3DEncoder(CLASSES)
    seconds = (1, 2, 7, 8)  # the last one is after the transforms
    with BagWriter(folder) as bag:
        bag.write("/tf_static", "tf2_msgs/msg/TFMessage", S, transform())
        bag.write("/camera_info", "sensor_msgs/msg/CameraInfo", S, camera_info())
        for stamp in range(S, 7 * S + 1, 10 * MS):  # 10 m/s along x; the way is camera, lidar, odom
            data = transform_of("lidar", "odom", stamp, (-10 * (stamp / S - 1), 0.0, 0.0))
            bag.write("/tf", "tf2_msgs/msg/TFMessage", stamp, data)
        for second in seconds:
            stamp = second * S
            pixels = np.zeros((120, 160, 3), np.uint8)
            bag.write("/image_raw", IMAGE, stamp, encode_image(pixels, "rgb8", stamp, "camera"))
            ahead = BOX + np.float32([[10 * (second - 1), 0, 0, 0, 0, 0, 0]])
            box = Detections3D(ahead, np.array([0.8], np.float32), np.array([0]))
            bag.write("/tracks", ARRAY_3D, stamp, space.encode(box, stamp, "odom", ["7"]))
    out = written(folder, tmp_path / "kitti", "kitti")
    assert "/tracks: 1 messages left out: no transforms of their times" in capsys.readouterr().out
    labels = sorted((out / "tracks").glob("*.txt"))
    assert [label.name for label in labels] == ["000000.txt", "000001.txt", "000002.txt"]
    for label in labels:  # always at the same place before the vehicle
        found = boxes_in_velodyne(read_object_labels(label).hwlxyz_ry, Calibration(np.zeros((3, 4)), AXES))
        np.testing.assert_allclose(found, BOX, atol=2e-3)
    seen = COCO(str(written(folder, tmp_path / "coco", "coco") / "tracks.json"))
    boxes = [seen.imgToAnns[number][0]["bbox"] for number in sorted(seen.imgs)]
    assert len(boxes) == 3
    np.testing.assert_allclose(boxes, boxes[:1] * 3, atol=0.01)


def test_boxes_in_the_raw_image_of_a_stereo_camera_have_no_rectification(tmp_path):
    folder, space = tmp_path / "bag", Detection3DEncoder(CLASSES)
    turn = cv2.Rodrigues(np.array([0.0, 0.1, 0.2]))[0]
    with BagWriter(folder) as bag:
        bag.write("/tf_static", "tf2_msgs/msg/TFMessage", S, transform())
        bag.write("/camera_info", "sensor_msgs/msg/CameraInfo", S, camera_info(turn))
        pixels = np.zeros((120, 160, 3), np.uint8)
        bag.write("/image_raw", IMAGE, S, encode_image(pixels, "rgb8", S, "camera"))
        small = BOX * np.float32([1, 1, 1, 0.01, 0.01, 0.01, 1])
        box = Detections3D(small, np.array([0.8], np.float32), np.array([0]))
        bag.write("/tracks", ARRAY_3D, S, space.encode(box, S, "lidar"))
    seen = COCO(str(written(folder, tmp_path / "coco", "coco") / "tracks.json"))
    x, y, width, height = seen.anns[1]["bbox"]
    raw = turn.T @ (AXES @ np.array([10, 1, 0.5, 1]))[:3]
    expected = 100 * raw[:2] / raw[2] + [80, 60]
    np.testing.assert_allclose([x + width / 2, y + height / 2], expected, atol=0.1)


@pytest.mark.parametrize("yaw", np.linspace(-3.1, 3.1, 9))
def test_boxes_go_to_the_camera_and_back(yaw):
    box = np.array([12.0, -3.0, 0.4, 4.2, 1.8, 1.6, yaw])
    numbers, alpha = kitti_box(box, AXES)
    assert -np.pi <= alpha <= np.pi
    back = boxes_in_velodyne(
        np.array([[float(n) for n in numbers.split()]]), Calibration(np.zeros((3, 4)), AXES)
    )
    np.testing.assert_allclose(back[0], box, atol=2e-3)


def test_mot_rows_count_from_one_and_carry_ids(recording, tmp_path):
    out = written(recording, tmp_path / "out", "mot")
    frames = read_mot(out / "detections.txt")
    assert sorted(frames) == [1, 2, 3]
    assert len(frames[1].ids) == 0
    np.testing.assert_allclose(frames[3].xyxy[1], [100.5, 30, 140, 72], atol=0.01)
    assert set(frames[2].ids) == {-1}
    assert (out / "tracks.txt").read_text().splitlines()[0] == "1,7,-1,-1,-1,-1,0.8000,10.000,1.000,0.500"


def test_yolo_labels_lie_beside_their_pictures(recording, tmp_path):
    out = written(recording, tmp_path / "out", "yolo", "--images", "--topic", "/detections")
    folder = out / "detections"
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == {0: "car", 1: "traffic light"}
    labels = sorted(folder.glob("labels/**/*.txt"))
    pictures = sorted(folder.glob("images/**/*.png"))
    assert [path.stem for path in labels] == [path.stem for path in pictures] == ["000001", "000002"]
    rows = [list(map(float, line.split())) for line in labels[0].read_text().splitlines()]
    np.testing.assert_allclose(rows[0], [0, 30 / 160, 40 / 120, 40 / 160, 40 / 120], atol=1e-6)


def test_csv_has_everything_and_predictions_their_own_times(recording, tmp_path):
    out = written(recording, tmp_path / "out", "csv")
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["for_stamp_ns"]) - int(row["stamp_ns"]) for row in rows] == [S, S]
    np.testing.assert_allclose(
        [float(rows[0][name]) for name in ("x", "y", "z", "yaw")], BOX[0, [0, 1, 2, 6]]
    )
    assert (rows[0]["class"], rows[0]["id"], rows[0]["frame_id"]) == ("car", "7", "lidar")


def test_what_cannot_be_exported_is_said(recording, tmp_path, capsys):
    given = ["--out", str(tmp_path / "out"), "--format", "csv"]
    assert main(["export", str(recording), *given, "--topic", "/detection"]) == 2
    assert "topics of detections are /detections, /predictions, /tracks" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), *given]) == 2
    only = ["--out", str(tmp_path / "out"), "--format", "coco", "--topic", "/predictions"]
    assert main(["export", str(recording), *only]) == 2
    assert "nothing can be written" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert main(["export", str(recording), "--out", str(tmp_path / "full"), "--format", "csv"]) == 2
    run = tmp_path / "run"
    (run / "bag").mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({}))
    assert main(["export", str(run), *given]) == 2
    assert "--recording" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [1, 2])
def test_images_that_cannot_be_decoded_are_left_out(tmp_path, capsys, broken):
    folder, encoder = tmp_path / "bag", DetectionEncoder(CLASSES)
    found = Detections2D(np.array([[10, 20, 50, 60]], np.float32), np.ones(1, np.float32), np.array([0]))
    with BagWriter(folder) as bag:
        for number in range(2):
            stamp = S + number * 100 * MS
            image = encode_image(np.zeros((120, 160, 3), np.uint8), "rgb8", stamp, "camera")
            bag.write("/image_raw", IMAGE, stamp, image[:80] if number < broken else image)
            bag.write("/detections", ARRAY_2D, stamp, encoder.encode(found, stamp, "camera"))
    out = written(folder, tmp_path / "csv", "csv")
    assert len((out / "detections.csv").read_text().splitlines()) == 3
    given = ["--format", "coco", "--images", "--out", str(tmp_path / "coco")]
    if broken == 2:
        assert main(["export", str(folder), *given]) == 2
        assert "no pictures of their times" in capsys.readouterr().err
        return
    written(folder, tmp_path / "coco", "coco", "--images")
    assert "/image_raw: 1 pictures, 1 cannot be decoded" in capsys.readouterr().out
    (image,) = COCO(str(tmp_path / "coco" / "detections.json")).imgs.values()
    assert (image["width"], image["height"]) == (160, 120)
    assert [path.name for path in (tmp_path / "coco").glob("images/*/*")] == [Path(image["file_name"]).name]


def test_ctrl_c_leaves_no_half_of_a_folder(recording, tmp_path, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(cv2, "imwrite", interrupt)  # the folder is there by then
    assert main(["export", str(recording), "--format", "coco", "--images", "--out", str(out)]) == 130
    assert capsys.readouterr().err == "perception-rt export: interrupted\n"
    assert not out.exists()
