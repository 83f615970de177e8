"""The demo: simulator, detector, summary, pictures and film."""

from __future__ import annotations

import json

import cv2
import pytest
import yaml

from perception_rt.cli.main import main
from test.domains import claim_domain

CONFIG = {
    "camera_detector": {
        "ros__parameters": {"image_topics": ["camera/image_raw"], "warmup_sizes": ["320x180"]}
    },
    "drive_simulator": {
        "ros__parameters": {"seed": 3, "duration_s": 2.0, "width": 320, "height": 180, "camera_hz": 20.0}
    },
}


def test_a_short_drive_leaves_what_it_promises(tmp_path, make_bundle, monkeypatch):
    domain, _lock = claim_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    config = tmp_path / "short.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out"
    assert main(["demo", "--config", str(config), "--bundle", str(make_bundle()), "--out", str(out)]) == 0
    row = json.loads((out / "summary.json").read_text())["/camera/image_raw"]
    assert 0 < row["received"] <= 40  # a busy machine may lose best-effort frames before the node has them
    assert sum(row["states"].values()) == row["received"]
    assert row["states"]["published"] > 0
    assert row["age_ms"]["p99"] >= row["age_ms"]["p50"] > 0
    assert row["map50"] is None  # the test's detector shares no class with the simulator
    film = cv2.VideoCapture(str(out / "camera.mp4"))
    assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == 40
    assert len(list(out.glob("camera_*.png"))) == 6


def test_a_graph_that_fails_says_so(tmp_path, capsys):
    config = tmp_path / "typo.yaml"
    config.write_text(yaml.safe_dump({"camera_detecter": {"ros__parameters": {}}}))
    assert main(["demo", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert "camera_detecter" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["camera_detector", "drive_simulator"])
def test_the_simulated_graph_needs_both_nodes(tmp_path, capsys, missing):
    config = tmp_path / "half.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in CONFIG.items() if name != missing}))
    assert main(["demo", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert "must name" in capsys.readouterr().err
