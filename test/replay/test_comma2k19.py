"""The ego filter on recordings: a real drive, and a car seen by lidar and radar."""

from __future__ import annotations

import numpy as np
import pytest

from bench.comma2k19 import read_segment
from bench.ego_comma2k19 import comma2k19_rows
from bench.rows import Row
from bench.turning_car import read_sightings, udacity_rows
from perception_rt.types import BagError
from perception_rt.types.state import Fix, Imu, Twist


@pytest.fixture(scope="module")
def segment_path(shared_data):
    return shared_data / "comma2k19" / "segment_40.npz"


@pytest.fixture(scope="module")
def drive_rows(segment_path) -> dict[str, Row]:
    return {entry.name.removeprefix("ego/comma2k19/"): entry for entry in comma2k19_rows(segment_path)}


def test_a_segment_is_read_in_the_vehicle_s_axes(segment_path):
    segment = read_segment(segment_path)
    stamps = [measurement.stamp_ns for measurement in segment.measurements]
    assert stamps == sorted(stamps)
    counts = [sum(isinstance(m, kind) for m in segment.measurements) for kind in (Twist, Imu, Fix)]
    assert counts == [4974, 6256, 579]
    fix = next(m for m in segment.measurements if isinstance(m, Fix))
    origin = np.array([fix.latitude, fix.longitude, fix.altitude])
    way = np.diff(segment.truth(segment.truth_ns, origin), axis=0)
    assert np.hypot(*way.T).sum() == pytest.approx(1011, abs=2)
    course = np.unwrap(np.arctan2(way[:, 1], way[:, 0]))
    turned = sum(m.yaw_rate for m in segment.measurements if isinstance(m, Imu)) * 0.0096
    assert turned == pytest.approx(course[-1] - course[0], abs=0.08)  # with its bias over a minute


def test_every_target_of_the_drive_holds(drive_rows):
    asked = [entry for entry in drive_rows.values() if entry.target]
    assert len(asked) == 12
    assert all(entry.holds for entry in asked), asked


def test_few_measurements_are_refused(drive_rows):
    for sensor in ("fix", "imu", "twist"):
        assert drive_rows[f"{sensor}_refused_percent"].value < 3


def test_every_target_of_the_sightings_holds(shared_data):
    path = shared_data / "udacity_ekf" / "obj_pose-laser-radar-synthetic-input.txt"
    asked = [entry for entry in udacity_rows(path) if entry.target]
    assert len(asked) == 4
    assert all(entry.holds for entry in asked), asked


def test_what_is_not_a_recording_is_said(tmp_path):
    with pytest.raises(BagError, match="not a segment"):
        read_segment(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", t=np.zeros(3))
    with pytest.raises(BagError, match="not a segment"):
        read_segment(tmp_path / "other.npz")
    (tmp_path / "rows.txt").write_text("L 1 2 1000 0 0 0 0 0 0\nX 1 2\n")
    with pytest.raises(BagError, match=r"rows.txt:2"):
        read_sightings(tmp_path / "rows.txt")
