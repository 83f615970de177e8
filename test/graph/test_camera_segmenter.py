"""The camera segmenter over real topics: labels, their names, objects, the overlay."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from perception_rt.model.importers import import_onnx, save_checked
from perception_rt.node.camera_segmenter import CameraSegmenterNode
from perception_rt.types.segmentation import UNLABELLED
from test.segmenters import CLASSES, ULTRALYTICS, bands, save_colour_map, save_masks_onnx

from .conftest import stamp_of, wait_for

NODE = "camera_segmenter"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("segmenters")
    save_colour_map(folder / "colours.pt")
    imported = import_onnx(save_masks_onnx(folder / "masks.onnx", "grid", ULTRALYTICS))
    save_checked(folder / "masks.pt", imported, bands(), name="masks")
    return {name: str(folder / f"{name}.pt") for name in ("colours", "masks")}


def labels_of(message: Image) -> np.ndarray:
    assert (message.encoding, message.step) == ("mono8", message.width)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def test_labels_have_the_size_and_the_header_of_the_image(bench, bundles):
    node = bench.start(CameraSegmenterNode, bundle=bundles["colours"], threads=1, warmup_sizes=["180x120"])
    assert bench.up, bench.logs
    found = bench.listen("/camera_segmenter/segmentation", Image)
    boxes = bench.listen("/camera_segmenter/detections")
    camera = bench.publisher("/image_raw")
    assert wait_for(lambda: camera.get_subscription_count() and node.component.subscribers("/image_raw") >= 2)
    for size in ((120, 180), (75, 90)):
        stamp = bench.send(camera, bands(*size))
        assert wait_for(lambda stamp=stamp: found and stamp_of(found[-1]) == stamp), bench.logs
        labels = labels_of(found[-1])
        assert labels.shape == size
        assert [labels[size[0] // 2, size[1] * part // 6] for part in (1, 3, 5)] == [0, 1, 2]
        assert found[-1].header.frame_id == "camera"
    assert not boxes  # it tells no objects

    late = bench.listen("/camera_segmenter/label_info", LabelInfo, qos=LATCHED)
    assert wait_for(lambda: late), bench.logs
    names = {entry.class_id: entry.class_name for entry in late[0].class_map}
    assert names == {**dict(enumerate(CLASSES)), UNLABELLED: "unlabelled"}
    states = node.component.stats["/image_raw"].ledger.snapshot()["states"]
    assert states["published"] == 2

    # Another bundle, with objects: its names are told anew, before its first labels.
    assert bench.set_parameter("bundle", bundles["masks"], NODE).successful
    answer = bench.swap(NODE)
    assert wait_for(answer.done)
    assert answer.result().success, answer.result().message
    drawn = bench.listen("/camera_segmenter/image_annotated", Image)
    assert wait_for(lambda: node.component.subscribers("/image_raw") >= 3)
    stamp = bench.send(camera, bands())
    assert wait_for(lambda: stamp_of(found[-1]) == stamp and boxes and drawn and len(late) == 2), bench.logs
    assert [entry.class_name for entry in late[1].class_map] == ["sign", "lawn", "unlabelled"]
    assert late[1].threshold == pytest.approx(0.25)
    assert [one.results[0].hypothesis.class_id for one in boxes[-1].detections] == ["sign", "lawn", "sign"]
    assert stamp_of(boxes[-1]) == stamp_of(drawn[-1]) == stamp
    assert set(np.unique(labels_of(found[-1]))) == {0, 1, UNLABELLED}
    picture = np.frombuffer(drawn[-1].data, np.uint8).reshape(120, 180, 3)
    changed = (picture != bands()).any(2)
    assert changed[labels_of(found[-1]) == 1].mean() > 0.9


def test_a_bundle_of_another_task_is_refused(bench):
    bench.start(CameraSegmenterNode, bundle="sim_camera")
    assert not bench.up
    assert bench.said("task is detect2d, this node needs segment")
