"""The whole loop: mine what a detector misses, train on it, compress, compare, swap in the running graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_rt.cli.main import main
from perception_rt.codec.detections import decode_named_detections
from perception_rt.model.archive import read_manifest
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.camera.task import save_bundle
from perception_rt.train.dataset.labels import Problems
from perception_rt.train.dataset.read import read_dataset
from perception_rt.train.pillars.trainee import points_in, visible_points
from perception_rt.train.trainee import find_trainee
from perception_rt.train.weights import read_weights, started
from perception_rt.types import CameraFrame
from test.drives import IMAGE, TRUTH, write_drive

from .conftest import wait_for

SIZE = (480, 270)
KNOWN = ("car", "pedestrian")
MISSED = "cyclist"
CONFIG = """\
camera_detector:
  ros__parameters: {image_topics: [/camera/image_raw], engine: onnxruntime, device: cpu, threads: 1}
lidar_detector:
  ros__parameters: {points_topics: [/lidar/points], engine: reference, device: cpu, threads: 1}
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_detector(path: Path) -> None:
    """`sim_camera` without the class that it is to learn: the rows of its head for it are cut off."""
    network, _ = started(find_trainee("camera").make, KNOWN, read_weights("sim_camera"))
    picture = frame_picture(path.parent / "drive")
    save_bundle(
        path,
        network,
        {},
        name="misses",
        classes=KNOWN,
        calibration=("the drive", [picture]),
        golden=picture[None],
    )


def frame_picture(drive: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, the first of a drive."""
    with Bag(drive) as bag:
        frame = frame_of(next(iter(bag.messages([IMAGE]))))
    assert isinstance(frame, CameraFrame)
    return np.ascontiguousarray(frame.pixels[..., ::-1] if frame.bgr else frame.pixels)


def picture_with(drive: Path, name: str) -> np.ndarray:
    """The picture of a drive with the largest object of a class."""
    best = (0.0, 0)
    with Bag(drive) as bag:
        for message in bag.messages([TRUTH]):
            truth = decode_named_detections(message.data)
            for box, label in zip(truth.detections.xyxy, truth.detections.labels, strict=True):
                if truth.classes[label] == name:
                    best = max(best, (float((box[2:] - box[:2]).prod()), truth.stamp_ns))
        for message in bag.messages([IMAGE]):
            frame = frame_of(message)
            if frame.stamp_ns == best[1]:
                return np.ascontiguousarray(frame.pixels[..., ::-1] if frame.bgr else frame.pixels)
    raise AssertionError(f"no {name}")


def replay(folder: Path, drive: str, bundle: str, out: str, *more: str) -> int:
    """`perception-rt replay` of a drive with a bundle, scored against the simulator's truth."""
    words = ["replay", str(folder / drive), "--config", str(folder / "car.yaml"), "--no-report"]
    words += ["-p", f"camera_detector:bundle:={folder / bundle}", "--inference", "fixed:20"]
    return main([*words, "--truth", TRUTH, "--out", str(folder / out), *more])


def precision(folder: Path, run: str) -> dict[str, float]:
    """AP50 of each class of the simulator; 0 for one that the detector does not have."""
    metrics = json.loads((folder / run / "metrics.json").read_text())
    rows = metrics["scores"]["/camera_detector/detections"]["as_seen"]["per_class"]
    return {name: rows[name]["ap50"] if name in rows else 0.0 for name in SIM_CLASSES}


def test_from_a_class_that_is_missed_to_a_bundle_in_the_running_graph(run_camera, tmp_path):
    folder = tmp_path
    write_drive(folder / "drive", seconds=10, seed=15, camera_hz=4, lidar_hz=4, size=SIZE)
    write_drive(folder / "unseen", seconds=8, seed=4, camera_hz=4, lidar_hz=1, size=SIZE)
    (folder / "car.yaml").write_text(CONFIG)
    write_detector(folder / "misses.pt")

    # Mine: the lidar sees the cyclists that the camera misses.
    assert replay(folder, "drive", "misses.pt", "mined", "--mine", "20") == 0
    moments = json.loads((folder / "mined" / "mined" / "moments.json").read_text())
    assert sum("only /lidar_detector/detections: " in one["detail"] for one in moments) >= 6
    labels = folder / "mined" / "mined" / "coco" / f"{TRUTH.strip('/').replace('/', '_')}.json"
    pictures = labels.parent / "images" / "camera_image_raw"
    assert len(list(pictures.iterdir())) == len({one["stamp_ns"] for one in moments})

    # What was mined trains the lidar's network too: clouds, their boxes, and the camera's view.
    clouds = read_dataset(labels.parents[1] / "kitti" / f"{labels.stem}_3d", Problems(folder), clouds=True)
    assert len(clouds.frames) == len({one["stamp_ns"] for one in moments})
    hits = [points_in(visible_points(frame), frame.solid) for frame in clouds.frames]
    assert np.mean(np.concatenate(hits) > 0) > 0.9
    assert {frame.view for frame in clouds.frames} == {SIZE}

    # Train on the labels of what was mined, and compress.
    train = ["train", "camera", "--data", str(labels), "--weights", str(folder / "misses.pt")]
    train += ["--steps", "120", "--batch", "4", "--val", "0.2", "--precision", "32", "--device", "cpu"]
    assert main([*train, "--out", str(folder / "learned.pt"), "--run", str(folder / "run")]) == 0
    compress = ["bundle", "compress", str(folder / "learned.pt"), "--data", str(pictures)]
    compress += ["--labels", str(labels), "--precision", "int8", "--max-loss", "10"]
    assert main([*compress, "--out", str(folder / "small.pt")]) == 0
    manifest = read_manifest(folder / "small.pt")
    assert manifest.classes == SIM_CLASSES
    assert manifest.provenance["compression"]["loss"] <= 10

    # Compare on a drive that nothing was mined from.
    assert replay(folder, "unseen", "misses.pt", "before") == 0
    assert replay(folder, "unseen", "small.pt", "after", "--compare", str(folder / "before")) == 1
    before, after = precision(folder, "before"), precision(folder, "after")
    assert before[MISSED] == 0.0
    assert after[MISSED] > 0.4, (before, after)
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 0.05, (before, after)
    assert after["car"] > before["car"] - 0.05, (before, after)
    # Pedestrians may lose a little: 25 on the unseen drive, and few in what was mined.
    assert after["pedestrian"] > before["pedestrian"] - 0.2, (before, after)

    # Swap it into the running node, which then answers what it missed.
    picture = picture_with(folder / "unseen", MISSED)
    camera = run_camera(bundle=str(folder / "misses.pt"), warmup_sizes=["480x270"])

    def classes() -> set[str]:
        return {one.results[0].hypothesis.class_id for one in camera.ask(picture).detections}

    assert MISSED not in classes()
    assert camera.bench.set_parameter("bundle", str(folder / "small.pt")).successful
    swap = camera.bench.swap()
    assert wait_for(swap.done, 60)
    assert swap.result().success, swap.result().message
    assert wait_for(lambda: MISSED in classes())
