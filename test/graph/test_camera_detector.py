"""The camera detector over real topics."""

from __future__ import annotations

import time

import pytest

from .conftest import square, stamp_ns, wait_for

CameraDetector = pytest.importorskip("perception_rt.node.camera_detector").CameraDetector


def book_of(node, topic: str) -> dict:
    return node._pipeline.accounts[topic].ledger.snapshot()


def feed(bench, publisher, count: int, period_s: float = 0.03, **arguments) -> list[int]:
    stamps = []
    for _ in range(count):
        stamps.append(bench.send(publisher, square(**arguments)))
        time.sleep(period_s)
    return stamps


def test_every_frame_is_answered_with_its_own_stamp_and_frame(bench, make_bundle):
    found = bench.listen("/camera_detector/detections")
    publisher = bench.publisher("/image_raw")
    node = bench.start(CameraDetector, bundle=str(make_bundle()))
    assert bench.up
    assert wait_for(
        lambda: publisher.get_subscription_count() and node._detections["/image_raw"].get_subscription_count()
    )
    stamps = feed(bench, publisher, 10, 0.05)
    assert wait_for(lambda: len(found) == 10)
    assert [stamp_ns(message) for message in found] == stamps
    box = found[0].detections[0].bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (25, 35, 30, 30)
    assert found[0].header.frame_id == "camera"
    assert found[0].detections[0].results[0].hypothesis.class_id == "bright"
    book = book_of(node, "/image_raw")
    assert book["received"] == 10
    assert book["states"]["published"] == 10
