"""The readers, each with whole inputs to begin from; a reader may raise what `ALLOWED` has, no more."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from bench.kitti import read_detections, read_velodyne_sequence
from perception_rt import codec
from perception_rt.codec import camera_info, transforms, vehicle
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.classification import decode_classification, encode_classification
from perception_rt.codec.detections import DetectionEncoder, decode_named_detections
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.codec.encode import encode_compressed, encode_image, encode_points
from perception_rt.codec.estimates import parse_estimates
from perception_rt.codec.segmentation import (
    decode_segmentation,
    encode_segmentation,
)
from perception_rt.component.graph import read_graph
from perception_rt.model.archive import read_archive
from perception_rt.model.importers import openpcdet
from perception_rt.model.importers.common import read_class_names
from perception_rt.model.importers.mmdet3d_config import read_config
from perception_rt.model.importers.onnx_file import read_onnx
from perception_rt.model.manifest import parse_manifest
from perception_rt.model.runtime import resolve_bundle
from perception_rt.replay import kitti, mot
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.batch.progress import parse_progress
from perception_rt.replay.report import explanations, folder
from perception_rt.replay.report.ledger import read_ledger
from perception_rt.replay.storage import metadata, records, unpack
from perception_rt.replay.storage.values import FormatError
from perception_rt.train.dataset.coco import read_coco
from perception_rt.train.dataset.kitti import read_kitti
from perception_rt.train.dataset.labels import Problems
from perception_rt.train.dataset.yolo import read_yolo
from perception_rt.types import Detections2D, Detections3D, PerceptionError
from perception_rt.types.bounded_yaml import load_yaml
from perception_rt.types.classification import Classification
from perception_rt.types.segmentation import Segmentation
from test import lidar_networks
from test.drives import write_drive

ALLOWED = (PerceptionError, FormatError, yaml.YAMLError)
MOST_PIXELS = 1 << 22  # bytes of an image or cloud
STAMP = 1_700_000_000 * 10**9
RNG = np.random.default_rng(0)
SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz_")  # removed with the process
FOLDER = Path(SCRATCH.name)


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        read: reads one input; returns where its readers ended, if it has several.
        seeds: whole inputs.
        runs: how many a full run makes.
        most: longest input, bytes.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    runs: int = 10_000
    most: int = 1 << 16


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of files as one of bytes."""
    path = FOLDER / name

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return run


def place_of(error: BaseException) -> str:
    """Where an error was raised."""
    trace = traceback.extract_tb(error.__traceback__)[-1]
    return f"{trace.filename}:{trace.lineno}"


def _each(*readers: Callable[[Any], object]) -> Callable[[Any], tuple[str, ...]]:
    """Give every reader the input; where each of them ended."""

    def end(read: Callable[[Any], object], data: Any) -> str:
        try:
            read(data)
        except ALLOWED as error:
            return place_of(error)
        return "read"

    return lambda data: tuple(end(read, data) for read in readers)


# Messages.


def _cdr(data: bytes) -> None:
    reader = CdrReader(data)
    reader.header()
    reader.octets("octets")
    reader.doubles("doubles")
    reader.string("text")
    reader.scalars("pair", "H", 2)


def _cdr_seeds() -> list[bytes]:
    return [encode_compressed(b"data", "jpeg", STAMP, "camera"), *_array_seeds(), *_vehicle_seeds()]


def _image(data: bytes) -> None:
    codec.parse_image(data, MOST_PIXELS).decode()


def _image_seeds() -> list[bytes]:
    grey = RNG.integers(0, 256, (12, 16), np.uint8)
    rgb = np.dstack([grey] * 3)
    seeds = [encode_image(rgb, "rgb8", STAMP, "camera")]
    for name in codec.ENCODINGS:
        if len(name) == 4:
            seeds.append(seeds[0].replace(b"rgb8", name.encode()))
    return seeds


def _compressed(data: bytes) -> None:
    codec.parse_compressed(data, MOST_PIXELS).decode()


def _compressed_seeds() -> list[bytes]:
    picture = cv2.GaussianBlur(RNG.integers(0, 256, (24, 32, 3), np.uint8), (0, 0), 2)
    forms = [(".jpg", ()), (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), (".png", ()), (".webp", ())]
    forms += [(".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)), (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101))]
    pictures = [cv2.imencode(form, picture, flags)[1].tobytes() for form, flags in forms]
    pictures.append(cv2.imencode(".png", picture.astype(np.uint16) * 257)[1].tobytes())
    return [encode_compressed(stream, "x", STAMP, "camera") for stream in pictures]


def _cloud(data: bytes) -> None:
    codec.parse_points(data, MOST_PIXELS).decode()


def _cloud_seeds() -> list[bytes]:
    return [
        encode_points(RNG.uniform(-9, 9, (count, 4)).astype(np.float32), STAMP, "lidar")
        for count in (0, 1, 50)
    ]


def _array_seeds() -> list[bytes]:
    boxes = Detections2D(
        np.array([[1, 2, 3, 4], [5, 6, 9, 9]], np.float32), np.array([0.5, 0.9], np.float32), np.array([0, 1])
    )
    solid = np.array([[1, 2, 3, 4, 2, 1, 0.5], [9, 2, 3, 4, 2, 1, -0.5]], np.float32)
    boxes3d = Detections3D(solid, np.array([0.5, 0.9], np.float32), np.array([0, 1]))
    classes = ("car", "person")
    return [
        bytes(DetectionEncoder(classes).encode(boxes, STAMP, "camera")),
        bytes(Detection3DEncoder(classes).encode(boxes3d, STAMP, "lidar")),
    ]


CLASSES = [str(label) for label in range(9)]
_labels = _each(  # the answers of classifiers and segmenters, and the estimates of trackers
    lambda data: decode_classification(data, CLASSES),
    lambda data: decode_segmentation(data, CLASSES),
    parse_estimates,
)


def _labels_seeds() -> list[bytes]:
    found = Classification(np.array([0.7, 0.2], np.float32), np.array([1, 0]))
    segments = Segmentation(np.array([[0, 1, 255], [2, 2, 3]], np.uint8))
    return [
        encode_classification(found, ("car", "bus"), STAMP, "camera"),
        encode_segmentation(segments, STAMP, "camera"),
        *_array_seeds(),
    ]


def _of_drive(*topics: str) -> list[bytes]:
    with Bag(_drive()) as bag:
        return list({message.topic: bytes(message.data) for message in bag.messages(topics)}.values())


def _vehicle_seeds() -> list[bytes]:
    return _of_drive("/odom", "/imu")


# Recordings.


@cache
def _drive() -> Path:
    folder = FOLDER / "drive"
    write_drive(folder, 0.3, size=(64, 64), azimuth_steps=30)
    return folder


def _bag(path: Path) -> None:
    with Bag(path, salvage=True) as bag:
        for message in bag.messages():
            try:
                frame_of(message)
            except (KeyError, *ALLOWED):  # of another type than a sensor's
                continue


def _mcap_seeds() -> list[bytes]:
    return [path.read_bytes() for path in _drive().glob("*.mcap")]


def _sqlite_seeds() -> list[bytes]:
    path = FOLDER / "seed.db3"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute(
            "CREATE TABLE IF NOT EXISTS topics (id INTEGER PRIMARY KEY, name, type, serialization_format)"
        )
        database.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, topic_id, timestamp, data)"
        )
        database.execute("INSERT OR REPLACE INTO topics VALUES (1, '/a', 'sensor_msgs/msg/Image', 'cdr')")
        for number, data in enumerate(_image_seeds()[:3]):
            database.execute("INSERT OR REPLACE INTO messages VALUES (?, 1, ?, ?)", (number, number, data))
    database.close()
    return [path.read_bytes()]


def _chunk(data: bytes) -> None:
    kind = ("", "zstd", "lz4", "other")[data[0] % 4] if data else ""
    found = unpack.unpack(data[1:], kind, 1 << 20).data
    readers = (
        records.parse_schema,
        records.parse_channel,
        records.parse_message_head,
        records.parse_message_index,
        records.parse_chunk_index,
        records.parse_statistics,
        lambda body: records.parse_chunk_head(body, len(body)),
    )
    for read in readers:
        try:
            read(found)
        except FormatError:
            continue
    list(records.each_record(found))


def _chunk_seeds() -> list[bytes]:
    import lz4.frame

    data, at = _mcap_seeds()[0][8:], 0
    while at < 100:  # whole records
        at += 9 + int.from_bytes(data[at + 1 : at + 9], "little")
    whole = data[:at]
    return [b"\0" + whole, b"\1" + unpack.zstd.compress(whole), b"\2" + lz4.frame.compress(whole)]


def _metadata(path: Path) -> None:
    metadata.read_metadata(path.parent)


def _metadata_seeds() -> list[bytes]:
    return [(_drive() / "metadata.yaml").read_bytes()]


_kitti = _each(
    kitti.read_calibration, kitti.read_object_labels, kitti.read_tracking_labels, kitti.read_velodyne,
    lambda file: read_detections(file, 1),
)  # fmt: skip


def _coco(path: Path) -> None:
    _picture(path.parent / "a.png")
    read_coco(path, Problems(path))


def _coco_seeds() -> list[bytes]:
    data = {
        "info": {"images": []},
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 8, 9.5], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "car"}],
    }
    return [json.dumps(data).encode(), json.dumps(data, indent=1).encode()]


def _yolo(path: Path) -> None:
    """The labels of a picture, and the description of a data set."""
    folder = path.parent / "yolo"
    folder.mkdir(exist_ok=True)
    _picture(folder / "a.png")
    for name in ("a.txt", "data.yaml"):
        (folder / "a.txt").write_text("0 .5 .5 .1 .1\n")
        (folder / "data.yaml").write_text("{names: [car, bus], train: a.png.list}")
        (folder / "a.png.list").write_text("a.png\n")
        (folder / name).write_bytes(path.read_bytes())
        with contextlib.suppress(*ALLOWED):
            read_yolo(folder / "data.yaml", Problems(folder))


def _yolo_seeds() -> list[bytes]:
    polygon = b"1 .1 .1 .5 .1 .5 .5\n"
    return [b"0 .5 .5 .25 .5\n" + polygon, b"path: .\ntrain: a.png.list\nval: []\nnames: {0: car, 1: bus}\n"]


def _kitti_training(path: Path) -> None:
    """A label file, and a calibration, of a folder to train on."""
    root = path.parent / "object"
    for name in ("label_2", "calib", "image_2", "velodyne"):
        (root / name).mkdir(parents=True, exist_ok=True)
    _picture(root / "image_2" / "0.png")
    (root / "velodyne" / "0.bin").write_bytes(bytes(64))
    calibration, label, *_ = _kitti_seeds()
    for part in ("label_2", "calib"):
        (root / "label_2" / "0.txt").write_bytes(label)
        (root / "calib" / "0.txt").write_bytes(calibration)
        (root / part / "0.txt").write_bytes(path.read_bytes())
        for clouds in (False, True):
            with contextlib.suppress(*ALLOWED):
                read_kitti(root, clouds, Problems(root))


@cache
def _picture(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((24, 32, 3), np.uint8))


def _kitti_seeds() -> list[bytes]:
    numbers = " ".join(["1.5"] * 12)
    calibration = "".join(
        f"{name}: {numbers}\n" for name in ("P0", "P1", "P2", "P3", "Tr_velo_to_cam", "Tr_imu_to_velo")
    )
    calibration += "R0_rect: 1 0 0 0 1 0 0 0 1\n"
    label = "Car 0 0 -1.5 100 100 200 200 1.5 1.6 4 1 1 10 0"
    detection = "0,2,296.0,160.7,455.2,292.4,7.1,1.5,1.6,3.7,-1.8,1.7,8.1,-1.5,-1.2\n"
    return [
        calibration.encode(),
        label.encode(),
        f"0 7 {label}\n1 7 {label}".encode(),
        detection.encode(),
        bytes(64),
    ]


def _mot_seeds() -> list[bytes]:
    return [b"1,1,10,10,20,20,1,-1,-1,-1\n2,1,12,10,20,20,1,-1,-1,-1\n", b"1,-1,1,2,3,4,0.9,1,1\n"]


def _npz_seeds() -> list[bytes]:
    columns = {name: np.arange(5, dtype=np.int16) for name in ("x_mm", "y_mm", "z_mm", "intensity_pct")}
    seeds = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **columns, counts=np.array([2, 3]))
        seeds.append(file.getvalue())
    return seeds


# What a replay wrote.


def _report(path: Path) -> None:
    """The files in the folder of a replay."""
    run = path.parent / "run"
    (run / "explain").mkdir(parents=True, exist_ok=True)
    files = ("metrics.json", "run.json", "differences.json", f"explain/{explanations.EXPLANATIONS}")
    for name in files:
        (run / name).write_bytes(path.read_bytes())
    readers = (
        lambda: folder.read_metrics(run),
        lambda: folder.read_run(run),
        lambda: folder.first_differences(run),
        lambda: explanations.read_explanations(run / "explain"),
        lambda: parse_progress(path.read_text(errors="replace")),
    )
    for read in readers:
        with contextlib.suppress(*ALLOWED):
            read()


def _report_seeds() -> list[bytes]:
    sections: dict[str, dict] = {name: {} for name in ("streams", "bag", "bundles", "outputs", "scores")}
    return [
        json.dumps({"format": 1, **sections}).encode(),
        b'{"kind": "changed", "where": "/a"},\n{"kind": "missing", "where": "/b"}\n',
        b'{"records": [{"picture": "a.jpg", "class": "car", "score": 0.5}]}',
        b'{"done_s": 1.5, "total_s": 3}',
    ]


def _ledger_seeds() -> list[bytes]:
    names = "node,topic,number,arrival_ns,stamp_ns,wait_ms,decode_ms,infer_ms,publish_ms,ended_ns,age_ms"
    row = f"camera,/image,0,{STAMP},{STAMP},0.1,0.2,5.5,0.1,{STAMP + 10**7},10.5,published,\n"
    late = f"camera,/image,1,{STAMP + 10**8},,,,,,{STAMP + 10**8},,late,stamp is 3 ms behind\n"
    return [f"{names},outcome,reason\n{row}{late}".encode()]


# Bundles and models.


def _manifest(data: bytes) -> None:
    parse_manifest(data.decode(errors="surrogateescape"))


def _manifest_seeds() -> list[bytes]:
    seeds = []
    for name in ("sim_camera", "bev_cluster", "pillars"):
        with zipfile.ZipFile(resolve_bundle(name)) as archive:
            (path,) = [path for path in archive.namelist() if path.endswith("extra/manifest.json")]
            seeds.append(archive.read(path))
    return seeds


def _archive_seeds() -> list[bytes]:
    seeds = []
    for text in _manifest_seeds():
        manifest = json.loads(text)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("extra/manifest.json", text)
            for program in manifest.get("programs", []):
                archive.writestr(program["file"], b"program")
        seeds.append(file.getvalue())
    return seeds


def _yaml(data: bytes) -> None:
    load_yaml(data.decode(errors="replace"))


def _yaml_seeds() -> list[bytes]:
    graph = "/**: {ros__parameters: {use_sim_time: true}}\n"
    graph += "front:\n  camera_detector:\n    ros__parameters: {rate_hz: 5.0}\n"
    return [
        graph.encode(),
        b"a: &a [1, 2]\nb: *a\nc: !!binary aGk=\nd: 2020-01-02\n",
        b"- |\n  text\n- 'x'\n- 0x1f\n",
    ]


def _onnx(path: Path) -> None:
    read_onnx(path, (32, 32))


def _onnx_seeds() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])
    found = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["images", "w"], ["out"])
    graph = helper.make_graph([node], "g", [image], [found], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return [model.SerializeToString()]


def _openpcdet(path: Path) -> None:
    openpcdet._read_config(path, [])


def _openpcdet_seeds() -> list[bytes]:
    based = (
        b"_BASE_CONFIG_: base/kitti.yaml\nMODEL: {NAME: PointPillar, VFE: {_BASE_CONFIG_: a.yaml, X: 1}}\n"
    )
    return [lidar_networks.read("openpcdet_pointpillar")["config"].encode(), based]


def _names_seeds() -> list[bytes]:
    return [b"names: {0: car, 1: bus}\n", b"[car, bus]\n", b"categories: [{id: 1, name: car}]\n"]


def _python_seeds() -> list[bytes]:
    text = lidar_networks.read("mmdet3d_centerpoint")["config"]
    return [
        text.encode(),
        b"x = [1, 2][:1] + 2 * [3]\ny = dict(**dict(a=x), b={'c': -1 / 2})\nz = '{{_base_.a}}'\n",
    ]


TARGETS = {
    "cdr": Target(_cdr, _cdr_seeds, 200_000, 4096),
    "image": Target(_image, _image_seeds, 150_000, 4096),
    "compressed": Target(_compressed, _compressed_seeds, 50_000),
    "cloud": Target(_cloud, _cloud_seeds, 100_000, 4096),
    "detections": Target(
        _each(decode_named_detections, decode_named_detections3d), _array_seeds, 100_000, 4096
    ),
    "tf": Target(transforms.parse_transforms, lambda: _of_drive("/tf", "/tf_static"), 100_000, 4096),
    "labels": Target(_labels, _labels_seeds, 50_000, 4096),
    "vehicle": Target(
        _each(vehicle.parse_odometry, vehicle.parse_imu, vehicle.parse_fix, vehicle.parse_twist),
        _vehicle_seeds,
        100_000,
        4096,
    ),
    "camera_info": Target(
        camera_info.parse_camera_info, lambda: _of_drive("/camera/camera_info"), 50_000, 4096
    ),
    "mcap": Target(_file("drive.mcap", _bag), _mcap_seeds, 10_000),
    "sqlite": Target(_file("drive.db3", _bag), _sqlite_seeds, 10_000),
    "chunk": Target(_chunk, _chunk_seeds, 50_000),
    "metadata": Target(_file("metadata.yaml", _metadata), _metadata_seeds, 10_000),
    "kitti": Target(_file("kitti.txt", _kitti), _kitti_seeds, 30_000, 4096),
    "coco": Target(_file("labels.json", _coco), _coco_seeds, 20_000, 4096),
    "yolo": Target(_file("labels.txt", _yolo), _yolo_seeds, 20_000, 4096),
    "training": Target(_file("object.txt", _kitti_training), _kitti_seeds, 10_000, 4096),
    "report": Target(_file("report.json", _report), _report_seeds, 10_000, 4096),
    "ledger": Target(_file("ledger.csv", read_ledger), _ledger_seeds, 10_000, 4096),
    "mot": Target(_file("mot.txt", mot.read_mot), _mot_seeds, 30_000, 4096),
    "sequence": Target(_file("clouds.npz", read_velodyne_sequence), _npz_seeds, 10_000),
    "manifest": Target(_manifest, _manifest_seeds, 50_000),
    "archive": Target(_file("bundle.pt", read_archive), _archive_seeds, 2_000),
    "yaml": Target(_yaml, _yaml_seeds, 30_000, 4096),
    "graph": Target(_file("graph.yaml", read_graph), _yaml_seeds, 10_000, 4096),
    "onnx": Target(_file("model.onnx", _onnx), _onnx_seeds, 2_000),
    "openpcdet": Target(_file("config.yaml", _openpcdet), _openpcdet_seeds, 10_000, 4096),
    "names": Target(_file("names.yaml", read_class_names), _names_seeds, 10_000, 4096),
    "mmdet3d": Target(_file("config.py", read_config), _python_seeds, 30_000, 4096),
}
