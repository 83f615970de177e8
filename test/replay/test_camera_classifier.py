"""The classifier in a replay: whole images, and the boxes that the recording holds."""

from __future__ import annotations

import csv
import json

import yaml

from perception_rt.cli.main import main
from perception_rt.codec.classification import decode_classification
from perception_rt.codec.detections import read_rows
from perception_rt.replay.bag import Bag
from test import drives
from test.classifiers import CLASSES, save_colours


def test_images_and_boxes_of_a_recording_are_classified(tmp_path):
    drives.write_drive(tmp_path / "drive", 1.0, 5, camera_hz=10.0)
    save_colours(tmp_path / "colours.pt")
    given = {"bundle": str(tmp_path / "colours.pt"), "image_topics": [drives.IMAGE]}
    boxes = {**given, "detections_topics": [drives.TRUTH], "top_k": 1}
    graph = {
        "camera_classifier": {"ros__parameters": given},
        "/crops/camera_classifier": {"ros__parameters": boxes},
    }
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(graph))
    out = tmp_path / "out"
    command = ["replay", tmp_path / "drive", "--config", tmp_path / "graph.yaml", "--out", out]
    options = ["--inference", "fixed:20", "--no-report", "--progress", "none"]
    assert main([*map(str, command), *options]) == 0

    with (out / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends = {(row["node"], row["topic"], row["outcome"]) for row in rows}
    assert ends == {
        ("/camera_classifier", drives.IMAGE, "published"),
        ("/crops/camera_classifier", drives.IMAGE, "published"),
        ("/crops/camera_classifier", drives.TRUTH, "published"),
    }
    with Bag(tmp_path / "drive") as bag, Bag(out / "bag") as answers:
        truths = [read_rows(message.data) for message in bag.messages([drives.TRUTH])]
        whole = list(answers.messages(["/camera_classifier/classifications"]))
        found = [read_rows(one.data) for one in answers.messages(["/crops/camera_classifier/detections"])]
    assert [decode_classification(one.data, CLASSES)[0] for one in whole] == [one.stamp_ns for one in truths]
    assert [(one.stamp_ns, one.ids) for one in found] == [(one.stamp_ns, one.ids) for one in truths]
    assert sum(len(one.ids) for one in found) > 0
    assert {name for one in found for name in one.names} <= {*CLASSES}
    metrics = json.loads((out / "metrics.json").read_text())
    assert {bundle["task"] for bundle in metrics["bundles"].values()} == {"classify"}
