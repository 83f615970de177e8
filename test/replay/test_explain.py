"""replay --explain: heat maps of the most and the least confident detections are in the report."""

from __future__ import annotations

import json

import yaml

from perception_rt.cli.main import main
from perception_rt.stage.explain.explain import CALLS
from test import drives


def test_the_report_explains_detections_of_cameras_and_lidars(tmp_path, monkeypatch, capsys):
    drives.write_drive(tmp_path / "drive", 0.6, 5, camera_hz=5.0)
    graph = {
        "camera_detector": {"ros__parameters": {"image_topics": [drives.IMAGE]}},
        "lidar_detector": {"ros__parameters": {"bundle": "bev_cluster", "points_topics": [drives.POINTS]}},
    }
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(graph))
    for kind in (True, False):
        monkeypatch.setitem(CALLS, kind, 30)
    out = tmp_path / "out"
    command = ["replay", str(tmp_path / "drive"), "--config", str(tmp_path / "graph.yaml"), "--out", str(out)]
    options = ["--inference", "fixed:20", "--progress", "none"]
    assert main([*command, *options, "--explain", "2"]) == 0
    records = json.loads((out / "explain" / "explain.json").read_text())["records"]
    assert {record["node"] for record in records} == {"/camera_detector", "/lidar_detector"}
    by_node = {}
    for record in records:
        by_node.setdefault(record["node"], []).append(record["score"])
    assert all(scores == sorted(scores, reverse=True) for scores in by_node.values())
    page = (out / "report.html").read_text()
    assert '<h2 id="explanations">Heat maps</h2>' in page
    assert page.count("of the score is lost") == len(records)

    # A later run without it leaves nothing of it behind.
    assert main([*command, *options]) == 0
    assert not (out / "explain").exists()
    assert "Heat maps" not in (out / "report.html").read_text()
    capsys.readouterr()
    assert main([*command, *options, "--explain", "99"]) == 2
    assert capsys.readouterr().err == "perception-rt replay: --explain=99: must be from 1 to 20\n"
