"""Videos, image folders and what is none of them."""

from __future__ import annotations

import os
import subprocess
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from perception_rt.codec.video import check_source, measure_video, read_video
from perception_rt.types import ConfigError
from test.streams import network_camera

VIDEO = Path(__file__).resolve().parents[3] / "shared" / "data" / "video" / "solidWhiteRight.mp4"


def picture(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def test_a_folder_is_read_by_name_at_its_rate(tmp_path):
    for name, value in (("b.png", 20), ("a.png", 10), ("c.PNG", 30)):
        cv2.imwrite(str(tmp_path / name), picture(value))
    (tmp_path / "notes.txt").write_text("no picture")
    frames = list(read_video(str(tmp_path), 5.0))
    assert [frame.pixels[0, 0, 0] for frame in frames] == [10, 20, 30]
    assert [frame.time_ns for frame in frames] == [0, 200_000_000, 400_000_000]


@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_a_file_has_its_own_stamps_or_those_of_a_rate(tmp_path, rate):
    file = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(file, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for value in (0, 100, 200):
        writer.write(picture(value))
    writer.release()
    frames = list(read_video(file, rate))
    step = 1e9 / (rate or 25.0)
    assert [frame.time_ns for frame in frames] == pytest.approx([0, step, 2 * step], abs=1e6)
    assert [round(float(frame.pixels.mean()), -1) for frame in frames] == [0, 100, 200]


def test_a_file_of_a_varying_rate_keeps_its_stamps(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(100 * number))
    file, later = str(tmp_path / "film.mkv"), "setpts=N*N*0.04/TB"
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "%d.png"), "-vf", later]
    subprocess.run([*command, "-fps_mode", "vfr", "-c:v", "mjpeg", file], check=True)
    times = [frame.time_ns for frame in read_video(file)]
    assert times == pytest.approx([0, 40_000_000, 160_000_000], abs=1e6)


@pytest.mark.skipif(not VIDEO.exists(), reason="../shared/data is absent")
def test_a_real_video_has_rising_stamps():
    times = np.array([frame.time_ns for frame in read_video(str(VIDEO))])
    assert len(times) > 100
    assert (np.diff(times) > 0).all()


def test_a_network_camera_is_read_as_its_pictures_come():
    with network_camera([picture(50), picture(150)], 50.0) as address:
        frames = list(islice(read_video(address), 6))
        size = measure_video(address)
    assert frames[0].time_ns == 0
    assert (np.diff([frame.time_ns for frame in frames]) > 0).all()
    assert {round(float(frame.pixels.mean()), -1) for frame in frames} == {50, 150}
    assert (size.width, size.height) == (64, 48)
    assert size.frames > 5


def test_a_device_that_may_not_be_read_or_is_no_camera_is_named(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/video0")
    if os.access("/dev/video0", os.R_OK):
        pytest.skip("this machine has a camera")
    for source in ("0", "/dev/video0"):
        with pytest.raises(ConfigError, match="no permission"):
            check_source(source)
    monkeypatch.setattr(os, "access", lambda *_: True)
    with pytest.raises(ConfigError, match="no picture can be decoded; does another program use it"):
        next(read_video("/dev/video0"))


@pytest.mark.parametrize("kind", ["missing", "empty folder", "text", "broken image"])
def test_what_cannot_be_played_is_named(tmp_path, kind):
    source = tmp_path / kind
    if kind == "empty folder":
        source.mkdir()
    if kind == "text":
        source.write_text("no video")
    if kind == "broken image":
        source.mkdir()
        (source / "a.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="video="):
        list(read_video(str(source)))


@pytest.mark.parametrize("source", ["", "nowhere.mp4"])
def test_a_source_that_is_not_there_is_refused_before_it_is_opened(source):
    with pytest.raises(ConfigError, match="no such file, folder or device"):
        check_source(source)


def test_a_folder_has_the_rate_of_its_frames(tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(50 * number))
    size = measure_video(str(tmp_path))
    assert (size.frames, size.width, size.height) == (4, 64, 48)
    assert size.rate_hz == pytest.approx(10.0)
