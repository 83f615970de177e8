"""The demo: simulator, detector, summary, pictures and film."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.sim.drive import Drive
from test.domains import claim_domain
from test.streams import network_camera

CONFIG = {
    "camera_detector": {"image_topics": ["camera/image_raw"], "warmup_sizes": ["320x180"]},
    "lidar_detector": {"points_topics": ["lidar/points"]},
    "fusion": {"fixed_frame": "odom"},
    "object_tracker": {},
    "vehicle_state": {"odometry_topic": "odom"},
    "drive_simulator": {
        "seed": 3,
        "duration_s": 2.0,
        "width": 320,
        "height": 180,
        "camera_hz": 20.0,
        "lidar_hz": 5.0,
        "ahead_s": 2.0,
    },
}


def write(path, nodes) -> None:
    """A parameter file of some of the nodes of CONFIG."""
    path.write_text(yaml.safe_dump({name: {"ros__parameters": CONFIG[name]} for name in nodes}))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Recordings of the tests do not push out those of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_short_drive_leaves_what_it_promises(tmp_path, make_bundle, tall, monkeypatch):
    domain, _lock = claim_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    config, out = tmp_path / "short.yaml", tmp_path / "out"
    write(config, CONFIG)
    bundles = ["--bundle", str(make_bundle()), "--lidar-bundle", tall]
    out.mkdir()
    for name in ("summary.json", "lidar.mp4", "lidar_0099.png"):
        (out / name).write_text("of an earlier run")
    rates = ["--rates", "fixed"]  # the counts below are those of the file, however busy the machine is
    assert main(["demo", "--config", str(config), *bundles, *rates, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    counts = {
        "/camera/image_raw": 40,
        "/lidar/points": 10,
        "fusion: /lidar_detector/detections": 10,
        "fusion: /camera_detector/detections": 40,
        "object_tracker: /lidar_detector/detections": 10,
        "vehicle_state: /odom": 100,
        "vehicle_state: /imu": 200,
    }
    assert list(summary) == list(counts)
    for topic, row in summary.items():
        assert 0 < row["received"] <= counts[topic]  # a busy machine may lose best-effort frames on the way
        assert sum(row["states"].values()) == row["received"]
        assert row["states"]["published"] > 0
        assert row["age_ms"]["p99"] >= row["age_ms"]["p50"] > 0
        assert row["map50"] is None  # the tests' detectors share no class with the simulator
    for name, count in (("camera", 40), ("lidar", 10), ("fusion", 10), ("tracks", 10)):
        film = cv2.VideoCapture(str(out / f"{name}.mp4"))
        assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == count, name
        assert len(list(out.glob(f"{name}_*.png"))) == 6
    assert cv2.imread(str(out / "vehicle_state.png")).std() > 5  # curves, not a blank page
    assert (
        len(list((tmp_path / "cache/perception_rt/drives").iterdir())) == 1
    )  # the drive was played from there


@pytest.mark.parametrize("args", [[], ["--realtime"]])
def test_every_frame_of_a_video_is_accounted_for(tmp_path, make_bundle, monkeypatch, args):
    domain, _lock = claim_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    drive, film, out = Drive(3, (320, 180)), tmp_path / "film.mp4", tmp_path / "out"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (320, 180))
    for number in range(15):
        writer.write(drive.sample(number / 10).image[:, :, ::-1])
    writer.release()
    bundle = ["--bundle", str(make_bundle())]
    assert main(["demo", "--video", str(film), *bundle, *args, "--out", str(out)]) == 0
    rows = json.loads((out / "summary.json").read_text())
    assert list(rows) == ["/camera/image_raw", "object_tracker: /camera_detector/detections"]
    for row in rows.values():
        assert sum(row["states"].values()) == row["received"] <= 15
        if not args:  # step by step, none is lost
            assert row["received"] == row["states"]["published"] == 15
    for name in ("camera", "tracks"):
        made = cv2.VideoCapture(str(out / f"{name}.mp4"))
        assert int(made.get(cv2.CAP_PROP_FRAME_COUNT)) == 15
    assert len(list(out.glob("camera_*.png"))) == 6


def test_a_camera_is_played_as_its_pictures_come(tmp_path, make_bundle, monkeypatch):
    domain, _lock = claim_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    drive, out = Drive(3, (320, 180)), tmp_path / "out"
    pictures = [drive.sample(number / 10).image[:, :, ::-1] for number in range(3)]
    with network_camera(pictures, 10.0) as address:
        arguments = ["--bundle", str(make_bundle()), "--seconds", "2", "--out", str(out)]
        assert main(["demo", "--video", address, *arguments]) == 0
    rows = json.loads((out / "summary.json").read_text())
    for row in rows.values():
        assert sum(row["states"].values()) == row["received"] > 5
    count = len(list((out / "live_frames").iterdir()))
    assert count >= rows["/camera/image_raw"]["received"]
    for name in ("camera", "tracks"):
        assert int(cv2.VideoCapture(str(out / f"{name}.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == count


@pytest.mark.parametrize("content", ["nothing", "no picture", "two sizes"])
def test_a_video_that_cannot_be_played_is_one_line(tmp_path, capsys, content):
    source = tmp_path / "source"
    source.mkdir()
    if content == "no picture":
        (source / "a.png").write_text(content)
    if content == "two sizes":
        for name, width in (("a", 64), ("b", 80)):
            cv2.imwrite(str(source / f"{name}.png"), np.zeros((48, width, 3), np.uint8))
    assert (
        main(["demo", "--video", str(source), "--bundle", "sim_camera", "--out", str(tmp_path / "out")]) == 2
    )
    error = capsys.readouterr().err
    assert "video=" in error
    assert len(error.splitlines()) == 1


def test_a_graph_that_fails_says_so(tmp_path, capsys):
    config = tmp_path / "typo.yaml"
    config.write_text(yaml.safe_dump({"camera_detecter": {"ros__parameters": {}}}))
    assert main(["demo", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert "camera_detecter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (["camera_detector", "lidar_detector"], "must name drive_simulator and a detector"),
        (["drive_simulator", "fusion"], "must name drive_simulator and a detector"),
        (["drive_simulator", "camera_detector", "fusion"], "needs one camera and one lidar"),
        (
            ["drive_simulator", "camera_detector", "object_tracker"],
            "none of the nodes publishes detect3d there",
        ),
    ],
)
def test_a_graph_that_is_not_whole_is_refused(tmp_path, capsys, nodes, says):
    config = tmp_path / "half.yaml"
    write(config, nodes)
    assert main(["demo", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
