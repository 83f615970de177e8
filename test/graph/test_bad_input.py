"""What a camera can do wrong: the node survives, every message is counted, and the next good one answered."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import Image

from perception_rt.codec.encode import encode_compressed, encode_image

from .conftest import square, wait_for
from .models import EXHAUSTS, MISLABELS, RAISES

SECOND = 10**9
DURABILITIES = {"volatile": DurabilityPolicy.VOLATILE, "transient_local": DurabilityPolicy.TRANSIENT_LOCAL}


def image_message(camera, **fields) -> Image:
    """A good 160 x 120 rgb8 image with some fields replaced."""
    values = {"height": 120, "width": 160, "encoding": "rgb8", "step": 480, "data": square().tobytes()}
    message = Image(**values | fields)
    message.header.stamp = camera.bench.node.get_clock().now().to_msg()
    return message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"height": 0, "width": 0, "step": 0, "data": b""}, "height=0"),
        ({"width": 0}, "width=0"),
        ({"data": bytes(100)}, "data=100"),
        ({"data": b""}, "data=0"),
        ({"encoding": "hyperspectral"}, "encoding='hyperspectral'"),
        ({"encoding": ""}, "encoding=''"),
        ({"step": 100}, "step=100"),
        ({"step": 2**32 - 1}, "limit"),
        ({"height": 2**31, "width": 2**31, "step": 2**31}, "step"),
    ],
)
def test_a_malformed_image_is_counted_and_named(run_camera, fields, reason):
    camera = run_camera()
    assert camera.publish(image_message(camera, **fields)) == {"decode_error": 1}
    assert reason in camera.book()["reasons"]["decode_error"]
    camera.ask()
    assert camera.count("published") == 1


def test_an_oversized_image_is_refused(run_camera):
    camera = run_camera(max_image_mb=0.1)
    big = encode_image(square(shape=(400, 400)), "rgb8", camera.bench.now_ns(), "camera")
    assert camera.publish(big) == {"decode_error": 1}
    assert "limit" in camera.book()["reasons"]["decode_error"]
    camera.ask()


def test_serialized_bytes_that_end_early_are_refused(run_camera):
    camera = run_camera()
    whole = encode_image(square(), "rgb8", camera.bench.now_ns(), "camera")
    assert camera.publish(whole[:60]) == {"decode_error": 1}
    camera.ask()


def test_a_truncated_jpeg_is_refused_and_a_whole_one_answered(run_camera):
    camera = run_camera("/image_raw/compressed")
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(square()[:, :, ::-1]))[1].tobytes()
    whole = camera.answer(camera.bench.send_jpeg(camera.publisher, jpeg))
    assert whole.detections[0].bbox.center.position.x == pytest.approx(25, abs=2)
    for broken in (jpeg[: len(jpeg) // 2], jpeg[:4], b"", bytes(500)):
        message = encode_compressed(broken, "jpeg", camera.bench.now_ns(), "camera")
        assert camera.publish(message) == {"decode_error": 1}
    camera.answer(camera.bench.send_jpeg(camera.publisher, jpeg[:-2]))  # whole but for its end mark
    camera.answer(camera.bench.send_jpeg(camera.publisher, jpeg))
    assert camera.count("decode_error") == 4


def test_an_unplugged_camera_is_missed_and_welcomed_back(run_camera):
    camera = run_camera()
    camera.ask()
    assert wait_for(lambda: camera.message() == "frames flow")
    camera.unplug()
    assert wait_for(lambda: camera.message() == "no messages; publishers on /image_raw: 0")
    assert camera.level() == b"\x01"
    camera.plug_in()
    camera.ask()
    assert wait_for(lambda: camera.message() == "frames flow")
    assert camera.count("decode_error") == camera.count("model_error") == 0


def test_a_burst_leaves_no_queue_and_the_newest_is_answered(run_camera):
    camera = run_camera(rate_hz=5.0)
    camera.ask()
    for _ in range(300):
        last = camera.send()
    camera.answer(last, timeout_s=5.0)
    book = camera.book()
    assert book["received"] <= 301
    assert book["states"]["superseded"] == book["received"] - book["states"]["published"] - book["pending"]
    assert book["states"]["superseded"] > book["states"]["published"]


def test_a_stamp_a_little_back_is_late(run_camera):
    camera = run_camera()
    now = camera.bench.now_ns()
    camera.ask(stamp_ns=now)
    late = encode_image(square(), "rgb8", now - SECOND // 10, "camera")
    assert camera.publish(late) == {"late": 1}
    assert "100.0 ms behind" in camera.book()["reasons"]["late"]
    camera.ask(stamp_ns=now)  # the same stamp again is in order
    camera.ask(stamp_ns=now + SECOND // 30)


def test_a_large_step_back_is_a_new_beginning(run_camera):
    camera = run_camera()
    now = camera.bench.now_ns()
    for stamp in (now, now - 60 * SECOND, now - 59 * SECOND, now + 3600 * SECOND, now):
        camera.ask(stamp_ns=stamp)
    camera.ask(stamp_ns=0)  # a driver that stamps nothing
    camera.ask(stamp_ns=0)
    assert camera.count("late") == 0
    assert camera.count("published") == 7


def test_the_size_may_change_from_frame_to_frame(run_camera):
    camera = run_camera()
    for height, width in ((120, 160), (121, 203), (40, 640), (51, 51), (120, 160)):
        box = camera.ask(square(5, 6, 30, (height, width))).detections[0].bbox
        assert (box.center.position.x, box.center.position.y, box.size_x) == (20, 21, 30)


def test_a_model_that_raises_costs_one_frame(run_camera):
    camera = run_camera()
    bad = encode_image(square(shape=(100, RAISES)), "rgb8", camera.bench.now_ns(), "camera")
    assert camera.publish(bad) == {"model_error": 1}
    assert "this width is not supported" in camera.book()["reasons"]["model_error"]
    camera.ask()
    assert wait_for(lambda: camera.status().get("model_error") == "1")
    assert camera.level() == b"\x01"
    assert "this width is not supported" in camera.message()
    camera.ask()
    assert wait_for(lambda: camera.message() == "frames flow")
    assert "this width is not supported" in camera.status()["last_model_error"]


def test_out_of_memory_costs_one_frame(run_camera):
    """An allocation that fails: on a CPU what CUDA's out-of-memory is on a GPU, through the same handler."""
    camera = run_camera()
    bad = encode_image(square(shape=(100, EXHAUSTS)), "rgb8", camera.bench.now_ns(), "camera")
    assert camera.publish(bad) == {"model_error": 1}
    assert "memory" in camera.book()["reasons"]["model_error"]
    camera.ask()


def test_a_label_without_a_class_costs_one_frame(run_camera):
    camera = run_camera()
    bad = encode_image(square(shape=(100, MISLABELS)), "rgb8", camera.bench.now_ns(), "camera")
    assert camera.publish(bad) == {"model_error": 1}
    assert "labels=" in camera.book()["reasons"]["model_error"]
    camera.ask()


def test_reliable_asked_of_a_best_effort_camera_adapts_and_says_so(run_camera):
    camera = run_camera(publisher=None, reliability="reliable", wired=False)
    assert wait_for(lambda: camera.bench.said("/image_raw", "best_effort instead of reliable"))
    assert camera.bench.said("a publisher offers less than asked for", "RELIABILITY")
    assert wait_for(camera.publisher.get_subscription_count)
    camera.ask()
    assert wait_for(lambda: camera.status().get("reliability") == "best_effort")


@pytest.mark.parametrize("durability", list(DURABILITIES))
@pytest.mark.parametrize("reliability", ["best_effort", "reliable"])
def test_a_camera_that_offers_more_than_asked_is_heard(run_camera, reliability, durability):
    offered = {"reliability": "reliable", "durability": DURABILITIES[durability]}
    camera = run_camera(publisher=offered, reliability=reliability)
    camera.ask()
    assert not camera.bench.said("less than asked")


def test_two_publishers_of_different_qos_on_one_topic_are_both_heard(run_camera):
    camera = run_camera()
    other = camera.bench.publisher(camera.topic, reliability="reliable")
    assert wait_for(other.get_subscription_count)
    camera.ask()
    camera.publisher = other
    camera.ask()
