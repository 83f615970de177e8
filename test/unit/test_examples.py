"""Each example runs as its first line says, and its output is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

import perception_rt
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.node.transport import transport_environment
from perception_rt.replay.mot import read_mot
from perception_rt.sim.drive import Drive
from perception_rt.types import Detections3D
from test.domains import claim_domain
from test.drives import TRUTH, write_drive

ROOT = Path(__file__).parents[2]


def example(name: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_detect_images(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), Drive(seed=3).sample(2.0).image[..., ::-1])
    said = example("detect_images.py", "sim_camera", path)
    assert "photo.png: 0 objects" not in said
    assert any(name in said for name in ("car", "pedestrian", "cyclist"))


def test_track_mot(tmp_path):
    det, out = tmp_path / "det.txt", tmp_path / "tracks.txt"
    rows = [f"{frame},-1,{100 + 3 * frame},50,20,40,0.9" for frame in range(1, 31)]
    rows += [f"{frame},-1,{400 - 2 * frame},60,22,44,0.8" for frame in range(1, 31) if frame != 15]
    det.write_text("\n".join(rows) + "\n")
    example("track_mot.py", det, out)
    frames = read_mot(out)
    assert len({int(i) for frame in frames.values() for i in frame.ids}) == 2
    np.testing.assert_allclose(frames[30].xyxy[:, 0], [190, 340], atol=3)


def test_replay_and_score(tmp_path):
    bag = write_drive(tmp_path / "bag", seconds=1.0)
    config = tmp_path / "camera.yaml"
    config.write_text(
        "camera_detector:\n  ros__parameters:\n    bundle: sim_camera\n"
        "    image_topics: [/camera/image_raw]\n"
    )
    said = example("replay_and_score.py", bag, config, tmp_path / "out", TRUTH)
    assert "/camera/image_raw" in said
    assert "ap50" in said


def test_torchscript_bundle(tmp_path):
    path = tmp_path / "mine.pt"
    example("torchscript_bundle.py", path)
    image = np.zeros((480, 640, 3), np.uint8)
    image[100:200, 50:300] = 255
    found = perception_rt.detect2d(perception_rt.open_bundle(path, device="cpu"), image)
    np.testing.assert_allclose(found.xyxy, [[50, 100, 300, 200]])


def notebook(name: str) -> dict:
    """Run the code cells of a notebook; returns its names."""
    names: dict = {}
    for number, cell in enumerate(json.loads((ROOT / "examples" / name).read_text())["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "commit notebooks without outputs"
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    return names


@pytest.fixture
def no_windows(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    for name in ("BAG", "BUNDLE", "IMAGE", "OUT"):
        monkeypatch.delenv(name, raising=False)
    yield
    pyplot.close("all")


def test_images_and_bundle(no_windows):
    assert len(notebook("images_and_bundle.ipynb")["detections"]) >= 3


def test_bag_boxes_film(no_windows, tmp_path, monkeypatch):
    monkeypatch.setenv("BAG", str(write_drive(tmp_path / "bag", seconds=1.0)))
    monkeypatch.setenv("OUT", str(tmp_path))
    names = notebook("bag_boxes_film.ipynb")
    film = cv2.VideoCapture(str(tmp_path / "boxes.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == len(names["counts"]) >= 10
    assert sum(names["counts"]) > 0


def test_tracker_and_scores(no_windows):
    scores = notebook("tracker_and_scores.ipynb")["scores"].iloc[0]
    assert scores["mota"] > 0.8
    assert scores["idf1"] > 0.8


@contextmanager
def running(name: str, domain: int, *args: str) -> Iterator[None]:
    """Run a node of the examples in a domain until the end; it must end by SIGINT alone."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    node = subprocess.Popen([sys.executable, ROOT / "examples" / name, *args], env=environment)
    try:
        yield
        assert node.poll() is None
    finally:
        node.send_signal(signal.SIGINT)
        code = node.wait(20)
    assert code == 0


def repeat_until(condition: Callable[[], object], action: Callable[[], None]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        action()
        time.sleep(0.1)


@pytest.fixture
def domain(monkeypatch) -> Iterator[int]:
    """A domain of this test's own, on this machine alone."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name, value in transport_environment().items():
        monkeypatch.setenv(name, value)
    number, lock = claim_domain()
    with lock:
        yield number


def test_nearby_node(domain):
    from diagnostic_msgs.msg import DiagnosticArray
    from vision_msgs.msg import Detection3DArray

    from perception_rt.node.run import spinning_node

    boxes = np.array([[x, y, 0.5, 4, 2, 1.5, 0] for x, y in ((3, 4), (0, 9), (30, 0), (8, 8))], np.float32)
    found = Detections3D(boxes, np.full(4, 0.9, np.float32), np.array([0, 1, 0, 1]))
    answers, counts = [], [{"published": 0, "decode_error": 0}]

    def on_answer(data: bytes) -> None:
        answers.append(decode_named_detections3d(data))

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "nearby: /lidar_detector/detections":
                counts.append({item.key: item.value for item in status.values})

    def publish(detections: Detections3D) -> None:
        data = encoder.encode(detections, time.time_ns(), "lidar", ("a", "b", "c", "d")[: len(detections)])
        publisher.publish(data)

    encoder = Detection3DEncoder(("car", "pedestrian"))
    with (
        running("nearby_node.py", domain, "--ros-args", "-p", "radius_m:=10.0"),
        spinning_node("example_user", domain) as user,
    ):
        user.create_subscription(Detection3DArray, "/nearby/detections", on_answer, 5, raw=True)
        user.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        publisher = user.create_publisher(Detection3DArray, "/lidar_detector/detections", 5)
        repeat_until(lambda: answers, lambda: publish(found))
        repeat_until(lambda: not answers[-1].ids, lambda: publish(Detections3D.empty()))
        repeat_until(
            lambda: int(counts[-1]["decode_error"]), lambda: publisher.publish(b"\0\1\0\0 no message")
        )
    np.testing.assert_allclose(answers[0].detections.xyzlwh_yaw, boxes[:2], atol=1e-5)
    assert (answers[0].frame_id, answers[0].ids) == ("lidar", ["a", "b"])
    assert answers[0].classes == ("car", "pedestrian")
    assert int(counts[-1]["published"]) >= len(answers) > 1


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")),
    ids=lambda path: path.name,
)
def test_each_example_has_a_test(path):
    assert path.name in Path(__file__).read_text()
