"""Scores of tracks, predictions and the vehicle's own state, and of how sure they are, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perception_rt.codec.vehicle import MotionReading
from perception_rt.replay.score import EgoTruth, Places
from perception_rt.replay.score.ahead import score_predictions
from perception_rt.replay.score.consistency import ellipses
from perception_rt.replay.score.detection import as_seen, scenes_of
from perception_rt.replay.score.ego import moved_poses, score_odometry, score_paths
from perception_rt.replay.score.outputs import Outputs
from perception_rt.replay.score.scene import SceneBuilder
from perception_rt.replay.score.tracking import score_tracks
from test.scenes import BOX, CAR, FAR, STEP, S, image_truth, moment, output, outputs, space_truth


def test_ellipses_of_true_covariances_hold_what_they_should():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(4000, 2, 2)) + 2 * np.eye(2)
    covariances = factor @ factor.transpose(0, 2, 1)
    errors = (factor @ rng.normal(size=(4000, 2, 1)))[..., 0]
    row = ellipses(errors, covariances)
    assert row["within_95"] == pytest.approx(0.95, abs=0.012)  # 3.5 standard deviations
    assert row["nees"] == pytest.approx(2, abs=0.12)
    twice = ellipses(2 * errors, covariances)
    assert twice["nees"] == pytest.approx(4 * row["nees"])
    assert twice["within_95"] < 0.8


def test_estimates_without_covariance_are_counted_apart():
    covariances = np.stack([np.eye(2), np.zeros((2, 2)), np.full((2, 2), np.nan)])
    row = ellipses(np.ones((3, 2)), covariances)
    assert (row["count"], row["without_covariance"], row["nees"]) == (1, 2, pytest.approx(2))
    assert ellipses(np.zeros((0, 2)), np.zeros((0, 2, 2))) is None
    assert ellipses(np.ones((1, 2)), np.zeros((1, 2, 2)))["nees"] is None


def test_tracks_that_swap_and_miss_are_counted():
    there = [BOX, FAR]
    truth = image_truth(*(moment(k * STEP, there, ids=[1, 2]) for k in range(4)))
    arrays = [
        output(0, there, ids=["7", "8"]),
        output(STEP, there, ids=["7", "8"]),
        output(2 * STEP, there, ids=["8", "7"]),
        output(3 * STEP, there[:1], ids=["8"]),
    ]
    found = outputs(*arrays)
    builder = SceneBuilder(truth, found, None, Places())
    scenes, _ = scenes_of(as_seen(truth, found), builder)
    row = score_tracks(scenes, builder.classes, flat=True)
    assert (row["truths"], row["misses"], row["false_positives"], row["id_switches"]) == (8, 1, 0, 2)
    assert row["mota"] == pytest.approx(1 - 3 / 8)
    assert row["idf1"] == pytest.approx(2 * 4 / 15)
    unanswered, _ = scenes_of(as_seen(truth, outputs(*arrays[:2])), builder)
    assert score_tracks(unanswered, builder.classes, flat=True)["misses"] == 4


def test_tracks_of_what_need_not_be_found_do_not_count():
    truth = image_truth(moment(0, [BOX, FAR], ids=[1, 2], ignored=[False, True], regions=[(400, 0, 500, 99)]))
    found = outputs(output(0, [BOX, FAR, (410, 10, 450, 50)], ids=["1", "2", "3"]))
    builder = SceneBuilder(truth, found, None, Places())
    row = score_tracks(scenes_of(as_seen(truth, found), builder)[0], builder.classes, flat=True)
    assert (row["truths"], row["boxes"], row["mota"]) == (1, 1, 1)


def test_predictions_are_held_to_where_their_object_went():
    """A car at 10 m/s, predicted at 8 m/s from where it was: 0.2 m a frame; a second one is never paired."""
    path = [moment(k * STEP, [(k, *CAR[1:])], ids=[5]) for k in range(6)]
    truth = space_truth(*path)
    tracks = outputs(output(0, [(0.0, *CAR[1:]), (50.0, *CAR[1:])], ids=["3", "4"]))
    ahead = [(0.8 * k, *CAR[1:]) for k in (1, 2, 3)]
    stamps = [k * STEP for k in (1, 2, 3)]
    predictions = outputs(output(0, ahead * 2, ids=["3"] * 3 + ["4"] * 3, stamps=stamps * 2))
    builder = SceneBuilder(truth, tracks, None, Places())
    scenes, _ = scenes_of(as_seen(truth, tracks), builder)
    row = score_predictions(truth, scenes, builder.classes, predictions, Places())
    assert row["ade_m"] == pytest.approx(0.4)
    assert row["fde_m"] == pytest.approx(0.6)
    assert (row["predictions"], row["complete"], row["unpaired_tracks"]) == (1, 1, 1)
    assert {key: value["mean_m"] for key, value in row["horizons"].items()} == pytest.approx(
        {"0.1": 0.2, "0.2": 0.4, "0.3": 0.6}
    )
    assert row["horizons"]["0.2"]["ellipses"]["nees"] == pytest.approx(0.16)
    short = space_truth(*path[:3])  # the last of three positions is not known
    row = score_predictions(short, scenes, builder.classes, predictions, Places())
    assert (row["predictions"], row["complete"], row["fde_m"]) == (1, 0, None)
    assert row["ade_m"] == pytest.approx(0.3)


def circle(frame: str) -> tuple[EgoTruth, np.ndarray]:
    """Ten seconds on a circle of 50 m at 10 m/s."""
    t = np.arange(0, 10, 0.1)
    turn = 0.2 * t
    poses = np.column_stack([50 * np.sin(turn), 50 * (1 - np.cos(turn)), turn])
    return EgoTruth("t", frame, (t * S).astype(np.int64), poses, np.full(len(t), 10.0)), poses


def states(truth: EgoTruth, poses: np.ndarray, frame: str, speed: float = 10.0):
    rows = zip(truth.stamps_ns.tolist(), poses.tolist(), strict=True)
    return [
        (MotionReading(s, frame, "base_link", speed, 0.2, (0, 0), tuple(p), 0.01 * np.eye(3)), s)
        for s, p in rows
    ]


def test_another_origin_is_no_error_but_drift_is():
    truth, poses = circle("map")
    elsewhere = moved_poses(poses, poses[0], np.array([7.0, -3.0, 2.0]))
    row = score_odometry(truth, states(truth, elsewhere, "odom", speed=10.5))
    assert row["aligned"]
    assert row["rmse"]["position_m"] == pytest.approx(0, abs=1e-9)
    assert row["rmse"]["yaw_rad"] == pytest.approx(0, abs=1e-9)
    assert row["rmse"]["speed_mps"] == pytest.approx(0.5)
    assert row["travelled_m"] == pytest.approx(99, rel=1e-3)
    assert row["rate_hz"] == pytest.approx(10)
    drifted = elsewhere + np.linspace(0, 1, len(poses))[:, None] * np.array([0.6, 0.8, 0])
    row = score_odometry(truth, states(truth, drifted, "odom"))
    assert row["drift_percent"] == pytest.approx(100 / row["travelled_m"])
    row = score_odometry(truth, states(truth, poses + np.array([3.0, 4.0, 0]), "map"))
    assert not row["aligned"]
    assert row["rmse"]["position_m"] == pytest.approx(5)
    assert row["ellipses"]["nees"] == pytest.approx(25 / 0.01)


def test_yaw_errors_go_the_short_way_round():
    truth, poses = circle("map")
    around = poses.copy()
    around[:, 2] = (poses[:, 2] + 0.1 + np.pi) % (2 * np.pi) - np.pi
    assert score_odometry(truth, states(truth, around, "map"))["rmse"]["yaw_rad"] == pytest.approx(0.1)


def test_states_without_truth_have_no_score():
    truth, poses = circle("map")
    late = EgoTruth("t", "map", truth.stamps_ns + 100 * S, poses, truth.speeds)
    row = score_odometry(late, states(truth, poses, "map"))
    assert (row["states"], row["without_truth"], row["rmse"]) == (0, 100, None)
    assert score_odometry(truth, [])["rmse"] is None


def test_paths_of_the_vehicle_begin_where_it_thinks_it_is():
    """Straight on from a circle: 1 - cos of the turn and the turn less its sine, times 50 m."""
    truth, poses = circle("map")
    arrays = []
    for k in (0, 30):
        x, y, yaw = poses[k] + np.array([1.0 if k else 0, 0, 0])  # drifted by a metre meanwhile
        rows = [(x + 10 * s * np.cos(yaw), y + 10 * s * np.sin(yaw), 0, 0, 0, 0, yaw) for s in (0, 1, 2)]
        stamps = [truth.stamps_ns[k] + s * S for s in (0, 1, 2)]
        arrays.append(output(int(truth.stamps_ns[k]), rows, ids=["ego"] * 3, stamps=stamps, frame="odom"))
    row = score_paths(truth, Outputs("/v/predictions", ("ego",), arrays))
    off = [50 * np.hypot(0.2 * s - np.sin(0.2 * s), 1 - np.cos(0.2 * s)) for s in (1, 2)]
    assert [row["horizons"][key]["mean_m"] for key in ("1", "2")] == pytest.approx(off)
    assert (row["ade_m"], row["fde_m"]) == (pytest.approx(np.mean(off)), pytest.approx(off[1]))
    assert (row["predictions"], row["complete"], row["aligned"]) == (2, 2, True)
    assert row["horizons"]["1"]["ellipses"]["nees"] != pytest.approx(off[0] ** 2)  # drift shows there
