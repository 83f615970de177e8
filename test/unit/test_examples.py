"""Each example runs as its first line says, and its output is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import perception_rt
from perception_rt.replay.mot import read_mot
from perception_rt.sim.drive import Drive
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


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_example_has_a_test(path):
    assert path.name in Path(__file__).read_text()
