"""Lifecycle and live parameters, by the services that `ros2 lifecycle` and `ros2 param` call."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition

from perception_rt.node.camera_detector import CameraDetectorNode
from perception_rt.node.vehicle_state import VehicleStateNode

from .conftest import TALL, square, stamp_of, wait_for

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


def test_without_autostart_the_node_waits_for_its_manager(run_camera):
    camera = run_camera(autostart=False, wired=False)
    assert camera.bench.state() == "unconfigured"
    assert camera.bench.change_state(CONFIGURE)
    assert camera.bench.state() == "inactive"
    assert camera.bench.change_state(ACTIVATE)
    assert camera.bench.state() == "active"
    camera.rewire()
    camera.ask()


def test_it_goes_round_and_round(run_camera):
    camera = run_camera()
    bench = camera.bench
    for _ in range(3):
        camera.ask()
        assert camera.count("published") == 1  # each configuration has a ledger of its own
        assert bench.change_state(DEACTIVATE)
        assert camera.book()["pending"] == 0
        assert bench.change_state(CLEANUP)
        assert wait_for(lambda: camera.publisher.get_subscription_count() == 0)
        assert bench.change_state(CONFIGURE)
        assert bench.change_state(ACTIVATE)
        camera.rewire()
    outputs = bench.node.get_publishers_info_by_topic("/camera_detector/detections")
    assert len(outputs) == 1


def test_frames_are_not_counted_while_it_is_inactive(run_camera):
    camera = run_camera()
    camera.ask()
    for _ in range(2):
        assert camera.bench.change_state(DEACTIVATE)
        for _ in range(5):
            camera.send()
            time.sleep(0.02)
        assert camera.bench.change_state(ACTIVATE)
        camera.ask()
    book = camera.book()
    assert book["received"] == book["states"]["published"] == len(camera.found) == 3


def test_deactivating_in_the_middle_of_inference_settles_the_frames(run_camera):
    camera = run_camera()
    camera.send(square(shape=(TALL + 500, 160)))
    assert wait_for(lambda: camera.book()["received"] == 1)
    assert wait_for(lambda: camera.node.component.worker._mailbox.ready() == {})
    camera.send()
    assert wait_for(lambda: camera.book()["received"] == 2)
    assert camera.book()["pending"] == 2
    assert camera.bench.change_state(DEACTIVATE)
    book = camera.book()
    assert (book["pending"], book["states"]["superseded"]) == (0, 2)
    assert book["reasons"]["superseded"] == "the node was deactivated"
    assert camera.bench.change_state(ACTIVATE)
    stamp = camera.send()  # is processed when the model is done with the old frame, which is not published
    camera.answer(stamp)
    assert [stamp_of(message) for message in camera.found] == [stamp]
    assert wait_for(lambda: camera.count("published") == 1)


def test_a_bad_bundle_fails_configure_and_a_good_one_mends_it(bench, failing, tmp_path):
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"not a model")
    folders = [str(Path(failing).parent)]
    node = bench.start(CameraDetectorNode, bundle=str(bad), warmup_sizes=["160x120"], bundle_folders=folders)
    assert not bench.up
    assert bench.said("cannot configure", "bad.pt", "not a bundle"), bench.logs
    assert bench.state() == "unconfigured"
    assert not bench.change_state(CONFIGURE)
    assert bench.set_parameter("bundle", failing).successful
    assert bench.change_state(CONFIGURE)
    assert bench.change_state(ACTIVATE)
    assert bench.state() == "active"
    assert node.component.runtime.manifest.name == "failing"


def test_the_score_threshold_changes_between_two_frames(run_camera):
    camera = run_camera()
    bench = camera.bench
    assert len(camera.ask().detections) == 1
    assert bench.set_parameter("score_threshold", 0.95).successful  # BrightBox says 0.9
    assert len(camera.ask().detections) == 0
    assert bench.set_parameter("score_threshold", -1.0).successful
    assert len(camera.ask().detections) == 1


def test_classes_and_their_thresholds_change_while_running(run_camera):
    camera = run_camera(score_thresholds=["bright=0.95"])  # BrightBox says 0.9
    bench = camera.bench
    assert len(camera.ask().detections) == 0
    assert bench.set_parameter("score_thresholds", ["bright=0.6"]).successful
    assert len(camera.ask().detections) == 1
    assert bench.set_parameter("classes", ["bright"]).successful
    assert len(camera.ask().detections) == 1
    refused = bench.set_parameter("classes", ["brihgt"])
    assert not refused.successful
    assert "class 'brihgt'" in refused.reason
    assert "did you mean bright?" in refused.reason
    assert not bench.set_parameter("score_thresholds", ["bright=2"]).successful
    assert len(camera.ask().detections) == 1  # nothing of it was taken


def test_a_class_that_the_bundle_does_not_have_fails_the_start(bench, failing):
    bench.start(CameraDetectorNode, bundle=failing, warmup_sizes=["160x120"], classes=["birght"])
    assert not bench.up
    assert bench.said("cannot configure", "birght", "did you mean bright?"), bench.logs


def test_the_rate_changes_while_running(run_camera):
    camera = run_camera(rate_hz=1000.0)
    assert camera.bench.set_parameter("rate_hz", 2.0).successful
    camera.ask()
    for _ in range(10):
        last = camera.send()
        time.sleep(0.01)
    camera.answer(last)
    assert camera.count("superseded") >= 5
    assert wait_for(lambda: camera.bench.diagnostics("camera_detector").get("rate_hz_asked") == "2.00")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("device", "cpu", "cannot be set while the node is configured"),
        ("image_topics", ["/other"], "cannot be set while the node is configured"),
        ("rate_hz", 0.0, "rate_hz"),
        ("rate_hz", 5000.0, "rate_hz"),
        ("rate_hz", "fast", "type"),
        ("score_threshold", 1.5, "score_threshold"),
        ("nms_threshold", float("nan"), "nms_threshold"),
        ("reliability", "sometimes", "reliability"),
        ("no_such_parameter", 1, "undeclared"),
    ],
)
def test_a_parameter_that_cannot_be_set_is_refused_with_the_reason(run_camera, name, value, reason):
    camera = run_camera()
    before = dict(camera.node.values)
    result = camera.bench.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert camera.node.values == before
    camera.ask()


def test_what_is_fixed_while_configured_may_be_set_before(run_camera):
    camera = run_camera()
    bench = camera.bench
    assert bench.change_state(DEACTIVATE)
    assert not bench.set_parameter("batch_wait_ms", 1.0).successful
    assert bench.change_state(CLEANUP)
    assert bench.set_parameter("batch_wait_ms", 1.0).successful
    assert bench.change_state(CONFIGURE)
    assert bench.change_state(ACTIVATE)
    assert camera.node.values["batch_wait_ms"] == 1.0


def test_a_parameter_is_refused_while_the_node_is_being_configured(bench, monkeypatch):
    reached, go_on, own = threading.Event(), threading.Event(), VehicleStateNode.setup

    def setup(node) -> None:
        reached.set()
        assert go_on.wait(30)
        own(node)

    monkeypatch.setattr(VehicleStateNode, "setup", setup)
    bring_up = threading.Thread(target=lambda: bench.start(VehicleStateNode, rate_hz=20.0))
    bring_up.start()
    assert reached.wait(30)
    result = bench.set_parameter("rate_hz", 10.0, "vehicle_state")
    go_on.set()
    bring_up.join()
    assert bench.up
    assert (result.successful, "being configured" in result.reason) == (False, True)
    node = bench.graph.nodes[0]
    assert node.values["rate_hz"] == node.get_parameter("rate_hz").value == 20.0


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is of Linux")
def test_its_threads_run_on_the_cores_that_it_is_given(run_camera):
    own = os.sched_getaffinity(0)
    core = min(own)
    camera = run_camera(cpu_affinity=str(core))
    camera.ask()
    inference = [thread for thread in threading.enumerate() if thread.name == "inference"]
    threads = {thread.native_id for thread in inference} | {camera.node.spin_thread}
    assert len(threads) >= 2
    assert all(os.sched_getaffinity(thread) == {core} for thread in threads)
    assert os.sched_getaffinity(0) == own
    assert wait_for(lambda: float(camera.bench.diagnostics("camera_detector").get("cores_needed", 0)) > 0)


def test_cores_that_cannot_be_had_fail_the_configuration(run_camera):
    camera = run_camera(autostart=False, wired=False, cpu_affinity="1-x")
    assert not camera.bench.change_state(CONFIGURE)
    assert any("cpu_affinity='1-x'" in line for line in camera.bench.logs)
