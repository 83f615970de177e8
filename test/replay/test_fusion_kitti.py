"""Fusion on KITTI: the geometry against labels, and real detectors on labelled frames and a drive."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fusion_accuracy import fuse_scene, label_iou, match_labels, picture, read_scene
from perception_rt.cli.main import main
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.component.graph import read_graph
from perception_rt.model.runtime import Runtime
from perception_rt.replay.bag import Bag
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.stage.fusion.fuse import BOTH, iou_2d
from perception_rt.stage.fusion.project import project_boxes

CONFIG = Path(__file__).parents[2] / "config" / "kitti.yaml"


@pytest.fixture(scope="module")
def fastestdet(shared_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def detectors(fastestdet):
    return Runtime.open(fastestdet, device="cpu"), Runtime.open("bev_cluster", device="cpu")


@pytest.mark.parametrize("frame", ["000000", "000001", "000002", "000114"])
def test_the_labels_boxes_project_onto_their_rectangles(shared_data, frame):
    scene = read_scene(shared_data / "frames" / frame)
    iou = label_iou(scene)
    assert iou.mean() >= 0.85
    assert iou.min() >= 0.7  # a pedestrian is drawn tighter than the box around the stride


def test_fused_objects_of_real_detectors_lie_on_the_labels(shared_data, detectors):
    scene = read_scene(shared_data / "frames" / "000114")
    seen, fused = fuse_scene(scene, *detectors)
    rows, labels = match_labels(scene, fused)
    assert len(rows) >= 8  # of 12
    assert sum(fused.sources[row] == BOTH for row in rows) >= 5
    projected = project_boxes(fused.detections.xyzlwh_yaw, scene.model, scene.camera_from_lidar)
    assert iou_2d(projected.xyxy, scene.labels.xyxy)[rows, labels].mean() >= 0.6
    drawn = picture(scene, seen, fused)
    assert drawn.shape[1] == scene.pixels.shape[1]
    assert (drawn[: scene.pixels.shape[0]] != scene.pixels).any()


def test_a_real_drive_is_paired_and_fused(shared_data, fastestdet, tmp_path):
    run = Run(
        read_graph(CONFIG), parse_inference("fixed:30"), {"camera_detector": {"bundle": str(fastestdet)}}
    )
    with Bag(shared_data / "bags" / "kitti_city", salvage=True) as bag:
        streams = replay(run, bag, tmp_path)["streams"]
    for topic in ("/camera_detector/detections", "/lidar_detector/detections"):
        states = streams[f"/fusion: {topic}"]["states"]
        assert states["published"] == sum(states.values()) == 24
    with Bag(tmp_path / "bag") as bag:
        fused = [decode_named_detections3d(message.data) for message in bag.messages(["/fusion/detections"])]
    cars = [
        [
            one.classes[label] == "car" and source == BOTH
            for label, source in zip(one.detections.labels, one.ids, strict=True)
        ]
        for one in fused
    ]
    assert sum(map(any, cars)) >= 22
