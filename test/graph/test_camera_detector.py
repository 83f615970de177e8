"""The camera detector over real topics: what is promised of good input."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from perception_rt.codec.image import parse_image
from perception_rt.node.source import to_time

from .conftest import TALL, check_sum, square, stamp_of, wait_for

SECOND = 10**9


def slow(rounds: int) -> np.ndarray:
    """An image on which `Failing` spends this many matrix products."""
    return square(shape=(TALL + rounds, 160))


def test_every_frame_is_answered_with_its_own_stamp_and_frame(run_camera):
    camera = run_camera(rate_hz=30.0)
    stamps = [stamp_of(camera.ask()) for _ in range(10)]
    assert [stamp_of(message) for message in camera.found] == stamps
    found = camera.found[0]
    box = found.detections[0].bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (25, 35, 30, 30)
    assert found.header.frame_id == "camera"
    assert found.detections[0].results[0].hypothesis.class_id == "bright"
    assert found.detections[0].results[0].hypothesis.score == pytest.approx(0.9)
    assert camera.book()["received"] == camera.count("published") == 10


def test_an_image_without_objects_publishes_an_empty_array(run_camera):
    camera = run_camera()
    found = camera.ask(np.zeros((120, 160, 3), np.uint8))
    assert list(found.detections) == []
    assert found.header.frame_id == "camera"


def test_a_compressed_camera_is_answered(run_camera):
    camera = run_camera("/front/image_raw/compressed")
    png = cv2.imencode(".png", np.ascontiguousarray(square()[:, :, ::-1]))[1].tobytes()
    box = camera.answer(camera.bench.send_jpeg(camera.publisher, png)).detections[0].bbox
    assert (box.center.position.x, box.center.position.y) == (25, 35)


def test_the_rate_is_kept_and_what_is_too_much_is_superseded(run_camera):
    camera = run_camera(rate_hz=20.0)
    began = time.monotonic()
    for k in range(300):
        last = camera.send()
        time.sleep(max(0.0, began + (k + 1) / 100 - time.monotonic()))
    took = time.monotonic() - began
    camera.answer(last)
    assert wait_for(lambda: camera.book()["pending"] == 0)
    book = camera.book()
    assert 2 <= book["states"]["published"] <= 20 * took * 1.1 + 2
    assert book["states"]["published"] + book["states"]["superseded"] == book["received"]
    assert book["states"]["superseded"] > book["received"] / 2


def test_a_slow_model_gets_the_newest_frame_and_no_queue(run_camera):
    camera = run_camera()
    camera.send(slow(40))
    assert wait_for(lambda: camera.book()["received"] == 1)
    for _ in range(20):
        last = camera.send(slow(40))
        assert wait_for(lambda: camera.book()["pending"] <= 2)
        time.sleep(0.01)
    camera.answer(last)
    assert wait_for(lambda: camera.book()["pending"] == 0)
    stamps = [stamp_of(message) for message in camera.found]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == last
    assert camera.count("published") == len(stamps) < 20
    assert camera.count("superseded") == camera.book()["received"] - len(stamps)


def test_frames_older_than_the_limit_are_late(run_camera):
    camera = run_camera(max_age_ms=5000.0)
    camera.ask()
    camera.ask()
    assert camera.bench.set_parameter("max_age_ms", 0.001).successful
    camera.send()
    assert wait_for(lambda: camera.count("late") == 1)
    assert "is above 0.001 ms" in camera.book()["reasons"]["late"]
    assert camera.count("published") == 2


def test_simulated_time_is_the_clock_of_ages(run_camera):
    camera = run_camera(use_sim_time=True, max_age_ms=500.0)
    clock = camera.bench.node.create_publisher(Clock, "/clock", 10)
    assert wait_for(clock.get_subscription_count)

    def at(seconds: float) -> None:
        now = round(seconds * SECOND)
        clock.publish(Clock(clock=to_time(now)))
        assert wait_for(lambda: camera.node.get_clock().now().nanoseconds == now)

    at(100.0)
    camera.ask(stamp_ns=100 * SECOND)
    at(100.4)
    camera.ask(stamp_ns=100 * SECOND)
    camera.send(stamp_ns=100 * SECOND)  # time stands still: the next tick does not come
    time.sleep(0.05)
    assert camera.book()["pending"] == 1
    at(100.6)
    assert wait_for(lambda: camera.count("late") == 1)
    at(10.0)  # the recording starts again
    camera.ask(stamp_ns=10 * SECOND)
    assert camera.count("published") == 3


def test_diagnostics_tell_the_ledger_the_times_and_the_bundle(run_camera):
    camera = run_camera(rate_hz=40.0)
    for _ in range(5):
        camera.ask()
    camera.send(np.zeros((1, 1, 3), np.uint8))
    assert wait_for(lambda: camera.status().get("published") == "6")
    whole, stream = camera.bench.diagnostics("camera_detector"), camera.status()
    assert whole["bundle"] == "failing"
    assert len(whole["bundle_sha256"]) == 64
    assert whole["device"] == str(camera.node.component.runtime.device)
    assert whole["rate_hz_asked"] == "40.00"
    assert {"ticks_empty", "ticks_skipped", "deadline_misses"} <= set(whole)
    check_sum(stream)
    assert stream["received"] == "6"
    assert {"transport_lost", "reliability", "rate_hz"} <= set(stream)
    for stage in ("age", "wait", "decode", "infer", "publish"):
        assert 0 <= float(stream[f"{stage}_ms_p50"]) <= float(stream[f"{stage}_ms_p99"])
    assert float(stream["age_ms_p50"]) >= float(stream["infer_ms_p50"])
    assert camera.level() == b"\x00"


def test_the_annotated_image_is_drawn_for_subscribers(run_camera):
    camera = run_camera()
    watched = []
    camera.bench.node.create_subscription(Image, "/camera_detector/image_annotated", watched.append, 1)
    assert wait_for(lambda: camera.node.component._annotated[camera.topic].get_subscription_count())
    stamp = stamp_of(camera.ask())
    assert wait_for(lambda: watched)
    picture = parse_image(watched[0]).decode()
    assert picture.stamp_ns == stamp
    assert picture.pixels.shape == (120, 160, 3)
    assert (picture.pixels != square()).any()


def test_several_cameras_share_one_batch_and_have_books_of_their_own(run_camera):
    topics = ["/left/image_raw", "/right/image_raw", "/rear/image_raw/compressed"]
    left, right, rear = run_camera.several(topics, batch_wait_ms=500.0)
    assert [camera.output for camera in (left, right, rear)] == [
        f"/camera_detector/{name}/detections" for name in ("left", "right", "rear")
    ]
    jpeg = cv2.imencode(".png", np.ascontiguousarray(square(80, 20, 30)[:, :, ::-1]))[1].tobytes()
    for shape in ((120, 160), (90, 100)):  # one size and two sizes in a batch
        stamps = [
            left.send(square(10, 20, 30)),
            right.send(square(40, 20, 30, shape)),
            rear.bench.send_jpeg(rear.publisher, jpeg),
        ]
        for camera, stamp, x in zip((left, right, rear), stamps, (25, 55, 95), strict=True):
            assert camera.answer(stamp).detections[0].bbox.center.position.x == x
    for camera in (left, right, rear):
        assert camera.book()["states"]["published"] == 2


def test_cameras_that_are_ready_together_are_inferred_together(run_camera):
    left, right = run_camera.several(["/left/image_raw", "/right/image_raw"], batch_wait_ms=300.0)
    sizes = []
    infer = left.node.component.infer
    left.node.component.infer = lambda frames: sizes.append(len(frames)) or infer(frames)
    left.ask()  # right has never sent: it is not waited for
    for _ in range(6):
        pair = left.send(), right.send()
        left.answer(pair[0])
        right.answer(pair[1])
    assert sum(sizes) == 13
    assert sizes.count(2) >= 4  # all but the first, on a machine that keeps up


def test_cameras_run_one_at_a_time_where_a_batch_does_not_pay(run_camera):
    left, right = run_camera.several(
        ["/left/image_raw", "/right/image_raw"], bundle="sim_camera", device="cpu"
    )
    assert left.bench.said("one frame at a time (a batch takes 1.00"), left.bench.logs
    sizes = []
    infer = left.node.component.infer
    left.node.component.infer = lambda frames: sizes.append(len(frames)) or infer(frames)
    for _ in range(6):
        pair = left.send(), right.send()
        left.answer(pair[0])
        right.answer(pair[1])
    assert sizes == [1] * 12
    for camera in (left, right):
        assert camera.book()["states"]["published"] == camera.book()["received"] == 6


@pytest.mark.parametrize(("share", "together"), [(0.79, 0.010), (0.81, None)])
def test_a_swap_follows_what_a_batch_takes_with_the_new_bundle(run_camera, monkeypatch, share, together):
    left, right = run_camera.several(["/left/image_raw", "/right/image_raw"])
    component = left.node.component
    monkeypatch.setattr(component, "batch_share", lambda runtime: share)
    component.worker.call(lambda: component.use(component.open())).result(30)
    assert component.mailbox.batch_wait_ns == (together and round(together * 1e9))
    pair = left.send(), right.send()
    left.answer(pair[0])
    right.answer(pair[1])


def test_a_silent_camera_does_not_hold_up_the_others(run_camera):
    left, right = run_camera.several(["/left/image_raw", "/right/image_raw"], batch_wait_ms=50.0)
    for _ in range(3):
        left.ask()
    right.ask()
    right.unplug()
    for _ in range(5):
        left.ask()
    assert left.count("published") == 8
    assert right.count("published") == 1
    assert wait_for(
        lambda: left.ask() and right.message() == "no messages; publishers on /right/image_raw: 0"
    )
    assert left.message() == "frames flow"


def test_a_broken_frame_of_one_camera_costs_the_others_nothing(run_camera):
    left, right = run_camera.several(["/left/image_raw", "/right/image_raw"], batch_wait_ms=50.0)
    broken = Image(height=120, width=160, encoding="rgb8", step=480, data=bytes(7))
    for _ in range(3):
        assert right.publish(broken) == {"decode_error": 1}
        left.ask()
    assert left.book()["states"]["published"] == left.book()["received"] == 3


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("image_topics", ["/a/image_raw", "/a/image_raw"], "each once"),
        ("image_topics", ["/a/image_raw", "/a/image_raw/compressed"], "would publish under one name"),
        ("warmup_sizes", ["large"], "WIDTHxHEIGHT"),
        ("device", "tpu", "must be auto, cpu, cuda"),
        ("half", True, "fp16 needs a CUDA device"),
        ("bundle", "/nowhere/x.pt", "no such file"),
    ],
)
def test_parameters_that_cannot_work_fail_the_start_with_the_reason(bench, failing, parameter, value, reason):
    from perception_rt.node.camera_detector import CameraDetectorNode

    values = {"bundle": failing, "device": "cpu", "warmup_sizes": ["160x120"], parameter: value}
    bench.start(CameraDetectorNode, **values)
    assert not bench.up
    assert bench.said("cannot configure", reason), bench.logs
    assert bench.state() == "unconfigured"
