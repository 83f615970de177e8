"""Drives that are rendered beforehand: what was drawn, whole or not at all, within a bound of size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from perception_rt.cli.demo import cache
from perception_rt.sim import recording as recordings
from perception_rt.sim.drive import Drive
from perception_rt.sim.recording import IMU_HZ, ODOMETRY_HZ, Course, Recording, create, finish, render
from perception_rt.types import ConfigError

COURSE = Course(seed=5, width=96, height=64, camera_hz=15.0, lidar_hz=5.0, duration_s=0.4)


def write(folder: Path, course: Course = COURSE) -> Path:
    """Render a course in this process."""
    folder.mkdir(parents=True)
    parts = create(folder, course, size=2)
    made = {camera: [s for p in parts if p.camera is camera for s in render(p)] for camera in (True, False)}
    finish(folder, course, made[True], made[False])
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """`recorded` without processes of its own; the list counts what is rendered."""
    rendered: list[Course] = []

    def here(folder: Path, course: Course, step) -> None:
        rendered.append(course)
        write(folder, course)
        step(1, 1)

    monkeypatch.setattr(cache, "_render", here)
    return rendered


def test_samples_are_those_of_the_drive(tmp_path):
    recording, drive = Recording(write(tmp_path / "one")), Drive(5, (96, 64))
    assert len(COURSE.times(15.0)) == 6
    for t_s in COURSE.times(15.0):
        found, expected = recording.sample(t_s), drive.sample(t_s)
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.truth.xyxy, expected.truth.xyxy)
        np.testing.assert_array_equal(found.truth.labels, expected.truth.labels)
        assert found.camera == expected.camera
    for t_s in COURSE.times(5.0):
        found, expected = recording.lidar(t_s), drive.lidar(t_s)
        assert found.stamp_ns == expected.stamp_ns
        np.testing.assert_array_equal(found.truth.xyzlwh_yaw, expected.truth.xyzlwh_yaw)
        for name in ("points", "truth_points", "truth_ids", "truth_velocity"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for t_s in COURSE.times(IMU_HZ):
        read, made = recording.imu(t_s), drive.imu(t_s)
        np.testing.assert_array_equal(read.angular_velocity, made.angular_velocity)
        np.testing.assert_array_equal(read.linear_acceleration, made.linear_acceleration)
    for t_s in COURSE.times(ODOMETRY_HZ):
        assert (recording.odometry(t_s), recording.ego(t_s)) == (drive.odometry(t_s), drive.ego(t_s))
    size = sum(file.stat().st_size for file in (tmp_path / "one").iterdir())
    assert size < COURSE.bytes() + (1 << 16)


@pytest.mark.parametrize("sensor", ["camera_hz", "lidar_hz"])
def test_a_sensor_may_be_absent(tmp_path, sensor):
    recording = Recording(write(tmp_path / "one", COURSE._replace(**{sensor: 0.0})))
    kept = recording.lidar(0.2).points if sensor == "camera_hz" else recording.sample(0.2).image
    assert len(kept)


@pytest.mark.parametrize("t_s", [-0.2, 0.05, 0.4, 7.0])
def test_a_time_between_or_beyond_samples_is_refused(tmp_path, t_s):
    recording = Recording(write(tmp_path / "one"))
    with pytest.raises(ConfigError, match="t_s="):
        recording.sample(t_s)
    for read in (recording.imu, recording.odometry, recording.ego):
        with pytest.raises(ConfigError, match="t_s="):
            read(t_s + 0.003)


@pytest.mark.parametrize("name", ["images.npy", "points.npy", "truth.npz", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_recording_is_refused_and_rendered_again(tmp_path, in_this_process, name, damage):
    folder = write(tmp_path / COURSE.key)
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:-9])
    with pytest.raises(ConfigError, match="recording="):
        Recording(folder)
    found, recording = cache.recorded(tmp_path, COURSE, lambda *_: None)
    assert found == folder
    assert in_this_process == [COURSE]
    assert recording.sample(0.0).image.any()


def test_another_version_of_the_simulator_renders_again(tmp_path, monkeypatch, in_this_process):
    cache.recorded(tmp_path, COURSE, lambda *_: None)
    cache.recorded(tmp_path, COURSE, lambda *_: None)
    assert len(in_this_process) == 1
    monkeypatch.setattr(recordings, "_version", lambda: "next")
    cache.recorded(tmp_path, COURSE, lambda *_: None)
    assert len(in_this_process) == 2
    for value in (COURSE._replace(seed=6), COURSE._replace(camera_hz=10.0), COURSE._replace(duration_s=0.6)):
        assert value.key != COURSE.key


def test_recordings_used_longest_ago_make_room(tmp_path, monkeypatch, in_this_process):
    folders = []
    for age, seed in enumerate((3, 2, 1)):  # seed 3 was used last
        folders.append(cache.recorded(tmp_path, COURSE._replace(seed=seed), lambda *_: None)[0])
        os.utime(folders[-1], (1e9 - age, 1e9 - age))
    part = tmp_path / "x.part"
    part.mkdir()
    os.utime(part, (1e9, 1e9))
    size = sum(file.stat().st_size for file in folders[0].iterdir())
    monkeypatch.setattr(cache, "MAX_BYTES", COURSE.bytes() + size)
    newest, _ = cache.recorded(tmp_path, COURSE, lambda *_: None)
    assert sorted(tmp_path.iterdir()) == sorted([newest, folders[0]])


def test_what_is_too_large_is_not_begun(tmp_path, in_this_process):
    with pytest.raises(ConfigError, match="MiB"):
        cache.recorded(tmp_path, COURSE._replace(width=4000, height=4000, duration_s=1e4), lambda *_: None)
    assert not in_this_process


def test_processes_render_the_same_and_leave_nothing_half_written(tmp_path):
    steps: list[tuple[int, int]] = []
    folder, recording = cache.recorded(tmp_path, COURSE, lambda *step: steps.append(step))
    assert steps[0] == (0, 8)
    assert steps[-1] == (8, 8)
    assert list(tmp_path.iterdir()) == [folder]
    np.testing.assert_array_equal(recording.sample(0.2).image, Drive(5, (96, 64)).sample(0.2).image)

    def interrupted(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.recorded(tmp_path, COURSE._replace(seed=6), interrupted)
    assert list(tmp_path.iterdir()) == [folder]
