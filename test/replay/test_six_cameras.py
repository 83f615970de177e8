"""Six cameras and a lidar at one moment of a real drive, fused in base_link by the shipped parameter file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_rt.cli.main import main
from perception_rt.codec import (
    decode_named_detections,
    decode_named_detections3d,
    parse_camera_info,
    parse_compressed,
    parse_transforms,
)
from perception_rt.component.graph import read_graph
from perception_rt.replay.bag import Bag
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.stage.draw import draw_boxes3d
from perception_rt.stage.fusion.fuse import BOTH, LIDAR, CameraView, fuse_views
from perception_rt.stage.fusion.lidars import move_boxes
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import Detections2D, Detections3D

CONFIG = Path(__file__).parents[2] / "config" / "six_cameras.yaml"
CAMERAS = ("front_left", "front", "front_right", "back_right", "back", "back_left")


@pytest.fixture(scope="module")
def rig(shared_data):
    """By camera, its model, its picture and its place; and the labelled boxes in base_link."""
    transforms, models, pictures = TransformBuffer(), {}, {}
    folder = shared_data / "bags" / "nuscenes_keyframe"
    with Bag(folder) as bag:
        for message in bag.messages():
            if message.topic == "/tf_static":
                for one in parse_transforms(message.data):
                    transforms.add(one.parent, one.child, 0, one.translation, one.quaternion, True)
            elif message.topic.endswith("/camera_info"):
                models[message.topic.split("/")[1]] = parse_camera_info(message.data)
            elif message.topic.endswith("/compressed"):
                pictures[message.topic.split("/")[1]] = parse_compressed(message.data).decode()
    labels = json.loads((folder / "boxes.json").read_text())["boxes"]
    boxes = np.array([label["xyzlwh_yaw"] for label in labels])
    boxes = move_boxes(boxes, transforms.lookup("base_link", "lidar_top", 0)).astype(np.float32)
    views = {
        f"cam_{name}": (models[f"cam_{name}"], transforms.lookup(f"cam_{name}", "base_link", 0))
        for name in CAMERAS
    }
    return views, pictures, boxes, [label["class"] for label in labels]


@pytest.fixture(scope="module")
def replayed(shared_data, tmp_path_factory):
    """What was published, by topic, and the streams' metrics."""
    out = tmp_path_factory.mktemp("six")
    onnx = str(shared_data / "models" / "yolox_nano.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--out", str(out / "yolox.pt")]) == 0
    (out / "run").mkdir()
    overrides = {"camera_detector": {"bundle": str(out / "yolox.pt")}}
    run = Run(read_graph(CONFIG), parse_inference("fixed:30"), overrides)
    with Bag(shared_data / "bags" / "nuscenes_keyframe") as bag:
        streams = replay(run, bag, out / "run")["streams"]
    with Bag(out / "run" / "bag") as bag:
        return {message.topic: message.data for message in bag.messages()}, streams


def test_every_camera_has_its_say(replayed):
    streams = {name: one for name, one in replayed[1].items() if name.startswith("/fusion: ")}
    assert len(streams) == 7
    for name, one in streams.items():
        assert one["states"]["published"] == sum(one["states"].values()) == 1, name


def test_objects_are_where_the_labels_are_and_on_their_pictures(replayed, rig):
    views, pictures, labels, _ = rig
    answers = replayed[0]
    fused = decode_named_detections3d(answers["/fusion/detections"])
    assert fused.frame_id == "base_link"
    boxes = fused.detections
    sure = [row for row, source in enumerate(fused.ids) if source == BOTH]
    assert len(sure) >= 2
    away = np.linalg.norm(boxes.xyzlwh_yaw[sure, None, :2] - labels[None, :, :2], axis=2).min(1)
    assert away.max() < 3  # a truck's centre, of which the rear is seen
    shown = set()
    for name, (model, way) in views.items():
        seen = decode_named_detections(answers[f"/camera_detector/{name}/detections"]).detections.xyxy
        projected = project_boxes(boxes.xyzlwh_yaw, model, way)
        for row in np.flatnonzero(projected.visible):
            if fused.ids[row] != LIDAR:  # its centre lies in a box of the camera's
                x, y = projected.xyxy[row].reshape(2, 2).mean(0)
                inside = (seen[:, 0] <= x) & (x <= seen[:, 2]) & (seen[:, 1] <= y) & (y <= seen[:, 3])
                shown |= {row} if inside.any() else set()
        drawn = draw_boxes3d(pictures[name].pixels, boxes, fused.classes, model, way, True, fused.ids)
        assert (drawn != pictures[name].pixels).any() == projected.visible.any(), name
    assert shown >= {row for row, source in enumerate(fused.ids) if source != LIDAR}


def test_each_label_is_matched_in_every_camera_that_shows_it(rig):
    """Cameras that find every label: all are matched, and those in two images in both."""
    views, _, boxes, names = rig
    scores = np.full(len(boxes), 0.6, np.float32)
    labels = np.arange(len(boxes))
    seen, shown = [], np.zeros((len(boxes), 6), bool)
    for index, (model, way) in enumerate(views.values()):
        projected = project_boxes(boxes, model, way)
        wide = projected.xyxy[:, 2:] - projected.xyxy[:, :2]
        shown[:, index] = projected.visible & (wide.min(1) > 12)
        rows = np.flatnonzero(shown[:, index])
        seen.append(
            CameraView(Detections2D(projected.xyxy[rows], scores[rows], labels[rows]), names, model, way)
        )
    fused = fuse_views(seen, Detections3D(boxes, scores, labels), names)
    pairs = fused.partners[fused.partners[:, 0] >= 0]
    matched = np.zeros_like(shown)
    matched[pairs[:, 0]] = pairs[:, 1:] >= 0
    assert shown.any(1).sum() >= 40
    assert (shown.sum(1) >= 2).sum() >= 3
    # Barriers that stand in a row cover each other: of one class and place, the camera's boxes count once.
    apart = np.array([name != "barrier" for name in names])
    assert (matched & shown)[apart].sum() >= 0.9 * shown[apart].sum()
    both = apart & (shown.sum(1) >= 2)
    assert (matched & shown)[both].sum() == shown[both].sum()
    assert not (matched & ~shown).any()
    assert "camera" not in fused.sources or fused.sources.count("camera") <= 3


def test_without_the_lidar_an_object_in_two_images_is_one(rig):
    views, _, boxes, names = rig
    truck = [row for row, name in enumerate(names) if name == "truck"]
    seen = []
    for model, way in views.values():
        projected = project_boxes(boxes[truck], model, way)
        rows = np.flatnonzero(projected.visible)
        labels = np.zeros(len(rows), np.int64)
        found = Detections2D(projected.xyxy[rows], np.full(len(rows), 0.6, np.float32), labels)
        seen.append(CameraView(found, ("truck",), model, way))
    count = sum(len(view.detections) for view in seen)
    fused = fuse_views(seen, Detections3D.empty(), (), ground_z=0.0)
    assert count > len(truck)
    assert len(fused) == len(truck)
