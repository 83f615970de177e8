"""Prediction of people on real tracks: the protocol, the baseline's published figures, what beats them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.prediction_accuracy import SETS, predict
from bench.trajectories import (
    AHEAD,
    SEEN,
    constant_velocity,
    displacement_errors,
    halves,
    read_windows,
)
from bench.tune_pedestrians import fit_spread, run
from perception_rt.stage.prediction.motion import PEDESTRIAN
from perception_rt.types import BagError

BASELINE = {"eth": (0.585, 1.159), "hotel": (0.278, 0.512), "zara1": (0.346, 0.764)}  # ADE, FDE, as published
HALF, MOST = (0.36, 0.66), (0.87, 0.985)  # of 50 % and 95 % ellipses at 2 s and 2.8 s, on a scene left out
HEADER = "frame,id,x_m,y_m\n"


@pytest.fixture(scope="module", params=SETS)
def recording(request, shared_data):
    return request.param, read_windows(shared_data / "eth_ucy" / SETS[request.param])


def test_constant_velocity_has_its_published_errors(recording):
    name, windows = recording
    errors = displacement_errors(constant_velocity(windows.seen), windows.ahead)
    assert tuple(round(error, 3) for error in errors) == BASELINE[name]


def test_prediction_is_better_than_constant_velocity_in_both_halves(recording):
    _, windows = recording
    for half in halves(windows):
        ade, fde = displacement_errors(predict(half).xy, half.ahead)
        base_ade, base_fde = displacement_errors(constant_velocity(half.seen), half.ahead)
        assert ade < base_ade
        assert fde < base_fde


def test_a_scene_left_out_is_predicted_better_than_at_constant_velocity(recording, shared_data):
    """The spread comes from the other scenes; `python -m bench.tune` chooses the motion from them too."""
    name, windows = recording
    others = [read_windows(shared_data / "eth_ucy" / file) for other, file in SETS.items() if other != name]
    spread = fit_spread(others, PEDESTRIAN, PEDESTRIAN.spread)
    left_out = run(windows, replace(PEDESTRIAN, spread=spread))
    assert left_out.ratios().max() < 1
    for share, (least, most) in enumerate((HALF, MOST)):
        held = left_out.held(share)[[4, 6]]
        assert held.min() >= least
        assert held.max() <= most


def test_ellipses_hold_what_they_say(recording):
    _, windows = recording
    whole = run(windows, PEDESTRIAN)
    assert whole.held(1)[1:].min() >= 0.88
    assert whole.held(1)[1:].max() <= 0.985
    assert 0.42 <= whole.held(0)[4] <= 0.60  # at 2 s


def test_prediction_knows_nothing_of_what_comes(recording):
    _, windows = recording
    few = windows[np.arange(50)]
    blind = replace(few, ahead=np.full_like(few.ahead, np.nan))
    np.testing.assert_array_equal(predict(few).xy, predict(blind).xy)


def trajectory(person: int, first: int, length: int) -> list[str]:
    return [f"{first + i},{person},{float(i)},{float(person)}\n" for i in range(length)]


def write(path, rows) -> str:
    path.write_text(HEADER + "".join(rows))
    return path


def test_windows_of_trajectories(tmp_path):
    """9 positions are too few, 10 are one window, 21 are as many as 12."""
    rows = [*trajectory(1, 5, 9), *trajectory(2, 7, 10), *trajectory(3, 100, 21)]
    windows = read_windows(write(tmp_path / "people.csv", rows[::-1]))
    assert windows.ids.tolist() == [2] + [3] * 12
    assert windows.frames.tolist() == [7, *range(100, 112)]
    assert windows.seen.shape == (13, SEEN, 2)
    np.testing.assert_array_equal(windows.seen[0, :, 0], np.arange(8))
    np.testing.assert_array_equal(np.isfinite(windows.ahead[..., 0]).sum(1), [2, 12, *range(12, 1, -1)])
    np.testing.assert_array_equal(windows.ahead[2, :, 0], np.arange(9, 21))


def test_trajectory_with_a_gap_is_cut(tmp_path):
    rows = trajectory(1, 0, 25)
    del rows[12]
    windows = read_windows(write(tmp_path / "people.csv", rows))
    assert windows.frames.tolist() == [0, 1, 2, 13, 14, 15]


def test_halves_share_no_moment(recording):
    _, windows = recording
    early, late = halves(windows)
    assert early.frames.max() + SEEN + AHEAD <= late.frames.min()
    assert min(len(early), len(late)) > 0.4 * len(windows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be lines"),
        (HEADER, "must be lines"),
        ("frame,id,x,y\n0,1,2,3\n", "must be lines"),
        (HEADER + "0,1,2\n", "must be lines"),
        (HEADER + "0,1,nan,3\n", "must be lines"),
        (HEADER + "0,1,two,3\n", "cannot be read"),
        (HEADER + "0,1,2,3\n0,1,2,4\n", "id 1 twice in frame 0"),
    ],
)
def test_damaged_file_is_named(tmp_path, text, reason):
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(BagError, match=reason) as caught:
        read_windows(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BagError, match=r"none\.csv"):
        read_windows(tmp_path / "none.csv")
