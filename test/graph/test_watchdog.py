"""Liveness, degraded modes, pause: a detector that gets into trouble, over real topics."""

from __future__ import annotations

import pytest
from std_srvs.srv import SetBool

from perception_rt.component import watchdog

from .conftest import TALL, square, wait_for
from .models import RAISES

NODE = "camera_detector"


def slow(rows: int):
    return square(shape=(TALL + rows, 160))


def test_a_frame_that_is_in_hand_for_too_long_is_an_error_with_its_stage(run_camera):
    camera = run_camera(deadline_periods=2, rate_hz=20.0)
    camera.ask()
    rows = 200
    while not any("no answer for" in line for line in [camera.bench.message(NODE)]):
        camera.send(slow(rows))
        wait_for(lambda: "no answer for" in camera.bench.message(NODE) or not camera.book()["pending"])
        rows = min(3 * rows, 6000)
    assert "last stage: infer" in camera.bench.message(NODE)
    assert camera.bench.status[NODE].level == b"\x02"
    assert wait_for(lambda: camera.bench.message(NODE) == "running", 60)


def test_a_pause_takes_no_frame_and_ends(run_camera):
    camera = run_camera()
    camera.ask()
    request = SetBool.Request(data=True)
    assert camera.bench.call(SetBool, f"/{NODE}/pause", request).message == "paused"
    assert wait_for(lambda: camera.bench.message(NODE) == "paused")
    camera.send()
    assert wait_for(lambda: camera.count("superseded") == 1)
    assert camera.book()["reasons"]["superseded"] == "the node is paused"
    assert camera.bench.call(SetBool, f"/{NODE}/pause", SetBool.Request(data=False)).success
    camera.ask()


def test_without_subscribers_nothing_is_inferred_where_that_is_asked_for(run_camera):
    camera = run_camera(only_subscribed=True)
    camera.ask()
    listener = next(s for s in camera.bench.node.subscriptions if s.topic_name == camera.output)
    camera.bench.node.destroy_subscription(listener)
    assert wait_for(lambda: not camera.node.component.subscribers(camera.topic))
    camera.send()
    assert wait_for(lambda: camera.count("superseded") == 1)
    camera.found.clear()
    camera.bench.detections.pop(camera.output)
    camera.found = camera.bench.listen(camera.output)
    assert wait_for(lambda: camera.node.component.subscribers(camera.topic))
    camera.ask()


def test_after_model_errors_the_reference_engine_takes_over_until_the_first_is_well(run_camera, monkeypatch):
    monkeypatch.setattr(watchdog, "RETRY_S", 1.0)
    camera = run_camera(fallback=True)
    first = camera.ask()
    detector = camera.node.component
    primary, warm_up, broken = detector.runtime, detector.warm_up, [True]
    call = detector.infer

    def failing(frames):
        if broken[0] and detector.runtime is primary:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return call(frames)

    def checked(runtime):
        if broken[0] and runtime is primary:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return warm_up(runtime)

    monkeypatch.setattr(detector, "infer", failing)
    monkeypatch.setattr(detector, "warm_up", checked)

    def degraded() -> bool:
        if not camera.book()["pending"]:
            camera.send()
        return "degraded: CPU and reference engine" in camera.bench.message(NODE)

    assert wait_for(degraded)
    assert camera.count("model_error") >= watchdog.MODEL_ERRORS
    assert "illegal memory access" in camera.bench.message(NODE)
    assert wait_for(lambda: camera.bench.said("degraded", "illegal memory access"))
    answer = camera.ask()
    assert len(answer.detections) == len(first.detections)
    assert detector.runtime is not primary
    broken[0] = False
    assert wait_for(lambda: detector.runtime is primary, 20)
    assert wait_for(lambda: camera.bench.message(NODE) == "running")
    assert wait_for(lambda: camera.bench.said("healthy again"))
    camera.ask()


def test_single_model_errors_change_nothing(run_camera):
    camera = run_camera(fallback=True)
    primary = camera.node.component.runtime
    for _ in range(watchdog.MODEL_ERRORS):
        done = camera.count("model_error")
        camera.send(square(shape=(120, RAISES)))
        assert wait_for(lambda done=done: camera.count("model_error") > done)
        camera.ask()
    assert camera.node.component.runtime is primary


@pytest.mark.parametrize("low_hz", [2.0])
def test_sustained_overload_lowers_the_rate_and_returns(run_camera, monkeypatch, low_hz):
    monkeypatch.setattr(watchdog, "OVERLOAD_S", 1.0)
    monkeypatch.setattr(watchdog, "OVERLOAD_RUNS", 2)
    monkeypatch.setattr(watchdog, "RETRY_S", 1.0)
    camera = run_camera(overload_rate_hz=low_hz, rate_hz=1000.0)
    scheduler = camera.node.component.scheduler

    def busy() -> bool:
        if not camera.book()["pending"]:
            camera.send(slow(4))
        return scheduler.rate_hz == low_hz

    assert wait_for(busy, 30)
    assert wait_for(lambda: f"degraded: {low_hz:g} Hz" in camera.bench.message(NODE))
    assert wait_for(lambda: scheduler.rate_hz == 1000.0, 30)
    assert wait_for(lambda: camera.bench.message(NODE) == "running")
    assert camera.bench.said("no overload any more")
