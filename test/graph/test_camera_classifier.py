"""The camera classifier over real topics: whole images, and the boxes of a detector."""

from __future__ import annotations

import numpy as np
import pytest
from vision_msgs.msg import Classification, Detection2DArray

from perception_rt.codec import DetectionEncoder
from perception_rt.node.camera_classifier import CameraClassifierNode
from perception_rt.types import Detections2D
from test.classifiers import CLASSES, save_colours

from .conftest import stamp_of, wait_for

NODE = "camera_classifier"


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("colours") / "colours.pt"
    save_colours(path)
    return str(path)


def halves() -> np.ndarray:
    """Red at the left, blue at the right."""
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, :60, 0] = image[:, 60:, 2] = 255
    return image


def book(node, topic: str) -> dict:
    return node.component.stats[topic].ledger.snapshot()


def test_images_are_classified_with_their_header_and_accounted_for(bench, colours):
    node = bench.start(CameraClassifierNode, bundle=colours, top_k=2, threads=1, warmup_sizes=["120x60"])
    assert bench.up, bench.logs
    found = bench.listen("/camera_classifier/classifications", Classification)
    camera = bench.publisher("/image_raw")
    assert wait_for(lambda: camera.get_subscription_count() and node.component.subscribers("/image_raw"))
    for colour, name in zip(np.eye(3, dtype=np.uint8) * 255, CLASSES, strict=True):
        stamp = bench.send(camera, np.broadcast_to(colour, (60, 120, 3)))
        assert wait_for(lambda stamp=stamp: found and stamp_of(found[-1]) == stamp), bench.logs
        assert [found[-1].results[0].class_id, len(found[-1].results)] == [name, 2]
        assert found[-1].results[0].score > 0.99 > found[-1].results[1].score
        assert found[-1].header.frame_id == "camera"
    assert book(node, "/image_raw")["states"]["published"] == 3
    answer = bench.swap(NODE)
    assert wait_for(answer.done)
    assert answer.result().success, answer.result().message


def test_boxes_of_a_detector_are_classified_under_their_ids(bench, colours):
    topics = {"image_topics": ["/image_raw"], "detections_topics": ["/detector/detections"]}
    node = bench.start(CameraClassifierNode, bundle=colours, threads=1, warmup_sizes=["120x60"], **topics)
    assert bench.up, bench.logs
    found = bench.listen("/camera_classifier/detections")
    camera = bench.publisher("/image_raw")
    detector = bench.publisher("/detector/detections", message_type=Detection2DArray)
    assert wait_for(
        lambda: (
            camera.get_subscription_count()
            and detector.get_subscription_count()
            and node.component.subscribers("/detector/detections")
        )
    )
    boxes = np.float32([[5, 5, 55, 55], [70, 10, 110, 50], [300, 10, 310, 20]])
    encoder = DetectionEncoder(("sign",))
    signs = Detections2D(boxes, np.float32([0.5, 0.9, 0.8]), np.zeros(3, np.int64))

    stamp = bench.send(camera, halves())
    detector.publish(encoder.encode(signs, stamp, "camera", ["seven", "eight", "nine"]))
    assert wait_for(lambda: len(found) == 1), bench.logs
    assert (stamp_of(found[0]), found[0].header.frame_id) == (stamp, "camera")
    assert [one.id for one in found[0].detections] == ["seven", "eight", "nine"]
    best = [[result.hypothesis.class_id for result in one.results][:1] for one in found[0].detections]
    assert best == [["red"], ["blue"], []]
    assert found[0].detections[1].bbox.center.position.x == 90.0
    assert node.component.stream_values("/detector/detections") == {"boxes_left_out": 1}

    # Detections may come before their image; those without one end as unsynced, and cost the others nothing.
    stamp += 50_000_000
    detector.publish(encoder.encode(signs, stamp, "camera"))
    assert wait_for(lambda: book(node, "/detector/detections")["received"] == 2)
    bench.send(camera, halves(), stamp)
    assert wait_for(lambda: len(found) == 2), bench.logs
    detector.publish(encoder.encode(signs, stamp + 10_000_000, "camera"))
    assert wait_for(lambda: book(node, "/detector/detections")["states"]["unsynced"] == 1)
    assert book(node, "/detector/detections")["states"]["published"] == 2
    assert wait_for(lambda: book(node, "/image_raw")["states"]["published"] == 2)


@pytest.mark.parametrize("topics", [["/a", "/b"], ["/a", ""]])
def test_detections_topics_must_be_one_for_each_camera(bench, colours, topics):
    bench.start(CameraClassifierNode, bundle=colours, detections_topics=topics)
    assert not bench.up
    assert bench.said("detections_topics", "one topic for each of image_topics")
