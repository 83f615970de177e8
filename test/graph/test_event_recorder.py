"""Bags of events over real topics."""

from __future__ import annotations

import json
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from perception_rt.cli.main import main
from perception_rt.node.event_recorder import EventRecorderNode
from perception_rt.replay.bag import Bag
from test.drives import transforms

from .conftest import square, wait_for

STATUS = "event_recorder"


def start(bench, tmp_path, **values):
    publisher = bench.publisher("/image_raw", "reliable")
    bench.start(EventRecorderNode, folder=str(tmp_path / "events"), after_s=0.0, **values)
    assert wait_for(publisher.get_subscription_count)
    stamps = [bench.send(publisher, square()) for _ in range(5)]
    assert wait_for(lambda: float(bench.diagnostics(STATUS).get("held_mb", 0)) > 0.2)
    return stamps


def save(bench):
    return bench.call(Trigger, "/event_recorder/save", Trigger.Request())


def test_a_bag_that_is_asked_for_can_be_replayed(bench, tmp_path):
    stamps = start(bench, tmp_path)
    answer = save(bench)
    assert answer.success, answer.message
    config = tmp_path / "graph.yaml"
    config.write_text(
        "camera_detector: {ros__parameters: {warmup_sizes: [160x120]}}\n"
        "event_recorder: {ros__parameters: {}}\n"  # not part of a replay
    )
    out = tmp_path / "out"
    arguments = ["--config", str(config), "--out", str(out), "--inference", "fixed:5", "--no-report"]
    assert main(["replay", answer.message, *arguments, "--progress", "none"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["streams"]["/camera_detector: /image_raw"]["received"] == len(stamps)


def test_what_was_published_once_before_is_in_the_bag(bench, tmp_path):
    qos = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = bench.node.create_publisher(TFMessage, "/tf_static", qos)
    mount = transforms([(0, "base_link", "camera", (0.0, 0.0, 1.5), 0.0)])
    publisher.publish(mount)
    start(bench, tmp_path)
    assert wait_for(lambda: publisher.get_subscription_count() >= 2)
    answer = save(bench)
    assert answer.success, answer.message
    with Bag(Path(answer.message)) as bag:
        assert [bytes(m.data) for m in bag.messages() if m.topic == "/tf_static"] == [mount]


def test_a_bag_that_is_due_later_is_written_at_the_end(bench, tmp_path):
    publisher = bench.publisher("/image_raw", "reliable")
    node = bench.start(EventRecorderNode, folder=str(tmp_path / "events"), after_s=60.0)
    faults = bench.publisher("/diagnostics", "reliable", DiagnosticArray)
    assert wait_for(lambda: publisher.get_subscription_count() and faults.get_subscription_count() >= 2)
    bench.send(publisher, square())
    status = DiagnosticStatus(name="sensor_health: points", level=DiagnosticStatus.WARN, message="blocked")
    faults.publish(DiagnosticArray(status=[status]))
    assert wait_for(lambda: node._due is not None and float(bench.diagnostics(STATUS).get("held_mb", 0)) > 0)
    assert bench.change_state(Transition.TRANSITION_DEACTIVATE, "event_recorder")
    assert wait_for(lambda: [path.suffix for path in (tmp_path / "events").glob("*")] == [""])
    del bench.status[status.name]


def test_a_fault_is_an_event_and_more_faults_at_once_are_the_same_one(bench, tmp_path):
    start(bench, tmp_path)
    faults = bench.publisher("/diagnostics", "reliable", DiagnosticArray)
    assert wait_for(lambda: faults.get_subscription_count() >= 2)
    names = "other_node", "sensor_health: image_raw", "sensor_health: points"
    for name in names:
        status = DiagnosticStatus(name=name, level=DiagnosticStatus.WARN, message="the picture is dark")
        faults.publish(DiagnosticArray(status=[status]))
    assert wait_for(lambda: bench.diagnostics(STATUS)["bags"] == "1")
    (path,) = (tmp_path / "events").iterdir()
    assert bench.said(path.name, "sensor_health: image_raw: the picture is dark")
    with Bag(path) as bag:
        assert {"/image_raw", "/diagnostics"} <= set(bag.topics)
    for name in names:
        del bench.status[name]  # no node of this test


def test_a_bag_that_cannot_be_written_costs_nothing_else(bench, tmp_path):
    (tmp_path / "events").write_text("no folder")
    start(bench, tmp_path)
    answer = save(bench)
    assert not answer.success
    assert "cannot be written" in answer.message
    assert wait_for(lambda: bench.message(STATUS) == answer.message)
    (tmp_path / "events").unlink()
    assert save(bench).success
    assert wait_for(lambda: bench.message(STATUS) == "running")
