"""Fusion on KITTI: the geometry against labels, and real detectors on labelled frames and a drive."""

from __future__ import annotations

import numpy as np
import pytest

from bench.fusion_accuracy import fuse_scene, label_iou, match_labels, picture, read_scene
from perception_rt.cli.main import main
from perception_rt.codec import parse_camera_info, parse_image
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.points import parse_points
from perception_rt.codec.transforms import parse_transforms
from perception_rt.model.runtime import Runtime
from perception_rt.realtime.ledger import Fate
from perception_rt.realtime.pairing import StampPairing
from perception_rt.realtime.pipeline import Account
from perception_rt.replay.bag import Bag
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.fuse import BOTH, iou_2d
from perception_rt.stage.fusion import FusionStage
from perception_rt.stage.project import project_boxes
from perception_rt.stage.transforms import TransformBuffer

IMAGE, INFO, POINTS = "/camera/front/image_raw", "/camera/front/camera_info", "/lidar/points"
MS = 1_000_000


@pytest.fixture(scope="module")
def detectors(shared_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(path)]) == 0
    return Runtime.open(path, device="cpu"), Runtime.open("bev_cluster", device="cpu")


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


def test_a_real_drive_is_paired_and_fused(shared_data, detectors):
    """What the node does, in lockstep: /tf_static, CameraInfo, and each detector 30 or 60 ms late."""
    camera, lidar = detectors
    buffer = TransformBuffer()
    stage = FusionStage(buffer.lookup)
    clouds, images = Account(), Account()
    pairing = StampPairing(clouds, images, 50 * MS, 100 * MS)
    events = []
    with Bag(shared_data / "bags" / "kitti_city") as bag:
        for message in bag.messages():
            if message.topic == "/tf_static":
                for t in parse_transforms(message.data):
                    buffer.add(t.parent, t.child, t.stamp_ns, t.translation, t.quaternion, static=True)
            elif message.topic == INFO:
                stage.model = parse_camera_info(message.data)
            elif message.topic == IMAGE:
                frame = parse_image(message.data).decode()
                (found,) = detect2d(camera, [frame])
                named = named_of(frame, found, camera)
                events.append((message.log_ns + 30 * MS, "partner", named))
            else:
                frame = parse_points(message.data).decode()
                named = named_of(frame, detect3d(lidar, frame), lidar)
                events.append((message.log_ns + 60 * MS, "anchor", named))
    with_car = 0
    for now, stream, named in sorted(events, key=lambda event: event[:2]):
        account = clouds if stream == "anchor" else images
        account.ledger.receive()
        put = pairing.put_anchor if stream == "anchor" else pairing.put_partner
        for pair in put(named.stamp_ns, named, now):
            assert pair.partner.stamp_ns == pair.anchor.stamp_ns
            answer = stage.pair(pair.partner.item, pair.anchor.item)
            assert answer.reason == ""
            for ended in (clouds, images):
                ended.ledger.settle(Fate.PUBLISHED)
            fused = answer.fused
            cars = fused.detections.labels == fused.classes.index("car")
            with_car += bool((cars & (np.array(fused.sources) == BOTH)).any())
    for account in (clouds, images):
        book = account.ledger.snapshot()
        assert (book["received"], book["states"]["published"]) == (24, 24)
    assert with_car >= 22


def named_of(frame, found, runtime) -> NamedDetections:
    ids = [""] * len(found)
    return NamedDetections(frame.stamp_ns, frame.frame_id, found, ids, tuple(runtime.manifest.classes))
