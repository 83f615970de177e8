"""The segmenter in a replay: labels and their names are recorded."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import yaml

from perception_rt.cli.main import main
from perception_rt.codec.segmentation import decode_segmentation
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import header_stamp_ns, typestore
from test import drives
from test.segmenters import CLASSES, save_colour_map


def test_labels_of_a_recording_and_their_names_are_recorded(tmp_path):
    drives.write_drive(tmp_path / "drive", 1.0, 5, camera_hz=10.0)
    save_colour_map(tmp_path / "colours.pt")
    given = {"bundle": str(tmp_path / "colours.pt"), "image_topics": [drives.IMAGE]}
    graph = {"camera_segmenter": {"ros__parameters": given}}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(graph))
    out = tmp_path / "out"
    command = ["replay", tmp_path / "drive", "--config", tmp_path / "graph.yaml", "--out", out]
    options = ["--inference", "fixed:20", "--progress", "none"]
    assert main([*map(str, command), *options]) == 0

    with (out / "ledger.csv").open(newline="") as file:
        ends = {(row["node"], row["topic"], row["outcome"]) for row in csv.DictReader(file)}
    assert ends == {("/camera_segmenter", drives.IMAGE, "published")}
    with Bag(tmp_path / "drive") as bag, Bag(out / "bag") as answers:
        images = [header_stamp_ns(message.data) for message in bag.messages([drives.IMAGE])]
        infos = list(answers.messages(["/camera_segmenter/label_info"]))
        found = list(answers.messages(["/camera_segmenter/segmentation"]))
    assert len(infos) == 1
    assert infos[0].log_ns <= found[0].log_ns
    info = typestore().deserialize_cdr(infos[0].data, "vision_msgs/msg/LabelInfo")
    names = {one.class_id: one.class_name for one in info.class_map}
    assert [names[label] for label in range(3)] == list(CLASSES)
    decoded = [decode_segmentation(one.data, CLASSES) for one in found]
    assert [stamp for stamp, _, _ in decoded] == images
    assert all(len(np.unique(result.labels)) > 1 for _, _, result in decoded)
    metadata = yaml.safe_load((out / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    qos = {
        topic["topic_metadata"]["name"]: str(topic["topic_metadata"]["offered_qos_profiles"])
        for topic in metadata["topics_with_message_count"]
    }
    assert "durability: 1" in qos["/camera_segmenter/label_info"]  # transient local
    assert "durability: 2" in qos["/camera_segmenter/segmentation"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert {bundle["task"] for bundle in metrics["bundles"].values()} == {"segment"}
    assert metrics["outputs"]["/camera_segmenter/segmentation"]["messages"] == len(found)
    assert "/camera_segmenter/image_annotated" not in metrics["outputs"]
    page = (out / "report.html").read_text()
    assert "Most classes" in page
    assert re.search(r"camera image with \d+% (red|green|blue), \d+% ", page)
    assert "camera image, no output" not in page
