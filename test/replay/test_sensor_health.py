"""Faults of a recording's sensors in the report and the metrics of its replay."""

from __future__ import annotations

import json

import pytest

from perception_rt.cli.main import main
from perception_rt.codec import parse_image
from perception_rt.codec.encode import encode_image
from perception_rt.replay.bag import Bag
from test.drives import IMAGE, TOPICS, write_bag, write_drive

CONFIG = """
camera_detector: {ros__parameters: {image_topics: [/camera/image_raw], warmup_sizes: [320x180]}}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A drive whose camera is dark from 3 s on."""
    folder = tmp_path_factory.mktemp("faulty")
    with Bag(write_drive(folder / "well", 5.0)) as bag:
        messages = [(m.log_ns, m.topic, m.data) for m in bag.messages()]
    dark = []
    for log_ns, topic, data in messages:
        if topic == IMAGE and log_ns - messages[0][0] > 3e9:
            image = parse_image(data)
            data = encode_image(image.decode().pixels // 16, "rgb8", image.stamp_ns, image.frame_id)
        dark.append((log_ns, topic, data))
    return write_bag(folder / "dark", TOPICS, dark)


@pytest.mark.parametrize("own", [False, True])
def test_a_fault_stands_in_metrics_and_report_with_its_time(faulty, tmp_path, own):
    config = tmp_path / "graph.yaml"
    node = "sensor_health: {ros__parameters: {image_topics: [/camera/image_raw], points_topics: ['']}}\n"
    config.write_text(CONFIG + node * own)
    out = tmp_path / "out"
    arguments = ["replay", str(faulty), "--config", str(config), "--out", str(out), "--inference", "fixed:20"]
    assert main([*arguments, "--progress", "none"]) == 0
    health = json.loads((out / "metrics.json").read_text())["health"]
    assert health["sensors"] == [IMAGE]
    (finding,) = health["findings"]
    assert (finding["check"], finding["sensor"]) == ("mean_grey", IMAGE)
    assert 3.0 <= finding["begin_s"] <= finding["found_s"] <= 5.0
    assert finding["end_s"] is None
    page = (out / "report.html").read_text()
    assert "the picture is dark" in page
    with Bag(out / "bag") as bag:
        told = any(b"the picture is dark" in message.data for message in bag.messages(["/diagnostics"]))
    assert told == own
